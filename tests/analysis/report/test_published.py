"""Published accuracies, and the runs that they can be compared with."""

import dataclasses
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY
from mmpareto.analysis.report import published
from mmpareto.analysis.report.published import Published, facts_of, published_of, published_tables
from mmpareto.analysis.report.published_page import with_tables
from mmpareto.data import DATASETS
from mmpareto.integration import METHODS
from mmpareto.training.method_options import read_options
from mmpareto.training.settings import Settings, parse

PAGE = REPOSITORY / "docs" / "published.md"
FIGURES = [one for table in published_tables() for one in table.figures]
SPECTROGRAM = "--audio spectrogram --audio_frames 188"


def settings_of(line: str, **changes: Any) -> Settings:
    """The settings of a command line, with values that it would not accept without their data."""
    return dataclasses.replace(parse(["--dataset", *line.split()]).settings, **changes)


def texts(settings: Settings) -> list[str]:
    return [one.text for _, one in published_of(settings)]


BESIDE: list[tuple[str, dict[str, Any], list[str]]] = [
    ("cremad --method mmpareto --variant released", {}, ["75.13"]),
    ("CREMAD --method mmpareto --gamma 1.5 --variant released --epochs 3 --frames 3", {}, ["75.13"]),  # a schedule
    ("cremad --method mmpareto", {}, []),  # another algorithm
    ("cremad --method mmpareto --variant paper", {}, []),
    ("cremad --method mmpareto --variant released --gamma 2", {}, []),
    ("cremad --method mmpareto --variant released --fusion film", {}, []),
    ("cremad --method mmpareto --variant released", {"pretrained": "resnet18.pth"}, []),
    ("cremad --method mmpareto --variant released", {"encoder": "cnn"}, []),
    (f"cremad --method mmpareto --variant released {SPECTROGRAM}", {}, []),
    ("cremad --method uniform", {}, ["71.10"]),
    ("cremad --method joint", {}, ["66.13"]),
    ("cremad --method unimodal --modality audio --fusion sum", {}, ["61.69"]),  # has no fusion
    ("cremad --method unimodal --modality visual", {}, ["56.05"]),
    ("cremad --method ogm", {}, []),  # its options are not known
    (f"cremad --method dgl --alpha 4 {SPECTROGRAM}", {}, ["77.48"]),
    (f"cremad --method dgl --alpha 5 {SPECTROGRAM}", {}, ["78.12"]),
    (f"cremad --method dgl --alpha 3 {SPECTROGRAM}", {}, []),
    ("cremad --method dgl --alpha 4", {}, []),
    (f"cremad --method joint --fusion bilinear {SPECTROGRAM}", {}, ["57.5"]),
    ("ks --method mmpareto --variant released", {}, ["70.13"]),
    ("ks --method mmpareto --variant released", {"n_classes": 33}, []),
    ("ks --method dgl --alpha 3", {"n_classes": 33, "audio": "stft"}, ["75.10 and 76.28 by one command"]),
    ("ks --method dgl --alpha 2", {"n_classes": 33, "audio": "stft"}, ["74.78"]),
    ("ks --method dgl --alpha 3", {"audio": "stft"}, []),  # 31 classes
    ("ks --method dgl --alpha 3", {"n_classes": 33}, []),
    ("cremad --method uniform --learning_rate 0.001", {}, ["71.10"]),  # the paper's; the recipe has the code's
    ("cremad --method uniform --learning_rate 0.003", {}, []),
    ("cgmnist --method joint --learning_rate 0.001", {}, ["58.4"]),
    ("cgmnist --method joint", {}, []),
    ("cgmnist --method joint --fusion sum --learning_rate 0.001", {}, ["59.1"]),
    ("cgmnist --method unimodal --modality gray --learning_rate 0.001", {}, ["99.3"]),
    ("cgmnist --method unimodal --modality colour --learning_rate 0.001", {}, ["60.4"]),
    ("modelnet40 --method uniform", {}, []),  # "late fusion"
    ("ave --method uniform", {}, []),
    ("ucf101 --method uniform --pretrained none", {}, []),
    ("mosi --method mmpareto --n_classes 7", {}, []),
    ("synthetic --method mmpareto --variant released", {}, []),
]


@pytest.mark.parametrize(("line", "changes", "expected"), BESIDE, ids=lambda value: str(value))
def test_what_stands_beside_a_run(line: str, changes: dict[str, Any], expected: list[str]) -> None:
    assert texts(settings_of(line, **changes)) == expected


