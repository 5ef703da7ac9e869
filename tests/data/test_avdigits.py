import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import prepare
import pytest
import raw_clips
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmpareto.data.avdigits import AVDigits, Pair, Recording, log_mel, pair
from mmpareto.data.raw.media import read_audio
from mmpareto.errors import InputError
from test_cgmnist import digits, pcg64, write_mnist

Array = npt.NDArray[Any]
SPEAKERS, NUMBERS = ("ann", "bo"), (0, 4, 5, 49)


def write_recordings(folder: Path, speakers: tuple[str, ...] = SPEAKERS, numbers: tuple[int, ...] = NUMBERS) -> Path:
    """Write ten digits of every speaker, all different: a tone whose pitch and length are the recording's own."""
    folder.mkdir(parents=True, exist_ok=True)
    for digit, speaker, number in itertools.product(range(10), speakers, numbers):
        times = np.arange(1600 + 60 * number) / 8000
        tone = 8000 * np.sin(2 * np.pi * (300 + 300 * digit + len(speaker)) * times)
        raw_clips.write_wav(folder / f"{digit}_{speaker}_{number}.wav", tone[None].astype(np.int16), rate=8000)
    return folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 recordings in two folders, and MNIST files of 60 and 40 images."""
    folder = tmp_path_factory.mktemp("raw")
    write_recordings(folder / "fsdd/recordings", SPEAKERS[:1])
    write_recordings(folder / "fsdd/more", SPEAKERS[1:])
    write_mnist(folder / "mnist", digits(), zipped=("train-images-idx3-ubyte",))
    return folder


@pytest.fixture(scope="module")
def prepared(raw: Path) -> Path:
    AVDigits.prepare(raw=raw, out=raw.parent / "avdigits")
    return raw.parent / "avdigits"


def listed(out: Path, part: str) -> list[tuple[str, int, str]]:
    """The recording, the index of the image, and the class of every sample."""
    lines = (out / f"{part}.csv").read_text().splitlines()
    return [(m[1], int(m[2]), m[3]) for line in lines if (m := re.fullmatch(r"(\w+)\+(\d+),(\d)", line))]


def test_recordings_0_to_4_and_test_images_are_in_the_test_part_only(prepared: Path) -> None:
    train, test = listed(prepared, "train"), listed(prepared, "test")
    assert (len(train), len(test)) == (40, 40)
    for part, numbers in ((train, {"5", "49"}), (test, {"0", "4"})):
        assert {recording.rpartition("_")[2] for recording, *_ in part} == numbers
        assert len({recording for recording, *_ in part}) == len({image for _, image, _ in part}) == 40
        assert all(recording[0] == label for recording, _, label in part)


def test_every_sample_is_a_recording_and_an_image_of_its_digit(raw: Path, prepared: Path) -> None:
    for part, (images, labels) in digits().items():
        dataset = AVDigits.open(prepared, part, training=part == "train")
        assert dataset.channels == {"audio": 1, "visual": 1} and dataset.classes == list("0123456789")
        for index, (recording, image, label) in enumerate(listed(prepared, part)):
            inputs, target, *_ = dataset[3, index]
            assert target == int(label) == labels[image]
            assert inputs["visual"].dtype == torch.uint8 and np.array_equal(inputs["visual"][0], images[image])
            (path,) = raw.rglob(f"{recording}.wav")
            assert inputs["audio"].shape == (1, 40, 40) and torch.equal(inputs["audio"][0], log_mel(*read_audio(path)))
        assert (*dataset.normalisation["visual"][0], *dataset.normalisation["visual"][1]) == (0.1307, 0.3081)


def test_a_recording_s_feature_is_its_own(prepared: Path) -> None:
    audio = np.concatenate([np.load(prepared / f"arrays/{part}_audio.npy") for part in ("train", "test")])
    assert len(np.unique(audio.reshape(80, -1), axis=0)) == 80


def kaldi_log_mel(samples: Array) -> Array:
    """Kaldi's filterbank, by its definition, of 8 kHz samples in [−1, 1]."""
    count = 1 + (len(samples) - 200) // 160
    windows = np.stack([samples[160 * i : 160 * i + 200] for i in range(count)])
    windows = windows - windows.mean(1, keepdims=True)
    windows = windows - 0.97 * np.concatenate([windows[:, :1], windows[:, :-1]], axis=1)  # pre-emphasis
    power = np.abs(np.fft.rfft(windows * np.hanning(200), 256)) ** 2

    def mel(hertz: Any) -> Any:
        return 1127 * np.log(1 + np.asarray(hertz) / 700)

    edges = np.linspace(mel(20), mel(4000), 42)
    at = mel(np.arange(129) * 8000 / 256)
    rising = (at - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - at) / (edges[2:] - edges[1:-1])[:, None]
    return np.log(np.maximum(power @ np.minimum(rising, falling).clip(0).T, np.finfo(np.float32).eps))


