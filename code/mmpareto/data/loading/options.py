"""Options for reading a prepared folder, the list of its samples, and the formats of its audio features."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from mmpareto.data.loading.labels import UNSCALED, LabelScale
from mmpareto.errors import InputError

FrameChoice = Literal["spread", "released", "first", "starts"]


@dataclasses.dataclass(frozen=True)
class InputOptions:
    """Options for reading a prepared folder; the fields have the names of train.py's flags.

    Attributes:
        audio: the audio feature, a key of `FEATURE_FILES`.
        frames: frames per clip.
        frame_choice: which frames (see `sampling`): "released" as in the released MMPareto code; "spread" likewise, but
            spread over clips of few frames; "first" for the first ones, and "starts" for the first of each segment.
        image_size: side of the square images, in pixels.
        crop_scale: range of the fraction of the area that a training crop covers.
        audio_frames: number of time steps to keep, from the beginning; None for all, as published. Fewer save time on a
            few CPU cores if the clips are short and the rest is padding.
        audio_pool: average over blocks of this many (time steps, frequencies) after that; also for small runs.
        n_classes: number of classes, for data sets that leave a choice; 1 for regression.
        cache: keep decoded images in a memory-mapped file (`image_cache`).
        cache_dir: folder of that file; None for the prepared folder's own.
    """

    audio: str = "fbank"
    frames: int = 2
    frame_choice: FrameChoice = "released"
    image_size: int = 224
    crop_scale: tuple[float, float] = (0.08, 1.0)
    audio_frames: int | None = None
    audio_pool: tuple[int, int] = (1, 1)
    n_classes: int | None = None
    cache: bool = False
    cache_dir: str | None = None


def options_of(description: Mapping[str, Any]) -> InputOptions:
    """The options recorded in `PreparedDataset.description`."""
    return InputOptions(
        audio=description["audio"],
        frames=description["frames"],
        frame_choice=description.get("frame_choice", "spread"),  # the only one there was before it was recorded
        image_size=description["image_size"],
        audio_frames=description["audio_frames"],
        audio_pool=tuple(description["audio_pool"]),
        n_classes=description.get("n_classes"),
    )


class SampleList(NamedTuple):
    """The samples of a split.

    Attributes:
        classes: names; a label is an index into this list.
        names: of the samples.
        labels: of the samples, in the form of their task (`labels`).
        indices: of the samples in the split's list.
        scores: scores from which the labels were derived, if the literature reports metrics of them; else [].
        label_scale: by which the scores of a regression are standardised for training.
    """

    classes: list[str]
    names: list[str]
    labels: list[Any]
    indices: list[int]
    scores: list[float] = []  # noqa: RUF012 (never modified)
    label_scale: LabelScale = UNSCALED

    def subset(self, chosen: Sequence[int]) -> "SampleList":
        """The samples at positions `chosen`, in that order."""
        return SampleList(
            self.classes,
            [self.names[i] for i in chosen],
            [self.labels[i] for i in chosen],
            [self.indices[i] for i in chosen],
            [self.scores[i] for i in chosen] if self.scores else [],
            self.label_scale,
        )

    def of_tasks(self, chosen: Sequence[str]) -> "SampleList":
        """The samples of several tasks with the labels of these only.

        Raises:
            InputError: there are no such tasks.
        """
        known = [*self.labels[0]] if self.labels and isinstance(self.labels[0], dict) else []
        if unknown := [name for name in chosen if name not in known]:
            has = f"the tasks {', '.join(known)}" if known else "no tasks to choose from"
            raise InputError(f"there is no task {unknown[0]!r}: the data set has {has}.")
        return self._replace(labels=[{name: label[name] for name in chosen} for label in self.labels])


class FeatureFiles(NamedTuple):
    """An audio feature, and the prepared files from which it is read: <folder>/<clip>.pt.

    Attributes:
        stored: content of the files, a value of `prepare.py --audio`: the feature itself, or the waveform from which
            the loader computes it.
        folder: of the files.
        shape: of the feature.
        time_axis: of the feature.
    """

    stored: str
    folder: str
    shape: tuple[int, int]
    time_axis: int


FEATURE_FILES = {
    "fbank": FeatureFiles("fbank", "audio", (1024, 128), time_axis=0),
    "spectrogram": FeatureFiles("spectrogram", "audio_spectrogram", (257, 188), time_axis=1),
    "stft": FeatureFiles("waveform", "audio_waveform", (129, 626), time_axis=1),
}
AUDIO_FOLDERS = {files.stored: files.folder for files in FEATURE_FILES.values()}


def prepared_features(prepared: Mapping[str, Any]) -> list[str]:
    """Audio features that can be read from a folder with this prepared.json; [] if it does not say."""
    kinds = prepared.get("audio")
    return [audio for audio, files in FEATURE_FILES.items() if isinstance(kinds, list) and files.stored in kinds]
