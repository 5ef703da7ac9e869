"""Contact sheet: a few samples of every class, as the network gets them in training."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from torch import Tensor
from torch.utils.data import default_collate

from mmpareto.data.loading.batches import Batch, to_device
from mmpareto.data.loading.labels import has_class
from mmpareto.data.loading.options import FEATURE_FILES
from mmpareto.data.loading.samples import PreparedDataset
from mmpareto.errors import InputError
from mmpareto.files import atomic_path

WIDTH, ROW, DPI = 12.0, 1.16, 100  # inches, inches per class, pixels per inch: 1200 pixels wide
TALLEST = 60_000 / DPI  # inches: a JPEG has at most 65,535 rows
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}
JPEG_QUALITY = 88
LONG_NAMES = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happiness", "NEU": "neutral", "SAD": "sadness"}
Picture = npt.NDArray[np.float64]


def contact_sheet(dataset: PreparedDataset, title: str, out: Path, per_class: int = 3) -> None:
    """Draw `per_class` samples of every class as a training step gets them: with drawn, cropped and mirrored frames.

    There is one row per class, and a sample's modalities are side by side. Images have the colours of their files.
    Features have time to the right, are cut before the padding at their end, and share one scale across the sheet. The
    samples are spaced evenly over their class; those listed in `uninformative.csv`, if there is one, are left out.

    Arguments:
        dataset: opened for training.
        title: of the data set.
        out: the picture to write, .png or .jpg.
        per_class: samples per row; a class with fewer leaves the rest of its row empty.

    Raises:
        InputError: a file of the data set is damaged, or `out` has another format.
    """
    out = Path(out)
    if out.suffix.lower() not in FORMATS:
        raise InputError(f"a contact sheet is written as .png or .jpg, not as {out.name}.")
    if per_class < 1:
        raise InputError(f"a contact sheet needs at least 1 sample per class, not {per_class}.")
    chosen = _choose(dataset, per_class)
    pictures = {index: _pictures_of(dataset, index) for indices in chosen.values() for index in indices}
    scales = {name: _scale([sample[name] for sample in pictures.values()]) for name in dataset.sources}

    height = min(ROW * len(chosen), TALLEST)
    figure = Figure(figsize=(WIDTH, height + 0.35), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    heading, body = figure.subfigures(2, 1, squeeze=False, height_ratios=(0.35, height))[:, 0]
    words = f"{title}: {', '.join(dataset.sources)}, as the network gets them in training"
    heading.text(0.005, 0.4, words, fontsize=11, va="center")
    rows = body.subfigures(len(chosen), 1, squeeze=False)[:, 0]
    for row, (name, indices) in zip(rows, chosen.items(), strict=True):
        row.text(0.006, 0.5, LONG_NAMES.get(name, name), fontsize=11, weight="bold", va="center", parse_math=False)
        for column, index in enumerate(indices):
            _draw(row, dataset.names[index], pictures[index], scales, column, per_class)
    with atomic_path(out) as temporary, matplotlib.rc_context({"savefig.dpi": DPI}):
        kind = FORMATS[out.suffix.lower()]
        options = {"quality": JPEG_QUALITY, "optimize": True} if kind == "jpeg" else {"optimize": True}
        figure.savefig(temporary, format=kind, pil_kwargs=options)


def _choose(dataset: PreparedDataset, per_class: int) -> dict[str, list[int]]:
    """Class → indices."""
    path, chosen = dataset.folder / "uninformative.csv", {}
    left_out = (
        {line.partition(",")[0] for line in path.read_text(encoding="utf-8", errors="replace").splitlines()}
        if path.is_file()
        else set()
    )
    for label, class_name in enumerate(dataset.classes):
        members = [
            index
            for index, (name, other) in enumerate(zip(dataset.names, dataset.labels, strict=True))
            if has_class(other, label) and name not in left_out
        ]
        count = min(per_class, len(members))
        chosen[class_name] = [members[(2 * i + 1) * len(members) // (2 * count)] for i in range(count)]
    if not any(chosen.values()):
        raise InputError(f"{dataset.folder / 'train.csv'} lists no sample of its classes; prepare the folder again.")
    return chosen


def _pictures_of(dataset: PreparedDataset, index: int) -> dict[str, list[Picture]]:
    """Modality → its pictures: (H, W, 3) in [0, 1] for images, (frequency or feature, time) for features."""
    batch = Batch(*default_collate([dataset[1, index]]))
    as_stored = {
        name: ((0.0,) * dataset.channels[name], (1.0,) * dataset.channels[name], *normalisation[2:])
        for name, normalisation in dataset.normalisation.items()
    }
    inputs = to_device(batch, "cpu", as_stored).inputs
    time_is_last = FEATURE_FILES[dataset.description["audio"]].time_axis == 1
    return {name: _pictures(values[0], name in as_stored, time_is_last) for name, values in inputs.items()}


def _pictures(values: Tensor, is_image: bool, time_is_last: bool) -> list[Picture]:
    if is_image:
        return [_in_colour(image) for image in (values if values.dim() == 4 else values.unsqueeze(0))]
    if values.dim() == 1:  # a vector, as a row
        return [values.unsqueeze(0).double().numpy()]
    is_audio = values.dim() == 3  # with a channel, unlike a sequence (time, features)
    feature = values[0] if is_audio else values
    return [_without_padding((feature if time_is_last and is_audio else feature.T).double().numpy())]


def _in_colour(image: Tensor) -> Picture:
    """(H, W, 3) of (C, H, W) in [0, 1]: grey if C = 1; if C = 2, the two components of flow as red and green."""
    channels = len(image)
    if channels == 1:
        image = image.expand(3, -1, -1)
    elif channels == 2:
        image = torch.cat([image, torch.full_like(image[:1], 0.5)])
    return np.asarray(image.clamp(0, 1).permute(1, 2, 0).double().numpy())


def _without_padding(feature: Picture) -> Picture:
    """(rows, time) up to the last step that differs from the next one."""
    changes = np.flatnonzero((feature[:, 1:] != feature[:, :-1]).any(0))
    return feature[:, : int(changes[-1]) + 1] if len(changes) else feature


def _scale(samples: Sequence[Sequence[Picture]]) -> tuple[float, float]:
    values = np.concatenate([picture.ravel() for pictures in samples for picture in pictures])
    return float(np.percentile(values, 2)), float(np.percentile(values, 99.7))


def _draw(
    row: SubFigure, name: str, pictures: Mapping[str, Sequence[Picture]], scales: Mapping[str, tuple[float, float]],
    column: int, per_class: int,
) -> None:  # fmt: skip
    """Draw a sample's modalities side by side, with its name below them."""
    label_width, gap = 0.085, 0.012  # fractions of the row: its label, and the space after a sample
    width = (1 - label_width) / per_class - gap
    left = label_width + column * (width + gap)
    shown = [(modality, picture) for modality, several in pictures.items() for picture in several[:2]]
    for position, (modality, picture) in enumerate(reversed(shown)):  # images first: they draw the eye
        axes = row.add_axes((left + position * width / len(shown), 0.13, 0.97 * width / len(shown), 0.85))
        if picture.ndim == 3:
            axes.imshow(picture, interpolation="antialiased")
        else:
            low, high = scales[modality]
            axes.imshow(picture, origin="lower", aspect="auto", cmap="magma", vmin=low, vmax=high)
        axes.set_axis_off()
        axes.set_anchor("W")
    row.text(left, 0.055, name, fontsize=7, color="0.35", va="center", parse_math=False)  # MOSI names are like a$_$1