@pytest.mark.parametrize("seconds", [0.025, 0.4, 2.0])
def test_the_feature_is_kaldi_s_at_8_khz_cut_or_padded_to_40_windows(seconds: float) -> None:
    samples = raw_clips.noise(seconds, rate=8000)[0] / 32_768
    expected = (kaldi_log_mel(samples - samples.mean())[:40] + 6.15) / 3.84
    result = log_mel(torch.from_numpy(samples[None]).float(), 8000).numpy()
    assert result.shape == (40, 40) and result.dtype == np.float32
    np.testing.assert_allclose(result[: len(expected)], expected, atol=2e-3)
    assert not result[len(expected) :].any()


def test_recordings_of_other_rates_are_resampled_and_short_ones_refused() -> None:
    times = np.arange(16_000) / 16_000
    tone = torch.from_numpy(np.sin(2 * np.pi * 1000 * times)[None]).float()
    low = log_mel(tone[:, ::2], 8000)
    torch.testing.assert_close(log_mel(tone, 16_000)[2:38, 15:22], low[2:38, 15:22], atol=0.05, rtol=0)
    with pytest.raises(InputError, match="too short: 199 samples at 8000 Hz"):
        log_mel(torch.zeros(1, 199), 8000)
    assert torch.isfinite(log_mel(torch.zeros(1, 4000), 8000)).all()


@given(
    labels=st.lists(st.integers(0, 9), max_size=60),
    counts=st.lists(st.integers(0, 3), min_size=10, max_size=10),
    seed=st.integers(0, 2**63),
)
def test_pairs_agree_in_the_digit_and_repeat_no_image(labels: list[int], counts: list[int], seed: int) -> None:
    recordings = [Recording(str(digit), "ann", n) for digit in range(10) for n in range(counts[digit])]
    if any(labels.count(digit) < counts[digit] for digit in range(10)):
        with pytest.raises(InputError, match="MNIST's train files have fewer images of a"):
            pair(recordings, np.array(labels, int), "train", seed)
        return
    pairs = pair(recordings, np.array(labels, int), "train", seed)
    assert [sample.recording for sample in pairs] == recordings
    assert len({sample.image for sample in pairs}) == len(pairs)
    assert all(labels[sample.image] == int(sample.recording.digit) for sample in pairs)


def test_pairs_are_the_same_on_every_machine() -> None:
    labels = np.arange(1000) * 7 % 10
    recordings = [Recording(str(digit), "ann", 0) for digit in range(10)]
    # By an implementation of PCG64 in integers: for every digit, its image with the smallest draw.
    expected = {}
    for part, number in (("train", 0), ("test", 1)):
        stream = pcg64([5, number])
        draws = [next(stream) for _ in labels]
        expected[part] = [min(np.flatnonzero(labels == digit), key=draws.__getitem__) for digit in range(10)]
        assert pair(recordings, labels, part, 5) == [  # type: ignore[arg-type]
            Pair(*both) for both in zip(recordings, expected[part], strict=True)
        ]
    assert expected["train"] != expected["test"]


def test_the_speaker_split_has_no_speaker_on_both_sides(raw: Path, tmp_path: Path) -> None:
    report = AVDigits.prepare(raw=raw, out=tmp_path / "out", split="speaker", test_speaker="ann")
    for part, speaker in (("train", "bo"), ("test", "ann")):
        samples = listed(tmp_path / "out", part)
        assert len(samples) == 40 and {recording.split("_")[1] for recording, *_ in samples} == {speaker}
        labels = digits()[part][1]
        assert all(labels[image] == int(label) for _, image, label in samples)
    assert "speaker-disjoint" in report.text() and not report.split.official


