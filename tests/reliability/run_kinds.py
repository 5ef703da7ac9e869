"""Files of a run that somebody else may have made, beside the rest of a sound run, and what their readers do with each.

The readers find the run where `hostile.py` puts it: in the folder `input` beside the working directory.
"""

import argparse
import contextlib
import copy
import functools
import io
import json
import math
import multiprocessing.util
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from mmpareto.analysis import checkpoint_evaluation as evaluation
from mmpareto.analysis.export import export
from mmpareto.analysis.finished_run import PROTOCOLS, FinishedRun
from mmpareto.analysis.plots import covariance, landscape, sharpness
from mmpareto.analysis.plots.cross_terms import comparison_of, cross_terms_plot
from mmpareto.analysis.plots.gradients import gradients_plot
from mmpareto.analysis.plots.groups import group_runs
from mmpareto.analysis.plots.measured import measure_runs
from mmpareto.analysis.plots.modalities import modalities_plot, read_costs
from mmpareto.analysis.plots.refresh import agreements_of, refresh_plot
from mmpareto.analysis.plots.training_curves import (
    conflict_plot,
    gap_plot,
    magnitude_plot,
    weights_plot,
)
from mmpareto.analysis.report import cost_sheet
from mmpareto.analysis.report.run_sheet import make_run_sheet
from mmpareto.analysis.tables.cells import Cell, Outcome
from mmpareto.analysis.tables.definitions import TABLES, Column, Row, Table
from mmpareto.analysis.tables.runs_folder import RunsFolder, history_of
from mmpareto.analysis.trained import Trained, load
from mmpareto.data.features import FeatureArrays
from mmpareto.errors import InputError
from mmpareto.models import ENCODERS
from mmpareto.models.pretrained import load_pretrained
from mmpareto.training import run_folder
from mmpareto.training.data import open_data
from mmpareto.training.loggers import _run_ids
from mmpareto.training.model_card import write_model_card
from mmpareto.training.run import train
from mmpareto.training.settings import parse
from mmpareto.training.trained_networks import load_frozen
from torch import Tensor, nn

RUN, DATA = "../input", "../input/data"  # relative, so that the files do not depend on where the check runs
FLAGS = (
    f"--dataset features --data {DATA} --encoder small_vectors --method mmpareto --variant paper --batch_size 4 "
    f"--epochs 1 --record_gradients 1 --gpu_ids cpu --workers 0 --use_tensorboard false --ckpt_path {RUN}"
)
SPREAD = {"median": 2.0, "min": 1.0, "max": 3.0}
COSTS = {
    "machine": {"gpu": None, "cpu": "a CPU", "threads": 2, "cores": 4, "torch": "2"},
    "conditions": {"batch_size": 8, "modalities": 2, "gpu_ids": "cpu"},
    "rounds": 3,
    "methods": {"uniform": {"seconds": SPREAD, "ratio": SPREAD, "peak_bytes": 2**21, "extra_copies": 0.5}},
}


class SmallVectors(nn.Module):
    """A linear layer, so that a checkpoint has a few kilobytes."""

    takes = ("vectors",)
    feature_size = 4

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Linear(channels, self.feature_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).relu()


ENCODERS.add("small_vectors", "run_kinds:SmallVectors")


# --- a sound run ---


run_folder.git_commit = lambda: None  # which starts a process


def write_run(target: Path) -> None:
    """Write a finished run of one epoch, its data, and all that is measured of it."""
    shutil.copytree(_run(), target, dirs_exist_ok=True)


@functools.cache
def _run() -> Path:
    """The run's folder, in one that is removed when this process ends."""
    work = Path(tempfile.mkdtemp())
    multiprocessing.util.Finalize(None, shutil.rmtree, (work,), exitpriority=0)
    (work / "cwd").mkdir()
    with (
        contextlib.chdir(work / "cwd"),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        mock.patch("time.monotonic", lambda: 0.0),  # so that an input is a function of its number
    ):
        _train_and_measure(Path(RUN))
    return work / "input"


def _train_and_measure(folder: Path) -> None:
    draw, labels = np.random.default_rng(0), np.arange(24) % 2
    np.savez("raw.npz", a=draw.normal(size=(24, 3)) + labels[:, None], b=draw.normal(size=(24, 2)), labels=labels)
    FeatureArrays.prepare(raw=Path("raw.npz"), out=Path(DATA))
    assert train(parse([*FLAGS.split(), "--allow_unused"])) == 0
    evaluate(folder / "best.pt", folder / "evaluation-test-best")
    flags = argparse.Namespace(checkpoint="last.pt", data=None, gpu_ids="cpu", anew=False)
    run = [FinishedRun(folder)]
    measure_runs("covariance", run, flags, lambda _: {"batches": 2, "batch_size": 4}, _covariance)
    measure_runs("sharpness", run, flags, lambda _: {"samples": 8}, lambda subject: sharpness.measure(subject, 8))
    about = {"samples": 8, "points": 3, "directions_seed": 0}
    measure_runs("landscape", run, flags, lambda _: about, lambda subject: landscape.measure(subject, 8, 3, 3))


