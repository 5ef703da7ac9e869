"""The tables of docs/published.md, from published.json.

    cd code; python -m mmpareto.analysis.report.published_page ../docs/published.md

rewrites them in the page; a test compares the two.
"""

import collections
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

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
    """Every source with its tables."""
    parts = [part for table in published_tables() for part in _parts(table)]
    for source, own in itertools.groupby(parts, lambda part: part.table.source):
        notes = _sentence("; ".join(note for note in (source.second_hand, source.note) if note))
        title = f"*{source.title}*. {_end(source.authors, source.venue)} <{source.address}>"
        for text in (f"### {_capital(source.name)}", title, *([notes] if notes else [])):
            yield from (text, "")
        for place, same in itertools.groupby(own, lambda part: part.table.place):
            yield from _table(place, list(same))


class Part(NamedTuple):
    """The figures of a table on one data set, and their conditions: name → text, in the order in which to show them."""

    table: PublishedTable
    figures: list[Published]
    conditions: dict[str, str]

    @property
    def data(self) -> str:
        """The data set and its class set."""
        return dataset_text(self.figures[0])


def _parts(table: PublishedTable) -> Iterator[Part]:
    for dataset in dict.fromkeys(one.dataset for one in table.figures if one.dataset in DATASETS):
        figures = [one for one in table.figures if one.dataset == dataset]
        first = figures[0]
        conditions = {
            "encoder": _encoder(first) if first.encoder else "",
            "fusion": f"fusion {shown(first.fusion)}" if first.fusion else "",
            "audio": f"audio {shown(first.audio)}" if first.audio else "",
            "frames": f"{first.frames} frame{'s' if first.frames != 1 else ''} per clip" if first.frames else "",
            "clips": f"{first.n_test} test clips" if first.n_test else "",
            "seeds": f"{first.seeds} seeds" if first.seeds else "",
            "selection": first.selection,
            "schedule": first.schedule,
            "notes": "; ".join(dict.fromkeys(note for note in (*(one.note for one in figures), table.note) if note)),
            "not known": f"not known: {', '.join(not_known(figures))}" if not_known(figures) else "",
        }
        yield Part(table, figures, conditions)


def _table(place: str, parts: Sequence[Part]) -> Iterator[str]:
    """One table for all parts of a place: data sets side by side, and encoders, fusions and optimizers in the rows."""
    of_rows = [name for name in ("encoder", "fusion", "schedule") if _differs_within_data(name, parts)]
    common = {name for name in parts[0].conditions if len({part.conditions[name] for part in parts}) == 1}
    cells: dict[str, dict[str, str]] = {}
    remarks: dict[str, list[tuple[str, str]]] = {}
    for part in parts:
        row = "".join(f", {part.conditions[name]}" for name in of_rows if part.conditions[name])
        for one in part.figures:
            cells.setdefault(one.label + row, {})[part.data] = _cell(one)
        own = [text for name, text in part.conditions.items() if text and name not in common and name not in of_rows]
        remarks.setdefault("; ".join(own), []).append((part.data, row))
    shared = "; ".join(text for name, text in parts[0].conditions.items() if text and name in common)
    yield f"**{place if '.sh' in place else _capital(place)}**. {_sentence(shared)}".rstrip()
    yield ""
    if any(remarks):
        yield from (f"- {_names(own, parts)}: {text}." for text, own in remarks.items() if text)
        yield ""
    columns = list(dict.fromkeys(part.data for part in parts))
    yield f"| method | {' | '.join(name + _modalities(name, parts) for name in columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for label, values in cells.items():
        yield f"| {label} | {' | '.join(values.get(name, '') for name in columns)} |"
    yield ""


def _differs_within_data(name: str, parts: Sequence[Part]) -> bool:
    """True if parts on the same data set differ in this condition."""
    texts: dict[str, set[str]] = {}
    for part in parts:
        texts.setdefault(part.data, set()).add(part.conditions[name])
    return any(len(own) > 1 for own in texts.values())


def _cell(one: Published) -> str:
    alone = f" ({', '.join(map(str, one.unimodal.values()))})" if one.unimodal else ""
    clips = f", {one.clips} clips" if one.correct is not None else ""
    return f"{one.text}{alone}{clips}"


def _names(own: Sequence[tuple[str, str]], parts: Sequence[Part]) -> str:
    """Data sets with what distinguishes their rows; a data set alone where all its rows are meant."""
    mine, everything = collections.Counter(data for data, _ in own), collections.Counter(part.data for part in parts)
    return "; ".join(dict.fromkeys(data if mine[data] == everything[data] else data + row for data, row in own))


def _modalities(column: str, parts: Sequence[Part]) -> str:
    """The modalities whose accuracies are in brackets in a column."""
    figures = [one for part in parts if part.data == column for one in part.figures if one.unimodal]
    return f" ({', '.join(figures[0].unimodal)} alone)" if figures else ""


def _encoder(one: Published) -> str:
    weights = {None: "", True: ", ImageNet weights", False: ", from scratch"}[one.pretrained]
    blocks = "" if one.blocks == "none" else f" with {shown(one.blocks)}"
    return f"{shown(one.encoder)}{blocks}{weights}" if one.encoder else "not known"


def _end(*texts: str) -> str:
    return " ".join(f"{text}." for text in texts if text)


def _sentence(text: str) -> str:
    return f"{_capital(text)}." if text else ""


def _capital(text: str) -> str:
    return text[0].upper() + text[1:] if text[0].isascii() else text


if __name__ == "__main__":
    path = Path(sys.argv[1])
    write_text(path, with_tables(path.read_text(encoding="utf-8")))
