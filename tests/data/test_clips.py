import pickle
import random
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import raw_clips
import torch
from mmpareto.data.loading import sources
from mmpareto.data.loading.batches import Batch, make_loader, to_device
from mmpareto.data.loading.layout import read_frame
from mmpareto.data.loading.options import FEATURE_FILES, options_of
from mmpareto.data.loading.samples import prepare_input
from PIL import Image
from prepared_clips import open_clips, write_prepared
from torch.utils.data import default_collate
from torchvision import transforms

TOLERANCE = 1  # of 255: the two libraries round differently when they resize


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(
        tmp_path_factory.mktemp("prepared"),
        frames=[4, 7, 1, 2, 3, 10],
        audio=("fbank", "spectrogram", "waveform"),
        size=(60, 80),
    )


def pil(folder: Path, clip: str, number: int) -> Image.Image:
    return Image.open(folder / "visual" / clip / f"frame_000{number:02d}.jpg").convert("RGB")


@pytest.mark.parametrize("size", [224, 32])
def test_evaluation_matches_the_released_loader(folder: Path, size: int) -> None:
    dataset = open_clips(folder, "train", training=False, image_size=size)
    transform = transforms.Compose(
        [
            transforms.Resize(size=(size, size)),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    indices = [0, 1, 5]  # at least four frames, which the released loader needs
    released = []
    for clip, available in zip([dataset.names[i] for i in indices], (4, 7, 10), strict=True):
        segment = int(available / 2)
        released.append(torch.stack([transform(pil(folder, clip, i * segment + int(segment / 2))) for i in range(2)]))
    samples = [dataset[index] for index in indices]
    assert [sample.dataset_index for sample in samples] == indices
    batch = next(iter(make_loader(torch.utils.data.Subset(dataset, indices), batch_size=3)))
    on_device = to_device(batch, "cpu", dataset.normalisation)
    assert on_device.inputs["visual"].dtype == torch.float32
    torch.testing.assert_close(
        on_device.inputs["visual"], torch.stack(released), rtol=0, atol=TOLERANCE / 255 / 0.224 + 1e-6
    )
    for index, (inputs, label, _, flips, _) in zip(indices, samples, strict=True):
        assert flips == {}
        assert torch.equal(inputs["audio"], torch.load(folder / f"audio/clip_{index:03d}.pt")[None])
        assert label == sorted(["SAD", "ANG", "HAP"]).index(["SAD", "ANG", "HAP"][index % 3])


def test_training_images_match_crops_and_flips_by_pil(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers: list[int] = []
    boxes: list[tuple[int, int, int, int]] = []

    def spy(name: str, results: list[Any], several: bool) -> None:
        original = getattr(sources, name)

        def recording(*arguments: Any) -> Any:
            result = original(*arguments)
            results.extend(result if several else [result])
            return result

        monkeypatch.setattr(sources, name, recording)

    spy("random_frames", numbers, True)
    spy("random_crop", boxes, False)
    dataset = open_clips(folder, "train", training=True, image_size=40)
    flips: list[bool] = []
    for index in range(6):
        for epoch in range(4):
            numbers.clear(), boxes.clear()
            batch = Batch(*default_collate([dataset[epoch, index]]))
            raw = batch._replace(inputs={"visual": batch.inputs["visual"]})
            visual = to_device(raw, "cpu", {"visual": ((0.0,) * 3, (1 / 255,) * 3)}).inputs["visual"][0]
            flips += batch.flips["visual"][0].tolist()
            turned = zip(visual, batch.flips["visual"][0], strict=True)
            for (image, flip), number, (top, left, height, width) in zip(turned, numbers, boxes, strict=True):
                cropped = pil(folder, dataset.names[index], number).crop((left, top, left + width, top + height))
                expected = np.asarray(transforms.Resize((40, 40))(cropped)).astype(int)
                expected = expected[:, ::-1] if flip else expected
                assert np.abs(image.permute(1, 2, 0).numpy() - expected).max() <= TOLERANCE + 1e-3
    assert 12 <= sum(flips) <= 36  # of 48, drawn with probability ½: five standard deviations are 17


def test_samples_are_functions_of_seed_epoch_and_index(folder: Path) -> None:
    first, second = (open_clips(folder, "train", training=True, image_size=24) for _ in range(2))
    other_seed = open_clips(folder, "train", training=True, image_size=24, seed=1)
    before = {key: first[key][0]["visual"] for key in [(0, 1), (3, 0), (3, 1), (0, 5)]}
    for key in reversed(before):
        assert torch.equal(second[key][0]["visual"], before[key])
        assert not torch.equal(other_seed[key][0]["visual"], before[key])
    assert torch.equal(second[1][0]["visual"], before[0, 1])
    assert not torch.equal(before[0, 1], before[3, 1])


def test_global_generators_are_not_touched(folder: Path) -> None:
    dataset = open_clips(folder, "train", training=True, image_size=24)
    states = torch.get_rng_state(), pickle.dumps(np.random.get_state()), random.getstate()
    values = dataset[0, 0][0]["visual"]
    for _ in make_loader(dataset, batch_size=2):
        pass
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (pickle.dumps(np.random.get_state()), random.getstate()) == states[1:]
    torch.manual_seed(99)
    assert torch.equal(dataset[0, 0][0]["visual"], values)


def test_loads_without_prepared_json_and_with_windows_line_ends(tmp_path: Path) -> None:
    write_prepared(tmp_path, prepared={}, train=2, test=1)
    for name in ("stat.csv", "train.csv", "test.csv"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"\r\n")
    dataset = open_clips(tmp_path, "test", training=False)
    assert (dataset.classes, dataset.names, dataset.labels) == (["ANG", "HAP", "SAD"], ["clip_002"], [1])
    assert dataset.prepared == {} and dataset.description["fps"] is None
    assert dataset[0][0]["visual"].shape == (2, 3, 224, 224)


def test_options_shape_the_inputs(folder: Path) -> None:
    whole = open_clips(folder, "test", training=False)[1][0]["audio"]
    small = open_clips(folder, "test", training=False, frames=3, audio_frames=320, audio_pool=(4, 2), image_size=16)
    inputs = small[1][0]
    assert inputs["visual"].shape == (3, 3, 16, 16) and inputs["visual"].dtype == torch.uint8
    pooled = whole[:, :320].reshape(1, 80, 4, 64, 2).mean(dim=(2, 4))
    torch.testing.assert_close(inputs["audio"], pooled)
    spectrogram = open_clips(folder, "test", training=False, audio="spectrogram")
    assert spectrogram[0][0]["audio"].shape == (1, 257, 188)
    assert open_clips(folder, "test", training=False, audio="stft")[0][0]["audio"].shape == (1, 129, 626)
    cut = open_clips(folder, "test", training=False, audio="spectrogram", audio_frames=100)
    assert torch.equal(cut[0][0]["audio"], spectrogram[0][0]["audio"][:, :, :100])
    pooled = open_clips(folder, "test", training=False, audio="spectrogram", audio_pool=(4, 2))[0][0]["audio"]
    expected = spectrogram[0][0]["audio"][:, :256].reshape(1, 128, 2, 47, 4).mean(dim=(2, 4))  # time is the last axis
    torch.testing.assert_close(pooled, expected)
    chosen = open_clips(folder, "train", training=False, subset=[4, 0])
    assert chosen.names == ["clip_004", "clip_000"] and chosen.labels == [0, 2] and len(chosen) == 2


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"audio": "spectrogram", "frames": 3, "frame_choice": "spread"},
        {"audio": "stft", "audio_frames": 600, "audio_pool": (3, 1)},
        {"image_size": 32, "audio_frames": 400, "audio_pool": (2, 2), "frame_choice": "first"},
    ],
)
def test_prepare_input_equals_the_prepared_sample(folder: Path, options: dict[str, Any]) -> None:
    dataset = open_clips(folder, "train", training=False, **options)
    features = FEATURE_FILES[dataset.description["audio"]].folder
    for index, available in enumerate([4, 7, 1, 2, 3, 10]):
        clip = dataset.names[index]
        frames = [read_frame(folder, clip, number) for number in range(1, available + 1)]
        inputs = prepare_input(dataset.description, torch.load(folder / features / f"{clip}.pt"), frames)
        expected = dataset[index][0]
        assert list(inputs) == list(expected) == list(dataset.channels)
        assert all(torch.equal(inputs[name], expected[name]) for name in expected)


