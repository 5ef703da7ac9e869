"""Evaluation of a checkpoint, for evaluate.py: on a split of a prepared data set, or on one raw clip."""

import csv
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from mmpareto.analysis.plots.confusion import confusion_plot
from mmpareto.analysis.trained import Trained
from mmpareto.data import DATASETS
from mmpareto.data.clip_dataset_builder import ClipDatasetBuilder
from mmpareto.data.loading.batches import Batch, make_loader, stop_workers
from mmpareto.data.loading.options import FEATURE_FILES, options_of
from mmpareto.data.loading.samples import PreparedDataset, prepare_input
from mmpareto.errors import InputError
from mmpareto.files import atomic_path, write_text
from mmpareto.training.evaluation import Predictions, extra_metrics, head_metrics, predict

TITLES = {
    "accuracy": "accuracy",
    "exact_match": "exact match",
    "macro_f1": "macro-F1",
    "mAP": "mAP",
    "auroc": "AUROC",
    "mae": "MAE",
    "r2": "R²",
    "correlation": "correlation",
}
MAX_NAMES = 6  # classes in a message


def open_split(trained: Trained, split: str, folder: Path | None = None) -> PreparedDataset:
    """Open a split of a prepared data set for a trained network, read as in the evaluation during training.

    Arguments:
        folder: of the prepared data set; that of the training if None.

    Raises:
        InputError: it is missing, or has other classes.
    """
    description = trained.description
    if folder is None and not trained.folder.is_dir():
        raise InputError(f"the data of {trained.path} is not in {trained.folder}; give its folder by --data DIR.")
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
        other = f"{outputs} other classes" if len(dataset.classes) == outputs else f"{outputs} classes"
        names = ", ".join(dataset.classes[:MAX_NAMES]) + (", …" if len(dataset.classes) > MAX_NAMES else "")
        raise InputError(
            f"{folder} has the {len(dataset.classes)} classes {names}, but {trained.path} distinguishes {other}; give "
            "the data that it was trained on."
        )
    return dataset


def predict_split(
    trained: Trained, dataset: PreparedDataset, device: torch.device, batch_size: int, workers: int
) -> Predictions:
    """Run the network over a data set, every clip once."""
    loader = make_loader(dataset, batch_size=batch_size, workers=workers, pin_memory=device.type == "cuda")
    network = trained.network.to(device)
    try:
        predictions = predict(network, loader, device, dataset.normalisation, trained.precision(device))
    finally:
        stop_workers(loader)
    predictions = trained.with_probe(predictions)
    if not all(logits.isfinite().all() for logits in predictions.logits.values()):
        raise InputError(f"{trained.path} gives outputs that are NaN or infinite on {dataset.folder}; check the data.")
    return dataclasses.replace(predictions, label_scale=dataset.label_scale)


def metrics_table(predictions: Predictions) -> str:
    """The metrics of every head as text, fractions."""
    metrics = predictions.metrics()
    columns = [name for name in TITLES if name in next(iter(metrics.values()))]
    lines = [f"{'':12}" + "".join(f"{TITLES[name]:>13}" for name in columns)]
    for head, values in metrics.items():
        row = [float("nan") if values[name] is None else values[name] for name in columns]
        lines.append(f"{head or 'joint':12}" + "".join(f"{value:13.4f}" for value in row))
    return "\n".join(lines)


