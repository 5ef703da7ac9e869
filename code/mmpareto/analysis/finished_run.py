"""A run folder, as train.py, evaluate.py and figures.py leave it: the one reader of run folders."""

import csv
import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmpareto.analysis.gradient_records import GradientRecords, read_gradient_records
from mmpareto.data import DATASETS
from mmpareto.errors import InputError
from mmpareto.files import parse_json
from mmpareto.models.per_modality import is_pretrained
from mmpareto.training.method_labels import label, method_class, objective_details
from mmpareto.training.metrics import is_contrastive
from mmpareto.training.recorder import OBJECTIVES
from mmpareto.training.run_folder import CONFIG, GRADIENTS, METRICS, SUMMARY, read_config
from mmpareto.training.schema import EpochLine, Summary
from mmpareto.training.settings import Role, Settings, from_config, settings_with, whole_arguments
from mmpareto.validation import mistakes, read_checked

Array = NDArray[np.float64]
Identity = dict[str, Any]

# How the epoch is chosen that a run is judged by → its entry in summary.json.
PROTOCOLS = {"last": "last", "validation": "best_val", "paper": "best_test"}
JOINT_HEAD = "joint"
NEEDED = ("dataset", "method", "variant", "options", "random_seed", "protocol")


@dataclasses.dataclass(frozen=True)
class ClipResults:
    """Names of the C test clips, and head ("joint" or a modality) → (C,) bool: whether its prediction is right."""

    clips: tuple[str, ...] = ()
    correct: dict[str, NDArray[np.bool_]] = dataclasses.field(default_factory=dict)

    def first(self, clips: int | None) -> "ClipResults":
        """The results of the first clips only; None for all."""
        return ClipResults(self.clips[:clips], {head: right[:clips] for head, right in self.correct.items()})


