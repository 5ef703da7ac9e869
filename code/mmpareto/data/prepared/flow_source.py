"""What reads optical flow from a prepared folder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode

from mmpareto.data.prepared import layout
from mmpareto.data.prepared.reading import InputOptions
from mmpareto.data.prepared.sources import Normalisation, cropped, drawn_frames
from mmpareto.data.raw.optical_flow import FLOW_FOLDERS
from mmpareto.errors import InputError


class FlowSource:
    """Flow of a clip as uint8 (frames, 2, size, size), its frames chosen and cropped as those of a `FramesSource`.

    A picture is resized, but not its values, as in two-stream networks. A mirror image moves the other way: its u is
    negated. The mean is no motion, the standard deviation the mean one of ImageNet's colours, as in Temporal Segment
    Networks.

    Arguments:
        folder: the prepared folder, with pictures in flow_u/<clip> and flow_v/<clip>.
        names: of the clips.
        options: `frames`, `image_size` and `crop_scale`; a cache holds frames only.
    """

    channels = 2
    normalisation: Normalisation | None = Normalisation((0.5, 0.5), (0.226, 0.226), negated=(0,))
    mirrors = True

    def __init__(self, folder: Path, names: Sequence[str], options: InputOptions) -> None:
        self.folder, self.names, self.options = folder, names, options
        self._counts: dict[int, int] = {}

    def read(self, place: int, generator: np.random.Generator | None) -> Tensor:
        """The flow at the frames."""
        numbers = drawn_frames(self._count(place), self.options.frames, generator)
        return torch.stack([cropped(self.frame(place, number), self.options, generator) for number in numbers])

    def frame(self, place: int, number: int) -> Tensor:
        """The flow from frame `number` (from 1) of a clip, whole, uint8 (2, height, width).

        Raises:
            InputError: a picture is missing or damaged, or the two differ in size.
        """
        paths = [self.folder / part / self.names[place] / f"frame_{number:05d}.jpg" for part in FLOW_FOLDERS]
        u, v = (layout.read_image(path, "delete its folder and prepare again", ImageReadMode.GRAY) for path in paths)
        if u.shape != v.shape:
            raise InputError(f"{paths[0]} and {paths[1]} differ in size; delete their folders and prepare again.")
        return torch.cat([u, v])

    def _count(self, place: int) -> int:
        if place not in self._counts:
            folder = self.folder / FLOW_FOLDERS[0] / self.names[place]
            self._counts[place] = len([*folder.glob("frame_*.jpg")])
            if not self._counts[place]:
                raise InputError(f"{folder} holds no flow; delete it and prepare again.")
        return self._counts[place]
