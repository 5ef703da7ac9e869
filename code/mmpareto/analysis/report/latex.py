"""A sheet as LaTeX: a booktabs table that a paper can \\input."""

import unicodedata
from collections.abc import Sequence

from mmpareto.analysis.report.sheet import Sheet, SheetCell, SheetColumn, SheetRow

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    **{character: f"\\{character}" for character in "&%$#_"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
}
GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho x sigma tau upsilon phi "
    "chi psi omega"
)
SYMBOLS = {"±": r"\pm", "−": "-", "×": r"\times", "·": r"\cdot", "≥": r"\ge", "≤": r"\le", "≠": r"\ne", "→": r"\to"}
SYMBOLS |= {"Δ": r"\Delta", "Σ": r"\Sigma", "∞": r"\infty", "≈": r"\approx", "∂": r"\partial", "∇": r"\nabla"}
SYMBOLS |= {chr(0x3B1 + n): f"\\{name}" for n, name in enumerate(GREEK.split()) if name not in ("x", "omicron")}
SYMBOLS |= {c: f"^{n}" for n, c in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")} | {c: f"_{n}" for n, c in enumerate("₀₁₂₃₄₅₆₇₈₉")}
LONG = 30  # characters; columns with longer texts are broken into lines
TABLE = SPECIAL | {symbol: f"\\ensuremath{{{command}}}" for symbol, command in SYMBOLS.items()}
TABLE |= {
    "…": r"\ldots{}",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "’": "'",
    "“": "``",
    "”": "''",
    "\u00a0": "~",
    "\u202f": r"\,",
    "‑": "-",
}


def latex(sheet: Sheet) -> str:
    """The main table, its notes and what is missing; needs the packages booktabs and graphicx, and T1 fonts."""
    banner = f"\\textbf{{{escaped(sheet.banner)}}} " if sheet.banner else ""
    protocol = f" {escaped(sheet.protocol)}" if sheet.protocol else ""
    notes = [
        *sheet.notes,
        *(f"[{n}] {text}" for n, text in enumerate(sheet.footnotes, 1)),
        *(f"Missing: {sentence}" for sentence in sheet.missing),
    ]
    lines = [
        "% Needs \\usepackage{booktabs,graphicx} and \\usepackage[T1]{fontenc}.",
        *([f"% {' '.join(sheet.banner.split())}"] if sheet.banner else []),
        "\\begin{table*}",
        "\\centering",
        f"\\caption{{{banner}{escaped(sheet.title)}. {escaped(sheet.question)}{protocol}}}",
        f"\\label{{tab:{''.join(c for c in sheet.name if c.isalnum() or c in '-:')}}}",
        "\\medskip",
        "\n\\par\\bigskip\n".join(_tabular(sheet, group, indices) for group, indices in _groups(sheet.columns)),
        *(["\\par\\smallskip\\footnotesize\\raggedright"] if notes else []),
        *(f"{escaped(text)}\\par" for text in notes),
        "\\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _groups(columns: Sequence[SheetColumn]) -> list[tuple[str, list[int]]]:
    """Group → indices of its columns. Groups are below each other because side by side they are wider than a page."""
    groups: dict[str, list[int]] = {}
    for index, column in enumerate(columns):
        groups.setdefault(column.group, []).append(index)
    return [*groups.items()]


def _tabular(sheet: Sheet, group: str, indices: Sequence[int]) -> str:
    """The columns of a group, at most as wide as the line."""
    heading = f" & \\multicolumn{{{len(indices)}}}{{c}}{{{escaped(group)}}} \\\\"
    rows = [
        " & ".join([_label(row), *(_cell(row.cells[index]) for index in indices)])
        + (" \\\\ \\addlinespace" if row.baseline else " \\\\")
        for row in sheet.rows
    ]
    lines = [
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
        f"\\begin{{tabular}}{{l{''.join(_alignment(sheet, index) for index in indices)}}}",
        "\\toprule",
        *([heading, f"\\cmidrule(lr){{2-{len(indices) + 1}}}"] if group else []),
        " & ".join(["", *(escaped(sheet.columns[index].title) for index in indices)]) + " \\\\",
        "\\midrule",
        *rows,
        "\\bottomrule",
        "\\end{tabular}}",
    ]
    return "\n".join(lines)


def _alignment(sheet: Sheet, index: int) -> str:
    """Right for numbers, a paragraph for long texts, left otherwise."""
    cells = [row.cells[index] for row in sheet.rows]
    if max((len(cell.text) for cell in cells), default=0) > LONG:
        return "p{4cm}"
    return "r" if any(cell.value is not None for cell in cells) else "l"


def escaped(text: str) -> str:
    """The text in LaTeX's syntax; characters that are neither Latin nor in `TABLE` become similar letters, or "?"."""
    latex_text = "".join(TABLE.get(character) or _plain(character) for character in " ".join(text.split()))
    return latex_text.replace("--", "-{}-")  # otherwise the dashes of a flag would become one long dash


def _plain(character: str) -> str:
    if ord(character) < 0x180:  # Latin, which T1 fonts have
        return character
    return unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?"


def _label(row: SheetRow) -> str:
    return f"{{{escaped(row.label)}}}"  # otherwise \\ of the row above takes a bracket as its argument


def _cell(cell: SheetCell) -> str:
    """The cell without notes that are too long for print (seeds, p) or are listed below (missing results)."""
    text = f"\\textbf{{{escaped(cell.text)}}}" if cell.bold else escaped(cell.text)
    text = f"\\emph{{{text}}}" if cell.incomplete else text
    show_note = cell.note and (cell.value is not None if cell.incomplete else not cell.numbers)
    return f"{text} {{\\scriptsize {escaped(cell.note)}}}" if show_note else text
