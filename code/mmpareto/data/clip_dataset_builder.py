"""What every data set of clips with sound and pictures has in common."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from mmpareto.data.dataset_builder import DatasetBuilder
from mmpareto.data.loading.options import InputOptions
from mmpareto.data.preparation import clip_preparation
from mmpareto.data.preparation.clip_preparation import RawClip
from mmpareto.data.preparation.prepared_folder import DatasetInfo
from mmpareto.data.preparation.report import Report
from mmpareto.data.preparation.splits import Split

if TYPE_CHECKING:
    from mmpareto.data.loading.sources import Source


class Found(NamedTuple):
    """What a raw folder holds.

    Attributes:
        clips: a name is there once; those that the split does not contain are not prepared.
        split: which of them are for training and which for testing.
        classes: their names.
        left_out: kind of reason → clip or file → sentence.
        further: entries of prepared.json.
    """

    clips: Sequence[RawClip]
    split: Split
    classes: Sequence[str]
    left_out: Mapping[str, Mapping[str, str]]
    further: Mapping[str, Any] = MappingProxyType({})


class ClipDatasetBuilder(DatasetBuilder):
    """Two modalities: "audio", a filterbank or spectrogram, and "visual", frames; loaded as the released code does."""

    @classmethod
    def sources(
        cls, folder: Path, split: str, names: Sequence[str], prepared: Mapping[str, Any], options: InputOptions
    ) -> "dict[str, Source]":
        """The audio feature and the frames."""
        from mmpareto.data.loading import layout
        from mmpareto.data.loading.sources import AudioSource, FramesSource

        layout.check_files(folder, split, names, options.audio, prepared.get("audio"))
        return {"audio": AudioSource(folder, names, options), "visual": FramesSource(folder, split, names, options)}


class RawClipDatasetBuilder(ClipDatasetBuilder):
    """Clips that are found in a raw folder, as their owners distribute them.

    Attributes:
        raw_help: what --raw is.
        split_help: what --split_files is, for those that take it.
    """

    raw_help: ClassVar[str]
    split_help: ClassVar[str | None] = None

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """The options of `prepare.py NAME`; their values are the arguments of `prepare`."""
        parser.add_argument("--raw", type=Path, required=True, metavar="DIR", help=cls.raw_help)
        if cls.split_help is not None:
            parser.add_argument("--split_files", type=Path, metavar="DIR", help=cls.split_help)
        clip_preparation.add_arguments(parser)

    find: ClassVar[Any]
    """`find(raw, *, seed, …)`: what the raw folder holds, as `Found`; the data set's own options are its arguments."""

    @classmethod
    def prepare(
        cls,
        *,
        raw: Path,
        out: Path,
        fps: int = 1,
        audio: Sequence[str] = ("fbank",),
        seed: int = 0,
        workers: int | None = None,
        **lists: Any,
    ) -> Report:
        """Prepare the raw clips.

        Arguments:
            raw: the raw folder.
            out: the prepared folder.
            fps: frames kept a second.
            audio: names of audio features.
            seed: of a split that is drawn.
            workers: parallel processes; all cores by default.
            lists: the data set's own options, see `find`.

        Raises:
            InputError: as `find` and `prepare_clips`.
        """
        found = cls.find(raw, seed=seed, **lists)
        return clip_preparation.prepare_clips(
            found.clips,
            found.split,
            DatasetInfo(cls.name, cls.title, False, tuple(found.classes)),
            out=out,
            fps=fps,
            audio=audio,
            seed=seed,
            workers=workers,
            found=len(found.clips) + sum(len(sentences) for sentences in found.left_out.values()),
            skipped=found.left_out,
            further=found.further,
        )
