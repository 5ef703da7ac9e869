"""Check of a prepared folder against its own lists and checksums; it changes nothing."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mmpareto.data.dataset_builder import DatasetBuilder
from mmpareto.data.loading import layout
from mmpareto.data.loading.labels import class_counts
from mmpareto.data.loading.options import InputOptions, prepared_features
from mmpareto.data.loading.samples import PreparedDataset
from mmpareto.data.preparation.prepared_folder import CHECKSUMS, sha256
from mmpareto.data.preparation.report import shortened
from mmpareto.data.workers import available_cores
from mmpareto.errors import InputError
from mmpareto.progress import progress

PARTS = ("train", "valid", "test")


@dataclasses.dataclass
class CheckReport:
    """Result of a check.

    Attributes:
        title, folder, fingerprint: of the data set; runs record the fingerprint in config.json.
        samples: part → number of samples.
        counts: part → class → number of samples that have it.
        files: number of files whose checksums were compared; None if the folder has no checksums.
        wrong: one sentence per problem.
    """

    title: str
    folder: Path
    fingerprint: str
    samples: dict[str, int] = dataclasses.field(default_factory=dict)
    counts: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    files: int | None = None
    wrong: list[str] = dataclasses.field(default_factory=list)

    def text(self) -> str:
        """The report for people."""
        sums = f"{self.files} files compared" if self.files is not None else f"none: there is no {CHECKSUMS}"
        lines = [f"{self.title} in {self.folder}", f"fingerprint      {self.fingerprint}", f"checksums        {sums}"]
        for part, counts in self.counts.items():
            samples, least, most = self.samples[part], min(counts.values()), max(counts.values())
            total = max(samples, 1)
            balance = f"{least} to {most} per class ({least / total:.1%} to {most / total:.1%})"
            classes = f" in {len(counts)} classes, {balance}" if len(counts) > 1 else ""
            lines.append(f"{part:17}{samples} samples{classes}")
        lines.append(f"wrong            {len(self.wrong)}")
        return "\n".join([*lines, *shortened([f"    {sentence}" for sentence in self.wrong])])


def check(dataset: type[DatasetBuilder], folder: Path) -> CheckReport:
    """Compare all checksums, and read every sample of every list as evaluation does, with all its audio features.

    Raises:
        InputError: `folder` is not a prepared data set, or one of its lists is damaged.
    """
    prepared = layout.read_prepared(folder)
    report = CheckReport(str(prepared.get("title", dataset.title)), folder, layout.fingerprint(folder))
    _compare_checksums(folder, report)
    for part in PARTS:
        if part == "valid" and not (folder / "valid.csv").is_file():
            continue
        options, *others = _options(prepared)
        samples = dataset.open(folder, part, training=False, options=options)
        report.samples[part] = len(samples)
        report.counts[part] = class_counts(samples.labels, samples.classes)
        recorded, listed = prepared.get("clips", {}).get(part), len(layout.read_names(folder, part))
        if recorded not in (None, listed):
            report.wrong.append(f"{part}.csv lists {listed} samples, but prepared.json says {recorded}")
        _read_all(samples, part, report)
        for other in others:
            _read_all(dataset.open(folder, part, training=False, options=other, modalities=["audio"]), part, report)
    return report


def _options(prepared: dict[str, Any]) -> list[InputOptions]:
    """Options that read each audio feature that the folder has; the default ones if it has none."""
    return [InputOptions(audio=audio) for audio in prepared_features(prepared)] or [InputOptions()]


def _compare_checksums(folder: Path, report: CheckReport) -> None:
    path = folder / CHECKSUMS
    if not path.is_file():
        return
    content = path.read_text(encoding="utf-8", errors="replace")
    lines = [line.partition("  ") for line in content.splitlines()]

    def problem(line: tuple[str, str, str]) -> str | None:
        expected, _, name = line
        try:
            return None if sha256(folder / name) == expected else f"{name} has changed since it was prepared (checksum)"
        except (OSError, ValueError):  # no such file, or no name of a file
            return f"{name[:80]} is missing"

    with ThreadPoolExecutor(available_cores()) as pool:
        problems = progress(pool.map(problem, lines), total=len(lines), unit="file", desc="checksums", disable=None)
        report.wrong += [sentence for sentence in problems if sentence is not None]
    report.files = len(lines)


def _read_all(samples: PreparedDataset, part: str, report: CheckReport) -> None:
    def problem(index: int) -> str | None:
        try:
            inputs = samples[index].inputs
        except InputError as error:
            return str(error)
        bad = [name for name, x in inputs.items() if x.is_floating_point() and not bool(x.isfinite().all())]
        return f"{samples.names[index]}: {bad[0]} contains numbers that are not finite" if bad else None

    indices = range(len(samples))
    with ThreadPoolExecutor(available_cores()) as pool:  # decoding releases the interpreter lock
        problems = progress(pool.map(problem, indices), total=len(indices), unit="sample", desc=part, disable=None)
        report.wrong += [sentence for sentence in problems if sentence is not None]
