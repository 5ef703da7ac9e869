"""Writes a sheet to files: Markdown and CSV here, LaTeX in latex.py, HTML in page.py."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmpareto.analysis.report.latex import latex
from mmpareto.analysis.report.page import page
from mmpareto.analysis.report.sheet import Sheet, SheetCell, SheetColumn, SheetPart, SheetRow, verdict_counts
from mmpareto.errors import InputError
from mmpareto.files import remove_leftovers, write_text

CSV_TITLES = ("table", "part", "group", "column", "row", "quantity", "seed", "value", "text", "protocol", "warning")


def write_report(sheet: Sheet, folder: Path) -> list[Path]:
    """Write table.md, table.csv, table.tex and report.html into the folder; return their paths.

    Raises:
        InputError: they cannot be written.
    """
    texts = {
        "table.md": markdown(sheet),
        "table.csv": long_csv(sheet),
        "table.tex": latex(sheet),
        "report.html": page(sheet),
    }
    paths = [folder / name for name in texts]
    try:
        remove_leftovers(folder, texts)
        for path, text in zip(paths, texts.values(), strict=True):
            write_text(path, text)
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}); give another folder.") from error
    return paths


def markdown(sheet: Sheet) -> str:
    """The sheet as Markdown (GitHub's tables)."""
    blocks = [f"# {_safe(sheet.title)}"]
    blocks += [f"> **{_safe(sheet.banner)}**"] if sheet.banner else []
    blocks += [_safe(sheet.question)]
    blocks += [f"**{_safe(sheet.protocol)}**"] if sheet.protocol else []
    blocks += [_markdown_table(sheet.columns, sheet.rows)]
    blocks += ["\n".join(f"- {_safe(note)}" for note in sheet.notes)] if sheet.notes else []
    blocks += (
        ["\n".join(f"- [{n}] {_safe(text)}" for n, text in enumerate(sheet.footnotes, 1))] if sheet.footnotes else []
    )
    if sheet.missing:
        blocks += ["## Missing", "\n".join(f"- {_safe(sentence)}" for sentence in sheet.missing)]
    for part in sheet.parts:
        blocks += [f"## {_safe(part.title)}", _safe(part.text), _markdown_table(part.columns, part.rows)]
    if sheet.claims:
        counts = ", ".join(f"{verdict}: {count}" for verdict, count in verdict_counts(sheet.claims).items())
        doubt = ", on data that cannot confirm or refute them" if sheet.banner else ""
        blocks += [f"## Claims{doubt}", f"**{len(sheet.claims)} claims – {counts}**", _safe(sheet.claims_text)]
        columns = [SheetColumn(title) for title in ("claimed by", "verdict", "evidence", "seeds", "data", "source")]
        rows = [
            SheetRow(
                c.claim, [SheetCell(t) for t in (c.origin, c.verdict, c.evidence, str(c.seeds), c.column, c.source)]
            )
            for c in sheet.claims
        ]
        blocks += [_markdown_table(columns, rows)]
    if sheet.commands:
        blocks += ["## Commands", "```sh\n" + "\n".join(sheet.commands) + "\n```"]
    return "\n\n".join(blocks) + "\n"


def _markdown_table(columns: Sequence[SheetColumn], rows: Sequence[SheetRow]) -> str:
    several = len({column.group for column in columns}) > 1
    titles = [f"{column.group}: {column.title}" if several and column.group else column.title for column in columns]
    lines = [["", *map(_safe, titles)], ["---", *("---:" if _numeric(rows, n) else "---" for n in range(len(columns)))]]
    for row in rows:
        lines.append([_safe(row.label) + (" (baseline)" if row.baseline else ""), *map(_markdown_cell, row.cells)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _markdown_cell(cell: SheetCell) -> str:
    text = f"**{_safe(cell.text)}**" if cell.bold else _safe(cell.text)
    return f"{text} ({_safe(cell.note)})" if cell.note else text


def _numeric(rows: Sequence[SheetRow], index: int) -> bool:
    return any(row.cells[index].value is not None for row in rows)


def _safe(text: str) -> str:
    """The text with Markdown's special characters escaped."""
    for character in "\\|*_`<>":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def long_csv(sheet: Sheet) -> str:
    """The sheet as CSV, one line per number: accuracies and differences as fractions, not percent.

    Columns: table, part ("" for the main table), group, column, row, quantity ("mean", "low", …; "value" of one seed;
    "text" of a cell without numbers, such as a missing result), seed, value, text (the cell as it is shown), protocol,
    warning.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_TITLES)
    main = SheetPart("", "", sheet.columns, sheet.rows)
    for part in (main, *sheet.parts):
        for row in part.rows:
            for column, cell in zip(part.columns, row.cells, strict=True):
                key = (sheet.name, part.title, column.group, column.title, row.label)
                text = f"{cell.text} ({cell.note})" if cell.note else cell.text
                for quantity, seed, value in _numbers(cell):
                    writer.writerow([*key, quantity, seed, value, text, sheet.protocol, sheet.banner or ""])
    return buffer.getvalue()


def _numbers(cell: SheetCell) -> Iterator[tuple[str, str, str]]:
    """Quantity, seed and value of each number behind a cell; at least one line."""
    for quantity, value in cell.numbers.items():
        yield quantity, "", f"{value:.10g}"
    for seed, value in cell.seeds.items():
        yield "value", str(seed), f"{value:.10g}"
    if not cell.numbers and not cell.seeds:
        yield ("text", "", "") if cell.value is None else ("value", "", f"{cell.value:.10g}")
