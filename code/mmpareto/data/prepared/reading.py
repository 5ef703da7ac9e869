"""How a prepared folder is read, and what its lists hold."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple


@dataclasses.dataclass(frozen=True)
class InputOptions:
    """How a prepared folder is read. The fields are named as train.py's flags.

    Attributes:
        audio: the audio feature, "fbank" or "spectrogram".
        frames: frames a clip.
        image_size: side of the square images, in pixels.
        crop_scale: range of the share of the area that a training crop has.
        audio_frames: keep the first so many steps of time only. The published setting keeps all; a run on a few
            CPU cores need not compute over the padding of short clips.
        audio_pool: average over blocks of so many (steps of time, frequencies) after that; also for small runs.
        cache: keep decoded pictures in one file that is mapped into memory (`picture_cache`).
        n_classes: how many classes are told apart, for the data sets that leave a choice; 1 for regression.
    """

    audio: str = "fbank"
    frames: int = 2
    image_size: int = 224
    crop_scale: tuple[float, float] = (0.08, 1.0)
    audio_frames: int | None = None
    audio_pool: tuple[int, int] = (1, 1)
    n_classes: int | None = None
    cache: bool = False


class Labelled(NamedTuple):
    """The samples of a split.

    Attributes:
        classes: names; a label is a place in this list.
        names: of the samples.
        labels: theirs; scores in floating point for a regression, whose one class is "score".
        places: where in the split's list they are.
        scores: what the labels were made of, where a data set's literature reports figures of that.
    """

    classes: list[str]
    names: list[str]
    labels: list[Any]
    places: list[int]
    scores: list[float] = []  # noqa: RUF012 (a default that nobody changes)

    def subset(self, chosen: Sequence[int]) -> "Labelled":
        """Those at the indices `chosen`, in that order."""
        return Labelled(
            self.classes,
            [self.names[i] for i in chosen],
            [self.labels[i] for i in chosen],
            [self.places[i] for i in chosen],
            [self.scores[i] for i in chosen] if self.scores else [],
        )