def _covariance(subject: Any) -> dict[str, Any]:
    return covariance.measure(subject, 2, 4)


def examples_of(*names: str) -> Callable[[Path], None]:
    """Writes files of the run as examples."""

    def write(target: Path) -> None:
        for name in names:
            shutil.copy(_run() / name, target)

    return write


def write_json(content: Any) -> Callable[[Path], None]:
    def write(target: Path) -> None:
        (target / "a").write_text(json.dumps(content))

    return write


# --- readers ---


def each(*readers: Callable[[], Any]) -> None:
    """Call all of them; of clean errors, raise the first in the end."""
    errors = []
    for reader in readers:
        try:
            reader()
        except InputError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def resume(path: Path) -> None:
    """train.py --resume, for one more epoch."""
    train(parse(["--resume", str(path.parent), "--epochs", "2"]))


def evaluate(path: Path, out: Path | None = None) -> None:
    """evaluate.py and export.py."""
    trained = load(path)
    dataset = evaluation.open_split(trained, "test", Path(DATA))
    device = torch.device("cpu")
    predictions = evaluation.predict_split(trained, dataset, device, 4, 0)
    evaluation.metrics_table(trained, predictions, _calibrated(trained))
    if out is not None:
        evaluation.write_results(out, trained, dataset, predictions)
    export(trained, "safetensors", path.parent / "x.safetensors", evaluation.input_shapes(trained, Path(DATA)))


def _calibrated(trained: Trained) -> evaluation.Calibration:
    return evaluation.fit_calibration(trained, trained.modalities, Path(DATA), torch.device("cpu"), 4, 0)


def evaluate_best(path: Path) -> None:
    evaluate(path.parent / "best.pt")


def teach(path: Path) -> None:
    """A teacher of another run."""
    settings = parse([*FLAGS.split(), "--allow_unused"]).settings
    load_frozen(path, settings, open_data(settings).train)


def start_from(path: Path) -> None:
    """--pretrained."""
    load_pretrained(SmallVectors(3), path, "a")


def start_like(path: Path) -> None:
    """--config."""
    parse(["--config", str(path), "--ckpt_path", str(path.parent / "other"), "--allow_unused"])


def tabulate(path: Path) -> None:
    """tables.py --report_only, and the model card."""
    run = FinishedRun(path.parent)
    folders = RunsFolder(path.parent.parent)
    row, column = Row("Uniform", "--method uniform"), Column("features", "--dataset features")
    settings = parse([*FLAGS.split(), "--allow_unused"]).settings
    table = Table("main", "A title", "A question?", (column,), (row,), row.label)
    outcome = Outcome(Cell(row, column, 0, settings), path.parent, None)
    each(
        lambda: folders.status(outcome.cell),
        lambda: history_of(path.parent),
        *(lambda name=name: make_run_sheet(table, [outcome], name, plots=False) for name in PROTOCOLS),  # type: ignore[misc]
        *(lambda name=name: run.accuracies(name) for name in ("last", "validation")),  # type: ignore[misc]
        lambda: run.clip_results("validation"),
        lambda: write_model_card(path.parent),
    )


def plot(path: Path) -> None:
    """figures.py, plots of the metrics."""
    run = FinishedRun(path.parent)
    each(
        lambda: gap_plot(group_runs([run])).finished(),
        lambda: modalities_plot([run], None, "validation"),
    )


def plot_gradients(path: Path) -> None:
    """figures.py, plots of the gradients."""
    run = FinishedRun(path.parent)
    curves = (conflict_plot, magnitude_plot, weights_plot)
    each(
        *(lambda draw=draw: draw(group_runs([run])) for draw in curves),  # type: ignore[misc]
        lambda: gradients_plot(run),
        lambda: refresh_plot(run, agreements_of(run)),
        lambda: cross_terms_plot(run, comparison_of(run)),
    )


def plot_measured(path: Path) -> None:
    runs = [FinishedRun(path.parent)]
    texts = {"covariance": covariance.covariance_text, "sharpness": sharpness.sharpness_text}
    plots = {
        "covariance": covariance.covariance_plot,
        "sharpness": sharpness.sharpness_plot,
        "landscape": landscape.landscape_plot,
    }
    each(lambda: plots[path.stem](runs).draw_without_rendering(), lambda: texts.get(path.stem, lambda _: "")(runs))


def read_measured_costs(path: Path) -> None:
    """The table of costs."""
    cost_sheet.make_cost_sheet(TABLES["cost"], cost_sheet.read_costs(path.parent))


def read_measured_steps(path: Path) -> None:
    """The plot of modalities."""
    modalities_plot([FinishedRun(path.parent)], read_costs(path), "validation").draw_without_rendering()


def read_run_ids(path: Path) -> None:
    _run_ids(path.parent)