class FinishedRun:
    """A run of train.py, finished or not, read from its folder.

    Every property reads its file on first use and keeps the result: create another `FinishedRun` of a folder that has
    changed since. A missing or damaged file raises `InputError`, one sentence with the path and what to do.

    Arguments:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    # config.json

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        return read_config(self.folder)

    @functools.cached_property
    def arguments(self) -> dict[str, Any]:
        """The settings as config.json has them, which may be another version's.

        Settings that were added after the run have the value that reproduces it, and a variant that has been renamed
        has its present name.
        """
        try:
            arguments = whole_arguments(self.config)
        except InputError as error:
            raise InputError(f"{self.folder}: {error}") from error
        if missing := [name for name in NEEDED if name not in arguments]:
            raise InputError(
                f"{self.folder} is of another version of this code: its {CONFIG} lacks {', '.join(missing)}."
            )
        kind, variant = method_class(arguments["method"]), arguments["variant"]
        return arguments | {"variant": kind.variant_aliases.get(variant, variant) if kind else variant}

    @functools.cached_property
    def settings(self) -> Settings:
        """The settings, where they are those of this version; raises InputError otherwise."""
        try:
            return from_config(self.config | {"arguments": self.arguments})
        except InputError as error:
            raise InputError(f"{self.folder}: {error}") from error

    @property
    def dataset(self) -> str:
        """Registered name of the data set."""
        return self.arguments["dataset"]

    @property
    def method(self) -> str:
        """Registered name of the method."""
        return self.arguments["method"]

    @property
    def variant(self) -> str | None:
        """The method's variant; None where it has none."""
        return self.arguments["variant"]

    @property
    def options(self) -> dict[str, Any]:
        """All options of the method."""
        return self.arguments["options"]

    @property
    def seed(self) -> int:
        """The setting `random_seed`."""
        return self.arguments["random_seed"]

    @property
    def protocol(self) -> str:
        """Protocol of the training, "validation" or "paper"."""
        return self.arguments["protocol"]

    @property
    def commit(self) -> str | None:
        """Commit of the code, with "+" where it had been changed since; None outside git."""
        return self.config.get("git_commit")

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the prepared data."""
        return str(self._data("fingerprint"))

    @property
    def identity(self) -> Identity:
        """All that the result depends on; see `identity`."""
        return identity(self.arguments, self.fingerprint)

    @property
    def label(self) -> str:
        """Method, variant and options, and whether the encoders were pretrained; see `method_labels.label`."""
        return label(self.method, self.variant, self.options, self.details)

    @property
    def details(self) -> list[str]:
        """Parts of the label besides method, variant and options."""
        encoder, files = self.arguments.get("encoder", ()), self.arguments.get("pretrained")
        pretrained = ["pretrained"] if is_pretrained(encoder, files) else []
        return pretrained + objective_details(self.arguments["objective"])

    @property
    def title(self) -> str:
        """The data set's name as papers write it, with its class set where there are several."""
        if "title" in self._prepared:
            return str(self._prepared["title"])
        return DATASETS[self.dataset].title if self.dataset in DATASETS else self.dataset

    @property
    def banner(self) -> str | None:
        """Warning that accompanies all results on the data set, if it has one."""
        return DATASETS[self.dataset].banner if self.dataset in DATASETS else None

    @property
    def _prepared(self) -> dict[str, Any]:
        """The entries of prepared.json in config.json; {} where there are none."""
        return self.config.get("data", {}).get("prepared") or {}

    def _data(self, key: str) -> Any:
        try:
            return self.config["data"][key]
        except (KeyError, TypeError) as error:
            raise _damaged(self.folder / CONFIG, f"no data.{key}") from error

    # metrics.jsonl

    @functools.cached_property
    def history(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, one per finished epoch from epoch 1; at least one."""
        _ = self.config  # raises where the folder is not a run's
        path = self.folder / METRICS
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        if not text.strip():
            raise InputError(
                f"{self.folder} has no finished epoch (no {METRICS}): let the run continue (--resume {self.folder})."
            )
        history = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                content = parse_json(line)
            except ValueError as error:
                raise _damaged(path, f"line {number} is not JSON") from error
            if found := mistakes(EpochLine, content):
                raise _damaged(path, f"line {number}: {found[0]}")
            if content["epoch"] != number:
                raise _damaged(path, f"line {number} is not epoch {number}")
            history.append(content)
        return history

    @property
    def heads(self) -> list[str]:
        """The heads beside the joint one: the modalities, or the tasks."""
        return [key.removeprefix("acc_") for key in self.history[-1] if key.startswith("acc_")]

    @property
    def tasks(self) -> list[str]:
        """The tasks that the run trained, where the data has several; else []."""
        return self.heads if "tasks" in self._prepared else []

    @property
    def modalities(self) -> list[str]:
        """The modalities that the network has an encoder for."""
        return list(self._prepared.get("modalities", self.heads)) if self.tasks else self.heads

    @property
    def objectives(self) -> list[str]:
        """The names of the encoders' objectives in metrics.jsonl and gradients.npz."""
        return self.tasks or list(OBJECTIVES)

    def series(self, key: str) -> Array:
        """(E,) a metric of every epoch; NaN where it is null, absent or not finite."""
        values = [line.get(key) for line in self.history]
        for number, value in enumerate(values, 1):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise _damaged(self.folder / METRICS, f"{key} in line {number} is not a number")
        series = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        return np.where(np.isfinite(series), series, np.nan)

    # summary.json

    @functools.cached_property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json."""
        _ = self.config
        path = self.folder / SUMMARY
        if not path.is_file():
            raise InputError(f"{self.folder} is not finished (no {SUMMARY}): train.py --resume {self.folder}.")
        return read_checked(path, Summary, "train the run again")

    @property
    def is_finished(self) -> bool:
        """True if the summary is that of the last epoch asked for: after --resume --epochs 100, it is not for a while.

        That of a run that stopped early is the last one while its --patience is the same. Raises nothing: a damaged run
        is not finished.
        """
        try:
            arguments, stopped = self.config["arguments"], self.summary.get("stopped_early")
            if stopped is not None:
                return stopped["patience"] == arguments["patience"]
            return self.summary["last"]["epoch"] == arguments["epochs"]
        except (InputError, KeyError, TypeError):
            return False

    def epoch_line(self, protocol: str) -> dict[str, Any]:
        """All metrics of the epoch that a protocol of `PROTOCOLS` chooses.

        Raises:
            InputError: the run is not finished, damaged, or has no such epoch: none is held out under `paper`.
        """
        entry = PROTOCOLS[protocol]
        try:
            line = self.summary[entry]
            if line is None:
                reason = self.summary[f"{entry}_reason"]
                raise InputError(
                    f"{self.folder} has no epoch chosen by {protocol}: {reason}; show it by another protocol."
                )
            int(line["epoch"])
        except (KeyError, TypeError) as error:
            raise _damaged(self.folder / SUMMARY, f"{type(error).__name__}: {error}") from error
        return line

    def accuracies(self, protocol: str) -> dict[str, float]:
        """Accuracies of that epoch, "acc" and "acc_<modality>": fractions of the test set, where they were measured."""
        line = self.epoch_line(protocol)
        try:
            accuracies = {
                key: float(value)
                for key, value in line.items()
                if (key == "acc" or key.startswith("acc_")) and value is not None
            }
        except (TypeError, ValueError) as error:
            raise _damaged(self.folder / SUMMARY, str(error)) from error
        if "acc" not in accuracies and is_contrastive(self.arguments):
            raise InputError(
                f"{self.folder} has no linear probe of epoch {line['epoch']}: --resume it with --no_probe false."
            )
        if "acc" not in accuracies:
            raise _damaged(self.folder / SUMMARY, f"no accuracy of epoch {line['epoch']}")
        return accuracies

    # gradients.npz

    @functools.cached_property
    def gradients(self) -> GradientRecords | None:
        """The gradients that the run recorded; None where it recorded none."""
        path = self.folder / GRADIENTS
        return read_gradient_records(path) if path.is_file() else None

    def recorded_gradients(self) -> GradientRecords:
        """The gradients that the run recorded.

        Raises:
            InputError: it recorded none, or the file is damaged.
        """
        _ = self.config
        if self.gradients is None:
            raise InputError(f"{self.folder} has no {GRADIENTS}: train with --record_gradients N.")
        return self.gradients

    # <name>.json, evaluation-test-…/per_clip.csv

    def measurement(self, name: str, kind: Any = dict[str, Any]) -> dict[str, Any] | None:
        """Result of `figures.py <name>` (covariance, sharpness or landscape); None where it has not been measured.

        Arguments:
            kind: types of its entries.
        """
        path = self.folder / f"{name}.json"
        advice = f"measure it again with `python code/figures.py {name} --run {self.folder} --anew`"
        return read_checked(path, kind, advice) if path.is_file() else None

    def clip_table(self, protocol: str) -> Path | None:
        """Path of evaluate.py's table of test clips for the epoch that a protocol chooses.

        None where no checkpoint has that epoch's weights: best.pt is the one that the run's own protocol chose.
        """
        if protocol == "last":
            return self.folder / "evaluation-test-last" / "per_clip.csv"
        return self.folder / "evaluation-test-best" / "per_clip.csv" if protocol == self.protocol else None

    def clip_results(self, protocol: str) -> ClipResults:
        """Which test clips the network classified correctly in the epoch that a protocol chooses.

        Empty where that epoch has not been evaluated. Of a run with `--drop_last all`, those clips that it evaluated in
        training: the first ones of evaluate.py's table, which has all.

        Raises:
            InputError: the table is damaged, or of other weights than the summary: the accuracies differ by more than
                rounding explains.
        """
        path = self.clip_table(protocol)
        if path is None or not path.is_file():
            return ClipResults()
        if self._prepared.get("task", "classification") != "classification":
            return ClipResults()  # of own features: neither a class nor the sign of a score is right or wrong
        results = read_clip_results(path).first(
            self._data("clips")["test"] if self.arguments["drop_last"] == "all" else None
        )
        line = self.epoch_line(protocol)
        joint, accuracy = results.correct[JOINT_HEAD], self.accuracies(protocol)["acc"]
        evaluated = float(joint.mean())
        if abs(evaluated - accuracy) * len(joint) > max(2.0, 0.005 * len(joint)):
            raise InputError(
                f"{self.folder}: evaluate.py measured an accuracy of {evaluated:.4f}, training {accuracy:.4f} in epoch "
                f"{line['epoch']}; remove the evaluation folders and evaluate the run again."
            )
        return results


def identity(arguments: dict[str, Any], fingerprint: str) -> Identity:
    """All that a run's result depends on: two runs with the same identity are the same run.

    Arguments:
        arguments: `FinishedRun.arguments`, or `settings.to_config` of a run to come.
        fingerprint: of the prepared data, which counts in place of their folder.

    Returns:
        All settings but those of the roles MACHINE, MEASUREMENT and OUTPUT, and "fingerprint".
    """
    aside = settings_with(Role.MACHINE, Role.MEASUREMENT, Role.OUTPUT)
    return {key: value for key, value in arguments.items() if key not in aside} | {"fingerprint": fingerprint}


def read_clip_results(path: Path) -> ClipResults:
    """Read evaluate.py's per_clip.csv.

    In a regression, a score of the right sign is correct (0 counts as negative), as in its accuracy.

    Raises:
        InputError: the file is damaged.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            titles, *lines = csv.reader(file)
        columns = dict(zip(titles, zip(*lines, strict=True), strict=True))
        clips = columns["clip"]
        if len(set(clips)) != len(clips):
            raise ValueError("a clip occurs twice")
        if "class" in columns:
            classes = [title for title in titles if title.startswith(f"{JOINT_HEAD}_")]
            heads = titles[2 :: len(classes) + 1]
            correct = {head: np.array(columns[head]) == np.array(columns["class"]) for head in heads}
        else:
            truth, *heads = titles[1:]
            positive = {name: np.array(columns[name], dtype=np.float64) > 0 for name in titles[1:]}
            correct = {head: positive[head] == positive[truth] for head in heads}
        if JOINT_HEAD not in correct:
            raise ValueError("no column of the joint head")
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise InputError(f"{path} is damaged ({error}): remove it, and evaluate the run again.") from error
    return ClipResults(clips, correct)


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"{path} is damaged ({reason}): restore a complete copy, or train the run again.")
