"""What a trained network does on a split of a prepared data set: figures, confusion matrices, a table of clips."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from mmpareto.analysis.pictures.confusion import confusion_picture
from mmpareto.analysis.trained import Trained
from mmpareto.data import DATASETS
from mmpareto.data.prepared.batches import make_loader, stop_workers
from mmpareto.data.prepared.clips import options_of
from mmpareto.data.prepared.samples import PreparedDataset
from mmpareto.errors import InputError
from mmpareto.files import atomic_path, write_text
from mmpareto.training.evaluation import Predictions, extra_metrics, head_metrics, predict


def open_split(trained: Trained, split: str, folder: Path | None = None) -> PreparedDataset:
    """The split that a trained network is measured on, read as training's evaluation read it.

    Arguments:
        folder: of the prepared data set; where it was in training, if not given.

    Raises:
        InputError: it is not there, or has other classes.
    """
    description = trained.description
    if folder is None and not trained.folder.is_dir():
        raise InputError(f"the data of {trained.path} is not in {trained.folder}; say where it is with --data DIR.")
    folder = folder or trained.folder
    dataset = DATASETS[trained.dataset].open(
        folder,
        split,
        training=False,
        options=dataclasses.replace(options_of(description), n_classes=trained.network.n_classes),
        modalities=trained.network.modalities,
    )
    outputs = trained.network.n_classes
    expected = description.get("classes", dataset.classes)
    if dataset.classes != expected or len(dataset.classes) != outputs:
        others = f"{outputs} others" if len(dataset.classes) == outputs else str(outputs)
        raise InputError(
            f"{folder} has the {len(dataset.classes)} classes {_few(dataset.classes)}, but {trained.path} tells "
            f"{others} apart; give the data that it was trained on."
        )
    return dataset


def predict_split(
    trained: Trained, dataset: PreparedDataset, device: torch.device, batch_size: int, workers: int
) -> Predictions:
    """Run the network over a data set, every clip once."""
    loader = make_loader(dataset, batch_size=batch_size, workers=workers, pin_memory=device.type == "cuda")
    network = trained.network.to(device)
    try:
        found = predict(network, loader, device, dataset.normalisation, trained.precision(device))
    finally:
        stop_workers(loader)
    found = trained.with_probe(found)
    if not all(logits.isfinite().all() for logits in found.logits.values()):
        raise InputError(f"{trained.path} gives outputs that are NaN or infinite on {dataset.folder}; check the data.")
    return found


def metrics_table(predictions: Predictions) -> str:
    """The figures of every head, as text; fractions."""
    found = predictions.metrics()
    columns = [name for name in TITLES if name in next(iter(found.values()))]
    lines = [f"{'':12}" + "".join(f"{TITLES[name]:>13}" for name in columns)]
    for head, values in found.items():
        shown = [float("nan") if values[name] is None else values[name] for name in columns]
        lines.append(f"{head or 'joint':12}" + "".join(f"{value:13.4f}" for value in shown))
    return "\n".join(lines)


TITLES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "mAP": "mAP",
    "mae": "MAE",
    "correlation": "correlation",
}


def make_folder(out: Path) -> None:
    """Make the folder of the results, before the work of which they come.

    Raises:
        InputError: it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {out} ({error.strerror}); give another --out.") from error


def write_results(out: Path, trained: Trained, dataset: PreparedDataset, predictions: Predictions) -> None:
    """Write metrics.json, per_clip.csv and, of classes, confusion.png into the folder `out`.

    metrics.json has the keys of a line of metrics.jsonl, the confusion matrices (head → C lists of C counts; row =
    true class), and what the figures are of.

    Raises:
        InputError: they cannot be written.
    """
    matrices = {h or "joint": v["confusion"] for h, v in predictions.metrics().items() if "confusion" in v}
    origin: dict[str, Any] = {
        "checkpoint": str(trained.path),
        "notes": trained.notes,
        "data": str(dataset.folder),
        "clips": len(dataset),
        "classes": dataset.classes,
    }
    if trained.banner:
        origin["warning"] = trained.banner
    further = extra_metrics(predictions, DATASETS[trained.dataset].extra_metrics, dataset.scores)
    content = origin | head_metrics(predictions) | further | {"confusion": matrices}
    title = f"{DATASETS[trained.dataset].title}, {len(dataset)} clips: % of the true class"
    try:
        write_text(out / "metrics.json", json.dumps(content, indent=1) + "\n")
        write_per_clip(out / "per_clip.csv", dataset, predictions)
        if matrices:
            confusion_picture(out / "confusion.png", matrices, dataset.classes, title)
    except OSError as error:
        raise InputError(f"cannot write to {out} ({error.strerror}); give another --out.") from error


def write_per_clip(path: Path, dataset: PreparedDataset, predictions: Predictions) -> None:
    """Write a line a clip: name, true class, and for every head the predicted class and all probabilities.

    Of a regression: name, true score, and every head's score.
    """
    classes = dataset.classes
    regression = predictions.labels.is_floating_point()
    heads = {head or "joint": logits.double() for head, logits in predictions.logits.items()}
    columns = {head: [head] if regression else [head, *(f"{head}_{name}" for name in classes)] for head in heads}
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        own = [name for names in columns.values() for name in names]
        writer.writerow(["clip", *(classes if regression else ["class"]), *own])
        for place, (clip, label) in enumerate(zip(dataset.names, dataset.labels, strict=True)):
            row = [clip, label if regression else classes[label]]
            for logits in heads.values():
                values = (logits[place] if regression else logits[place].softmax(0)).tolist()
                row += [] if regression else [classes[int(logits[place].argmax())]]
                row += [f"{value:.9g}" for value in values]
            writer.writerow(row)


def _few(names: list[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
