"""What every data set has in common: what is to be known of it, how it is prepared, and how it is opened."""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mmpareto.data.loading.options import InputOptions, SampleList
from mmpareto.errors import InputError

if TYPE_CHECKING:
    from mmpareto.data.loading.samples import PreparedDataset
    from mmpareto.data.loading.sources import Source


@dataclasses.dataclass(frozen=True)
class DownloadInfo:
    """What a person needs to know to get a data set.

    Attributes:
        size: how much there is.
        terms: licence or terms.
        page: where it can be had.
        raw: what the raw folder must look like.
    """

    size: str
    terms: str
    page: str
    raw: str


class DatasetBuilder:
    """A data set; a subclass each.

    Attributes:
        name: as it is registered, and as its prepared folder is called.
        title: as papers write it.
        download: for `prepare.py --list`.
        banner: what must be said wherever results on it are shown; None where nothing must.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    download: ClassVar[DownloadInfo]
    banner: ClassVar[str | None] = None
    prepare: ClassVar[Any]
    """Prepares the raw files, and returns a `report.Report`; takes the options of `add_arguments` by name."""

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """The options of `prepare.py NAME`; their values are the arguments of `prepare`."""
        raise NotImplementedError

    @classmethod
    def text(cls) -> str:
        """What a person needs to know to get and prepare it."""
        facts = cls.download
        rows = (("size", facts.size), ("terms", facts.terms), ("page", facts.page), ("raw", facts.raw))
        lines = [f"{cls.name}: {cls.title}"]
        for key, value in rows:
            first, *rest = value.splitlines()
            lines += [f"    {key:6} {first}", *(f"           {line}" for line in rest)]
        return "\n".join(lines)

    @classmethod
    def list_samples(cls, folder: Path, split: str, options: InputOptions) -> SampleList:
        """The samples of a split: all that its list holds, with their classes."""
        from mmpareto.data.loading import layout

        classes = layout.read_classes(folder)
        names, labels = layout.read_split(folder, split, classes)
        return SampleList(classes, names, labels, [*range(len(names))])

    @classmethod
    def extra_metrics(cls, predicted: Any, scores: Sequence[float], n_classes: int) -> Mapping[str, Any]:
        """What the data set's own literature reports, beside accuracy; nothing unless it says so.

        Arguments:
            predicted: (N,) array of labels; of scores, where `n_classes` is 1.
            scores: what the true labels were made of (`SampleList.scores`).
        """
        return {}

    @classmethod
    def sources(
        cls, folder: Path, split: str, names: Sequence[str], prepared: Mapping[str, Any], options: InputOptions
    ) -> "dict[str, Source]":
        """Modality → what reads it, in the order of the modalities.

        Arguments:
            names: all samples of the split's list, in its order.
            prepared: the content of prepared.json; {} where there is none.

        Raises:
            InputError: a file is not there.
        """
        raise NotImplementedError

    @classmethod
    def open(
        cls,
        folder: str | Path,
        split: str,
        *,
        training: bool,
        options: InputOptions | None = None,
        seed: int = 0,
        subset: Sequence[int] | None = None,
        modalities: Sequence[str] | None = None,
    ) -> "PreparedDataset":
        """A split of a prepared folder, sample by sample; see `prepared.PreparedDataset`.

        Arguments:
            split: "train", "valid" or "test".
            training, options, seed: see there.
            subset: places among the samples, in the order wanted; all where None.
            modalities: read these only; all where None.

        Raises:
            InputError: the folder is no prepared data set or lacks files, one of its lists is wrong, or it has no such
                modality.
        """
        from mmpareto.data.loading import layout  # here, since the command line needs no torch
        from mmpareto.data.loading.samples import PreparedDataset

        folder, options = Path(folder), options or InputOptions()
        prepared = layout.read_prepared(folder)
        found = cls.list_samples(folder, split, options)
        sources = cls.sources(folder, split, layout.read_names(folder, split), prepared, options)
        for name in modalities or ():
            if name not in sources:
                raise InputError(f"there is no modality {name!r} in {folder}; it has {' and '.join(sources)}.")
        sources = {name: source for name, source in sources.items() if modalities is None or name in modalities}
        found = found if subset is None else found.subset(subset)
        return PreparedDataset(folder, found, sources, prepared, options, training=training, seed=seed)
