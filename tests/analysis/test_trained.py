"""`mmpareto.load`: a network with its preprocessing, without the data that it was trained on."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmpareto
import numpy as np
import pytest
import raw_clips
import raw_mp4
import torch
from mmpareto.data.raw.media import read_clip
from mmpareto.errors import InputError
from mmpareto.models import ENCODERS
from mmpareto.training.run import train
from mmpareto.training.settings import parse
from prepared_clips import open_clips, write_prepared
from torch.nn.functional import linear

ENCODERS.add("tiny", "tiny_encoder:TinyEncoder")
SMALL = (
    "--dataset cremad --encoder tiny --epochs 1 --batch_size 4 --workers 0 --image_size 32 --gpu_ids cpu "
    "--use_tensorboard false --audio_frames 200"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("trained") / "data", train=9, test=4, size=(40, 30))


def trained_run(data: Path, folder: Path, *more: str) -> Path:
    assert train(parse([*SMALL.split(), "--data", str(data), "--ckpt_path", str(folder), *more])) == 0
    return folder


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    return trained_run(data, data.with_name("run"), "--protocol", "paper")


@pytest.fixture(scope="module")
def joint_run(data: Path) -> Path:
    return trained_run(data, data.with_name("joint"), "--method", "joint", "--no_probe", "--protocol", "paper")


def arrays(data: Path, index: int = 0) -> dict[str, Any]:
    """The first test clip as arrays: its filterbank, and all its frames at their own size."""
    clips = open_clips(data, "test", training=False)
    name = clips.names[index]
    frames = [clips.sources["visual"].frame(index, number).numpy() for number in range(1, 5)]
    return {"audio": torch.load(data / "audio" / f"{name}.pt").numpy(), "visual": np.stack(frames)}


def test_classes_settings_and_model(run: Path) -> None:
    trained = mmpareto.load(str(run))
    assert trained.classes == ["ANG", "HAP", "SAD"] and trained.modalities == ["audio", "visual"]
    assert not trained.model.training and trained.task == "classification" and trained.method == "mmpareto"
    arguments = json.loads((run / "config.json").read_text())["arguments"]
    assert trained.settings == arguments and trained.settings["learning_rate"] == 0.002
    assert trained.epoch == 1 == mmpareto.load(run / "last.pt").epoch


def test_a_batch_is_that_of_the_evaluation(run: Path, data: Path) -> None:
    """Compared with the loader's own tensors, and with the normalisation written out."""
    trained = mmpareto.load(run)
    batch = trained.preprocess([arrays(data, 0), arrays(data, 1)])
    clips = open_clips(data, "test", training=False, image_size=32, audio_frames=200)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for index in range(2):
        inputs = clips[index].inputs
        torch.testing.assert_close(batch["audio"][index], inputs["audio"])
        torch.testing.assert_close(batch["visual"][index], (inputs["visual"] / 255 - mean) / std)
    with torch.no_grad():
        outputs = trained.model(batch)
    heads = trained.predict(arrays(data, 1))
    for head, logits in {"joint": outputs.joint, **outputs.unimodal}.items():
        assert [*heads[head].values()] == pytest.approx(logits[1].softmax(0).tolist(), abs=1e-6)
    assert trained.predict(arrays(data, 1) | {"visual": [*arrays(data, 1)["visual"]]}) == heads  # a list of frames
    scaled = trained.predict(arrays(data, 1), temperatures={"audio": 4.0})
    assert scaled["joint"] == heads["joint"]
    assert [*scaled["audio"].values()] == pytest.approx((outputs.unimodal["audio"][1] / 4).softmax(0).tolist())


def test_a_modality_may_be_absent(run: Path, data: Path) -> None:
    trained, sample = mmpareto.load(run), arrays(data)
    heads = trained.predict({"visual": sample["visual"]})
    assert list(heads) == ["joint", "visual"]
    assert heads["visual"] == pytest.approx(trained.predict(sample)["visual"])
    with torch.no_grad():
        feature = trained.model.encoders["visual"](trained.preprocess([{"visual": sample["visual"]}])["visual"])
        logits = linear(feature, trained.model.fusion.fc_out.weight[:, 8:], trained.model.fusion.fc_out.bias)
    assert [*heads["joint"].values()] == pytest.approx(logits[0].softmax(0).tolist(), abs=1e-6)


def test_a_checkpoint_alone_is_enough(run: Path, data: Path, tmp_path: Path) -> None:
    shutil.copy(run / "best.pt", tmp_path / "model.pt")
    trained = mmpareto.load(tmp_path / "model.pt")
    assert trained.settings.items() <= mmpareto.load(run).settings.items() and trained.settings["method"] == "mmpareto"
    assert not {"ckpt_path", "data", "gpu_ids"} & set(trained.settings)
    assert trained.predict(arrays(data)) == mmpareto.load(run).predict(arrays(data))