def make_folder(out: Path) -> None:
    """Make the folder of the results, before the work begins.

    Raises:
        InputError: it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {out} ({error.strerror}); give another --out.") from error


def write_results(out: Path, trained: Trained, dataset: PreparedDataset, predictions: Predictions) -> None:
    """Write metrics.json, per_clip.csv and, for classes, confusion.png into the folder `out`.

    metrics.json has the keys of a line of metrics.jsonl, the confusion matrices (head → C lists of C counts; one row
    per true class), and the origin of the metrics.

    Raises:
        InputError: they cannot be written.
    """
    matrices = {head or "joint": v["confusion"] for head, v in predictions.metrics().items() if "confusion" in v}
    origin: dict[str, Any] = {
        "checkpoint": str(trained.path),
        "notes": trained.notes,
        "data": str(dataset.folder),
        "clips": len(dataset),
        "classes": dataset.classes,
    }
    if trained.banner:
        origin["warning"] = trained.banner
    extra = extra_metrics(predictions, DATASETS[trained.dataset].extra_metrics, dataset.scores)
    content = origin | head_metrics(predictions) | extra | {"confusion": matrices}
    name = dataset.prepared.get("title", DATASETS[trained.dataset].title)
    title = f"{name}, {len(dataset)} clips: % of the true class"
    try:
        write_text(out / "metrics.json", json.dumps(content, indent=1) + "\n")
        write_per_clip(out / "per_clip.csv", dataset, predictions)
        if matrices:
            with atomic_path(out / "confusion.png") as temporary:
                confusion_plot(matrices, dataset.classes, title).savefig(temporary, format="png", dpi=120)
    except OSError as error:
        raise InputError(f"cannot write to {out} ({error.strerror}); give another --out.") from error


def write_per_clip(path: Path, dataset: PreparedDataset, predictions: Predictions) -> None:
    """Write one line per clip: name, true class, and for every head the predicted class and all probabilities.

    In a regression: name, true score, and every head's score.
    """
    classes = dataset.classes
    regression = predictions.labels.is_floating_point()
    heads = {head or "joint": logits.double() for head, logits in predictions.logits.items()}
    titles = ["clip", *(classes if regression else ["class"])]
    for head in heads:
        titles += [head] if regression else [head, *(f"{head}_{name}" for name in classes)]
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(titles)
        for index, (clip, label) in enumerate(zip(dataset.names, dataset.labels, strict=True)):
            row = [clip, label if regression else classes[label]]
            for logits in heads.values():
                values = (logits[index] if regression else logits[index].softmax(0)).tolist()
                row += [] if regression else [classes[int(logits[index].argmax())]]
                row += [f"{value:.9g}" for value in values]
            writer.writerow(row)


# One raw clip


def predict_clip(
    trained: Trained, audio: Path, video: Path, device: torch.device, fps: int | None = None
) -> dict[str, Tensor]:
    """Classify a raw clip, which is first prepared as prepare.py prepares it.

    Arguments:
        audio: a file with sound; may be the same as `video`.
        video: a file with pictures.
        fps: frames kept per second, for a network whose checkpoint lacks how its data was prepared.

    Returns:
        Head → (C,) probabilities, float32 on the CPU; "joint", and one per modality.

    Raises:
        InputError: a file cannot be read, or it is unknown how the network's input was prepared.
    """
    description = trained.description
    if not issubclass(DATASETS[trained.dataset], ClipDatasetBuilder):
        raise InputError(
            f"{trained.path} was trained on {trained.dataset}; --clip is for data sets of sound and pictures."
        )
    if "classes" not in description:
        raise InputError(f"{trained.path} does not name its classes; --clip needs a checkpoint of train.py.")
    from mmpareto.data.raw.media import read_clip  # needs PyAV, unlike the evaluation of prepared data

    kind = FEATURE_FILES[description["audio"]].stored
    content = read_clip(audio, video, kinds=[kind], fps=_frame_rate(trained, fps))
    inputs = prepare_input(description, content.features[kind], [_decoded(jpeg) for jpeg in content.frames])
    unknown = torch.zeros(1, dtype=torch.int64)
    network, precision = trained.network.to(device), trained.precision(device)
    batch = Batch({name: inputs[name].unsqueeze(0) for name in network.modalities}, labels=unknown, indices=unknown)
    predictions = trained.with_probe(predict(network, [batch], device, description["normalisation"], precision))
    return {head or "joint": logits[0].softmax(0) for head, logits in predictions.logits.items()}


def probability_table(probabilities: Mapping[str, Tensor], classes: list[str]) -> str:
    """One line per class, one column per head, and at the end the class that each head finds most likely."""
    width = max(10, *(len(name) + 2 for name in classes))
    lines = [f"{'':{width}}" + "".join(f"{head:>{width}}" for head in probabilities)]
    for index, name in enumerate(classes):
        lines.append(f"{name:{width}}" + "".join(f"{values[index]:{width}.3f}" for values in probabilities.values()))
    best = [classes[int(values.argmax())] for values in probabilities.values()]
    return "\n".join([*lines, f"{'likeliest':{width}}" + "".join(f"{name:>{width}}" for name in best)])


def _frame_rate(trained: Trained, fps: int | None) -> int:
    known = trained.description.get("fps")
    if known is not None and fps not in (None, known):
        raise InputError(f"{trained.path} was trained on {known} frames per second, not {fps}; leave --fps out.")
    rate = fps if known is None else known
    if rate is None:
        raise InputError(f"{trained.path} lacks the frames per second of its data; give them by --fps.")
    return rate


def _decoded(jpeg: bytes) -> Tensor:
    """The picture in a JPEG file as uint8 (3, H, W), RGB."""
    return decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8), mode=ImageReadMode.RGB)
