"""The tables of docs/published.md, from published.json.

    cd code; python -m mmpareto.analysis.report.published_page ../docs/published.md

rewrites them in the page; a test compares the two.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmpareto.analysis.report.published import Published, PublishedTable, published_tables, shown
from mmpareto.analysis.report.published_parts import dataset_text, not_known, with_clips
from mmpareto.data import DATASETS
from mmpareto.files import write_text

BEGIN, END = "<!-- begin: {} -->\n", "<!-- end -->\n"


def with_tables(page: str) -> str:
    """The page with its tables brought up to date; the rest is unchanged."""
    for name, lines in (("sums", _sums()), ("sources", _sources())):
        before, begin, rest = page.partition(BEGIN.format(name))
        _, end, after = rest.partition(END)
        if not begin or not end:
            raise ValueError(f"the page has no part {name!r}")
        page = before + begin + "\n" + "\n".join(lines) + "\n\n" + end + after
    return page


def _sums() -> Iterator[str]:
    """The tables of sources that have both MMPareto and the plain sum, one line per data set."""
    yield "| data | source | encoders | one joint loss | plain sum | MMPareto | MMPareto − plain sum |"
    yield "|---|---|---|---|---|---|---|"
    for dataset in DATASETS:
        for table in published_tables():
            figures = {one.method: one for one in table.figures if one.dataset == dataset and not one.detail}
            if {"uniform", "mmpareto"} <= figures.keys():
                texts = [
                    with_clips(figures[name]) if name in figures else "" for name in ("joint", "uniform", "mmpareto")
                ]
                one, other = figures["mmpareto"], figures["uniform"]
                difference = f"{one.accuracy - other.accuracy:+}".replace("-", "−")
                cells = [dataset_text(one), f"{table.source.name}, {table.place}", _encoder(one), *texts, difference]
                yield f"| {' | '.join(cells)} |"


def _sources() -> Iterator[str]:
    source = None
    for table in published_tables():
        if not any(one.dataset in DATASETS for one in table.figures):
            continue
        if table.source != source:
            source = table.source
            lines = [
                f"### {_capital(source.name)}",
                f"*{source.title}*. {_end(source.authors, source.venue)} <{source.address}>",
            ]
            notes = [note for note in (source.second_hand, source.note) if note]
            lines += [_sentence("; ".join(notes))] if notes else []
            yield from (line for text in lines for line in (text, ""))
        yield from _table(table)


def _table(table: PublishedTable) -> Iterator[str]:
    figures = [one for one in table.figures if one.dataset in DATASETS]
    columns = dict.fromkeys(map(dataset_text, figures))
    cells: dict[str, dict[str, str]] = {}
    for one in figures:
        alone = f" ({', '.join(map(str, one.unimodal.values()))})" if one.unimodal else ""
        cells.setdefault(one.label, {})[dataset_text(one)] = (
            one.text + alone + (f", {one.clips} clips" if one.correct is not None else "")
        )
    heads = [f"{name}{_modalities(name, figures)}" for name in columns]
    yield f"**{table.place if '.sh' in table.place else _capital(table.place)}**. {_setting(table, figures)}"
    yield ""
    yield f"| method | {' | '.join(heads)} |"
    yield "|---" * (len(heads) + 1) + "|"
    for label, row in cells.items():
        yield f"| {label} | {' | '.join(row.get(name, '') for name in columns)} |"
    yield ""


def _modalities(column: str, figures: Sequence[Published]) -> str:
    names = next((one.unimodal for one in figures if one.unimodal and dataset_text(one) == column), {})
    return f" ({', '.join(names)} alone)" if names else ""


def _setting(table: PublishedTable, figures: Sequence[Published]) -> str:
    """The known conditions of the figures, and the names of those that are not known."""
    first = figures[0]
    known = [_encoder(first)] if first.encoder else []
    known += [f"{name} {shown(value)}" for name, value in (("fusion", first.fusion), ("audio", first.audio)) if value]
    known += [f"{first.frames} frame{'' if first.frames == 1 else 's'} per clip"] if first.frames else []
    known += [f"{first.n_test} test clips"] if first.n_test and first.correct is None else []
    known += [f"{first.seeds} seeds"] if first.seeds else []
    known += [text for text in (first.selection, first.schedule, *(one.note for one in figures), table.note) if text]
    unknown = dict.fromkeys(name for one in _by_dataset(figures) for name in not_known(one))
    sentences = [_sentence("; ".join(dict.fromkeys(known)))] if known else []
    return " ".join([*sentences, *([f"Not known: {'; '.join(unknown)}."] if unknown else [])])


def _by_dataset(figures: Sequence[Published]) -> list[list[Published]]:
    return [[one for one in figures if one.dataset == name] for name in dict.fromkeys(one.dataset for one in figures)]


def _encoder(one: Published) -> str:
    weights = {None: "", True: ", ImageNet weights", False: ", from scratch"}[one.pretrained]
    return f"{shown(one.encoder)}{weights}" if one.encoder else "not known"


def _end(*texts: str) -> str:
    return " ".join(f"{text}." for text in texts if text)


def _sentence(text: str) -> str:
    return f"{_capital(text)}."


def _capital(text: str) -> str:
    return text[0].upper() + text[1:] if text[0].isascii() else text


if __name__ == "__main__":
    path = Path(sys.argv[1])
    write_text(path, with_tables(path.read_text(encoding="utf-8")))