@pytest.mark.parametrize("beside", [True, False])
def test_an_older_checkpoint_is_completed(run: Path, data: Path, tmp_path: Path, beside: bool) -> None:
    """Before settings and input shapes were recorded; AGM puts zeros of the input's shape in place of a modality."""
    content = torch.load(run / "best.pt", weights_only=True)
    for name in ("settings", "input_shapes"):
        del content[name]
    torch.save(content | {"method": "agm"}, tmp_path / "best.pt")
    if beside:
        shutil.copy(run / "config.json", tmp_path)
    trained = mmpareto.load(tmp_path)
    assert trained.settings == (mmpareto.load(run).settings if beside else {})
    assert trained.model.input_shapes == {"audio": (1, 200, 128), "visual": (2, 3, 32, 32)}
    sample = arrays(data)
    batch = trained.preprocess([sample])
    with torch.no_grad():
        expected = trained.model({"audio": torch.zeros_like(batch["audio"]), "visual": batch["visual"]}).joint
    heads = trained.predict({"visual": sample["visual"]})
    assert [*heads["joint"].values()] == pytest.approx(expected[0].softmax(0).tolist(), abs=1e-6)


@pytest.mark.gpu
def test_prediction_on_a_gpu(run: Path, data: Path) -> None:
    trained = mmpareto.load(run)
    expected = trained.predict(arrays(data))
    trained.model.to("cuda")
    for head, values in trained.predict(arrays(data)).items():
        assert values == pytest.approx(expected[head], abs=1e-3)


def test_untrained_heads_are_left_out(joint_run: Path, data: Path) -> None:
    trained = mmpareto.load(joint_run)
    assert trained.unimodal_heads == "untrained" and list(trained.predict(arrays(data))) == ["joint"]


def test_files_and_waveforms_give_the_same(run: Path, tmp_path: Path) -> None:
    trained = mmpareto.load(run)
    raw_mp4.write_mp4(tmp_path / "clip.mp4")
    raw_mp4.write_mp4(tmp_path / "silent.mp4", sound=False)
    heads = trained.predict(tmp_path / "clip.mp4")
    assert heads == trained.predict([tmp_path / "clip.mp4", str(tmp_path / "silent.mp4")])
    assert trained.predict({"visual": tmp_path / "silent.mp4"})["visual"] == heads["visual"]
    waveform, rate = raw_clips.noise(1.0).astype(np.float32) / 2**15, 16_000
    raw_clips.write_wav(tmp_path / "a.wav", raw_clips.noise(1.0))
    feature = read_clip(tmp_path / "a.wav", "", kinds=["fbank"], fps=None).features["fbank"]
    for value in (tmp_path / "a.wav", (waveform, rate), feature):
        assert trained.predict({"audio": value})["audio"] == trained.predict({"audio": tmp_path / "a.wav"})["audio"]


def wrong_feature(sample: dict[str, Any]) -> Any:
    return sample | {"audio": sample["audio"][:9]}


def floating_images(sample: dict[str, Any]) -> Any:
    return sample | {"visual": sample["visual"] / 255}


def channels_last(sample: dict[str, Any]) -> Any:
    return sample | {"visual": sample["visual"].transpose(0, 2, 3, 1)}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (wrong_feature, r"the audio feature contains torch.float32 \(9, 128\)"),
        (floating_images, r"visual is torch.float64 .*uint8 images"),
        (channels_last, r"visual is torch.uint8 of shape \(4, 40, 30, 3\).*channels first"),
        (lambda sample: sample | {"smell": 1}, "takes audio, visual, not smell"),
        (lambda sample: {}, "at least one of audio, visual"),
        (lambda sample: ["a", "b", "c"], "one file, or two"),
        (lambda sample: "absent.mp4", "absent.mp4"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused(
    run: Path, data: Path, change: Callable[[dict[str, Any]], Any], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint) as caught:
        mmpareto.load(run).predict(change(arrays(data)))
    assert "\n" not in str(caught.value)


def test_samples_must_have_the_same_modalities(run: Path, data: Path) -> None:
    sample = arrays(data)
    with pytest.raises(InputError, match="the same modalities"):
        mmpareto.load(run).preprocess([sample, {"audio": sample["audio"]}])
    with pytest.raises(InputError, match="at least one"):
        mmpareto.load(run).preprocess([])


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("sprung",)


def test_nothing_in_a_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "model": _Trap()}, tmp_path / "trap.pt")
    with pytest.raises(InputError, match="more than tensors"):
        mmpareto.load(tmp_path / "trap.pt")
    assert not (tmp_path / "sprung").exists()