def test_the_frames_of_a_short_clip_are_as_chosen_with_and_without_a_cache(folder: Path) -> None:
    """Clip 4 has three frames."""
    for cache in (False, True):
        for choice, numbers in (("spread", (1, 3)), ("released", (1, 2)), ("first", (1, 2))):
            dataset = open_clips(folder, "train", training=False, image_size=60, frame_choice=choice, cache=cache)
            expected = [sources.resized(read_frame(folder, "clip_004", number), 60) for number in numbers]
            assert torch.equal(dataset[4].inputs["visual"], torch.stack(expected)), (choice, cache)
    training = open_clips(folder, "train", training=True, image_size=60, frame_choice="first", crop_scale=(0.1, 0.2))
    assert not torch.equal(training[0, 5].inputs["visual"], training[1, 5].inputs["visual"])  # crops are random


class FixedStart:
    """A generator that draws one given number, and records the range."""

    def __init__(self, number: int) -> None:
        self.number = number

    def integers(self, low: int, high: int, endpoint: bool) -> int:
        self.range = (low, high, endpoint)
        return self.number


@pytest.mark.parametrize("samples", [40_000, 161_234, 1_000])
@pytest.mark.parametrize("start", [0, 31_415, 80_000])
def test_the_stft_matches_librosa_on_the_samples_that_dgl_would_read(samples: int, start: int) -> None:
    waveform = torch.from_numpy(raw_clips.noise(samples / 16_000, seed=start)[0, :samples])
    tiled = waveform.numpy() / np.float32(32_768)
    while len(tiled) / 16_000 < 10.0:
        tiled = np.tile(tiled, 2)
    chosen = tiled[start : start + 16_000 * 5]
    expected = np.log(np.abs(librosa.stft(chosen, n_fft=256, hop_length=128, pad_mode="reflect")) + 1e-7)
    draw = FixedStart(start)
    result = sources.random_stft(waveform, draw)
    assert draw.range == (0, 80_000, True)  # random.randint(0, 5 · rate) of the sources includes both ends
    assert result.shape == (129, 626) and result.dtype == torch.float32
    np.testing.assert_allclose(result.exp().numpy(), np.exp(expected), rtol=1e-4, atol=1e-4)


