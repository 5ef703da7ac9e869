"""Report of a preparation."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmpareto.data.preparation.splits import Split

RECORD = "prepared.json"
NAMES_SHOWN = 20
ALL_IN_RECORD = f" (all in {RECORD})"


@dataclass
class PreparationReport:
    """Result for every clip.

    Attributes:
        title, out: the data set and its prepared folder.
        found: number of clips found among the raw files, whatever their result.
        split: the split.
        skipped: reason → clip or file → sentence.
        missing: clips of the split that are not among the raw files.
        outside: number of clips found that the split does not contain; they are not prepared.
        prepared, already: number of clips of the split that were prepared now, and before.
        counts: "train", "test" → class → number of prepared clips that have it.
        sizes: "train", "test" → number of prepared clips; empty if each has one class, so that `counts` tell.
        seconds: duration of the preparation.
        unit: word for what is prepared.
        notes: further lines, each a title of up to 16 letters and a text.
        remarks: kind → clips that were prepared, but are probably not what they should be (`raw.remarks`).
    """

    title: str
    out: Path
    found: int
    split: Split
    skipped: dict[str, dict[str, str]]
    missing: list[str]
    outside: int
    prepared: int = 0
    already: int = 0
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    unit: str = "clips"
    notes: Sequence[str] = ()
    remarks: dict[str, list[str]] = field(default_factory=dict)

    @property
    def totals(self) -> dict[str, int]:
        """Part → number of prepared clips."""
        return self.sizes or {part: sum(counts.values()) for part, counts in self.counts.items()}

    @property
    def complete(self) -> bool:
        """True if every clip of the raw files and of the split could be prepared."""
        return not self.skipped and not self.missing

    def text(self) -> str:
        """The report for people."""
        rate = f", {self.prepared / self.seconds:.1f} per second" if self.prepared and self.seconds else ""
        lines = [
            f"{self.title} in {self.out}",
            f"{self.unit + ' found':17}{self.found}",
            f"prepared now     {self.prepared} (in {self.seconds:.0f} s{rate})",
            f"prepared before  {self.already}",
            f"skipped          {sum(len(names) for names in self.skipped.values())}",
        ]
        for reason, sentences in self.skipped.items():
            lines.append(f"  {reason}: {len(sentences)}")
            lines += shortened([f"    {sentences[name]}" for name in sorted(sentences)], ALL_IN_RECORD)
        if self.remarks:
            lines.append(f"remarks          {len({*itertools.chain(*self.remarks.values())})} (prepared all the same)")
        for kind, names in self.remarks.items():
            lines.append(f"  {kind}: {len(names)}")
            lines += shortened([f"    {name}" for name in names], ALL_IN_RECORD)
        lines += self.notes
        if self.missing:
            listed = sum(len(names) for names in self.split.parts.values())
            lines.append(f"absent           {len(self.missing)} of {listed} listed clips")
        if self.outside:
            lines.append(f"not in the split {self.outside} (not prepared)")
        lines += [f"split            {self.split.sentence}", *(f"  {check}" for check in self.split.checks)]
        if self.missing:
            lines.append(f"clips of the split that are not among the raw files: {len(self.missing)}")
            lines += shortened([f"    {name}" for name in self.missing], ALL_IN_RECORD)
        return "\n".join([*lines, *self._table()])

    def _table(self) -> list[str]:
        rows = [(label, *(self.counts[part][label] for part in self.counts)) for label in self.counts["train"]]
        rows.append(("all", *(self.totals[part] for part in self.counts)))
        width = max(len("class"), *(len(str(row[0])) for row in rows))
        header = f"{'class':{width}}" + "".join(f"{part:>8}" for part in self.counts)
        return [header, *(f"{row[0]:{width}}" + "".join(f"{count:8}" for count in row[1:]) for row in rows)]


def shortened(lines: list[str], where: str = "") -> list[str]:
    """The first lines, and the number of the others; `where` names the place of all of them."""
    more = len(lines) - NAMES_SHOWN
    return lines if more <= 0 else [*lines[:NAMES_SHOWN], f"    … and {more} more{where}"]