# --- altered entries ---

NESTED: Any = [[]]
for _ in range(60):
    NESTED = [NESTED]
VALUES: Sequence[Any] = (
    *(None, True, False, -1, 0, 1, 3, 1.5, -0.0, 1e308, 1e-308, math.nan, math.inf, 10**30, -(10**400), 2**53 + 1),
    *("", "x", "1", "nan", "../../x", "é" * 500, "a\nb", "\x00", "\ud800", "$x^", "uniform", "unimodal", "features"),
    *([], [3], [None], ["x", 3], [[]], [[1.0, 2.0], [3.0]], {}, {"a": 1}, {"": []}, {"a": {"a": {}}}, NESTED),
)


def tensors() -> list[Any]:
    """What a checkpoint's entry may be besides: tensors of all sorts."""
    ones = torch.ones(4, 3)
    return [
        *(ones, ones.double(), ones.to(torch.complex64), ones.long(), ones.bool(), ones.half(), ones * math.nan),
        *(ones.to_sparse(), ones.to_sparse_csr(), ones.to("meta"), nn.Parameter(ones), ones[:0], ones[0, 0], ones.T),
        *(torch.ones(1).expand(1 << 33), torch.ones(1).expand(1 << 16, 1 << 16), torch.tensor(1e38), torch.Size([2])),
        torch.quantize_per_tensor(ones, 1.0, 0, torch.quint8),
        *({1: 2}, {ones.dtype: 1}, b"x" * 10, {"x"}, (1, 2), 3 + 4j, torch.float16, torch.device("cuda", 7)),
    ]


def altered(draw: random.Random, content: Any, values: Sequence[Any]) -> Any:
    """A copy of nested dicts and lists of which one to three entries are replaced, removed, repeated or exchanged."""
    content = copy.deepcopy(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        places = [*_places(content)]
        if not places:
            break
        depth = draw.randint(1, max(len(path) for path in places))  # an epoch as often as one of its 200 classes
        path = draw.choice([path for path in places if len(path) <= depth] or places)
        holder = content
        for key in path[:-1]:
            holder = holder[key]
        key, action = path[-1], draw.random()
        if action < 0.2:
            del holder[key]
        elif action < 0.3:
            other = draw.choice(places)
            with contextlib.suppress(KeyError, IndexError, TypeError):
                holder[key] = copy.deepcopy(_at(content, other))
        elif action < 0.4 and isinstance(holder, dict):
            holder[draw.choice(("x", "epoch", "acc", "acc_c", "a.b", ""))] = holder.pop(key)
        else:
            holder[key] = draw.choice(values)
    return content


def _places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    keys = content.keys() if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield (*path, key)
        if len(path) < 8:
            yield from _places(content[key], (*path, key))


def _at(content: Any, path: Sequence[Any]) -> Any:
    for key in path:
        content = content[key]
    return content


def alter_json(draw: random.Random, content: bytes) -> bytes:
    return json.dumps(altered(draw, json.loads(content), VALUES)).encode()


def alter_lines(draw: random.Random, content: bytes) -> bytes:
    lines = altered(draw, [json.loads(line) for line in content.splitlines()], VALUES)
    return "\n".join(json.dumps(line) for line in lines).encode()


def alter_checkpoint(draw: random.Random, content: bytes) -> bytes:
    loaded = torch.load(io.BytesIO(content), weights_only=True)
    buffer = io.BytesIO()
    torch.save(altered(draw, loaded, [*VALUES, *tensors()]), buffer)
    return buffer.getvalue()


def alter_arrays(draw: random.Random, content: bytes) -> bytes:
    arrays = dict(np.load(io.BytesIO(content)))
    for _ in range(draw.randint(1, 3)):
        name = draw.choice([*arrays])
        array = arrays.pop(name)
        with np.errstate(all="ignore"), contextlib.suppress(ValueError, OverflowError, TypeError, IndexError):
            if draw.random() < 0.85:
                arrays[draw.choice((name, name, name, draw.choice([*arrays, name])))] = altered_array(draw, array)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def altered_array(draw: random.Random, array: np.ndarray) -> np.ndarray:
    numbers = array.dtype.kind in "fiu"
    changes: list[Callable[[], Any]] = [
        lambda: array[..., :-1],
        lambda: array[:0],
        lambda: array[np.newaxis],
        lambda: array.reshape(-1),
        lambda: array.astype(draw.choice(("U8", "S3", "c8", "i1", "?", "f2")) if numbers else "S3"),
        lambda: np.full_like(array, draw.choice((-1, 0, 1, np.nan, np.inf, 1e38, 2**62))) if numbers else array[:1],
        lambda: np.array(draw.choice((0, -1, 1.5, "x", 2**62, True, np.nan))),
        lambda: np.zeros((2, 0, 3)),
        lambda: np.array([("a", 1)], [("x", "U3"), ("y", "f4")]),
    ]
    return draw.choice(changes)()
