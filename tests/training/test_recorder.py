"""gradients.npz compared with separate autograd calls, one per loss and encoder."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mmpareto.training.loop as loop
import numpy as np
import pytest
import torch
from mmpareto.errors import InputError
from mmpareto.integration import METHODS
from mmpareto.integration.report import Report
from mmpareto.training.recorder import GradientRecorder, layer_metrics
from prepared_clips import write_prepared
from tiny_runs import (
    acting,
    assert_same,
    assert_same_run,
    read,
    resume,
    run,
    send_signal,
    trainer_of,
    untimed,
)
from torch import Tensor, nn

METHODS_TRIED = {
    "uniform": ("--method", "uniform"),
    "joint": ("--method", "joint"),
    "dgl": ("--method", "dgl"),
    "mmpareto": ("--method", "mmpareto"),
    "mmpareto, paper": ("--method", "mmpareto", "--variant", "paper"),
}
EVERY_THIRD = ("--record-gradients", "3", "--epochs", "3", "--protocol", "paper")
MODALITIES = ("audio", "visual")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """15 training clips in batches of 4: four steps per epoch."""
    return write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=15, test=4, prepared={})


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Uninterrupted runs, each made once."""
    made: dict[tuple[str, ...], Path] = {}

    def get(*more: str) -> Path:
        if more not in made:
            made[more] = tmp_path_factory.mktemp("whole") / "run"
            assert run(data, made[more], *more) == 0
        return made[more]

    return get


