import json
import re
import wave
from collections import Counter

import av
import numpy as np
import pytest
import torch
from mmpareto.data import synthetic
from mmpareto.data.generated.synthetic_faces import EXPRESSIONS, HEIGHT, WIDTH, film
from mmpareto.data.generated.synthetic_voices import SENTENCES, speak
from mmpareto.data.synthetic import RATE, Synthetic
from mmpareto.errors import InputError

CLASSES = ["ANG", "DIS", "FEA", "HAP", "NEU", "SAD"]
CREMAD_NAME = re.compile(
    r"10(0[1-9]|[1-8]\d|9[01])_(IEO|TIE|IOM|IWW|TAI|MTI|IWL|ITH|DFA|ITS|TSI|WSI)_(ANG|DIS|FEA|HAP|NEU|SAD)_(LO|MD|HI|XX)"
)
SMALL = {"clips": 12, "actors": 1, "workers": 1}


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A small stand-in data set, whose raw clips were written by one process."""
    folder = tmp_path_factory.mktemp("synthetic")
    report = Synthetic.prepare(out=folder, clips=18, actors=2, seed=3, workers=1)
    assert report.complete
    return folder


@pytest.fixture(scope="module")
def raw(prepared):
    return prepared / "raw"


@pytest.fixture(scope="module")
def planned():
    return synthetic.plan(18, 2, seed=3)


@pytest.fixture
def quick(monkeypatch):
    """Replace clips by arbitrary ones of four frames and a tenth of a second; return the names of those made."""
    made = []

    def make(clip, seed):
        made.append(clip.name)
        rng = np.random.default_rng([seed, *clip.name.encode()])
        return rng.integers(-9, 9, RATE // 10, np.int16), film("NEU", 1.0, np.zeros(4), rng, rng)

    monkeypatch.setattr(synthetic, "make", make)
    return made


def test_files_have_cremads_names_and_folders(raw, planned):
    names = {clip.name for clip in planned}
    assert len(names) == 18
    assert {path.stem for path in (raw / "AudioWAV").glob("*.wav")} == names
    assert {path.stem for path in (raw / "VideoFlash").glob("*.flv")} == names
    assert not list(raw.rglob(".*"))


def test_same_seed_gives_the_same_bytes_for_any_number_of_workers(raw, tmp_path):
    synthetic.write_raw(tmp_path / "again", clips=18, actors=2, seed=3, workers=2)
    assert contents(tmp_path / "again") == contents(raw)


def test_a_clip_depends_only_on_its_name_and_the_seed():
    small, large = synthetic.plan(12, 1, 0), synthetic.plan(72, 1, 0)
    name = next(clip.name for clip in small if clip.emotion == "NEU")
    one, other = (next(clip for clip in planned if clip.name == name) for planned in (small, large))
    (speech, frames), (same_speech, same_frames) = synthetic.make(one, 7), synthetic.make(other, 7)
    (different_speech, different_frames) = synthetic.make(one, 8)
    np.testing.assert_array_equal(speech, same_speech)
    assert not np.array_equal(speech[:50_000], different_speech[:50_000])
    first, same, different = (np.asarray(next(iter(f))) for f in (frames, same_frames, different_frames))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, different)


def test_files_are_16_bit_sound_and_flv_of_equal_length(raw):
    for audio in (raw / "AudioWAV").glob("*.wav"):
        with wave.open(str(audio), "rb") as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
            seconds = file.getnframes() / 16_000
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        assert 3.25 <= seconds < 4
        assert 300 < np.abs(samples.astype(int)).max() < 32_767  # audible, not clipped
        with av.open(str(raw / "VideoFlash" / f"{audio.stem}.flv")) as container:
            assert container.format.name == "flv"
            stream = container.streams.video[0]
            assert float(stream.guessed_rate) == pytest.approx(30_000 / 1001)
            assert stream.codec_context.name == "flv"  # Sorenson H.263
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert abs(len(frames) * 1001 / 30_000 - seconds) <= 1001 / 30_000
        assert frames[0].shape == (HEIGHT, WIDTH, 3)
        assert np.std(frames[0]) > 10
        assert any(np.abs(frames[0].astype(int) - frame).mean() > 1 for frame in frames[1:])  # it moves


def test_a_second_call_writes_only_what_is_missing(tmp_path, quick):
    planned = synthetic.write_raw(tmp_path, **SMALL)
    before = contents(tmp_path)
    kept, lost = (tmp_path / "AudioWAV" / f"{clip.name}.wav" for clip in planned[:2])
    time = kept.stat().st_mtime_ns
    lost.unlink()
    (tmp_path / "AudioWAV" / ".unfinished.wav").write_bytes(b"half a fi")
    quick.clear()
    synthetic.write_raw(tmp_path, **SMALL)
    assert quick == [planned[1].name]
    assert contents(tmp_path) == before
    assert kept.stat().st_mtime_ns == time


def test_an_interrupted_call_can_be_resumed_only_with_the_same_settings(tmp_path, quick, monkeypatch):
    make = synthetic.make

    def interrupted(clip, seed):
        if len(quick) == 2:
            raise KeyboardInterrupt
        return make(clip, seed)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(synthetic, "make", interrupted)
        synthetic.write_raw(tmp_path, **SMALL)
    assert len(list((tmp_path / "VideoFlash").iterdir())) == 2
    with pytest.raises(InputError, match=r'"seed": 0.* not .*"seed": 1'):
        synthetic.write_raw(tmp_path, **SMALL, seed=1)
    synthetic.write_raw(tmp_path, **SMALL)
    assert len(list((tmp_path / "VideoFlash").iterdir())) == 12
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(InputError, match="--out"):
        synthetic.write_raw(tmp_path, **SMALL)


def test_clips_of_other_origin_are_refused_and_kept(tmp_path):
    other = tmp_path / "AudioWAV" / "1001_DFA_ANG_XX.wav"
    other.parent.mkdir()
    other.write_bytes(b"mine")
    with pytest.raises(InputError, match="did not write"):
        synthetic.write_raw(tmp_path, clips=12, actors=1)
    assert contents(tmp_path) == {"AudioWAV/1001_DFA_ANG_XX.wav": b"mine"}


@pytest.mark.parametrize("clips, actors", [(420, 12), (12, 1), (72, 1), (100, 7), (1000, 91)])
def test_the_plan_is_balanced_and_its_names_are_cremads(clips, actors):
    planned = synthetic.plan(clips, actors, seed=5)
    names = [clip.name for clip in planned]
    assert len(names) == len(set(names)) == clips
    assert names == sorted(names)
    assert all(CREMAD_NAME.fullmatch(name) for name in names)
    per_class = Counter(name.split("_")[2] for name in names)
    assert sorted(per_class) == CLASSES
    assert max(per_class.values()) - min(per_class.values()) <= 1
    for emotion in CLASSES:
        each = Counter(dict.fromkeys(range(actors), 0))
        each.update(clip.actor for clip in planned if clip.emotion == emotion)
        assert max(each.values()) - min(each.values()) <= 1
    assert all(clip.level == "XX" for clip in planned if clip.emotion == "NEU")
    assert [clip.name for clip in synthetic.plan(clips, actors, seed=6)] != names or clips == 72 * actors


@pytest.mark.parametrize("seed", [0, 1])
def test_fifteen_percent_of_the_clips_are_uninformative_per_modality(seed):
    planned = synthetic.plan(600, 12, seed)
    assert Counter(clip.uninformative for clip in planned) == {"audio": 90, "visual": 90, None: 420}
    assert all(clip.uninformative is None for clip in planned if clip.emotion == "NEU")


@pytest.mark.parametrize("modality", ["audio", "visual"])
def test_the_uninformative_modality_of_a_clip_is_neutral(modality, monkeypatch):
    shown = {}

    def speaking(sentence, emotion, *rest):
        shown["audio"] = emotion
        return np.zeros(RATE, np.int16), np.zeros(100)

    monkeypatch.setattr(synthetic, "speak", speaking)
    monkeypatch.setattr(synthetic, "film", lambda emotion, *rest: shown.update(visual=emotion))
    synthetic.make(synthetic.Clip(0, "DFA", "ANG", "HI", modality), seed=0)
    assert shown == {"audio": "ANG", "visual": "ANG"} | {modality: "NEU"}


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
    """Median pitch in Hz by autocorrelation: per loud 40 ms, the first peak nearly as high as the highest."""
    samples = samples.astype(float)
    frames = np.lib.stride_tricks.sliding_window_view(samples, 640)[::640]
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


def share_above(samples, frequency):
    power = np.abs(np.fft.rfft(samples.astype(float))) ** 2
    return power[np.fft.rfftfreq(len(samples), 1 / RATE) > frequency].sum() / power.sum()


def spoken(actor, emotion, take):
    of_actor, of_take = np.random.default_rng(actor), np.random.default_rng([actor, take])
    return speak(list(SENTENCES)[take], emotion, 1.0, of_actor, of_take)[0]


@pytest.mark.parametrize("actor", range(3))
def test_voices_differ_by_emotion_like_human_voices(actor):
    takes = {emotion: [spoken(actor, emotion, take) for take in range(3)] for emotion in CLASSES}
    pitch = {emotion: np.median([median_pitch(take) for take in takes[emotion]]) for emotion in CLASSES}
    assert min(pitch["FEA"], pitch["HAP"]) > pitch["NEU"]
    assert min(pitch["FEA"], pitch["HAP"], pitch["ANG"]) > pitch["SAD"]
    power = {emotion: np.mean([(take.astype(float) ** 2).mean() for take in takes[emotion]]) for emotion in CLASSES}
    assert power["ANG"] > power["NEU"] > power["SAD"]
    bright = {emotion: np.mean([share_above(take, 2000) for take in takes[emotion]]) for emotion in CLASSES}
    assert bright["ANG"] > bright["NEU"] > bright["SAD"]


def test_voices_differ_by_actor():
    pitches = [median_pitch(spoken(actor, "NEU", 0)) for actor in range(6)]
    assert max(pitches) > 1.3 * min(pitches)


def drawn(emotion, actor=2):
    """One frame from each of four takes; takes differ in pose, but the emotions of one take do not."""
    pictures = []
    for take in range(4):
        of_actor, of_take = np.random.default_rng(actor), np.random.default_rng([take])
        pictures.append(np.asarray(next(iter(film(emotion, 1.0, np.zeros(4), of_actor, of_take)))).astype(float))
    return pictures


def difference(first, second):
    return np.mean([np.abs(a - b).mean() for a, b in zip(first, second, strict=True)])


def test_faces_differ_by_emotion_and_more_by_actor():
    pictures = {emotion: drawn(emotion) for emotion in EXPRESSIONS}
    assert sorted(pictures) == CLASSES
    for emotion in EXPRESSIONS:
        assert difference(pictures[emotion], drawn(emotion)) == 0
        for other in EXPRESSIONS:
            assert (difference(pictures[emotion], pictures[other]) > 1.5) == (emotion != other)
    assert difference(pictures["NEU"], drawn("NEU", actor=3)) > 5


def test_fear_shows_more_white_of_the_eye_than_disgust():
    def white(picture):
        colours = picture[int(0.25 * HEIGHT) : int(0.6 * HEIGHT)]  # where the eyes are
        return (colours.min(-1) > 230).sum()

    assert np.mean([white(p) for p in drawn("FEA")]) > 3 * np.mean([white(p) for p in drawn("DIS")])


def test_speech_opens_the_mouth():
    closed, opened = (
        np.asarray(next(film("NEU", 1.0, speech, np.random.default_rng(0), np.random.default_rng(0)))).astype(float)
        for speech in (np.zeros(4), np.ones(4))
    )
    rows, columns = np.nonzero(np.abs(closed - opened).sum(axis=2))
    assert 0.7 * HEIGHT < rows.mean() < 0.85 * HEIGHT and np.ptp(columns) < WIDTH / 3


def test_the_prepared_folder_is_like_cremads(prepared, planned):
    record = json.loads((prepared / "prepared.json").read_text())
    assert record["synthetic"] is True
    assert record["title"] == "synthetic stand-in"
    assert record["official_split"] is False
    assert record["origin"] == {"version": synthetic.VERSION, "clips": 18, "actors": 2, "seed": 3}
    assert (prepared / "stat.csv").read_text().split() == CLASSES
    lists = [(prepared / f"{part}.csv").read_text().split() for part in ("train", "test")]
    assert [len(lines) for lines in lists] == [12, 6]
    for line in lists[0] + lists[1]:
        clip, label = line.split(",")
        assert clip.split("_")[2] == label
        assert torch.load(prepared / "audio" / f"{clip}.pt", weights_only=True).shape == (1024, 128)
        assert len(list((prepared / "visual" / clip).glob("frame_*.jpg"))) == 4
    listed = dict(line.split(",") for line in (prepared / "uninformative.csv").read_text().split())
    assert listed == {clip.name: clip.uninformative for clip in planned if clip.uninformative}
    assert set(listed.values()) == {"audio", "visual"}


def test_other_sizes_are_refused_in_a_prepared_folder(prepared):
    before = contents(prepared)
    with pytest.raises(InputError, match="--out"):
        Synthetic.prepare(out=prepared, clips=24, actors=2, seed=3, workers=1)
    assert contents(prepared) == before


def test_the_banner_calls_the_data_synthetic():
    assert "synthetic" in Synthetic.banner.lower()
    assert "method" in Synthetic.banner
    assert "\n" not in Synthetic.banner