RUN = "cremad --method mmpareto --variant released"
AGREEING = Published(
    "cremad", "mmpareto", Decimal("75.13"), n_classes=6, variant="released", options={}, fusion="concat",
    encoder="resnet18", pretrained=False, audio="fbank",
)  # fmt: skip
OTHERS = {
    "n_classes": 5,
    "variant": "paper",
    "options": {"gamma": 2.0},
    "fusion": "sum",
    "encoder": "Conformer",
    "pretrained": True,
    "audio": "spectrogram",
}


@pytest.mark.parametrize("field", OTHERS)
def test_what_is_not_known_or_differs_does_not_agree(field: str) -> None:
    run = settings_of(RUN)
    assert AGREEING.agrees_with(run)
    for value in (None, OTHERS[field]):
        other = dataclasses.replace(AGREEING, **{field: value})
        assert not other.agrees_with(run)
        (difference,) = other.differences(run).values()
        assert (difference is None) == (value is None)


@pytest.mark.parametrize(("field", "value"), [("dataset", "ave"), ("method", "uniform")])
def test_another_data_set_or_method_does_not_agree(field: str, value: str) -> None:
    assert not dataclasses.replace(AGREEING, **{field: value}).agrees_with(settings_of(RUN))


def test_schedule_frames_and_selection_need_not_agree() -> None:
    other = dataclasses.replace(AGREEING, schedule="Adam", frames=10, selection="last epoch", seeds=5, n_test=1)
    assert other.agrees_with(settings_of(RUN))


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("SGD, learning rate 0.001 in the paper and 0.002 in the code, batch 64", [0.001, 0.002]),
        ("SGD, learning rate 0.001 decaying to 0.0001, batch 64", [0.001]),
        ("SGD, learning rate 0.002, × 0.1 after 70 of 100 epochs", [0.002]),
        ("Adam, 200 epochs", []),
    ],
)
def test_a_stated_learning_rate_has_to_agree(schedule: str, rates: list[float]) -> None:
    one = dataclasses.replace(AGREEING, schedule=schedule)
    assert one.learning_rates == rates
    for rate in (0.001, 0.002, 0.1):
        assert one.agrees_with(settings_of(f"{RUN} --learning_rate {rate}")) == (rate in rates or not rates)


def test_options_of_a_run_from_before_they_existed_have_their_defaults() -> None:
    old = settings_of(RUN)
    options = {name: value for name, value in old.options.items() if name != "refresh"}
    assert AGREEING.agrees_with(dataclasses.replace(old, options=options))


# The file


def test_known_names_have_known_options_and_facts() -> None:
    assert len(FIGURES) > 500
    facts = {dataset: facts_of(settings_of(f"{dataset} --pretrained none")).keys() for dataset in DATASETS}
    for one in FIGURES:
        assert 0 < one.accuracy < 100 and (one.std is None or one.std < 10)
        if one.dataset in DATASETS:
            assert one.facts.keys() <= facts[one.dataset]
        if one.method in METHODS and one.options:
            options = read_options(one.method, one.variant, [], [])[1]
            assert one.options.keys() <= options.keys()  # a misspelt option would never agree
        if one.method == "unimodal":
            assert one.options is not None and set(one.options) == {"modality"}
        if one.detail or one.metric or (one.repeated and one.n_classes != 33):
            assert one.dataset not in DATASETS or one.method not in METHODS or one.all_options is None


def test_second_hand_figures_stand_beside_nothing() -> None:
    second_hand = [one for table in published_tables() if table.source.second_hand for one in table.figures]
    assert second_hand and all(None in one.facts.values() for one in second_hand)


def test_figures_of_a_table_and_data_set_share_their_setting() -> None:
    for table in published_tables():
        for dataset in {one.dataset for one in table.figures}:
            same = [one for one in table.figures if one.dataset == dataset]
            of_network = ("fusion", "blocks")  # that one modality alone lacks
            facts = [{name: value for name, value in one.facts.items() if name not in of_network} for one in same]
            assert all(one == facts[0] for one in facts), table.place
            assert len({(one.frames, one.selection, one.schedule, one.fusion, one.blocks) for one in same}) == 1
            assert len({one.label for one in same}) == len(same), table.place


def test_numbers_of_clips_give_the_accuracy() -> None:
    counted = [one for one in FIGURES if one.correct is not None]
    assert {one.clips for one in counted} >= {"559 of 744", "529 of 744", "550 of 704"}
    for one in counted:
        assert one.n_test and one.correct is not None
        assert round(Decimal(100 * one.correct) / one.n_test, 2) == one.accuracy
    (dgl,) = (one for _, one in published_of(settings_of(f"cremad --method dgl --alpha 4 {SPECTROGRAM}")))
    assert dgl.correct is None and not any(
        round(Decimal(100 * k) / n, 2) == dgl.accuracy for n in (704, 744) for k in range(n)
    )


