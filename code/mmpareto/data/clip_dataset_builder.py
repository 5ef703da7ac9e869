"""Base classes of data sets of clips with audio and video."""

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
from mmpareto.data.preparation.report import PreparationReport
from mmpareto.data.preparation.splits import Split

if TYPE_CHECKING:
    from mmpareto.data.loading.sources import ModalitySource


class RawContents(NamedTuple):
    """Content of a raw folder.

    Attributes:
        clips: with unique names; those that the split does not contain are not prepared.
        split: names of the clips for training and for testing.
        classes: their names.
        skipped: reason → clip or file → sentence.
        entries: further entries of prepared.json.
        title: of the data set, if it is not the builder's.
        origin: what distinguishes the class set or split; a folder prepared with another one is refused.
        min_frames: clips of fewer frames do not belong to the data set.
    """

    clips: Sequence[RawClip]
    split: Split
    classes: Sequence[str]
    skipped: Mapping[str, Mapping[str, str]]
    entries: Mapping[str, Any] = MappingProxyType({})
    title: str | None = None
    origin: Mapping[str, Any] = MappingProxyType({})
    min_frames: int = 1


class ClipDatasetBuilder(DatasetBuilder):
    """Two modalities, loaded as in the released code: "audio" (an audio feature) and "visual" (frames)."""

    modalities = ("audio", "visual")

    @classmethod
    def sources(
        cls, folder: Path, split: str, names: Sequence[str], prepared: Mapping[str, Any], options: InputOptions
    ) -> "dict[str, ModalitySource]":
        """Return the sources of the audio feature and of the frames."""
        from mmpareto.data.loading import layout
        from mmpareto.data.loading.sources import AudioSource, FramesSource

        layout.check_files(folder, split, names, options.audio, prepared.get("audio"))
        return {"audio": AudioSource(folder, names, options), "visual": FramesSource(folder, split, names, options)}


class RawClipDatasetBuilder(ClipDatasetBuilder):
    """Data sets whose clips are found in a raw folder, as their owners distribute them.

    Attributes:
        raw_help: help text of --raw.
        split_help: help text of --split_files; None if the data set has no such option.
        find: class method `find(raw, *, seed, …)` that returns the `RawContents` of a raw folder; its further arguments
            are the data set's own options.
    """

    raw_help: ClassVar[str]
    split_help: ClassVar[str | None] = None
    find: ClassVar[Any]

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add the options of `prepare.py NAME`; their values are passed to `prepare`."""
        parser.add_argument("--raw", type=Path, required=True, metavar="DIR", help=cls.raw_help)
        if cls.split_help is not None:
            parser.add_argument("--split_files", type=Path, metavar="DIR", help=cls.split_help)
        clip_preparation.add_arguments(parser)

    @classmethod
    def prepare(
        cls,
        *,
        raw: Path,
        out: Path,
        fps: int = 1,
        audio: Sequence[str] = ("fbank",),
        min_frames: int = 1,
        seed: int = 0,
        workers: int | None = None,
        **own_options: Any,
    ) -> PreparationReport:
        """Prepare the raw clips.

        Arguments:
            raw: the raw folder.
            out: the prepared folder.
            fps: frames kept per second.
            audio, min_frames: see `clip_preparation.prepare_clips`.
            seed: of a random split.
            workers: parallel processes; one per core by default.
            own_options: passed to `find`.

        Raises:
            InputError: as `find` and `prepare_clips`.
        """
        contents = cls.find(raw, seed=seed, **own_options)
        return clip_preparation.prepare_clips(
            contents.clips,
            contents.split,
            DatasetInfo(cls.name, contents.title or cls.title, False, tuple(contents.classes)),
            out=out,
            fps=fps,
            audio=audio,
            min_frames=max(min_frames, contents.min_frames),
            seed=seed,
            workers=workers,
            found=len(contents.clips) + sum(len(sentences) for sentences in contents.skipped.values()),
            skipped=contents.skipped,
            origin=contents.origin,
            entries=contents.entries,
        )
