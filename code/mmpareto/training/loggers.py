"""Loggers: the services that get the metrics of a run beside metrics.jsonl, TensorBoard, Weights & Biases or MLflow.

Tags and their values are the same everywhere (`epoch_line.tagged`). Epochs and steps are two axes: a metric of an epoch
is logged at its number, and one of a step at the number of steps since the run began.
"""

import contextlib
import importlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from mmpareto.errors import InputError
from mmpareto.files import write_text
from mmpareto.training.run_folder import CONFIG
from mmpareto.training.settings import Settings, to_config
from mmpareto.validation import read_checked

Axis = Literal["epoch", "step"]
Metrics = Mapping[str, float]
RUN_IDS = "logger.json"  # the run's id at each service, with which a resumed run continues there
PROJECT = "mmpareto"


class Logger(Protocol):
    """Receives the metrics of a run; created when training begins or is resumed."""

    def log(self, metrics: Metrics, axis: Axis, index: int) -> None:
        """Log metrics, tag → value, of an epoch or a step (from 1)."""

    def finish(self, final: Metrics, epoch: int) -> None:
        """Log the metrics by which the finished run is judged, tag → value, with its hyper-parameters.

        Arguments:
            epoch: the last one.
        """

    def close(self, failed: bool) -> None:
        """Write what is pending; nothing is logged after it."""


class TensorBoardLogger:
    """Writes events: those of epochs into a folder, and those of steps, as another run of TensorBoard, into its steps/.

    Arguments:
        folder: of the events.
        run: the run's folder, for its config.json.
        settings: of the run.
        epoch, step: the next ones, from 1; what was logged from there on, before a crash, is discarded.
    """

    def __init__(self, folder: Path, run: Path, settings: Settings, epoch: int, step: int) -> None:
        self._settings = settings
        self._epochs = SummaryWriter(str(folder), purge_step=epoch)
        self._steps = SummaryWriter(str(folder / "steps"), purge_step=step) if settings.log_every else None
        if epoch == 1:
            text = (run / CONFIG).read_text(encoding="utf-8")
            self._epochs.add_text("config", f"```json\n{text}\n```", epoch)

    def log(self, metrics: Metrics, axis: Axis, index: int) -> None:
        """Write one scalar per metric."""
        writer = self._epochs if axis == "epoch" else self._steps
        assert writer is not None  # there is one for steps if steps are logged
        for tag, value in metrics.items():
            writer.add_scalar(tag, value, index)
        if axis == "epoch":
            writer.flush()

    def finish(self, final: Metrics, epoch: int) -> None:
        """Write an entry of the HPARAMS tab, into the run itself: `SummaryWriter.add_hparams` would add another run."""
        values = {
            name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
            for name, value in hyper_parameters(self._settings).items()
        }
        for summary in hparams(values, dict(final)):
            self._epochs._get_file_writer().add_summary(summary)
        self.log(final, "epoch", epoch)

    def close(self, failed: bool) -> None:
        """Write pending events."""
        for writer in (self._epochs, self._steps):
            if writer is not None:
                writer.close()


class WandbLogger:
    """Logs to Weights & Biases, project "mmpareto" unless WANDB_PROJECT is set; WANDB_MODE=offline uploads nothing."""

    def __init__(self, run: Path, settings: Settings) -> None:
        wandb = _library("wandb")
        run_id = _run_ids(run).get("wandb") or uuid.uuid4().hex
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=settings.name,
            id=run_id,
            resume="allow",
            dir=str(run),
            config=hyper_parameters(settings),
        )
        _record_id(run, "wandb", run_id)
        self._run.define_metric("*", step_metric="epoch")
        self._run.define_metric("step/*", step_metric="step")

    def log(self, metrics: Metrics, axis: Axis, index: int) -> None:
        """Log the metrics and the value of their axis."""
        self._run.log({**metrics, axis: index})

    def finish(self, final: Metrics, epoch: int) -> None:
        """Set the run's summary."""
        self._run.summary.update(dict(final))

    def close(self, failed: bool) -> None:
        """Upload what is pending."""
        self._run.finish(exit_code=int(failed))


