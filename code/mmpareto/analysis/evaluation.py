"""What a trained network does on a split of a prepared data set: figures, confusion matrices, a table of clips."""

import csv
import json
from pathlib import Path
from typing import Any

import torch

from mmpareto.analysis.plots import confusion_picture
from mmpareto.analysis.trained import Trained
from mmpareto.data import DATASETS
from mmpareto.data.batches import make_loader, stop_workers
from mmpareto.data.clips import ClipDataset
from mmpareto.errors import InputError
from mmpareto.files import whole_file, write_text
from mmpareto.training.evaluation import Predictions, figures, predict


def open_split(trained: Trained, split: str, folder: Path | None = None) -> ClipDataset:
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
        audio=description["audio"],
        frames=description["frames"],
        image_size=description["image_size"],
        audio_frames=description["audio_frames"],
        audio_pool=tuple(description["audio_pool"]),
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
    trained: Trained, dataset: ClipDataset, device: torch.device, batch_size: int, workers: int
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
    lines = [f"{'':12}{'accuracy':>10}{'macro-F1':>10}{'mAP':>10}"]
    for head, values in predictions.metrics().items():
        lines.append(f"{head or 'joint':12}{values['accuracy']:10.4f}{values['macro_f1']:10.4f}{values['mAP']:10.4f}")
    return "\n".join(lines)


def make_folder(out: Path) -> None:
    """Make the folder of the results, before the work of which they come.

    Raises:
        InputError: it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {out} ({error.strerror}); give another --out.") from error


def write_results(out: Path, trained: Trained, dataset: ClipDataset, predictions: Predictions) -> None:
    """Write metrics.json, per_clip.csv and confusion.png into the folder `out`.

    metrics.json has the keys of a line of metrics.jsonl, the confusion matrices (head → C lists of C counts; row =
    true class), and what the figures are of.

    Raises:
        InputError: they cannot be written.
    """
    matrices = {head or "joint": values["confusion"] for head, values in predictions.metrics().items()}
    origin: dict[str, Any] = {
        "checkpoint": str(trained.path),
        "notes": trained.notes,
        "data": str(dataset.folder),
        "clips": len(dataset),
        "classes": dataset.classes,
    }
    if trained.banner:
        origin["warning"] = trained.banner
    content = origin | figures(predictions) | {"confusion": matrices}
    title = f"{DATASETS[trained.dataset].title}, {len(dataset)} clips: % of the true class"
    try:
        write_text(out / "metrics.json", json.dumps(content, indent=1) + "\n")
        write_per_clip(out / "per_clip.csv", dataset, predictions)
        confusion_picture(out / "confusion.png", matrices, dataset.classes, title)
    except OSError as error:
        raise InputError(f"cannot write to {out} ({error.strerror}); give another --out.") from error


def write_per_clip(path: Path, dataset: ClipDataset, predictions: Predictions) -> None:
    """Write a line a clip: name, true class, and for every head the predicted class and all probabilities."""
    classes = dataset.classes
    heads = {head or "joint": logits.double() for head, logits in predictions.logits.items()}
    predicted = {head: logits.argmax(1).tolist() for head, logits in heads.items()}
    probabilities = {head: logits.softmax(1).tolist() for head, logits in heads.items()}
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["clip", "class"] + [column for head in heads for column in _columns(head, classes)])
        for place, (clip, label) in enumerate(zip(dataset.clips, dataset.labels, strict=True)):
            row = [clip, classes[label]]
            for head in heads:
                row += [classes[predicted[head][place]], *(f"{value:.9g}" for value in probabilities[head][place])]
            writer.writerow(row)


def _columns(head: str, classes: list[str]) -> list[str]:
    return [head, *(f"{head}_{name}" for name in classes)]


def _few(names: list[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