def test_a_damaged_recording_costs_itself_only(
    raw: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recordings(tmp_path / "raw")
    write_mnist(tmp_path / "raw", digits())
    (tmp_path / "raw/0_ann_0.wav").write_bytes(b"RIFF")
    raw_clips.write_wav(tmp_path / "raw/1_ann_5.wav", np.zeros((1, 100), np.int16), rate=8000)
    (tmp_path / "raw/noise.wav").write_bytes(b"")
    words = ["avdigits", "--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    assert prepare.main(words) == 1
    text = capsys.readouterr().out
    assert re.search(r"clips found +81\nprepared now +78 .*\nprepared before +0\nskipped +3\n", text)
    assert "noise.wav is not <digit>_<speaker>_<number>.wav" in text and "1_ann_5: the audio is too short" in text
    assert "not those of FSDD v1.0.10" in text and "other numbers of digits than MNIST" in text
    for part, lost in (("train", "1_ann_5"), ("test", "0_ann_0")):
        assert listed(tmp_path / "out", part) == [row for row in listed(prepared, part) if row[0] != lost]
        assert len(np.load(tmp_path / f"out/arrays/{part}_visual.npy")) == 39
    assert prepare.main([*words[:1], *words[3:], "--check"]) == 0
    assert prepare.main([*words, "--allow_missing"]) == 0  # tried again, with the same result
    assert "skipped          3" in capsys.readouterr().out


def test_a_second_call_changes_nothing_and_another_pairing_is_refused(raw: Path, prepared: Path) -> None:
    def dates() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in prepared.rglob("*")}

    before = dates()
    report = AVDigits.prepare(raw=raw, out=prepared)
    assert (report.prepared, report.already, report.complete) == (0, 80, True)
    assert report.counts == {part: {str(digit): 4 for digit in range(10)} for part in ("train", "test")}
    with pytest.raises(InputError, match="avdigits was prepared with seed 0, not 1"):
        AVDigits.prepare(raw=raw, out=prepared, seed=1)
    with pytest.raises(InputError, match="avdigits was prepared with split"):
        AVDigits.prepare(raw=raw, out=prepared, split="speaker", test_speaker="bo")
    assert dates() == before


def test_another_seed_makes_other_pairs(raw: Path, prepared: Path, tmp_path: Path) -> None:
    AVDigits.prepare(raw=raw, out=tmp_path / "out", seed=1)
    for part in ("train", "test"):
        first, other = listed(prepared, part), listed(tmp_path / "out", part)
        assert [recording for recording, *_ in first] == [recording for recording, *_ in other]
        assert [image for _, image, _ in first] != [image for _, image, _ in other]


def test_an_interrupted_preparation_is_completed(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    AVDigits.prepare(raw=raw, out=out)
    expected = {path.name: path.read_bytes() for path in (out / "arrays").iterdir()}
    (out / "prepared.json").rename(out / "preparing.json")
    (out / "arrays/test_audio.npy").rename(out / "arrays/.test_audio.npy.abc.npy")
    assert AVDigits.prepare(raw=raw, out=out).prepared == 80
    assert {path.name: path.read_bytes() for path in (out / "arrays").iterdir()} == expected
    assert json.loads((out / "prepared.json").read_text())["clips"] == {"train": 40, "test": 40}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "--seed must be at least 0"),
        ({"test_speaker": "ann"}, "--test_speaker is the test speaker of --split speaker"),
        ({"split": "speaker"}, "no recording is of --test_speaker yweweler; they are of ann, bo"),
    ],
)
def test_options_that_do_not_fit_are_refused(raw: Path, tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        AVDigits.prepare(raw=raw, out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_missing_raw_files_are_named_with_their_page(raw: Path, tmp_path: Path) -> None:
    cases = (
        (raw / "nowhere", "does not exist.*https://github.com/Jakobovski"),
        (raw / "mnist", r"has no \.wav file.*https://github.com/Jakobovski"),
        (raw / "fsdd", "has no MNIST files beside the recordings.*https://"),
    )
    for folder, message in cases:
        with pytest.raises(InputError, match=message):
            AVDigits.prepare(raw=folder, out=tmp_path / "out")
    write_recordings(tmp_path / "raw", numbers=(5, 6))
    write_mnist(tmp_path / "raw", digits())
    with pytest.raises(InputError, match="no recording is left for the test part"):
        AVDigits.prepare(raw=tmp_path / "raw", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_arrays_that_do_not_fit_the_lists_are_refused(raw: Path, tmp_path: Path) -> None:
    AVDigits.prepare(raw=raw, out=tmp_path / "out")
    np.save(tmp_path / "out/arrays/test_audio.npy", np.zeros((40, 1, 40, 128), np.float32))
    with pytest.raises(InputError, match=r"test_audio\.npy holds float32 \(40, 1, 40, 128\) for 40 samples"):
        AVDigits.open(tmp_path / "out", "test", training=False)
