"""Evaluation of a checkpoint on a split of a prepared data set, for evaluate.py."""

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mmpareto.analysis.calibration import calibration_metrics, fit_temperature
from mmpareto.analysis.finished_run import JOINT_HEAD, FinishedRun
from mmpareto.analysis.plots.confusion import confusion_plot
from mmpareto.analysis.trained import Trained
from mmpareto.data import DATASETS
from mmpareto.data.loading import layout
from mmpareto.data.loading.batches import make_loader, stop_workers
from mmpareto.data.loading.options import options_of
from mmpareto.data.loading.samples import PreparedDataset
from mmpareto.data.raw.containers import NoAudioError
from mmpareto.errors import InputError
from mmpareto.files import atomic_path, remove_leftovers, write_text
from mmpareto.training.data import hold_out
from mmpareto.training.evaluation import Predictions, extra_metrics, head_metrics, predict

TITLES = {
    "accuracy": "accuracy",
    "exact_match": "exact match",
    "macro_f1": "macro-F1",
    "mAP": "mAP",
    "auroc": "AUROC",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R²",
    "correlation": "correlation",
    "ece": "ECE",
    "nll": "NLL",
    "brier": "Brier",
}
MAX_NAMES = 6  # classes in a message
Temperatures = Mapping[str, float]
"""Head → temperature; {} where none was fitted."""
FEW = 200
"""Validation samples below which a fitted temperature is said to be unsure."""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Temperatures by head, and the samples that they were fitted to.

    Attributes:
        temperatures: those of the heads that have one (`fit_temperature`).
        without: the heads that have none, and whose probabilities stay as they are.
        fitted_on: description of the samples.
    """

    temperatures: dict[str, float]
    without: list[str]
    fitted_on: str


def remaining(trained: Trained, without: Sequence[str]) -> list[str]:
    """The modalities that are left of the model's.

    Raises:
        InputError: the model does not take one of `without`, or none is left.
    """
    if unknown := [name for name in without if name not in trained.modalities]:
        raise InputError(f"--without {unknown[0]}: {trained.path} takes {', '.join(trained.modalities)}.")
    names = [name for name in trained.modalities if name not in without]
    if not names:
        raise InputError(f"--without {' '.join(without)} leaves none of the modalities of {trained.path}; leave one.")
    return names


def open_split(
    trained: Trained, split: str, folder: Path | None = None, modalities: Sequence[str] | None = None
) -> PreparedDataset:
    """Open a split of a prepared data set for a trained network, read as in the evaluation during training.

    Arguments:
        folder: of the prepared data set; that of the training if None.
        modalities: those to read; all of the model's if None.

    Raises:
        InputError: it is missing, or has other classes.
    """
    description, outputs = trained.description, trained.model.n_classes
    if folder is None and not trained.folder.is_dir():
        raise InputError(f"the data of {trained.path} is not in {trained.folder}; give its folder by --data DIR.")
    folder = folder or trained.folder
    dataset = DATASETS[trained.dataset].open(
        folder,
        split,
        training=False,
        options=dataclasses.replace(options_of(description), n_classes=outputs),
        modalities=trained.modalities if modalities is None else modalities,
        tasks=trained.tasks or None,
    )
    expected = description.get("classes", dataset.classes)
    if dataset.classes != expected or len(dataset.classes) != outputs:
        other = f"{outputs} other classes" if len(dataset.classes) == outputs else f"{outputs} classes"
        names = ", ".join(dataset.classes[:MAX_NAMES]) + (", …" if len(dataset.classes) > MAX_NAMES else "")
        raise InputError(
            f"{folder} has the {len(dataset.classes)} classes {names}, but {trained.path} distinguishes {other}; give "
            "the data that it was trained on."
        )
    return dataset


def input_shapes(trained: Trained, folder: Path | None = None) -> Mapping[str, Sequence[int]]:
    """Modality → shape of its input without the batch dimension.

    A checkpoint from before they were recorded is completed by a sample of its data set.

    Raises:
        InputError: the data set, where it is needed, is missing.
    """
    if not trained.model.input_shapes:
        inputs = open_split(trained, "test", folder)[0].inputs
        trained.model.input_shapes = {name: tuple(x.shape) for name, x in inputs.items()}
    return trained.model.input_shapes


def predict_split(
    trained: Trained, dataset: PreparedDataset, device: torch.device, batch_size: int, workers: int
) -> Predictions:
    """Run the network over a data set, every clip once."""
    loader = make_loader(dataset, batch_size=batch_size, workers=workers, pin_memory=device.type == "cuda")
    if len(dataset.sources) < len(trained.modalities) and trained.model.absent == "input":
        input_shapes(trained, dataset.folder)
    model = trained.model.to(device)
    try:
        predictions = predict(model, loader, device, dataset.normalisation, trained.precision(device))
    finally:
        stop_workers(loader)
    if trained.unimodal_heads == "probe":  # in full precision, as they were measured
        heads = {name: model.heads[name].cpu().state_dict() for name in dataset.sources}
        if trained.joint_probe and len(heads) == len(trained.modalities):
            heads[JOINT_HEAD] = model.fusion.fc_out.cpu().state_dict()
        predictions = predictions.with_heads(heads)
    if not all(logits.isfinite().all() for logits in predictions.logits.values()):
        raise InputError(f"{trained.path} gives outputs that are NaN or infinite on {dataset.folder}; check the data.")
    return dataclasses.replace(predictions, label_scale=dataset.label_scale)


# Calibration


def validation_set(
    trained: Trained, folder: Path | None = None, modalities: Sequence[str] | None = None
) -> PreparedDataset:
    """The validation set of a run: the data set's own, or what the run held out of its training set.

    Arguments:
        folder, modalities: as for `open_split`.

    Raises:
        InputError: it has none, or the data are not those of the training, of which other samples would be held out.
    """
    run = FinishedRun(trained.path.parent)
    folder = folder or trained.folder
    if (folder / "valid.csv").is_file():
        return open_split(trained, "valid", folder, modalities)
    if run.protocol != "validation":
        raise InputError(
            f"{run.folder} was trained on the whole training set (--protocol {run.protocol}): no validation set is "
            "left to fit a temperature to; train with --protocol validation."
        )
    training = open_split(trained, "train", folder, modalities)
    if layout.fingerprint(folder) != run.fingerprint:
        raise InputError(f"{folder} is not what {run.folder} was trained on; give its folder by --data DIR.")
    return training.subset(hold_out(training.labels, run.settings)[1])


def fit_calibration(
    trained: Trained,
    modalities: Sequence[str],
    folder: Path | None,
    device: torch.device,
    batch_size: int,
    workers: int,
) -> Calibration:
    """Fit a temperature per head on the run's validation set, for predictions from these modalities.

    Raises:
        InputError: there is no validation set (see `validation_set`), or the network predicts a score.
    """
    if trained.task == "regression":
        raise InputError(f"{trained.path} predicts a score, which has no temperature; leave --temperature out.")
    dataset = validation_set(trained, folder, modalities)
    predictions = predict_split(trained, dataset, device, batch_size, workers)
    labels = predictions.head_labels
    fitted = {head or JOINT_HEAD: fit_temperature(z, labels[head]) for head, z in predictions.logits.items()}
    return Calibration(
        temperatures={head: temperature for head, temperature in fitted.items() if temperature is not None},
        without=[head for head, temperature in fitted.items() if temperature is None],
        fitted_on=f"validation set, {len(dataset)} samples" + (" (few: unsure)" if len(dataset) < FEW else ""),
    )


def calibrations(trained: Trained, predictions: Predictions, temperatures: Temperatures) -> dict[str, dict[str, float]]:
    """Head → `calibration_metrics`; {} for a regression."""
    if trained.task == "regression":
        return {}
    labels = predictions.head_labels
    return {
        head or JOINT_HEAD: calibration_metrics(z, labels[head], temperatures.get(head or JOINT_HEAD, 1.0))
        for head, z in predictions.logits.items()
    }


# Results


def metrics_table(trained: Trained, predictions: Predictions, calibration: Calibration | None = None) -> str:
    """The metrics of every head as text, fractions; with a calibration, also those after temperature scaling."""
    before = calibrations(trained, predictions, {})
    metrics = {
        head or JOINT_HEAD: values | before.get(head or JOINT_HEAD, {})
        for head, values in predictions.metrics().items()
    }
    first = next(iter(metrics))
    columns = [name for name in TITLES if name in metrics[first]]
    lines = [_line("", [TITLES[name] for name in columns]), *(_row(h, v, columns) for h, v in metrics.items())]
    if trained.tasks:
        lines.append(_line("mean", [f"{head_metrics(predictions)['acc']:.4f}"]))
    if calibration:
        after = calibrations(trained, predictions, calibration.temperatures)
        lines += [f"with temperatures fitted to the {calibration.fitted_on}:"]
        lines += [_line("", ["T", *(TITLES[name] for name in after[first])])]
        lines += [_row(h, {"T": calibration.temperatures.get(h)} | v, ["T", *v]) for h, v in after.items()]
        if calibration.without:
            names = " and ".join(calibration.without)
            lines += [f"– {names}: no temperature, as all predictions there are right, or no better than chance"]
    return "\n".join(lines)


def _row(head: str, values: Mapping[str, Any], columns: Sequence[str]) -> str:
    return _line(head, ["–" if values[name] is None else f"{values[name]:.4f}" for name in columns])


def _line(title: str, cells: Sequence[str]) -> str:
    return f"{title:12}" + "".join(f"{cell:>13}" for cell in cells)


def default_folder(trained: Trained, split: str, modalities: Sequence[str]) -> Path:
    """Folder of the results, beside the checkpoint; modalities that the prediction does without are in its name."""
    absent = [name for name in trained.modalities if name not in modalities]
    name = "-".join(["evaluation", split, trained.path.stem, *(["without", *absent] if absent else [])])
    return trained.path.parent / name


def make_folder(out: Path) -> None:
    """Make the folder of the results, before the work begins.

    Raises:
        InputError: it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {out} ({error.strerror}); give another --out.") from error