class MLflowLogger:
    """Logs to MLflow, where MLFLOW_TRACKING_URI says; experiment "mmpareto" unless MLFLOW_EXPERIMENT_NAME is set."""

    def __init__(self, run: Path, settings: Settings) -> None:
        self._mlflow = mlflow = _library("mlflow")
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        known = _run_ids(run).get("mlflow")
        started = mlflow.start_run(run_id=known, run_name=settings.name)
        _record_id(run, "mlflow", started.info.run_id)
        if known is None:
            mlflow.log_params({name: str(value) for name, value in hyper_parameters(settings).items()})
            mlflow.log_artifact(str(run / CONFIG))

    def log(self, metrics: Metrics, axis: Axis, index: int) -> None:
        """Log the metrics; MLflow has one axis, and tags of steps begin with step/."""
        self._mlflow.log_metrics(dict(metrics), step=index)

    def finish(self, final: Metrics, epoch: int) -> None:
        """Log the final metrics."""
        self._mlflow.log_metrics(dict(final), step=epoch)

    def close(self, failed: bool) -> None:
        """End the run."""
        self._mlflow.end_run("FAILED" if failed else "FINISHED")


class Loggers:
    """All loggers of a run, in one; a context manager that closes them."""

    def __init__(self, loggers: list[Logger]) -> None:
        self._loggers = loggers

    def log(self, metrics: Metrics, axis: Axis, index: int) -> None:
        """Log to all of them; see `Logger.log`."""
        for logger in self._loggers:
            logger.log(metrics, axis, index)

    def finish(self, final: Metrics, epoch: int) -> None:
        """Finish all of them; see `Logger.finish`."""
        for logger in self._loggers:
            logger.finish(final, epoch)

    def __enter__(self) -> "Loggers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.ExitStack() as stack:  # closes all of them, even if one fails
            for logger in self._loggers:
                stack.callback(logger.close, kind is not None)


def open_loggers(run: Path, settings: Settings, epoch: int, step: int) -> Loggers:
    """Open the loggers that the settings name.

    Arguments:
        run: the run's folder.
        epoch, step: the next ones, from 1.

    Raises:
        InputError: a logger cannot start: its library is not installed, or the service refuses the run.
    """
    loggers: list[Logger] = []
    if settings.logger is not None:
        try:
            loggers.append(WandbLogger(run, settings) if settings.logger == "wandb" else MLflowLogger(run, settings))
        except Exception as error:  # each service has exceptions of its own
            reason = str(error).partition("\n")[0]
            raise InputError(f"--logger {settings.logger} cannot start ({reason}); see its documentation.") from error
    if settings.use_tensorboard:
        loggers.append(TensorBoardLogger(Path(settings.tensorboard_path or run), run, settings, epoch, step))
    return Loggers(loggers)


def check_logger(settings: Settings) -> None:
    """Import the library of the run's logger.

    Raises:
        InputError: it is not installed.
    """
    if settings.logger is not None:
        _library(settings.logger)


def hyper_parameters(settings: Settings) -> dict[str, Any]:
    """The settings as a flat dict: the method's options are named option/<name>."""
    values = to_config(settings)
    return {name: value for name, value in values.items() if name != "options"} | {
        f"option/{name}": value for name, value in values["options"].items()
    }


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"--logger {name} needs a library that is not installed: pip install {name}.") from error


def _run_ids(run: Path) -> dict[str, str]:
    path = run / RUN_IDS
    advice = "remove it, and the service's metrics continue in a new run"
    return read_checked(path, dict[str, str], advice) if path.is_file() else {}


def _record_id(run: Path, service: str, run_id: str) -> None:
    write_text(run / RUN_IDS, json.dumps(_run_ids(run) | {service: run_id}) + "\n")
