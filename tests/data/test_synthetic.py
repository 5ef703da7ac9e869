import re
import wave
from collections import Counter

import av
import numpy as np
import pytest
from mmpareto.data import synthetic
from mmpareto.data.generated.synthetic_faces import EXPRESSIONS, HEIGHT, WIDTH, Look, film
from mmpareto.data.generated.synthetic_voices import RATE, SENTENCES, Voice, speak
from mmpareto.errors import InputError

CLASSES = ["ANG", "DIS", "FEA", "HAP", "NEU", "SAD"]
CREMAD_NAME = re.compile(
    r"10(0[1-9]|[1-8]\d|9[01])_(IEO|TIE|IOM|IWW|TAI|MTI|IWL|ITH|DFA|ITS|TSI|WSI)_(ANG|DIS|FEA|HAP|NEU|SAD)_(LO|MD|HI|XX)"
)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "raw"
    planned = synthetic.write_raw(folder, clips=12, actors=2, seed=3, workers=1)
    return folder, planned


def test_files_lie_where_cremad_has_them(raw):
    folder, planned = raw
    names = {clip.name for clip in planned}
    assert len(names) == 12
    assert {path.stem for path in (folder / "AudioWAV").glob("*.wav")} == names
    assert {path.stem for path in (folder / "VideoFlash").glob("*.flv")} == names
    assert not list(folder.rglob(".*"))


def test_same_seed_gives_the_same_bytes_whatever_the_number_of_workers(raw, tmp_path):
    synthetic.write_raw(tmp_path / "again", clips=12, actors=2, seed=3, workers=2)
    assert contents(tmp_path / "again") == contents(raw[0])


def test_another_seed_gives_other_bytes(raw, tmp_path):
    synthetic.write_raw(tmp_path / "other", clips=12, actors=2, seed=4, workers=1)
    ours, theirs = contents(raw[0]), contents(tmp_path / "other")
    assert not set(ours.values()) & set(theirs.values())


def test_sound_is_readable_by_the_standard_library(raw):
    for path in (raw[0] / "AudioWAV").glob("*.wav"):
        with wave.open(str(path), "rb") as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
            seconds = file.getnframes() / 16_000
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        assert 3.2 <= seconds < 4
        assert 300 < np.abs(samples.astype(int)).max() < 32_767  # audible, not clipped


def test_pictures_are_flv_of_cremads_rate(raw):
    for path in (raw[0] / "VideoFlash").glob("*.flv"):
        with av.open(str(path)) as container:
            assert container.format.name == "flv"
            stream = container.streams.video[0]
            assert float(stream.guessed_rate) == pytest.approx(30_000 / 1001)
            assert stream.codec_context.name == "flv"
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert len(frames) >= 96
        assert frames[0].shape == (HEIGHT, WIDTH, 3)
        assert np.std(frames[0]) > 10
        assert any(np.abs(frames[0].astype(int) - frame).mean() > 1 for frame in frames[1:])  # it moves


def test_sound_and_pictures_last_equally_long(raw):
    for clip in raw[1]:
        with wave.open(str(raw[0] / "AudioWAV" / f"{clip.name}.wav"), "rb") as file:
            seconds = file.getnframes() / 16_000
        with av.open(str(raw[0] / "VideoFlash" / f"{clip.name}.flv")) as container:
            frames = sum(1 for _ in container.decode(video=0))
        assert abs(frames * 1001 / 30_000 - seconds) <= 1001 / 30_000


def test_a_second_call_writes_only_what_is_missing(tmp_path):
    folder = tmp_path / "raw"
    planned = synthetic.write_raw(folder, clips=12, actors=1, workers=1)
    before = contents(folder)
    kept, lost = (folder / "AudioWAV" / f"{clip.name}.wav" for clip in planned[:2])
    time = kept.stat().st_mtime_ns
    lost.unlink()
    (folder / "AudioWAV" / ".unfinished.wav").write_bytes(b"half a fi")
    synthetic.write_raw(folder, clips=12, actors=1, workers=1)
    assert contents(folder) == before
    assert kept.stat().st_mtime_ns == time


