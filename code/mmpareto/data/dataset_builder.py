"""Base class of all data sets: how to get one, how to prepare it, and how to open it."""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mmpareto.data.loading.options import InputOptions, SampleList
from mmpareto.errors import InputError

if TYPE_CHECKING:
    from mmpareto.data.loading.samples import PreparedDataset
    from mmpareto.data.loading.sources import ModalitySource


@dataclasses.dataclass(frozen=True)
class DownloadInfo:
    """Size, terms and origin of a data set.

    Attributes:
        size: number of samples, classes, and bytes.
        terms: licence or terms of use.
        page: page to download it from; empty for someone's own data.
        raw: expected content of the raw folder.
    """

    size: str
    terms: str
    page: str
    raw: str


class DatasetBuilder:
    """Base class; one subclass per data set, which is never instantiated.

    Attributes:
        name: the registered name, also that of the default prepared folder.
        title: the name used in papers.
        modalities: names of its modalities; None where they differ between prepared folders, whose prepared.json then
            lists them under "modalities".
        tasks: names of its tasks, where a sample has a class for each of several; a folder's are in its prepared.json.
        download: printed by `prepare.py --list`.
        banner: a warning to be shown with every result on the data set, or None.
        made_here: this program makes it from a seed, so that its preparation needs no raw files.
        loses_samples: nobody can get all of the listed samples any more, so that absent ones are not an error.
        prepare: class method that prepares the raw files and returns a `PreparationReport`; its arguments are the
            options of `add_arguments`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    modalities: ClassVar[tuple[str, ...] | None] = None
    tasks: ClassVar[tuple[str, ...]] = ()
    download: ClassVar[DownloadInfo]
    banner: ClassVar[str | None] = None
    made_here: ClassVar[bool] = False
    loses_samples: ClassVar[bool] = False
    prepare: ClassVar[Any]

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the options of `prepare.py NAME`; their values are passed to `prepare`."""
        raise NotImplementedError

    @classmethod
    def download_raw(cls, folder: Path) -> None:
        """Download the raw files into `folder`, which `prepare` then reads as its raw folder.

        Only data sets that anyone can have without asking for access override this.

        Raises:
            InputError: a file cannot be downloaded, or this program does not download the data set.
        """
        if cls.made_here:
            raise InputError(f"{cls.name} is {cls.download.page}, without --download.")
        if not cls.download.page:
            raise InputError(f"{cls.name} reads data of your own, from where you have them: give them as --raw.")
        raise InputError(
            f"this program does not download {cls.title}; get it from {cls.download.page}, and give it as --raw."
        )

    @classmethod
    def text(cls) -> str:
        """Describe the data set and how to get it, in a few lines."""
        info = cls.download
        rows = (("size", info.size), ("terms", info.terms), ("page", info.page), ("raw", info.raw))
        lines = [f"{cls.name}: {cls.title}"]
        for key, value in filter(all, rows):
            first, *rest = value.splitlines()
            lines += [f"    {key:6} {first}", *(f"           {line}" for line in rest)]
        return "\n".join(lines)

    @classmethod
    def list_samples(cls, folder: Path, split: str, options: InputOptions) -> SampleList:
        """Return the samples of a split with their labels: all that its list contains, unless overridden."""
        from mmpareto.data.loading import layout

        classes = layout.read_classes(folder)
        names, labels = layout.read_split(folder, split, classes)
        return SampleList(classes, names, labels, [*range(len(names))])

    @classmethod
    def extra_metrics(cls, predicted: Any, scores: Sequence[float], n_classes: int) -> Mapping[str, Any]:
        """Return metrics besides accuracy that the literature reports on this data set; none by default.

        Arguments:
            predicted: (N,) array of predicted labels; of predicted scores if `n_classes` is 1.
            scores: the scores from which the true labels were derived (`SampleList.scores`).
        """
        return {}

    @classmethod
    def sources(
        cls, folder: Path, split: str, names: Sequence[str], prepared: Mapping[str, Any], options: InputOptions
    ) -> "dict[str, ModalitySource]":
        """Return modality → source of its inputs, in the order of the modalities.

        Arguments:
            names: all samples of the split's list, in its order.
            prepared: the content of prepared.json; {} if the folder has none.

        Raises:
            InputError: a file is missing.
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
        tasks: Sequence[str] | None = None,
    ) -> "PreparedDataset":
        """Open a split of a prepared folder as a PyTorch data set.

        Arguments:
            split: "train", "valid" or "test".
            training, options, seed: see `PreparedDataset`.
            subset: indices of the samples to use, in this order; default: all.
            modalities: names of the modalities to read; default: all.
            tasks: names of the tasks to read the labels of, for data with several; default: all.

        Raises:
            InputError: the folder is not a prepared data set, a file is missing or a list is wrong, or there is no such
                modality or task.
        """
        from mmpareto.data.loading import layout  # not at the top: the command line needs no torch
        from mmpareto.data.loading.samples import PreparedDataset

        folder, options = Path(folder), options or InputOptions()
        prepared = layout.read_prepared(folder)
        samples = cls.list_samples(folder, split, options)
        sources = cls.sources(folder, split, layout.read_names(folder, split), prepared, options)
        for name in modalities or ():
            if name not in sources:
                raise InputError(f"{folder} has no modality {name!r}; it has {' and '.join(sources)}.")
        sources = {name: source for name, source in sources.items() if modalities is None or name in modalities}
        samples = samples if tasks is None else samples.of_tasks(tasks)
        samples = samples if subset is None else samples.subset(subset)
        return PreparedDataset(folder, samples, sources, prepared, options, training=training, seed=seed)
