"""What a run came to: the figures of one of its epochs, and which clips it got right."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmpareto.analysis.tables.cells import PROTOCOLS
from mmpareto.data import DATASETS
from mmpareto.errors import InputError
from mmpareto.training.run_folder import SUMMARY, read_config

JOINT_HEAD = "joint"


@dataclasses.dataclass(frozen=True)
class RunResult:
    """The figures of a run at the epoch that the protocol chooses.

    Attributes:
        banner: what must be said of results on the run's data; None where nothing must.
        commit: of the code, with "+" where it had been changed since; None outside git.
        fingerprint: of the data.
        epoch: from 1.
        accuracies: "acc" and "acc_<modality>", fractions of the test set; without those that were not measured.
        clips: names of the C test clips, () where no evaluation of that epoch is there.
        correct: head ("joint", or a modality) → (C,) bool; {} likewise.
        note: what the run says of its unimodal accuracies, if anything.
    """

    folder: Path
    banner: str | None
    commit: str | None
    fingerprint: str
    epoch: int
    accuracies: dict[str, float]
    clips: tuple[str, ...]
    correct: dict[str, NDArray[np.bool_]]
    note: str = ""


def read_result(folder: Path, protocol: str) -> RunResult:
    """Read a finished run.

    Arguments:
        protocol: "last" (epoch), "validation" (the best on the validation set) or "paper" (the best on the test set).

    Raises:
        InputError: it is not finished, a file is damaged, or it has no such epoch.
    """
    config = read_config(folder)
    path = folder / SUMMARY
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        line = summary[PROTOCOLS[protocol]]
        if line is None:
            reason = summary[f"{PROTOCOLS[protocol]}_reason"]
            raise InputError(f"{folder} has no epoch chosen by {protocol}: {reason}; show it by another protocol.")
        accuracies = {
            key: float(value)
            for key, value in line.items()
            if (key == "acc" or key.startswith("acc_")) and value is not None
        }
        epoch, fingerprint = int(line["epoch"]), str(summary["data"]["fingerprint"])
        own_protocol = str(summary["protocol"])
    except FileNotFoundError:
        raise InputError(f"{folder} is not finished (no {SUMMARY}): train.py --resume {folder}.") from None
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}): train the run anew.") from error
    if "acc" not in accuracies:
        raise InputError(f"{path} holds no accuracy of epoch {epoch}: train the run anew.")
    table = _per_clip(folder, protocol, own_protocol)
    clips, correct = read_correct(table) if table is not None and table.is_file() else ((), {})
    if correct:
        _check_same(folder, correct[JOINT_HEAD], accuracies["acc"], epoch)
    return RunResult(
        folder=folder,
        banner=DATASETS[config["arguments"]["dataset"]].banner,
        commit=config.get("git_commit"),
        fingerprint=fingerprint,
        epoch=epoch,
        accuracies=accuracies,
        clips=clips,
        correct=correct,
        note=str(summary.get("unimodal_note", "")),
    )


def _per_clip(folder: Path, protocol: str, own_protocol: str) -> Path | None:
    """Where evaluate.py's table of the epoch's weights is; best.pt is what the run's own protocol chose."""
    if protocol == "last":
        return folder / "evaluation-test-last" / "per_clip.csv"
    return folder / "evaluation-test-best" / "per_clip.csv" if protocol == own_protocol else None


def read_correct(path: Path) -> tuple[tuple[str, ...], dict[str, NDArray[np.bool_]]]:
    """Read evaluate.py's table of clips: their names, and head → (C,) bool whether its prediction is right.

    Of a regression, right is a score of the right sign (0 counts as negative), as in its accuracy.
    Raises:
        InputError: the file is damaged.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        titles, *lines = rows
        columns = dict(zip(titles, zip(*lines, strict=True), strict=True))
        clips = columns["clip"]
        if len(set(clips)) != len(clips):
            raise ValueError("a clip occurs twice")
        if "class" in columns:
            classes = [title.removeprefix(f"{JOINT_HEAD}_") for title in titles if title.startswith(f"{JOINT_HEAD}_")]
            heads = titles[2 :: len(classes) + 1]
            correct = {head: np.array(columns[head]) == np.array(columns["class"]) for head in heads}
        else:
            truth, *heads = titles[1:]
            signs = {name: np.array(columns[name], dtype=np.float64) > 0 for name in titles[1:]}
            correct = {head: signs[head] == signs[truth] for head in heads}
        if JOINT_HEAD not in correct:
            raise ValueError("no column of the joint head")
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise InputError(f"{path} is damaged ({error}): remove it, and evaluate the run anew.") from error
    return clips, correct


def _check_same(folder: Path, correct: NDArray[np.bool_], accuracy: float, epoch: int) -> None:
    """Raise InputError where the evaluation is of other weights than the figures: more than rounding apart."""
    found = float(correct.mean())
    if abs(found - accuracy) * len(correct) > max(2.0, 0.005 * len(correct)):
        raise InputError(
            f"{folder}: its evaluation found an accuracy of {found:.4f}, its training {accuracy:.4f} in epoch {epoch}; "
            f"remove the evaluation folders and evaluate anew."
        )
