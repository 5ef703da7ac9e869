"""A clip's audio features and frames, in one pass over its file or files; the way of every data set of clips.

Every file is opened once, probed, and its packets are read once, those of other streams left out. Nothing grows with
the length of a video but the JPEG files that are kept of it.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from mmpareto.data.raw.containers import Consumer, read_streams
from mmpareto.data.raw.features import StreamedFeatures
from mmpareto.data.raw.frame_decoding import FrameReader, ToRGB
from mmpareto.data.raw.media import encode_jpeg
from mmpareto.data.raw.sound_decoding import SoundReader


class ClipContent(NamedTuple):
    """What is prepared of a clip: features by kind, and JPEG files in order of time."""

    features: dict[str, Tensor]
    frames: list[bytes]


def read_clip(
    audio_path: str | os.PathLike[str],
    video_path: str | os.PathLike[str],
    *,
    kinds: Sequence[str],
    fps: int | None,
    start: float = 0,
    seconds: float | None = None,
) -> ClipContent:
    """Read a clip, or a part of a longer video.

    Arguments:
        audio_path, video_path: may be the same file, which is then read once for both.
        kinds: the audio features that are wanted, names of `features.FEATURES`; may be empty.
        fps: frames kept a second (see `frame_choice`); None for no frames.
        start, seconds: the part that is wanted; the whole by default. It begins `start` seconds after the file does,
            frames are counted from there, and it lasts for `seconds` or to the end.

    Returns:
        The features in the order of `kinds`; at least one frame, unless `fps` is None.

    Raises:
        NoAudioError, NoFrameError: a file has no such stream, or nothing in it or in the part.
        MediaError: a file is missing, damaged or ends too early.
        InputError: the sound is shorter than one window, `fps` is not positive or is above the rate of the video, or
            `start` and `seconds` are no part.
    """
    features = StreamedFeatures(kinds)
    consumers: list[tuple[Path, Consumer]] = []
    if kinds:
        consumers.append((Path(audio_path), SoundReader(features.add)))
    reader: FrameReader[bytes] | None = None
    if fps is not None:
        to_rgb = ToRGB()
        reader = FrameReader(fps, lambda frame: encode_jpeg(to_rgb(frame)))
        consumers.append((Path(video_path), reader))
    if len(consumers) == 2 and _same(*(path for path, _ in consumers)):
        read_streams(consumers[0][0], [consumer for _, consumer in consumers], start, seconds)
    else:
        for path, consumer in consumers:
            read_streams(path, [consumer], start, seconds)
    return ClipContent(features.features() if kinds else {}, reader.frames if reader else [])


def _same(first: Path, second: Path) -> bool:
    try:
        return first == second or first.samefile(second)
    except OSError:  # one is missing, which reading it says better
        return False
