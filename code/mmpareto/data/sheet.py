"""A contact sheet of a prepared audio-visual folder: what the clips of each class look and sound like."""

from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

from mmpareto.data import layout
from mmpareto.errors import InputError
from mmpareto.files import whole_file

WIDTH, ROW, DPI = 12.0, 1.16, 100  # inches, inches a class, pixels an inch: 1200 pixels wide
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}
JPEG_QUALITY = 88
WRITTEN_OUT = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happiness", "NEU": "neutral", "SAD": "sadness"}


def contact_sheet(folder: Path, out: Path, per_class: int = 3) -> None:
    """Draw `per_class` training clips a class: the first and the middle frame, and the filterbank as stored.

    One row a class. The filterbank has time to the right and mel bands upwards, on one scale for the whole sheet,
    without its zero-padding. The clips are spread evenly over the class's list; clips of `uninformative.csv`, where a
    data set comes with one, are left out.

    Arguments:
        folder: a prepared folder with the feature "fbank".
        out: the picture to write, .png or .jpg.
        per_class: clips a row; a class with fewer leaves places empty.

    Raises:
        InputError: `folder` is not prepared, a file in it is damaged, or `out` is of another format.
    """
    folder, out = Path(folder), Path(out)
    if out.suffix.lower() not in FORMATS:
        raise InputError(f"a contact sheet is written as .png or .jpg, not as {out.name}.")
    if per_class < 1:
        raise InputError(f"a contact sheet needs at least 1 clip a class, not {per_class}.")
    title = layout.read_prepared(folder).get("title", folder.name)
    classes = layout.read_classes(folder)
    chosen = _choose(folder, classes, per_class)
    features = {clip: _without_padding(folder, clip) for clips in chosen.values() for clip in clips}
    sounds = np.concatenate([feature.ravel() for feature in features.values()])
    scale = (float(np.percentile(sounds, 2)), float(np.percentile(sounds, 99.7)))

    figure = Figure(figsize=(WIDTH, ROW * len(classes) + 0.35), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    heading, body = figure.subfigures(2, 1, squeeze=False, height_ratios=(0.35, ROW * len(classes)))[:, 0]
    heading.text(0.005, 0.4, f"{title}: first frame, middle frame, log-mel filterbank", fontsize=11, va="center")
    rows = body.subfigures(len(classes), 1, squeeze=False)[:, 0]
    for row, name in zip(rows, classes, strict=True):
        row.text(0.006, 0.5, WRITTEN_OUT.get(name, name), fontsize=11, weight="bold", va="center")
        for place, clip in enumerate(chosen[name]):
            _draw_clip(row, folder, clip, features[clip], place, per_class, scale)
    with whole_file(out) as temporary, matplotlib.rc_context({"savefig.dpi": DPI}):
        kind = FORMATS[out.suffix.lower()]
        options = {"quality": JPEG_QUALITY, "optimize": True} if kind == "jpeg" else {"optimize": True}
        figure.savefig(temporary, format=kind, pil_kwargs=options)


def _choose(folder: Path, classes: list[str], per_class: int) -> dict[str, list[str]]:
    clips, labels = layout.read_split(folder, "train", classes)
    path, chosen = folder / "uninformative.csv", {}
    left_out = {line.partition(",")[0] for line in path.read_text().splitlines()} if path.is_file() else set()
    for label, name in enumerate(classes):
        members = [clip for clip, its in zip(clips, labels, strict=True) if its == label and clip not in left_out]
        count = min(per_class, len(members))
        chosen[name] = [members[(2 * place + 1) * len(members) // (2 * count)] for place in range(count)]
    if not any(chosen.values()):
        raise InputError(f"{folder / 'train.csv'} lists no clip of its classes; prepare the folder again.")
    return chosen


def _without_padding(folder: Path, clip: str) -> npt.NDArray[np.float32]:
    """The filterbank (time, mel) up to the last frame that differs from the one after it."""
    feature = layout.read_feature(folder, clip, "fbank").numpy()
    changes = np.flatnonzero((feature[1:] != feature[:-1]).any(1))
    return feature[: int(changes[-1]) + 1] if len(changes) else feature


def _draw_clip(
    row: SubFigure, folder: Path, clip: str, feature: npt.NDArray[np.float32], place: int, per_class: int,
    scale: tuple[float, float],
) -> None:  # fmt: skip
    """Two frames and the filterbank side by side, the clip's name below them."""
    names, gap = 0.085, 0.012  # shares of the row: its label, and the space after a clip
    width = (1 - names) / per_class - gap
    left = names + place * (width + gap)
    count = layout.count_frames(folder, clip)
    for column, number in enumerate((1, count // 2 + 1)):
        axes = row.add_axes((left + 0.34 * column * width, 0.13, 0.335 * width, 0.85))
        axes.imshow(layout.read_frame(folder, clip, number).permute(1, 2, 0).numpy(), interpolation="antialiased")
        _bare(axes)
        axes.set_anchor("W")
    axes = row.add_axes((left + 0.69 * width, 0.13, 0.31 * width, 0.85))
    axes.imshow(feature.T, origin="lower", aspect="auto", cmap="magma", vmin=scale[0], vmax=scale[1])
    _bare(axes)
    row.text(left, 0.055, clip, fontsize=7, color="0.35", va="center")


def _bare(axes: Axes) -> None:
    axes.set_axis_off()
