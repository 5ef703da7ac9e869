"""Whether a prepared folder is what it says it is; nothing is changed."""

import dataclasses
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmpareto.data.dataset_builder import DatasetBuilder
from mmpareto.data.loading import layout
from mmpareto.data.loading.options import InputOptions
from mmpareto.data.loading.samples import PreparedDataset
from mmpareto.data.preparation.prepared_folder import CHECKSUMS, sha256
from mmpareto.data.preparation.report import shortened
from mmpareto.data.workers import available_cores
from mmpareto.errors import InputError
from mmpareto.progress import progress

PARTS = ("train", "valid", "test")


@dataclasses.dataclass
class Check:
    """What a check found.

    Attributes:
        title, folder, fingerprint: of the set; the fingerprint is what runs record in config.json.
        counts: part → class → samples.
        files: files whose checksum was compared; None where there is no list of them.
        wrong: a sentence for everything that is not as it must be.
    """

    title: str
    folder: Path
    fingerprint: str
    counts: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    files: int | None = None
    wrong: list[str] = dataclasses.field(default_factory=list)

    def text(self) -> str:
        """The check for people."""
        sums = f"{self.files} files compared" if self.files is not None else f"none: there is no {CHECKSUMS}"
        lines = [f"{self.title} in {self.folder}", f"fingerprint      {self.fingerprint}", f"checksums        {sums}"]
        for part, counts in self.counts.items():
            whole, least, most = max(sum(counts.values()), 1), min(counts.values()), max(counts.values())
            balance = f"a class {least} to {most} ({least / whole:.1%} to {most / whole:.1%})"
            lines.append(f"{part:17}{sum(counts.values())} samples in {len(counts)} classes, {balance}")
        lines.append(f"wrong            {len(self.wrong)}")
        return "\n".join([*lines, *shortened([f"    {sentence}" for sentence in self.wrong])])


def check(data_set: type[DatasetBuilder], folder: Path, options: InputOptions | None = None) -> Check:
    """Compare all checksums, and read every sample of every list as evaluation does.

    Raises:
        InputError: `folder` holds no prepared data set, or one of its lists is damaged.
    """
    prepared = layout.read_prepared(folder)
    found = Check(str(prepared.get("title", data_set.title)), folder, layout.fingerprint(folder))
    _compare(folder, found)
    for part in PARTS:
        if part == "valid" and not (folder / "valid.csv").is_file():
            continue
        dataset = data_set.open(folder, part, training=False, options=_readable(prepared, options))
        tally = Counter(dataset.labels)
        found.counts[part] = {name: tally[label] for label, name in enumerate(dataset.classes)}
        announced = prepared.get("clips", {}).get(part)
        listed = len(layout.read_names(folder, part))
        if announced not in (None, listed):
            found.wrong.append(f"{part}.csv lists {listed} samples, but prepared.json says {announced}")
        _read_all(dataset, part, found)
    return found


def _readable(prepared: dict[str, object], options: InputOptions | None) -> InputOptions:
    """The options given, or those that read the audio feature that there is."""
    kinds = prepared.get("audio")
    first = str(kinds[0]) if isinstance(kinds, list) and kinds else "fbank"
    return options or InputOptions(audio=first)


def _compare(folder: Path, found: Check) -> None:
    path = folder / CHECKSUMS
    if not path.is_file():
        return
    lines = [line.partition("  ") for line in path.read_text(encoding="utf-8").splitlines()]

    def complaint(line: tuple[str, str, str]) -> str | None:
        expected, _, name = line
        try:
            return None if sha256(folder / name) == expected else f"{name} is not what was prepared (checksum)"
        except OSError:
            return f"{name} is absent"

    with ThreadPoolExecutor(available_cores()) as pool:
        done = progress(pool.map(complaint, lines), total=len(lines), unit="file", desc="checksums", disable=None)
        found.wrong += [sentence for sentence in done if sentence is not None]
    found.files = len(lines)


def _read_all(dataset: PreparedDataset, part: str, found: Check) -> None:
    def complaint(place: int) -> str | None:
        try:
            inputs = dataset[place].inputs
        except InputError as error:
            return str(error)
        odd = [name for name, x in inputs.items() if x.is_floating_point() and not bool(x.isfinite().all())]
        return f"{dataset.names[place]}: {odd[0]} holds numbers that are not finite" if odd else None

    places = range(len(dataset))
    with ThreadPoolExecutor(available_cores()) as pool:  # decoding lets other threads work
        done = progress(pool.map(complaint, places), total=len(places), unit="sample", desc=part, disable=None)
        found.wrong += [sentence for sentence in done if sentence is not None]
