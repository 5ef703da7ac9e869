"""Splits of clips into training and test set: published ones, and seeded ones where there is none."""

import argparse
import codecs
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmpareto.data.loading.labels import strata
from mmpareto.errors import InputError
from mmpareto.files import open_text

TEST_FRACTION = 0.1
PARTS = ("train", "test")
OWN_TEST_FRACTION = 0.2  # of someone's own data, which are often few
OWN_PARTS = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation", "dev"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class PublishedFile:
    """A file of a published split: its `checksum`, and its number of clips per class."""

    sha256: str
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Split:
    """Clips for training and for testing, in order.

    Attributes:
        train, test: names of clips.
        sentence: origin of the split, recorded in prepared.json.
        official: whether it is the published split, byte for byte.
        checks: results of comparing its files with the published ones, one line each.
        valid: names of the data set's own validation set; empty if it has none.
    """

    train: Sequence[str]
    test: Sequence[str]
    sentence: str
    official: bool = False
    checks: Sequence[str] = field(default_factory=tuple)
    valid: Sequence[str] = ()

    @property
    def parts(self) -> dict[str, Sequence[str]]:
        """Part → names, without "valid" if it is empty."""
        return {"train": self.train} | ({"valid": self.valid} if self.valid else {}) | {"test": self.test}


def stratified(labels: Sequence[object], fraction: float, seed: int) -> np.ndarray:
    """Choose about `fraction` of every class at random.

    Every class of two or more members has at least one on either side; a class of one member is not chosen from. The
    choice is a function of the order of `labels`, of `fraction` and of `seed` alone, on every platform.

    Returns:
        Indices of the chosen members, int64, ascending.

    Raises:
        InputError: `fraction` is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise InputError(f"the fraction of clips to hold out must be between 0 and 1, not {fraction}.")
    generator = np.random.Generator(np.random.PCG64(seed))
    members: dict[object, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    chosen: list[int] = []
    for label in sorted(members, key=str):
        indices = members[label]
        # Sorted draws rather than `permutation`, whose results may change between versions of NumPy.
        order = np.argsort(generator.random(len(indices)), kind="stable")
        count = min(max(round(fraction * len(indices)), 1), len(indices) - 1)
        chosen += [indices[position] for position in order[:count]]
    return np.array(sorted(chosen), dtype=np.int64)


def random_split(labels: Mapping[str, str], seed: int) -> Split:
    """Split clips 90 to 10 within every class; `labels` maps a clip's name to its class."""
    names = sorted(labels)  # independent of the file system's order
    test = set(stratified([labels[name] for name in names], TEST_FRACTION, seed).tolist())
    return Split(
        [name for i, name in enumerate(names) if i not in test],
        [name for i, name in enumerate(names) if i in test],
        f"a random stratified 90/10 split with seed {seed}, not the official one",
    )


def add_test_fraction(parser: argparse.ArgumentParser) -> None:
    """Add the option `test_fraction` of `own_split`."""
    parser.add_argument(
        "--test_fraction",
        type=float,
        metavar="F",
        help=f"fraction for testing if the data have no split of their own (default: {OWN_TEST_FRACTION})",
    )


def own_split(
    labels: Mapping[str, Any], parts: Mapping[str, str] | None, source: str, test_fraction: float | None, seed: int
) -> Split:
    """Split someone's own samples as they say, or at random within every class if they do not.

    Arguments:
        labels: sample → label (`loading.labels`), in order.
        parts: sample → "train", "valid" or "test"; None if the data do not say.
        source: of `parts`, in words.
        test_fraction: of a random split; default: `OWN_TEST_FRACTION`.
        seed: of a random split.

    Raises:
        InputError: a part is missing, or the fraction is wrong or not used.
    """
    names = list(labels)
    if parts is None:
        fraction = OWN_TEST_FRACTION if test_fraction is None else test_fraction
        test = set(stratified(strata([*labels.values()], fraction), fraction, seed).tolist())
        sentence = f"random, stratified, {1 - fraction:.0%} for training and {fraction:.0%} for testing, seed {seed}"
        chosen = {name: "test" if index in test else "train" for index, name in enumerate(names)}
    elif test_fraction is not None:
        raise InputError(f"--test_fraction is for data without a split, but {source} has one; leave the flag out.")
    else:
        chosen, sentence = dict(parts), f"as {source} has it"
        if "test" not in chosen.values():  # as in many sets whose test labels are secret
            chosen = {name: "test" if part == "valid" else part for name, part in chosen.items()}
            sentence += ", its validation part for testing"
    members = {part: [name for name in names if chosen[name] == part] for part in OWN_PARTS}
    for part, words in (("train", "training"), ("test", "testing")):
        if not members[part]:
            what = "in the split of " + source if parts is not None else f"in a random split of {len(names)} samples"
            raise InputError(f"no sample is for {words} {what}; add some.")
    return Split(members["train"], members["test"], sentence, valid=members["valid"])