def test_the_stft_begins_at_random_in_training_and_where_the_clip_says_in_testing(folder: Path) -> None:
    training = open_clips(folder, "train", training=True, audio="stft", image_size=24)
    read = [training[epoch, 0].inputs["audio"] for epoch in (0, 1, 0)]
    assert torch.equal(read[0], read[2]) and not torch.equal(read[0], read[1])
    testing = [open_clips(folder, "train", training=False, audio="stft", image_size=24, seed=seed) for seed in (0, 1)]
    assert torch.equal(testing[0][0].inputs["audio"], testing[1][5, 0].inputs["audio"])
    time = np.arange(160_000) / 16_000
    chirp = np.sin(np.pi * 800 * time**2)  # its frequency in hertz is 800 times the time
    begins = []
    for loudness in range(1000, 1040):  # 40 clips
        feature = sources.random_stft(torch.from_numpy((loudness * chirp).astype(np.int16)), None)
        begins.append(int(feature[:, 8].argmax()) * 16_000 / 256 / 800 - 8 * 128 / 16_000)
    assert -0.1 < min(begins) < 1 and 4 < max(begins) < 5.1 and 1.5 < np.mean(begins) < 3.5  # seconds


def test_a_description_of_before_frame_choice_means_spread(folder: Path) -> None:
    description = open_clips(folder, "train", training=False, image_size=24).description
    assert options_of(description).frame_choice == "released"
    del description["frame_choice"]
    frames = [torch.full((3, 9, 9), number, dtype=torch.uint8) for number in (1, 2, 3)]
    visual = prepare_input(description, torch.zeros(1024, 128), frames)["visual"]
    assert visual[:, 0, 0, 0].tolist() == [1, 3]


def test_the_description_survives_weights_only_loading(folder: Path, tmp_path: Path) -> None:
    description = open_clips(folder, "train", training=True, audio_pool=(2, 2)).description
    torch.save(description, tmp_path / "d.pt")
    assert torch.load(tmp_path / "d.pt", weights_only=True) == description
    assert description["classes"] == ["ANG", "HAP", "SAD"] and description["fps"] == 1