def write_results(
    out: Path,
    trained: Trained,
    dataset: PreparedDataset,
    predictions: Predictions,
    calibration: Calibration | None = None,
) -> None:
    """Write metrics.json, per_clip.csv and, for classes, confusion.png into the folder `out`.

    metrics.json has the keys of a line of metrics.jsonl, and likewise ece, nll and brier; the confusion matrices (head
    → C lists of C counts; one row per true class); the origin of the metrics; and with a calibration, head →
    temperature and the metrics that depend on it. The probabilities in per_clip.csv are then the calibrated ones.

    Raises:
        InputError: they cannot be written.
    """
    temperatures = calibration.temperatures if calibration else {}
    matrices = {head or JOINT_HEAD: v["confusion"] for head, v in predictions.metrics().items() if "confusion" in v}
    content: dict[str, Any] = {
        "checkpoint": str(trained.path),
        "notes": trained.notes,
        "data": str(dataset.folder),
        "clips": len(dataset),
        "classes": dataset.classes,
        "without": [name for name in trained.modalities if name not in dataset.sources],
    }
    if trained.banner:
        content["warning"] = trained.banner
    content |= head_metrics(predictions)
    content |= extra_metrics(predictions, DATASETS[trained.dataset].extra_metrics, dataset.scores)
    for head, values in calibrations(trained, predictions, {}).items():
        content |= {f"{name}{'' if head == JOINT_HEAD else f'_{head}'}": value for name, value in values.items()}
    if calibration:
        after = calibrations(trained, predictions, temperatures)
        heads = {head: {"temperature": temperatures.get(head), **values} for head, values in after.items()}
        content["calibration"] = {"fitted_on": calibration.fitted_on} | heads
    name = dataset.prepared.get("title", DATASETS[trained.dataset].title)
    title = f"{name}, {len(dataset)} clips: % of the true class"
    try:
        remove_leftovers(out, ("metrics.json", "confusion.png", "per_clip.csv"))
        write_text(out / "metrics.json", json.dumps(content | {"confusion": matrices}, indent=1) + "\n")
        if matrices:
            with atomic_path(out / "confusion.png") as temporary:
                confusion_plot(matrices, dataset.classes, title).savefig(temporary, format="png", dpi=120)
        write_per_clip(out / "per_clip.csv", trained, dataset, predictions, temperatures)  # last: see `job.to_evaluate`
    except OSError as error:
        raise InputError(f"cannot write to {out} ({error.strerror}); give another --out.") from error


