"""A contact sheet: what the network sees of a few samples of every class, in training."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from torch import Tensor
from torch.utils.data import default_collate

from mmpareto.data.loading.batches import Batch, to_device
from mmpareto.data.loading.options import FEATURE_FILES
from mmpareto.data.loading.samples import PreparedDataset
from mmpareto.errors import InputError
from mmpareto.files import atomic_path

WIDTH, ROW, DPI = 12.0, 1.16, 100  # inches, inches a class, pixels an inch: 1200 pixels wide
TALLEST = 60_000 / DPI  # inches: a JPEG has no more than 65,535 rows
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}
JPEG_QUALITY = 88
WRITTEN_OUT = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happiness", "NEU": "neutral", "SAD": "sadness"}
Picture = npt.NDArray[np.float64]


def contact_sheet(dataset: PreparedDataset, title: str, out: Path, per_class: int = 3) -> None:
    """Draw `per_class` samples a class as a step of training gets them: frames drawn, cropped and mirrored.

    One row a class; a sample's modalities side by side. Images are shown in the colours of their files, features with
    time to the right, on one scale for the whole sheet and without the padding at their end. The samples are spread
    evenly over the class's; those of `uninformative.csv`, where a data set comes with one, are left out.

    Arguments:
        dataset: opened for training.
        title: of the data set.
        out: the picture to write, .png or .jpg.
        per_class: samples a row; a class with fewer leaves places empty.

    Raises:
        InputError: a file of the data set is damaged, or `out` is of another format.
    """
    out = Path(out)
    if out.suffix.lower() not in FORMATS:
        raise InputError(f"a contact sheet is written as .png or .jpg, not as {out.name}.")
    if per_class < 1:
        raise InputError(f"a contact sheet needs at least 1 sample a class, not {per_class}.")
    chosen = _choose(dataset, per_class)
    seen = {place: _seen(dataset, place) for places in chosen.values() for place in places}
    scales = {name: _scale([pictures[name] for pictures in seen.values()]) for name in dataset.sources}

    height = min(ROW * len(chosen), TALLEST)
    figure = Figure(figsize=(WIDTH, height + 0.35), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    heading, body = figure.subfigures(2, 1, squeeze=False, height_ratios=(0.35, height))[:, 0]
    words = f"{title}: {', '.join(dataset.sources)}, as the network gets them in training"
    heading.text(0.005, 0.4, words, fontsize=11, va="center")
    rows = body.subfigures(len(chosen), 1, squeeze=False)[:, 0]
    for row, (name, places) in zip(rows, chosen.items(), strict=True):
        row.text(0.006, 0.5, WRITTEN_OUT.get(name, name), fontsize=11, weight="bold", va="center", parse_math=False)
        for column, place in enumerate(places):
            _draw(row, dataset.names[place], seen[place], scales, column, per_class)
    with atomic_path(out) as temporary, matplotlib.rc_context({"savefig.dpi": DPI}):
        kind = FORMATS[out.suffix.lower()]
        options = {"quality": JPEG_QUALITY, "optimize": True} if kind == "jpeg" else {"optimize": True}
        figure.savefig(temporary, format=kind, pil_kwargs=options)


def _choose(dataset: PreparedDataset, per_class: int) -> dict[str, list[int]]:
    """Class → indices."""
    path, chosen = dataset.folder / "uninformative.csv", {}
    left_out = {line.partition(",")[0] for line in path.read_text().splitlines()} if path.is_file() else set()
    for label, name in enumerate(dataset.classes):
        members = [
            place for place, its in enumerate(dataset.labels) if its == label and dataset.names[place] not in left_out
        ]
        count = min(per_class, len(members))
        chosen[name] = [members[(2 * place + 1) * len(members) // (2 * count)] for place in range(count)]
    if not any(chosen.values()):
        raise InputError(f"{dataset.folder / 'train.csv'} lists no sample of its classes; prepare the folder again.")
    return chosen


def _seen(dataset: PreparedDataset, place: int) -> dict[str, list[Picture]]:
    """Modality → what there is to see: (H, W, 3) in [0, 1] for images, (frequency or feature, time) for features."""
    batch = Batch(*default_collate([dataset[1, place]]))
    as_stored = {name: ((0.0,) * n, (1.0,) * n, *dataset.normalisation[name][2:]) for name, n in _images(dataset)}
    inputs = to_device(batch, "cpu", as_stored).inputs
    upright = FEATURE_FILES[dataset.description["audio"]].time_axis == 1
    return {name: _pictures(values[0], name in as_stored, upright) for name, values in inputs.items()}


def _images(dataset: PreparedDataset) -> list[tuple[str, int]]:
    return [(name, dataset.channels[name]) for name in dataset.normalisation]


def _pictures(values: Tensor, images: bool, upright: bool) -> list[Picture]:
    if images:
        return [_coloured(picture) for picture in (values if values.dim() == 4 else values.unsqueeze(0))]
    feature = values[0] if values.dim() == 3 else values  # audio has a channel, a sequence (time, features) has none
    return [_without_padding((feature if upright and values.dim() == 3 else feature.T).double().numpy())]


def _coloured(picture: Tensor) -> Picture:
    """(H, W, 3) of (C, H, W) in [0, 1]: grey for one channel; for two, flow, which way as red and green."""
    channels = len(picture)
    if channels == 1:
        picture = picture.expand(3, -1, -1)
    elif channels == 2:
        picture = torch.cat([picture, torch.full_like(picture[:1], 0.5)])
    return np.asarray(picture.clamp(0, 1).permute(1, 2, 0).double().numpy())


def _without_padding(feature: Picture) -> Picture:
    """(rows, time) up to the last step that differs from the one after it."""
    changes = np.flatnonzero((feature[:, 1:] != feature[:, :-1]).any(0))
    return feature[:, : int(changes[-1]) + 1] if len(changes) else feature


def _scale(pictures: Sequence[Sequence[Picture]]) -> tuple[float, float]:
    values = np.concatenate([picture.ravel() for them in pictures for picture in them])
    return float(np.percentile(values, 2)), float(np.percentile(values, 99.7))


def _draw(
    row: SubFigure, name: str, seen: Mapping[str, Sequence[Picture]], scales: Mapping[str, tuple[float, float]],
    column: int, per_class: int,
) -> None:  # fmt: skip
    """A sample's modalities side by side, its name below them."""
    names, gap = 0.085, 0.012  # shares of the row: its label, and the space after a sample
    width = (1 - names) / per_class - gap
    left = names + column * (width + gap)
    shown = [(modality, picture) for modality, pictures in seen.items() for picture in pictures[:2]]
    for place, (modality, picture) in enumerate(reversed(shown)):  # images first: they are what one looks at
        axes = row.add_axes((left + place * width / len(shown), 0.13, 0.97 * width / len(shown), 0.85))
        if picture.ndim == 3:
            axes.imshow(picture, interpolation="antialiased")
        else:
            low, high = scales[modality]
            axes.imshow(picture, origin="lower", aspect="auto", cmap="magma", vmin=low, vmax=high)
        _bare(axes)
        axes.set_anchor("W")
    row.text(left, 0.055, name, fontsize=7, color="0.35", va="center", parse_math=False)  # MOSI names are like a$_$1


def _bare(axes: Axes) -> None:
    axes.set_axis_off()
