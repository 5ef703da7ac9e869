"""What every data set of clips has in common."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from mmpareto.data.clips import ClipDataset


class ClipSet:
    """A data set of clips: its names, and how its prepared folder is opened.

    Attributes:
        name: as it is registered, and as its prepared folder is called.
        title: as papers write it.
        banner: what must be said wherever results on it are shown; None where nothing must.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    banner: ClassVar[str | None] = None

    @staticmethod
    def open(folder: str | Path, split: str, **options: Any) -> "ClipDataset":
        """The `ClipDataset` of a split of the prepared `folder`; `options` are its arguments."""
        from mmpareto.data.clips import ClipDataset  # here, since the command line of preparation needs no torch

        return ClipDataset(folder, split, **options)