def test_sources_have_title_and_address() -> None:
    sources = {table.source for table in published_tables()}
    assert len({one.name for one in sources}) == len(sources) == len({one.address for one in sources})
    for one in sources:
        assert len(one.title) > 20 and one.venue and re.fullmatch(r"https://[\w./-]+", one.address)
        assert one.title in one.text and one.address in one.text


UNRELIABLE = {  # of a machine-written summary that contradicts the table of the paper it is about
    "cremad": {"joint": "63.2", "ogm": "66.1", "pmr": "65.8", "agm": "67.3", "dgl": "70.2"},
    "kinetics_sounds": {"joint": "67.5", "ogm": "69.3", "pmr": "68.9", "agm": "70.1", "dgl": "72.1"},
}


def test_no_unreliable_figure_and_no_internal_number() -> None:
    for one in FIGURES:
        assert str(one.accuracy) != UNRELIABLE.get(one.dataset, {}).get(one.method), one
    text = (Path(published.__file__).parent / "published.json").read_text(encoding="utf-8")
    for part in (text, PAGE.read_text(encoding="utf-8")):
        assert not re.search(r"UNRELIABLE|\bnote id\b|\bids? \d", part, re.I)


def rows(source: str, method: str) -> set[tuple[str, str | None, str]]:
    return {
        (one.dataset, one.encoder, one.text)
        for table in published_tables()
        for one in table.figures
        if table.source.name.startswith(source) and one.method == method and not one.detail
    }


def test_all_rows_of_a_source_are_quoted() -> None:
    resnet, both, three = (
        "ResNet (depth not stated)",
        "transformer on video and text",
        "transformer on video, audio and text",
    )
    other = "Something-Something v2"
    assert rows("MCR", "mmpareto") == {
        ("cremad", resnet, "69.0 ± 2.5"), ("cremad", "Conformer", "83.8 ± 0.8"), ("ave", resnet, "73.0 ± 1.3"),
        ("ave", "Conformer", "87.4 ± 1.3"), ("ucf101", resnet, "51.4 ± 2.2"), ("mosi", both, "73.4 ± 1.0"),
        ("mosi", three, "73.7 ± 0.6"), ("mosei", both, "79.3 ± 0.6"), ("mosei", three, "79.5 ± 0.8"),
        (other, "Swin", "59.2 ± 0.5"),
    }  # fmt: skip
    assert rows("MCR", "uniform") >= {("cremad", resnet, "69.2 ± 1.8"), ("ave", resnet, "70.1 ± 0.9")}
    known = {(one, text) for one, _, text in rows("wizwand", "mmpareto") if one in DATASETS}
    assert known == {
        ("mosi", "34.88"), ("chsims", "53.73"), ("mosei", "42.09"), ("cremad", "43.98"), ("kinetics_sounds", "69.83"),
    }  # fmt: skip


# The page


def test_the_tables_of_the_page_are_those_of_the_file() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page) == page, "python -m mmpareto.analysis.report.published_page ../docs/published.md, in code/"


def test_the_page_has_every_figure_and_no_other_one() -> None:
    page = PAGE.read_text(encoding="utf-8")
    prose = re.sub(r"<!-- begin.*?<!-- end -->", "", page, flags=re.S)
    accuracies = {str(value) for one in FIGURES for value in (one.accuracy, *one.repeated)}
    spreads = {str(one.std) for one in FIGURES}
    named = set(re.findall(r"(?<![\d.])\d\d\.\d+", prose))
    assert len(named) > 10 and named <= accuracies, named - accuracies
    assert set(re.findall(r"± (\d+\.\d+)", prose)) <= spreads
    sections = {part.partition("\n")[0].lower(): part for part in page.split("\n### ")}
    for table in published_tables():
        for one in table.figures:
            if one.dataset in DATASETS:
                section = sections[table.source.name.lower()]
                assert re.search(rf"^\| {re.escape(one.label)}[ ,].*\b{re.escape(one.text)}", section, re.M), one


def test_both_results_of_one_command_are_named_together() -> None:
    for page in (*sorted((REPOSITORY / "docs").glob("*.md")), REPOSITORY / "README.md"):
        text = page.read_text(encoding="utf-8").replace("| PMR | 76.28 |", "")  # MMPareto's table 7: another 76.28
        for paragraph in re.split(r"\n\s*\n|\n[-|]", text):
            assert "76.28" not in paragraph or "75.10" in paragraph, (page.name, paragraph)
    (one,) = (one for one in FIGURES if one.repeated)
    assert (one.method, one.n_classes, one.text) == ("dgl", 33, "75.10 and 76.28 by one command")
    assert [one.method for one in FIGURES if str(one.accuracy) == "76.28"] == ["pmr"]
