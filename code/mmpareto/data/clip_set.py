"""What every data set of clips with sound and pictures has in common."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpareto.data.data_set import DataSet
from mmpareto.data.reading import InputOptions

if TYPE_CHECKING:
    from mmpareto.data.sources import Source


class ClipSet(DataSet):
    """Two modalities: "audio", a filterbank or spectrogram, and "visual", frames; loaded as the released code does."""

    @classmethod
    def sources(
        cls, folder: Path, split: str, names: Sequence[str], prepared: Mapping[str, Any], options: InputOptions
    ) -> "dict[str, Source]":
        """The audio feature and the frames."""
        from mmpareto.data import layout
        from mmpareto.data.sources import AudioSource, FramesSource

        layout.check_files(folder, split, names, options.audio, prepared.get("audio"))
        return {"audio": AudioSource(folder, names, options), "visual": FramesSource(folder, split, names, options)}