def records(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "gradients.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def assert_same_records(a: Path, b: Path) -> None:
    first, second = records(a), records(b)
    assert list(first) == list(second)
    for name, values in first.items():
        assert values.dtype == second[name].dtype and np.array_equal(
            values, second[name], equal_nan=values.dtype == "f4"
        )


def vector(loss: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """Flat gradient of a loss for each parameter, in float64; zeros where the loss has none."""
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return [
        torch.zeros_like(p).flatten() if g is None else g.double().flatten()
        for p, g in zip(parameters, gradients, strict=True)
    ]


class Witness:
    """Records every call of a trainer's method, and gradients from separate autograd calls."""

    def __init__(self, trainer: Any) -> None:
        self.gradients: list[dict[tuple[str, str], list[Tensor]]] = []
        self.reports: list[Report] = []
        self.trainer, self.backward = trainer, trainer.method.backward
        trainer.method.backward = self.record

    def record(self, joint: Tensor, unimodal: dict[str, Tensor], **more: Any) -> Report:
        gradients = {}
        for modality, encoder in self.trainer.network.encoders.items():
            parameters = list(encoder.parameters())
            gradients[modality, "joint"] = vector(joint, parameters)
            gradients[modality, "unimodal"] = vector(unimodal[modality], parameters)
        self.gradients.append(gradients)
        self.reports.append(self.backward(joint, unimodal, **more))
        return self.reports[-1]


@pytest.mark.parametrize("name", METHODS_TRIED)
def test_recorded_metrics_equal_separate_autograd_calls(name: str, data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(data, tmp_path, *METHODS_TRIED[name], *EVERY_THIRD)
    witness = Witness(trainer)
    trainer.fit()
    recorded = records(tmp_path)
    assert recorded["step"].tolist() == [1, 4, 7, 10] and recorded["epoch"].tolist() == [1, 1, 2, 3]
    assert recorded["modalities"].tolist() == list(MODALITIES)
    objectives = ["joint"] if name == "joint" else ["joint", "unimodal"]
    assert recorded["objectives"].tolist() == objectives
    for row, step in enumerate(recorded["step"]):
        truth, report = witness.gradients[step - 1], witness.reports[step - 1]
        for modality in MODALITIES:
            layers = [n for n, _ in trainer.network.encoders[modality].named_parameters()]
            assert recorded[f"layers_{modality}"].tolist() == layers
            for objective in objectives:
                norms = [g.norm().item() for g in truth[modality, objective]]
                assert recorded[f"norm_{objective}_{modality}"][row] == pytest.approx(norms, rel=1e-5)
            if len(objectives) == 2:
                pairs = zip(truth[modality, "joint"], truth[modality, "unimodal"], strict=True)
                cosines = [(a @ b / (a.norm() * b.norm())).item() for a, b in pairs]
                assert recorded[f"cosine_{modality}"][row] == pytest.approx(cosines, abs=1e-5)
            for kind in ("weights", "conflict", "rescale"):
                assert (f"{kind}_{modality}" in recorded) == name.startswith("mmpareto")
                if modality in report:
                    expected = getattr(report[modality], kind).float().numpy()
                    assert np.array_equal(recorded[f"{kind}_{modality}"][row], expected)
    assert (f"cosine_{MODALITIES[0]}" in recorded) == (len(objectives) == 2)
    assert all(values.dtype == np.float32 for values in recorded.values() if values.dtype.kind == "f")
    if name == "mmpareto, paper":
        assert recorded["weights_audio"].shape == (4, 1, 2) and recorded["rescale_audio"].shape == (4, 1)


def test_the_file_identifies_its_run(data: Path, whole: Callable[..., Path]) -> None:
    recorded = records(whole(*EVERY_THIRD))
    metadata = {name: recorded[name].item() for name in ("dataset", "method", "seed", "every", "banner")}
    assert metadata == {"dataset": "cremad", "method": "mmpareto", "seed": 0, "every": 3, "banner": ""}


@pytest.mark.parametrize("name", ["joint", "mmpareto"])
def test_recording_leaves_training_bit_identical(name: str, whole: Callable[..., Path]) -> None:
    more = ("--epochs", "2", *METHODS_TRIED[name])
    without, recorded = whole(*more), whole(*more, "--record-gradients", "1")
    assert not (without / "gradients.npz").exists()
    assert len(records(recorded)["step"]) > 1
    assert_same(untimed(read(recorded / "last.pt")), untimed(read(without / "last.pt")))


@pytest.mark.parametrize("call", [4, 6])  # at a recorded step that ends an epoch, and between two recorded steps
def test_records_of_a_resumed_run_are_bit_identical(
    call: int, data: Path, whole: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with acting(loop.Trainer, "step", call, send_signal):
        assert run(data, folder, *EVERY_THIRD) == 143
    assert records(folder)["step"].tolist() == [step for step in (1, 4, 7, 10) if step <= call]
    with acting(loop.Trainer, "step", 2, send_signal):
        assert resume(folder) == 143
    assert resume(folder) == 0
    assert_same_run(folder, whole(*EVERY_THIRD))
    assert_same_records(folder, whole(*EVERY_THIRD))


class KilledError(Exception):
    pass


def test_records_after_the_last_checkpoint_are_made_again(
    data: Path, whole: Callable[..., Path], tmp_path: Path
) -> None:
    def kill() -> None:
        raise KilledError

    folder, more = tmp_path / "run", ("--record-gradients", "1", "--epochs", "3", "--protocol", "paper")
    with acting(loop.GradientRecorder, "write", 2, kill), pytest.raises(KilledError):
        run(data, folder, *more)
    assert read(folder / "last.pt")["epoch"] == 2  # four steps
    assert len(records(folder)["step"]) == 8
    assert resume(folder) == 0
    assert_same_records(folder, whole(*more))


def stopped(data: Path, folder: Path, *more: str) -> None:
    with acting(loop.Trainer, "step", 5, send_signal):
        assert run(data, folder, *EVERY_THIRD, *more) == 143


def test_without_the_file_a_resumed_run_records_the_remaining_steps(
    data: Path, whole: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(data, tmp_path / "run")
    (tmp_path / "run/gradients.npz").unlink()
    assert resume(tmp_path / "run") == 0
    assert "gradients.npz is missing" in capsys.readouterr().out
    assert_same_run(tmp_path / "run", whole(*EVERY_THIRD))
    assert records(tmp_path / "run")["step"].tolist() == [7, 10]
    assert np.array_equal(records(tmp_path / "run")["cosine_audio"], records(whole(*EVERY_THIRD))["cosine_audio"][2:])


@pytest.mark.parametrize("damage", ["torn", "text", "incomplete", "uneven", "other network"])
def test_a_damaged_file_is_refused_before_anything_is_written(damage: str, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    stopped(data, folder)
    path, content = folder / "gradients.npz", records(folder)
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-400])
    elif damage == "text":
        path.write_text("nothing of the kind")
    else:
        change = {
            "incomplete": {"modalities": None},
            "uneven": {"cosine_audio": content["cosine_audio"][:1]},
            "other network": {"layers_audio": content["layers_audio"][::-1]},
        }[damage]
        np.savez(path, **{k: v for k, v in (content | change).items() if v is not None})
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(InputError, match=r"gradients\.npz is .*remove it") as caught:
        resume(folder)
    assert "\n" not in str(caught.value)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


class Mixing(nn.Module):
    """Two encoders in float64; the features of each include half of the other's."""

    interaction = True
    own_losses = {"a": ["a"], "b": ["b"]}  # noqa: RUF012 (never modified)

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: nn.Linear(3, 2) for name in "ab"}).double()

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        a, b = (self.encoders[name](x) for name in "ab")
        mixed = {"a": (a + b / 2).sin(), "b": (b + a / 2).exp()}
        return (mixed["a"] * mixed["b"]).mean(), {name: values.square().mean() for name, values in mixed.items()}


@pytest.fixture
def mixing(data: Path, tmp_path: Path) -> Iterator[Any]:
    """A recorder of every step of a network whose encoders interact, and the network's losses."""
    torch.manual_seed(0)
    settings = trainer_of(data, tmp_path / "run", "--record-gradients", "1").settings
    network = Mixing()
    recorder = GradientRecorder(settings, network, METHODS["uniform"]())  # type: ignore[arg-type]
    joint, unimodal = network(torch.randn(5, 3, dtype=torch.float64))
    return SimpleNamespace(recorder=recorder, network=network, joint=joint, unimodal=unimodal)


def measured(mixing: Any, step: int, scale: Tensor | None = None) -> dict[str, Tensor]:
    """Metrics that the recorder keeps for a step."""
    mixing.recorder.measure(1, step, mixing.joint, mixing.unimodal, scale)
    mixing.recorder.finish_step(Report({}, torch.ones(1, dtype=torch.bool), []))
    return mixing.recorder._on_device[-1].values


def test_micro_batches_are_recorded_as_one_step(mixing: Any) -> None:
    whole = measured(mixing, 1)
    for share in (0.25, 0.75):
        unimodal = {name: share * loss for name, loss in mixing.unimodal.items()}
        mixing.recorder.measure(1, 2, share * mixing.joint, unimodal, None)
    mixing.recorder.finish_step(Report({}, torch.ones(1, dtype=torch.bool), []))
    torch.testing.assert_close(mixing.recorder._on_device[-1].values, whole)


def test_interacting_encoders_are_recorded_with_their_own_loss_only(mixing: Any) -> None:
    recorded = measured(mixing, 1)
    for name in "ab":
        parameters = list(mixing.network.encoders[name].parameters())
        own, other = (vector(mixing.unimodal[which], parameters) for which in (name, "ab".replace(name, "")))
        assert recorded[f"norm_unimodal_{name}"].tolist() == pytest.approx([g.norm().item() for g in own], rel=1e-6)
        assert all(g.norm() > 0 for g in other)  # so that a sum of both would be noticed
        cosines = [
            torch.cosine_similarity(a, b, dim=0).item()
            for a, b in zip(vector(mixing.joint, parameters), own, strict=True)
        ]
        assert recorded[f"cosine_{name}"].tolist() == pytest.approx(cosines, rel=1e-5)


def test_recorded_metrics_are_unscaled_and_the_graph_is_kept(mixing: Any) -> None:
    plain, scaled = (measured(mixing, 1, scale) for scale in (None, torch.tensor(1024.0, dtype=torch.float64)))
    assert_same(scaled, plain)
    (mixing.joint + sum(mixing.unimodal.values())).backward()


def test_losses_not_descended_at_a_step_are_recorded_as_nan(mixing: Any, tmp_path: Path) -> None:
    method = mixing.recorder._method
    for step, (joint, unimodal) in enumerate([(False, True), (True, True), (True, False)], start=1):
        method.descends_joint, method.descends_unimodal = joint, unimodal
        measured(mixing, step)
    mixing.recorder.write(tmp_path)
    recorded = records(tmp_path)
    missing = {
        name: np.isnan(recorded[f"{name}_a"]).all(1).tolist() for name in ("norm_joint", "norm_unimodal", "cosine")
    }
    assert missing == {
        "norm_joint": [True, False, False],
        "norm_unimodal": [False, False, True],
        "cosine": [True, False, True],
    }


def test_a_zero_gradient_has_cosine_zero_and_norm_zero() -> None:
    vectors = torch.tensor([[[3.0, 4.0], [0.0, 0.0]], [[1.0, 0.0], [-2.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    metrics = layer_metrics("m", ["joint", "unimodal"], (vectors @ vectors.mT).double())
    assert metrics["cosine_m"].tolist() == [0, -1, 0]
    assert metrics["norm_joint_m"].tolist() == [5, 1, 0] and metrics["norm_unimodal_m"].tolist() == [0, 2, 0]


def test_without_the_flag_nothing_is_measured_or_written(data: Path, tmp_path: Path) -> None:
    trainer = trainer_of(data, tmp_path, "--epochs", "1")
    assert dataclasses.asdict(trainer.settings)["record_gradients"] is None
    trainer.fit()
    assert not (tmp_path / "gradients.npz").exists()
