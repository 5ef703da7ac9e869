"""Every method on eight modalities, from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import train
from mmpareto import METHODS
from mmpareto.data.modalities import GaussianModalities
from mmpareto.errors import InputError
from tiny_runs import metrics

WORDS = "--dataset modalities --gpu_ids cpu --workers 0 --use_tensorboard false --epochs 2 --batch_size 32"
OPTIONS = {
    "ogm": ("--modulated", "weights"),
    "ogm_ge": ("--modulated", "weights"),
    "unimodal": ("--modality", "m8"),
    "pretrain_finetune": ("--pretrain_epochs", "1"),
    "gblending": ("--trial_epochs", "1"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "modalities"
    GaussianModalities.prepare(out=folder, modalities=8, samples=60)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "mmpareto" else pytest.mark.slow)
        for name in METHODS
        if name != "greedy"  # needs encoders with stages
    ],
)
def test_a_run_with_eight_modalities(name: str, data: Path, tmp_path: Path) -> None:
    words = [*WORDS.split(), "--data", str(data)]
    options = OPTIONS.get(name, ())
    if name == "umt":
        options = ("--teachers", str(tmp_path / "teachers"))
        assert train.main([*words, "--method", "ensemble", "--ckpt_path", options[1]]) == 0
    assert train.main([*words, "--ckpt_path", str(tmp_path / "run"), "--method", name, *options]) == 0
    modalities = ["m8"] if name == "unimodal" else [f"m{k}" for k in range(1, 9)]
    for line in metrics(tmp_path / "run"):
        assert np.isfinite(line["train_loss"]) and {key for key in line if key.startswith("acc_")} == {
            f"acc_{modality}" for modality in modalities
        }
    last = json.loads((tmp_path / "run" / "summary.json").read_text())["last"]
    assert all(0 <= last[f"acc_{modality}"] <= 1 for modality in modalities)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [("--method greedy", "mlp, of m1, has none"), ("--fusion gated", "fuses two modalities, not 8")],
)
def test_what_does_not_take_eight_vectors_says_so(flags: str, complaint: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=complaint):
        train.main([*WORDS.split(), "--data", str(data), "--ckpt_path", str(tmp_path / "run"), *flags.split()])
