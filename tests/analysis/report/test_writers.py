"""Reports as Markdown, CSV, LaTeX and HTML."""

import csv
import dataclasses
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fake_runs import CREMAD, JOINT, MMPARETO, PARETO, SYNTHETIC, UNIFORM, finished, missing, table_of
from mmpareto.analysis.report.page import page
from mmpareto.analysis.report.run_sheet import make_run_sheet
from mmpareto.analysis.report.sheet import VERDICTS, Interval, Plot, Sheet, SheetCell, SheetColumn, SheetRow
from mmpareto.analysis.report.writers import latex, long_csv, markdown, write_report
from mmpareto.errors import InputError

NASTY = '50% & $5 #1 a_b {x} \\cmd ~^ <b>bold</b> | "q" α γ Δ ± − × ≥ → … – “q” ² ‑ é 中 [1] --flag'
VOID = {"meta", "line", "circle", "img", "br", "link", "input"}


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> Sheet:
    """Two data sets, one of them synthetic, with six seeds, missing runs, evaluations and curves."""
    runs, random, outcomes = tmp_path_factory.mktemp("runs"), np.random.default_rng(0), []
    for column in (CREMAD, SYNTHETIC):
        for row, share in ((UNIFORM, 0.6), (MMPARETO, 0.75), (PARETO, 0.6)):
            for seed in range(6):
                correct = random.random(120) < share
                accuracies = {"acc": float(correct.mean()), "acc_audio": 0.5 + seed / 100}
                lines = [{"train_acc_audio": 0.5}, {"train_acc_audio": 0.6}]
                one = finished(runs, row, column, seed, accuracies, correct=[*correct], history=lines)
                outcomes.append(missing(row, column, seed, "failed: NaN") if (row, seed) == (PARETO, 3) else one)
        outcomes += [missing(JOINT, column, seed, "not run") for seed in range(6)]
    return make_run_sheet(table_of(MMPARETO, PARETO, JOINT, columns=[CREMAD, SYNTHETIC]), outcomes, "validation")


@pytest.fixture
def plain() -> Sheet:
    """A sheet of text cells only, like the cost table."""
    rows = [
        SheetRow("uniform", [SheetCell("2.11", 2.11), SheetCell("1.00", 1.0)], baseline=True),
        SheetRow("mmpareto", [SheetCell("3.69", 3.69), SheetCell("1.74", 1.74, note="1.58 – 1.89")]),
    ]
    return Sheet("Cost", "What does a step cost?", [SheetColumn("CPU seconds"), SheetColumn("× uniform")], rows)


@pytest.fixture
def nasty() -> Sheet:
    """Characters that are special in one of the formats, in every text of a sheet."""
    cells = [SheetCell(NASTY, 1.0, NASTY, bold=True), SheetCell("[x] y", incomplete=True, note=NASTY)]
    rows = [SheetRow(NASTY, cells, baseline=True), SheetRow("[x]", [SheetCell("[1]"), SheetCell("[2]")])]
    columns = [SheetColumn(NASTY, "G & 1", NASTY), SheetColumn("b", "G 2")]
    many = {"notes": [NASTY], "footnotes": [NASTY], "missing": [NASTY], "commands": [NASTY]}
    return Sheet(NASTY, NASTY, columns, rows, banner=NASTY, protocol=NASTY, **many)  # type: ignore[arg-type]


