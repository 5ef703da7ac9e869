"""What a preparation says when it has ended."""

from dataclasses import dataclass, field
from pathlib import Path

from mmpareto.data.preparation.splits import Split

RECORD = "prepared.json"
NAMES_SHOWN = 20


@dataclass
class Report:
    """What became of every clip.

    Attributes:
        title, out: the data set and its prepared folder.
        found: clips found in the raw files, whatever became of them.
        prepared, already: clips of the split that were prepared now, or had been before.
        skipped: kind of reason → sample (or file) → sentence.
        missing: clips of the split that are not among the raw files.
        outside: clips found that the split does not contain; they are not prepared.
        counts: "train", "test" → class → clips prepared.
        split: how the split was made.
        seconds: how long the work took.
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
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every clip of the raw files and of the split is there."""
        return not self.skipped and not self.missing

    def text(self) -> str:
        """The report for people."""
        rate = f", {self.prepared / self.seconds:.1f} a second" if self.prepared and self.seconds else ""
        lines = [
            f"{self.title} in {self.out}",
            f"clips found      {self.found}",
            f"prepared now     {self.prepared} (in {self.seconds:.0f} s{rate})",
            f"already there    {self.already}",
            f"skipped          {sum(len(names) for names in self.skipped.values())}",
        ]
        for kind, sentences in self.skipped.items():
            lines += [f"  {kind}: {len(sentences)}", *shortened([f"    {sentences[n]}" for n in sorted(sentences)])]
        if self.outside:
            lines.append(f"not in the split {self.outside} (left out)")
        lines += [f"split            {self.split.sentence}", *(f"  {check}" for check in self.split.checks)]
        if self.missing:
            lines.append(f"clips of the split that are not among the raw files: {len(self.missing)}")
            lines += shortened([f"    {name}" for name in self.missing])
        return "\n".join([*lines, *self._table()])

    def _table(self) -> list[str]:
        rows = [(label, *(self.counts[part][label] for part in self.counts)) for label in self.counts["train"]]
        rows.append(("all", *(sum(self.counts[part].values()) for part in self.counts)))
        width = max(len("class"), *(len(str(row[0])) for row in rows))
        header = f"{'class':{width}}" + "".join(f"{part:>8}" for part in self.counts)
        return [header, *(f"{row[0]:{width}}" + "".join(f"{count:8}" for count in row[1:]) for row in rows)]


def shortened(lines: list[str]) -> list[str]:
    """The first lines, and how many more there are."""
    more = len(lines) - NAMES_SHOWN
    return lines if more <= 0 else [*lines[:NAMES_SHOWN], f"    … and {more} more (all in {RECORD})"]