def test_an_interrupted_call_can_be_finished_but_not_with_other_settings(tmp_path, monkeypatch):
    made = synthetic.make
    calls = []

    def interrupted(clip, seed):
        calls.append(clip)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return made(clip, seed)

    monkeypatch.setattr(synthetic, "make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthetic.write_raw(tmp_path, clips=12, actors=1, workers=1)
    assert not (tmp_path / "settings.json").exists()
    assert len(list((tmp_path / "VideoFlash").iterdir())) == 2
    monkeypatch.undo()
    with pytest.raises(InputError, match="seed"):
        synthetic.write_raw(tmp_path, clips=12, actors=1, seed=1, workers=1)
    synthetic.write_raw(tmp_path, clips=12, actors=1, workers=1)
    assert (tmp_path / "settings.json").exists()
    assert len(list((tmp_path / "VideoFlash").iterdir())) == 12
    assert not (tmp_path / "writing.json").exists()


def test_clips_of_others_are_refused_and_kept(tmp_path):
    other = tmp_path / "AudioWAV" / "1001_DFA_ANG_XX.wav"
    other.parent.mkdir()
    other.write_bytes(b"mine")
    with pytest.raises(InputError, match="did not write"):
        synthetic.write_raw(tmp_path, clips=12, actors=1)
    assert other.read_bytes() == b"mine"


@pytest.mark.parametrize("clips, actors", [(420, 12), (12, 1), (72, 1), (100, 7), (1000, 91)])
def test_the_plan_is_balanced_and_its_names_are_cremads(clips, actors):
    planned = synthetic.plan(clips, actors, seed=5)
    names = [clip.name for clip in planned]
    assert len(names) == len(set(names)) == clips
    assert all(CREMAD_NAME.fullmatch(name) for name in names)
    per_class = Counter(name.split("_")[2] for name in names)
    assert sorted(per_class) == CLASSES
    assert max(per_class.values()) - min(per_class.values()) <= 1
    for emotion in CLASSES:
        each = Counter(dict.fromkeys(range(actors), 0))
        each.update(clip.actor for clip in planned if clip.emotion == emotion)
        assert max(each.values()) - min(each.values()) <= 1
    assert all(clip.level == "XX" for clip in planned if clip.emotion == "NEU")


@pytest.mark.parametrize("seed", [0, 1])
def test_the_share_of_uninformative_clips_is_as_promised(seed):
    planned = synthetic.plan(600, 12, seed)
    voice = {clip.name for clip in planned if clip.voice != clip.emotion}
    face = {clip.name for clip in planned if clip.face != clip.emotion}
    assert len(voice) == len(face) == 0.15 * 600
    assert not voice & face
    assert {clip.voice for clip in planned if clip.name in voice} == {"NEU"}
    assert {clip.face for clip in planned if clip.name in face} == {"NEU"}
    assert {clip.name for clip in planned if "audio" in clip.uninformative} == voice
    assert {clip.name for clip in planned if "visual" in clip.uninformative} == face


def test_a_clip_does_not_depend_on_the_others():
    small, large = synthetic.plan(12, 1, 0), synthetic.plan(72, 1, 0)
    name = next(c for c in small if c.emotion == "NEU").name
    one, other = (next(c for c in planned if c.name == name) for planned in (small, large))
    (speech, frames), (same_speech, same_frames) = synthetic.make(one, 7), synthetic.make(other, 7)
    np.testing.assert_array_equal(speech.samples, same_speech.samples)
    np.testing.assert_array_equal(np.asarray(next(iter(frames))), np.asarray(next(iter(same_frames))))


@pytest.mark.parametrize(
    "arguments, word",
    [
        ({"clips": 11}, "--clips"),
        ({"clips": 0}, "--clips"),
        ({"clips": 73, "actors": 1}, "72"),
        ({"actors": 0}, "--actors"),
        ({"actors": 92}, "--actors"),
        ({"seed": -1}, "--seed"),
        ({"workers": 0}, "--workers"),
    ],
)
def test_bad_sizes_are_refused_before_anything_is_written(tmp_path, arguments, word):
    with pytest.raises(InputError, match=word):
        synthetic.write_raw(tmp_path / "raw", **arguments)
    assert not (tmp_path / "raw").exists()


def median_pitch(samples):
    """Hz, by autocorrelation: in each loud 40 ms the first peak that is nearly as high as the highest."""
    samples = samples.astype(float)
    frames = np.lib.stride_tricks.sliding_window_view(samples, 640)[::320]
    energy = (frames**2).sum(1)
    pitches = []
    for frame in frames[energy > 0.25 * energy.max()]:
        product = np.correlate(frame, frame, "full")[639:] / np.arange(640, 0, -1)
        inner = product[1:-1]
        peaks = np.flatnonzero((inner >= product[:-2]) & (inner > product[2:])) + 1
        peaks = peaks[(peaks > RATE / 500) & (peaks < RATE / 70)]
        if len(peaks):
            pitches.append(RATE / peaks[product[peaks] > 0.85 * product[peaks].max()][0])
    return np.median(pitches)


def spoken(actor, emotion, take):
    voice = Voice.of(actor, np.random.default_rng(actor))
    return speak(voice, list(SENTENCES)[take], emotion, 1.0, np.random.default_rng([actor, take])).samples


@pytest.mark.parametrize("actor", range(4))
def test_voices_differ_as_those_of_people_do(actor):
    takes = {emotion: [spoken(actor, emotion, take) for take in range(4)] for emotion in CLASSES}
    pitch = {emotion: np.median([median_pitch(take) for take in takes[emotion]]) for emotion in CLASSES}
    assert min(pitch["FEA"], pitch["HAP"]) > pitch["NEU"]
    assert min(pitch["FEA"], pitch["HAP"], pitch["ANG"]) > pitch["SAD"]
    power = {emotion: np.mean([(take.astype(float) ** 2).mean() for take in takes[emotion]]) for emotion in CLASSES}
    assert power["ANG"] > power["NEU"] > power["SAD"]
    bright = {emotion: np.mean([share_above(take, 2000) for take in takes[emotion]]) for emotion in CLASSES}
    assert bright["ANG"] > bright["NEU"] > bright["SAD"]


def share_above(samples, frequency):
    power = np.abs(np.fft.rfft(samples.astype(float))) ** 2
    return power[np.fft.rfftfreq(len(samples), 1 / RATE) > frequency].sum() / power.sum()


def drawn(emotion, actor=2):
    look = Look.of(actor, np.random.default_rng(actor))
    pictures = []
    for take in range(6):
        frames = list(film(look, emotion, 1.0, np.zeros(40), np.random.default_rng([take])))
        pictures.append(np.asarray(frames[20]).astype(float))
    return pictures


def test_faces_of_one_actor_differ_by_emotion():
    """With the same chances, so the same pose and light, every two emotions differ more than a repeated drawing."""
    pictures = {emotion: drawn(emotion) for emotion in EXPRESSIONS}
    for emotion in EXPRESSIONS:
        np.testing.assert_array_equal(pictures[emotion], drawn(emotion))
        for other in EXPRESSIONS:
            difference = np.mean(
                [np.abs(a - b).mean() for a, b in zip(pictures[emotion], pictures[other], strict=True)]
            )
            assert (difference > 2) == (emotion != other)


def test_fear_shows_more_white_of_the_eye_than_disgust():
    def white(picture):
        colours = picture[int(0.25 * HEIGHT) : int(0.6 * HEIGHT)]  # where the eyes are
        return (colours.min(-1) > 170).sum()

    assert np.mean([white(p) for p in drawn("FEA")]) > 3 * np.mean([white(p) for p in drawn("DIS")])


def test_prepared_as_cremad_is(tmp_path):
    import json

    import torch

    report = synthetic.Synthetic.prepare(out=tmp_path, clips=18, actors=2, workers=1)
    assert report.complete
    record = json.loads((tmp_path / "prepared.json").read_text())
    assert record["synthetic"] is True
    assert record["title"] == "synthetic stand-in"
    assert record["official_split"] is False
    assert (tmp_path / "stat.csv").read_text().split() == CLASSES
    lists = [(tmp_path / f"{part}.csv").read_text().split() for part in ("train", "test")]
    assert [len(lines) for lines in lists] == [12, 6]
    for line in lists[0] + lists[1]:
        clip, label = line.split(",")
        assert clip.split("_")[2] == label
        assert torch.load(tmp_path / "audio" / f"{clip}.pt", weights_only=True).shape == (1024, 128)
        assert len(list((tmp_path / "visual" / clip).glob("frame_*.jpg"))) == 4
    planned = synthetic.plan(18, 2, 0)
    listed = dict(line.split(",") for line in (tmp_path / "uninformative.csv").read_text().split())
    assert listed == {clip.name: clip.uninformative[0] for clip in planned if clip.uninformative}


def test_the_banner_says_what_the_data_is_not():
    assert "synthetic" in synthetic.BANNER.lower()
    assert "method" in synthetic.BANNER
    assert "\n" not in synthetic.BANNER
