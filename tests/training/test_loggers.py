"""TensorBoard, Weights & Biases and MLflow get what metrics.jsonl and the steps have; the latter two are fakes here."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import mmpareto.training.loop as loop
import pytest
from mmpareto.errors import InputError
from mmpareto.training.epoch_line import tag
from prepared_clips import write_prepared
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import acting, metrics, resume, run, send_signal


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=18, test=6)


class FakeWandb(types.ModuleType):
    """The part of wandb that is used: init, and a run's define_metric, log, summary and finish."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: list[dict[str, Any]] = []

    def init(self, **options: Any) -> Any:
        run: dict[str, Any] = {"options": options, "axes": {}, "logged": [], "summary": {}, "ended": None}
        self.runs.append(run)
        return types.SimpleNamespace(
            define_metric=lambda name, step_metric: run["axes"].update({name: step_metric}),
            log=run["logged"].append,
            summary=run["summary"],
            finish=lambda exit_code: run.update(ended=exit_code),
        )


class FakeMLflow(types.ModuleType):
    """The part of mlflow that is used."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def record(*args: Any, **options: Any) -> Any:
            self.calls.append((name, args, options))
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id="the-run"))

        return record

    def of(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(args, options) for called, args, options in self.calls if called == name]


def test_wandb_gets_every_epoch_and_step_and_continues_when_resumed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    folder = tmp_path / "run"
    with acting(loop.Trainer, "_finish_epoch", 1, send_signal):
        assert run(data, folder, "--logger", "wandb", "--log_every", 2) == 143
    assert resume(folder) == 0
    first, second = wandb.runs
    assert first["options"]["id"] == second["options"]["id"] and second["options"]["resume"] == "allow"
    assert first["options"]["config"]["option/gamma"] == 1.5 and first["options"]["name"] == "cremad-mmpareto-seed0"
    assert first["axes"] == {"*": "epoch", "step/*": "step"} and (first["ended"], second["ended"]) == (1, 0)
    epochs = [line for line in first["logged"] + second["logged"] if "epoch" in line]
    assert [line["epoch"] for line in epochs] == [1, 2]
    assert [line["accuracy/test/audio"] for line in epochs] == [line["acc_audio"] for line in metrics(folder)]
    # 15 samples in batches of 4: steps 2, 4 of epoch 1, and 6, 8 of epoch 2.
    steps = [line for line in first["logged"] + second["logged"] if "step" in line]
    assert [line["step"] for line in steps] == [2, 4, 6, 8]
    assert set(steps[0]) == {"step", "step/learning_rate", *(f"step/loss/{n}" for n in ("joint", "audio", "visual"))}
    summary = json.loads((folder / "summary.json").read_text())
    assert second["summary"]["final/accuracy/best_val"] == summary["best_val"]["acc"] and not first["summary"]


def test_a_method_without_unimodal_losses_logs_the_joint_loss_of_a_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", wandb := FakeWandb())
    words = ("--method", "joint", "--no_probe", "--epochs", 1, "--logger", "wandb", "--log_every", 4)
    assert run(data, tmp_path / "run", *words) == 0
    (step,) = [line for line in wandb.runs[0]["logged"] if "step" in line]
    assert set(step) == {"step", "step/learning_rate", "step/loss/joint"}


def test_mlflow_gets_parameters_once_and_continues_when_resumed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = FakeMLflow()
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    with acting(loop.Trainer, "_finish_epoch", 1, send_signal):
        assert run(data, tmp_path, "--logger", "mlflow") == 143
    assert resume(tmp_path) == 0
    assert [options["run_id"] for _, options in mlflow.of("start_run")] == [None, "the-run"]
    ((parameters,), _), *others = mlflow.of("log_params")
    assert parameters["learning_rate"] == "0.05" and not others
    logged = [(values, options["step"]) for (values,), options in mlflow.of("log_metrics")]
    assert [step for values, step in logged if "loss/test/joint" in values] == [1, 2]
    assert logged[-1][0]["final/accuracy/last"] == metrics(tmp_path)[-1]["acc"]
    assert [args for args, _ in mlflow.of("end_run")] == [("FAILED",), ("FINISHED",)]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_logger_that_is_not_installed_is_named_before_anything_is_written(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # importing it raises ImportError
    with pytest.raises(InputError, match=f"--logger {name} needs .*pip install {name}"):
        run(data, tmp_path / "run", "--logger", name)
    assert not (tmp_path / "run").exists()


def test_a_service_that_refuses_the_run_leaves_nothing_behind(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**options: Any) -> None:
        raise RuntimeError("api_key not configured (no-tty)\nand more")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=refuse))
    with pytest.raises(InputError, match=r"--logger wandb cannot start \(api_key not configured \(no-tty\)\);"):
        run(data, tmp_path / "run", "--logger", "wandb", "--use_tensorboard", "true")
    assert not (tmp_path / "run").exists()


def test_tensorboard_shows_every_nth_step_beside_the_epochs(data: Path, tmp_path: Path) -> None:
    with acting(loop.Trainer, "step", 6, send_signal):  # the step is logged before the run stops
        assert run(data, tmp_path, "--use_tensorboard", "true", "--log_every", 3, "--scheduler", "cosine") == 143
    assert resume(tmp_path) == 0
    steps = EventAccumulator(str(tmp_path / "steps")).Reload()
    losses = ["step/loss/audio", "step/loss/joint", "step/loss/visual"]
    assert sorted(steps.Tags()["scalars"]) == ["step/learning_rate", *losses]
    for name in losses:
        assert [scalar.step for scalar in steps.Scalars(name)] == [3, 6]
    assert [scalar.step for scalar in EventAccumulator(str(tmp_path)).Reload().Scalars("loss/train/joint")] == [1, 2]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("acc", "accuracy/test/joint"),
        ("val_macro_f1_video", "macro_f1/validation/video"),
        ("train_loss_my_video", "loss/train/my_video"),
        ("cosine_my_video", "gradient/cosine/my_video"),
        ("norm_joint_video", "gradient/norm_joint/video"),
        ("weight_joint", "gradient/weight/joint"),  # of G-Blending
        ("data_wait", "run/data_wait"),
    ],
)
def test_tags(key: str, expected: str) -> None:
    assert (
        tag(key, ["video", "my_video"], {"train_loss_my_video", "cosine_my_video", "norm_joint_video", "weight_joint"})
        == expected
    )
