"""How a prepared folder is read, and what its lists hold."""

import dataclasses
from collections.abc import Mapping, Sequence
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


class SampleList(NamedTuple):
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

    def subset(self, chosen: Sequence[int]) -> "SampleList":
        """Those at the indices `chosen`, in that order."""
        return SampleList(
            self.classes,
            [self.names[i] for i in chosen],
            [self.labels[i] for i in chosen],
            [self.places[i] for i in chosen],
            [self.scores[i] for i in chosen] if self.scores else [],
        )


class FeatureFiles(NamedTuple):
    """The files of one kind of audio feature: <folder>/<clip>.pt, float32."""

    folder: str
    shape: tuple[int, int]
    time_axis: int


FEATURE_FILES = {
    "fbank": FeatureFiles("audio", (1024, 128), time_axis=0),
    "spectrogram": FeatureFiles("audio_spectrogram", (257, 188), time_axis=1),
}


def options_of(description: Mapping[str, Any]) -> InputOptions:
    """The options that a description tells."""
    return InputOptions(
        audio=description["audio"],
        frames=description["frames"],
        image_size=description["image_size"],
        audio_frames=description["audio_frames"],
        audio_pool=tuple(description["audio_pool"]),
        n_classes=description.get("n_classes"),
    )