def write_per_clip(
    path: Path, trained: Trained, dataset: PreparedDataset, predictions: Predictions, temperatures: Temperatures
) -> None:
    """Write one line per clip: name, true class, and for every head the predicted class and all probabilities.

    The names of several labels per clip are joined by "|". In a regression: name, true score, and every head's score.
    With several tasks, there is a true class per task, in the column <task>_class.
    """
    classes, regression = dataset.classes, trained.task == "regression"
    heads = {
        head or JOINT_HEAD: trained.probabilities(z.double(), temperatures.get(head or JOINT_HEAD, 1.0))
        for head, z in predictions.logits.items()
    }
    truth = [f"{task}_class" for task in trained.tasks] or ["class"]
    titles = ["clip", *(classes if regression else truth)]
    for head in heads:
        titles += [head] if regression else [head, *(f"{head}_{name}" for name in classes)]
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(titles)
        for index, (clip, label) in enumerate(zip(dataset.names, dataset.labels, strict=True)):
            labels = [*label.values()] if isinstance(label, dict) else [label]
            row = [clip, *(label if regression else _class_text(label, classes) for label in labels)]
            for values in heads.values():
                p = values[index]
                predicted = (p > 0.5).tolist() if trained.task == "multilabel" else int(p.argmax())
                row += [] if regression else [_class_text(predicted, classes)]
                row += [f"{value:.9g}" for value in p.tolist()]
            writer.writerow(row)