class Page(HTMLParser):
    """The elements of a page; every opened element must be closed, in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & {*self.open}:
            self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_a_report_is_four_files_that_overwrite_the_old_ones(sheet: Sheet, plain: Sheet, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "tables" / "main"
    for one in (sheet, plain):
        paths = write_report(one, folder)
        assert [path.name for path in paths] == ["table.md", "table.csv", "table.tex", "report.html"]
        assert sorted(folder.iterdir()) == sorted(paths)
    assert "Cost" in (folder / "report.html").read_text()


def test_a_folder_that_cannot_be_created_is_an_input_error(plain: Sheet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="give another folder"):
        write_report(plain, tmp_path / "file")


@pytest.mark.parametrize("write", [markdown, long_csv, latex, page])
def test_every_format_warns_of_synthetic_data(sheet: Sheet, write: object) -> None:
    assert sheet.banner is not None
    text = write(sheet)  # type: ignore[operator]
    assert sheet.banner.split(".")[0] in text
    if write is not long_csv:
        assert text.index("SYNTHETIC DATA") < text.index("Uniform")  # in the headline


@pytest.mark.parametrize("write", [markdown, long_csv, latex, page])
def test_every_format_has_numbers_and_reasons_for_missing_ones(sheet: Sheet, write: object) -> None:
    text = write(sheet)  # type: ignore[operator]
    accuracy = sheet.rows[1].cells[0].text
    for words in (accuracy.split(" ")[0], "no run", "failed: NaN" if write is not long_csv else "5 of 6 seeds"):
        assert words in text
    assert "validation set" in text


def test_csv_has_every_number_and_every_seed(sheet: Sheet) -> None:
    lines = list(csv.DictReader(io.StringIO(long_csv(sheet))))
    assert {line["warning"] for line in lines} == {sheet.banner}
    key = {"part": "", "group": "CREMA-D", "column": "accuracy, %", "row": "MMPareto"}
    selected = [line for line in lines if key.items() <= line.items()]
    seeds = {int(line["seed"]): float(line["value"]) for line in selected if line["seed"]}
    assert seeds == pytest.approx(sheet.rows[1].cells[0].seeds)
    numbers = {line["quantity"]: float(line["value"]) for line in selected if not line["seed"]}
    assert numbers["mean"] == pytest.approx(np.mean([*seeds.values()]))
    assert numbers["standard deviation"] == pytest.approx(np.std([*seeds.values()], ddof=1))
    cells = {(line["part"], line["group"], line["column"], line["row"]) for line in lines}
    assert len(cells) >= len(sheet.rows) * len(sheet.columns)
    hole = [line for line in lines if line["row"] == "Joint loss" and line["column"] == "accuracy, %"]
    assert hole[0]["quantity"] == "text" and hole[0]["text"] == "no run (not run)"


def test_markdown_tables_have_complete_rows(sheet: Sheet, nasty: Sheet) -> None:
    for one in (sheet, nasty):
        text = re.sub(r"\\.", "", markdown(one))  # without escaped characters
        tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
        assert tables
        for table in tables:
            assert len({line.count("|") for line in table.splitlines()}) == 1
    assert f"**{sheet.rows[1].cells[0].text}**" in markdown(sheet)
    assert "<b>" not in markdown(nasty).split("```")[0].replace("\\<b\\>", "")


def test_latex_has_one_cell_per_column(sheet: Sheet, nasty: Sheet) -> None:
    for one in (sheet, nasty):
        text = latex(one)
        bare = re.sub(r"\\[&%$#_{}\\]", "", text.replace("\\\\", ""))
        assert bare.count("{") == bare.count("}")
        for tabular in re.findall(r"\\midrule\n(.*?)\\bottomrule", text, flags=re.DOTALL):
            rows = [line for line in tabular.splitlines() if line]
            assert len(rows) == len(one.rows)
            assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1
    assert (
        f"\\textbf{{{sheet.rows[1].cells[0].text.replace('±', chr(92) + 'ensuremath{' + chr(92) + 'pm}')}}}"
        in latex(sheet)
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(sheet: Sheet, nasty: Sheet, plain: Sheet, tmp_path: Path) -> None:
    body = "\\clearpage\n".join(map(latex, (sheet, nasty, plain)))
    head = "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs,graphicx}\\begin{document}\n"
    (tmp_path / "doc.tex").write_text(f"{head}{body}\\end{{document}}\n")
    call = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-draftmode", "doc.tex"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-1500:]


def test_the_page_loads_nothing_from_elsewhere(sheet: Sheet) -> None:
    parsed = Page(page(sheet))
    links = [
        value
        for _, attributes in parsed.elements
        for key, value in attributes.items()
        if key in ("src", "href", "srcset", "data")
    ]
    assert links and all(value is not None and value.startswith(("#", "data:")) for value in links)
    assert not parsed.of("link") and not parsed.of("iframe")
    html = page(sheet)
    assert "@import" not in html and "url(" not in html and "fetch(" not in html
    policy = next(
        attributes["content"]
        for attributes in parsed.of("meta")
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None and policy.startswith("default-src 'none'")


def test_the_page_supports_phones_and_dark_mode(sheet: Sheet) -> None:
    html = page(sheet)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html
    assert "prefers-color-scheme: dark" in html and "@media print" in html
    base = float(re.findall(r"html { font-size: (\d+)px", html)[0])
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: (?:\d+ )?([\d.]+)rem", html)]
    assert len(sizes) > 10 and min(sizes) * base >= 16
    boxes = [attributes for attributes in Page(html).of("div") if attributes.get("class") == "scroll"]
    assert len(boxes) >= len(Page(html).of("table")) and all(attributes["tabindex"] == "0" for attributes in boxes)


def test_the_banner_is_on_a_page_once(sheet: Sheet) -> None:
    assert sheet.banner
    for write in (page, markdown):
        assert write(sheet).count(sheet.banner) == 1


def test_claims_begin_with_a_count_per_verdict(sheet: Sheet) -> None:
    counts = {name: sum(claim.verdict == name for claim in sheet.claims) for name in VERDICTS}
    assert len([count for count in counts.values() if count]) > 1
    text = page(sheet)
    section = text[text.index('<section id="claims"') : text.index("<ul class", text.index('<section id="claims"'))]
    shown = re.findall(r"(holds|does not hold|undecided|not measured): (\d+)<", section)
    assert shown[: len(VERDICTS)] == [(name, str(count)) for name, count in counts.items()]
    assert ", ".join(f"{name}: {count}" for name, count in counts.items()) in markdown(sheet)


def test_a_number_and_its_spread_may_be_on_two_lines(plain: Sheet) -> None:
    texts = ["71.10 ± 0.82", "−4.52 [−24.81, +15.76]", "62.10 [61.00, 63.20]", "69.0 ± 2.5; 70.1", "75.13 [1]"]
    rows = [SheetRow("a", [SheetCell(text, 1.0), SheetCell("")]) for text in texts]
    found = re.findall(r'([^>]+) <span class="spread">([^<]*)</span>', page(dataclasses.replace(plain, rows=rows)))
    assert [" ".join(pair) for pair in found] == texts[:3]


def test_every_link_within_the_page_has_its_target(sheet: Sheet) -> None:
    parsed = Page(page(sheet))
    ids = {attributes["id"] for _, attributes in parsed.elements if "id" in attributes}
    links = [attributes["href"] for attributes in parsed.of("a")]
    assert len(links) > 5 and all(link is not None and link[1:] in ids for link in links)
    assert len([attributes for _, attributes in parsed.elements if "id" in attributes]) == len(ids)
    assert len(parsed.of("h1")) == 1


def test_tables_can_be_sorted_by_buttons(sheet: Sheet) -> None:
    html = page(sheet)
    main = html[html.index('<section id="results"') : html.index("</table>")]
    heads = re.findall(r'<th scope="col".*?</th>', main)
    assert len(heads) == len(sheet.columns) + 1 and all('<button type="button">' in head for head in heads)
    assert "aria-sort" in html[html.index("<script>") :]
    values = re.findall(r'<td data-value="([^"]*)"', main)
    cells = [cell for row in sheet.rows for cell in row.cells]
    assert values == ["" if cell.value is None else str(cell.value) for cell in cells]


def test_the_page_has_all_its_sections(sheet: Sheet) -> None:
    ids = [attributes["id"] for attributes in Page(page(sheet)).of("section")]
    assert ids == [
        *("results", "differences", "missing", "noise-of-the-test-set", "published-accuracies"),
        "reported-elsewhere",
        *("claims", "plots", "commands"),
    ]
    images = Page(page(sheet)).of("img")
    assert len(images) >= 2 and all(
        str(attributes["src"]).startswith("data:image/svg+xml;base64,") for attributes in images
    )


def test_text_is_never_markup(nasty: Sheet) -> None:
    html = page(nasty)
    assert "<b>" not in html and "&lt;b&gt;bold&lt;/b&gt;" in html
    parsed = Page(html)
    assert any("<b>bold</b>" in text for text in parsed.texts)
    assert {attributes.get("href") for attributes in parsed.of("a")} >= {"#note-1"}
    assert "#note-2" not in html  # there is no second footnote, so "[2]" is plain text


def test_a_plain_sheet_has_no_empty_sections(plain: Sheet) -> None:
    assert [attributes["id"] for attributes in Page(page(plain)).of("section")] == ["results"]
    assert "3.69" in latex(plain) and "1.58" in latex(plain)
    lines = list(csv.DictReader(io.StringIO(long_csv(plain))))
    assert (lines[0]["row"], lines[0]["quantity"], lines[0]["value"]) == ("uniform", "value", "2.11")
    assert "| mmpareto | 3.69 | 1.74 (1.58 – 1.89) |" in markdown(plain)


def test_intervals_are_drawn_to_scale(plain: Sheet) -> None:
    intervals = [
        Interval("a", "", 2.0, 1.0, 3.0),
        Interval("b", "", -1.0, None, None, "no interval"),
        Interval("c", "", None, None, None),
    ]
    html = page(dataclasses.replace(plain, intervals=intervals))
    zero = float(re.findall(r'class="zero" x1="([\d.]+)%', html)[0])
    low, high = (float(x) for x in re.findall(r'class="range above" x1="([\d.]+)%" x2="([\d.]+)%"', html)[0])
    dots = [float(x) for x in re.findall(r'class="dot [a-z]*" cx="([\d.]+)%"', html)]
    unit = (dots[0] - zero) / 2
    assert (low, high, dots[1]) == tuple(pytest.approx(zero + n * unit, abs=0.02) for n in (1, 3, -1))
    assert 0 <= dots[1] < high <= 100 and len(dots) == 2  # an interval without values is not drawn
    ticks = {float(x): text for x, text in re.findall(r'<text x="([\d.]+)%"[^>]*>([^<]*)<', html)}
    for position, text in ticks.items():
        assert position == pytest.approx(zero + float(text.replace("−", "-")) * unit, abs=0.02)
    assert 2 <= len(ticks) <= 6


def test_a_plot_that_is_not_drawn_has_a_reason(plain: Sheet) -> None:
    html = page(dataclasses.replace(plain, plots=[Plot("Weights", "Not drawn: run has none", "")]))
    assert "Not drawn: run has none" in html and "<img" not in html


def test_a_group_heading_spans_its_columns(sheet: Sheet) -> None:
    widths = [int(attributes["colspan"] or 0) for attributes in Page(page(sheet)).of("th") if "colspan" in attributes]
    groups = [column.group for column in sheet.columns]
    assert widths[:2] == [groups.count(group) for group in dict.fromkeys(groups)]
