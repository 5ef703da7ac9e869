"""A sheet as LaTeX: a table of booktabs to be taken into a paper by \\input."""

import unicodedata
from collections.abc import Sequence

from mmpareto.analysis.report.layout import Sheet, SheetCell, SheetColumn, SheetRow

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    **{sign: f"\\{sign}" for sign in "&%$#_"},
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
SIGNS = {"±": r"\pm", "−": "-", "×": r"\times", "·": r"\cdot", "≥": r"\ge", "≤": r"\le", "≠": r"\ne", "→": r"\to"}
SIGNS |= {"Δ": r"\Delta", "Σ": r"\Sigma", "∞": r"\infty", "≈": r"\approx", "∂": r"\partial", "∇": r"\nabla"}
SIGNS |= {chr(0x3B1 + n): f"\\{name}" for n, name in enumerate(GREEK.split()) if name not in ("x", "omicron")}
SIGNS |= {sign: f"^{n}" for n, sign in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")} | {sign: f"_{n}" for n, sign in enumerate("₀₁₂₃₄₅₆₇₈₉")}
LONG = 30  # signs from which on a column is broken into lines
TABLE = SPECIAL | {sign: f"\\ensuremath{{{command}}}" for sign, command in SIGNS.items()}
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
    """The sheet's main table, its notes and what is missing; needs the packages booktabs and graphicx, and T1 fonts."""
    banner = f"\\textbf{{{escaped(sheet.banner)}}} " if sheet.banner else ""
    protocol = f" {escaped(sheet.protocol)}" if sheet.protocol else ""
    under = [
        *sheet.notes,
        *(f"[{n}] {text}" for n, text in enumerate(sheet.footnotes, 1)),
        *(f"Missing: {hole}" for hole in sheet.holes),
    ]
    lines = [
        "% Needs \\usepackage{booktabs,graphicx} and \\usepackage[T1]{fontenc}.",
        *([f"% {' '.join(sheet.banner.split())}"] if sheet.banner else []),
        "\\begin{table*}",
        "\\centering",
        f"\\caption{{{banner}{escaped(sheet.title)}. {escaped(sheet.question)}{protocol}}}",
        f"\\label{{tab:{''.join(c for c in sheet.name if c.isalnum() or c in '-:')}}}",
        "\\medskip",
        "\n\\par\\bigskip\n".join(_tabular(sheet, group, places) for group, places in _groups(sheet.columns)),
        *(["\\par\\smallskip\\footnotesize\\raggedright"] if under else []),
        *(f"{escaped(text)}\\par" for text in under),
        "\\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _groups(columns: Sequence[SheetColumn]) -> list[tuple[str, list[int]]]:
    """The places of the columns by group: side by side, the groups would be wider than a page."""
    found: dict[str, list[int]] = {}
    for place, column in enumerate(columns):
        found.setdefault(column.group, []).append(place)
    return [*found.items()]


def _tabular(sheet: Sheet, group: str, places: Sequence[int]) -> str:
    """One group's columns, no wider than the line."""
    above = f" & \\multicolumn{{{len(places)}}}{{c}}{{{escaped(group)}}} \\\\"
    rows = [
        " & ".join([_label(row), *(_cell(row.cells[place]) for place in places)])
        + (" \\\\ \\addlinespace" if row.baseline else " \\\\")
        for row in sheet.rows
    ]
    lines = [
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
        f"\\begin{{tabular}}{{l{''.join(_alignment(sheet, place) for place in places)}}}",
        "\\toprule",
        *([above, f"\\cmidrule(lr){{2-{len(places) + 1}}}"] if group else []),
        " & ".join(["", *(escaped(sheet.columns[place].title) for place in places)]) + " \\\\",
        "\\midrule",
        *rows,
        "\\bottomrule",
        "\\end{tabular}}",
    ]
    return "\n".join(lines)


def _alignment(sheet: Sheet, place: int) -> str:
    """Figures to the right; long texts in lines."""
    cells = [row.cells[place] for row in sheet.rows]
    if max((len(cell.text) for cell in cells), default=0) > LONG:
        return "p{4cm}"
    return "r" if any(cell.value is not None for cell in cells) else "l"


def escaped(text: str) -> str:
    """The text as LaTeX sets it; a sign that is neither European nor of `TABLE` becomes its nearest letters, or "?"."""
    found = "".join(TABLE.get(sign) or _plain(sign) for sign in " ".join(text.split()))
    return found.replace("--", "-{}-")  # of a flag: no dash


def _plain(sign: str) -> str:
    if ord(sign) < 0x180:  # Latin, which T1 fonts have
        return sign
    return unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode() or "?"


def _label(row: SheetRow) -> str:
    return f"{{{escaped(row.label)}}}"  # in braces: the end of a row would take a bracket after it for its argument


def _cell(cell: SheetCell) -> str:
    """Without the notes on usual figures (seeds, p), too much for print, and on holes, which are listed below."""
    text = f"\\textbf{{{escaped(cell.text)}}}" if cell.bold else escaped(cell.text)
    text = f"\\emph{{{text}}}" if cell.hole else text
    shown = cell.note and (cell.value is not None if cell.hole else not cell.numbers)
    return f"{text} {{\\scriptsize {escaped(cell.note)}}}" if shown else text