def _class_text(label: int | Sequence[int], classes: Sequence[str]) -> str:
    """The name of a class, given its index; or those of several labels, given one number per label."""
    if isinstance(label, int):
        return classes[label]
    return "|".join(name for name, has in zip(classes, label, strict=True) if has)


# One raw clip


def classify(
    trained: Trained,
    files: Sequence[Path],
    modalities: Sequence[str],
    device: torch.device,
    fps: int | None,
    calibration: Calibration | None,
) -> str:
    """`probability_table` of a raw clip: one file with sound and pictures, or two."""
    trained.model.to(device)
    clip = trained.preprocess.clip(files, modalities)
    temperatures = calibration.temperatures if calibration else {}
    try:
        predicted = trained.predict(clip, fps=fps, temperatures=temperatures)
    except NoAudioError as error:
        if len(files) == 1 and len(modalities) > 1:
            raise InputError(f"{error} --without audio predicts from the pictures alone.") from error
        raise
    sources = f"sound of {files[0]}, pictures of {files[1]}\n" if len(set(files)) == 2 else ""
    return sources + probability_table(predicted)


def probability_table(probabilities: Mapping[str, Mapping[str, float]]) -> str:
    """One line per class, one column per head, and at the end the class that each head finds most likely.

    Arguments:
        probabilities: head → class → probability (`Trained.predict`).
    """
    classes = list(next(iter(probabilities.values())))
    width = max(10, *(len(name) + 2 for name in classes))
    lines = [f"{'':{width}}" + "".join(f"{head:>{width}}" for head in probabilities)]
    for name in classes:
        lines.append(f"{name:{width}}" + "".join(f"{values[name]:{width}.3f}" for values in probabilities.values()))
    best = [max(values, key=values.__getitem__) for values in probabilities.values()]
    return "\n".join([*lines, f"{'likeliest':{width}}" + "".join(f"{name:>{width}}" for name in best)])
