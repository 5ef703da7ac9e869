import json
from decimal import Decimal
from pathlib import Path

import pytest
from mmpareto.analysis.report import published
from mmpareto.analysis.report.published import all_published, published_of
from mmpareto.data import DATASETS
from mmpareto.integration import METHODS
from mmpareto.training.settings import parse


def texts(line: str) -> list[str]:
    return [figure.text for figure in published_of(parse(["--dataset", *line.split()]).settings)]


def test_several_sources_of_one_figure_are_all_there() -> None:
    assert texts("cremad --method mmpareto") == ["75.13", "about 69", "73.08", "69.0 ± 2.5", "65.51 ± 0.87"]
    assert texts("cremad --method uniform") == ["71.10", "70.81", "69.2 ± 1.8"]
    assert texts("CREMAD --method mmpareto --variant released") == texts("cremad --method mmpareto")


@pytest.mark.parametrize(
    "line",
    [
        "cremad --method mmpareto --gamma 2",  # nobody published it
        "cremad --method mmpareto --fusion film",
        "cremad --method pareto",
        "modelnet40 --method mmpareto",
        "synthetic --method mmpareto",
        "mosi --method mmpareto --n_classes 2",
        "cremad --method torchjd:UPGrad",
    ],
)
def test_what_is_published_of_another_thing_is_not_shown(line: str) -> None:
    assert texts(line) == []


def test_classes_and_modalities_have_to_be_the_same() -> None:
    assert texts("mosi --method mmpareto --n_classes 7") == ["34.88"]
    assert texts("cgmnist --method unimodal --modality colour") == ["60.4"]
    assert texts("cgmnist --method unimodal --modality gray") == ["99.3"]
    assert texts("cremad --method unimodal --modality visual") == ["55.4 ± 3.0"]


def test_modalities_alone_come_with_their_figure() -> None:
    found = {figure.name: figure for figure in published_of(parse(["--dataset", "ks", "--method", "agm"]).settings)}
    assert found["InfoReg, CVPR 2025"].unimodal == {"audio": Decimal("53.12"), "visual": Decimal("37.24")}


def test_every_figure_has_its_source_and_names_what_exists() -> None:
    assert len(all_published()) == 44
    for figure in all_published():
        assert figure.source and figure.protocol and figure.name
        assert figure.dataset in list(DATASETS) and figure.method in list(METHODS)
        assert (figure.modality is not None) == (figure.method == "unimodal")
        assert 0 < figure.accuracy < 100
        assert figure.footnote.startswith(figure.source) and figure.protocol in figure.footnote


def test_the_file_is_of_known_keys_and_used_sources() -> None:
    content = json.loads((Path(published.__file__).parent / "published.json").read_text(encoding="utf-8"))
    assert set(content["sources"]) == {figure["source"] for figure in content["figures"]}


def test_a_footnote_says_source_protocol_and_what_else_is_known() -> None:
    figures = [figure for figure in all_published() if figure.note]
    assert figures and len(figures) < len(all_published())
    for figure in all_published():
        end = f"{figure.protocol}." + (f" {figure.note}." if figure.note else "")
        assert figure.footnote.startswith(f"{figure.source}. Protocol: ") and figure.footnote.endswith(end)
