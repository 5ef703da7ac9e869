"""Where the audio features of a prepared folder lie, and what they look like."""

from typing import NamedTuple


class FeatureFiles(NamedTuple):
    """The files of one kind of audio feature: <folder>/<clip>.pt, float32."""

    folder: str
    shape: tuple[int, int]
    time_axis: int


FEATURE_FILES = {
    "fbank": FeatureFiles("audio", (1024, 128), time_axis=0),
    "spectrogram": FeatureFiles("audio_spectrogram", (257, 188), time_axis=1),
}