def part_named(word: str) -> str | None:
    """The part, "train", "valid" or "test", that a word means, such as "val"; None if it means none."""
    return next((part for part, words in OWN_PARTS.items() if word.strip().lower() in words), None)


def speaker_split(names: Iterable[str], speaker: Callable[[str], str], seed: int) -> Split:
    """Split clips so that no speaker is in both parts; a tenth of the speakers, at least one, is for testing.

    Raises:
        InputError: there are fewer than two speakers.
    """
    names = sorted(names)
    speakers = sorted({speaker(name) for name in names})
    if len(speakers) < 2:
        raise InputError(f"a speaker-disjoint split needs at least two speakers, not {len(speakers)}.")
    draws = np.random.Generator(np.random.PCG64(seed)).random(len(speakers))
    count = max(round(TEST_FRACTION * len(speakers)), 1)
    test = {speakers[index] for index in np.argsort(draws, kind="stable")[:count]}
    return Split(
        [name for name in names if speaker(name) not in test],
        [name for name in names if speaker(name) in test],
        f"a speaker-disjoint split with seed {seed} ({len(speakers) - count} speakers for training, "
        f"{count} for testing), not the official one",
    )


def published_split(folder: Path, published: Mapping[str, PublishedFile], labels: Mapping[str, str]) -> Split:
    """Read `train.csv` and `test.csv` (one `clip,class` per line) and compare them with the published ones.

    Arguments:
        folder: folder of the two files.
        published: "train" and "test" → checksum and counts of the published file; other classes are refused.
        labels: clip → class of the raw clips, which the files must not contradict.

    Raises:
        InputError: a file is missing, a line is not of the form, a class is unknown or not the clip's, or a clip occurs
            twice.
    """
    read = {part: _read_split_file(folder / f"{part}.csv", published[part].counts) for part in PARTS}
    twice = [clip for clip in read["test"] if clip in read["train"]]
    if twice:
        first = twice[0][:60]
        raise InputError(f"{folder}: {len(twice)} clips are both in train.csv and in test.csv; the first: {first}.")
    for part in PARTS:
        wrong = [clip for clip, label in read[part].items() if labels.get(clip, label) != label]
        if wrong:
            raise InputError(
                f"{folder / part}.csv gives {wrong[0][:60]} the class {read[part][wrong[0]]}, not {labels[wrong[0]]}."
            )
    checks, official = [], True
    for part in PARTS:
        path, expected = folder / f"{part}.csv", published[part]
        line, same = compare_with_published(path, len(read[part]), expected.sha256)
        official = official and same and Counter(read[part].values()) == Counter(expected.counts)
        checks.append(line)
    sentence = "official split"
    if not official:
        sentence = f"the split of {folder / 'train.csv'} and test.csv, whose checksum is not the official one"
    return Split(list(read["train"]), list(read["test"]), sentence, official, checks)


def compare_with_published(path: Path, clips: int, sha256: str) -> tuple[str, bool]:
    """Compare a list of `clips` clips with the published one; return a line for people, and whether they are equal."""
    actual = checksum(path)
    verdict = "the official one" if actual == sha256 else f"not the official one ({sha256})"
    return f"{path}: {clips} clips, SHA-256 {actual}, {verdict}", actual == sha256


def checksum(path: Path) -> str:
    """SHA-256 of a text file without carriage returns and byte order mark: the same for a file saved on Windows."""
    return hashlib.sha256(path.read_bytes().removeprefix(codecs.BOM_UTF8).replace(b"\r", b"")).hexdigest()


def _read_split_file(path: Path, classes: Iterable[str]) -> dict[str, str]:
    """Clip → class, in the order of the file."""
    known, clips = sorted(classes), {}
    try:
        with open_text(path) as file:
            lines = file.read().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"the split file {path} cannot be read: {reason}.") from None
    for number, line in enumerate((line.strip() for line in lines), start=1):
        if not line:
            continue
        clip, _, label = line.rpartition(",")
        if not clip or label not in known:
            raise InputError(f"{path}, line {number}: {line[:60]!r} is not `clip,class` with a class of {known}.")
        if clip in clips:
            raise InputError(f"{path}, line {number}: {clip[:60]} is listed twice.")
        clips[clip] = label
    return clips
