"""Published accuracies, and the runs that they can be compared with."""

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
    return [one.text for one in published_of(parse(["--dataset", *line.split()]).settings)]


def test_all_sources_of_an_accuracy_are_shown() -> None:
    assert texts("cremad --method mmpareto") == ["75.13", "about 69", "73.08", "69.0 ± 2.5", "65.51 ± 0.87"]
    assert texts("cremad --method uniform") == ["71.10", "70.81", "69.2 ± 1.8"]
    assert texts("CREMAD --method mmpareto --variant released") == texts("cremad --method mmpareto")


@pytest.mark.parametrize(
    "line",
    [
        "cremad --method mmpareto --gamma 2",  # not published
        "cremad --method mmpareto --fusion film",
        "cremad --method pareto",
        "modelnet40 --method mmpareto",
        "synthetic --method mmpareto",
        "mosi --method mmpareto --n_classes 2",
        "cremad --method torchjd:UPGrad",
    ],
)
def test_accuracies_of_other_settings_are_not_shown(line: str) -> None:
    assert texts(line) == []


def test_classes_and_modalities_must_agree() -> None:
    assert texts("mosi --method mmpareto --n_classes 7") == ["34.88"]
    assert texts("cgmnist --method unimodal --modality colour") == ["60.4"]
    assert texts("cgmnist --method unimodal --modality gray") == ["99.3"]
    assert texts("cremad --method unimodal --modality visual") == ["55.4 ± 3.0"]


def test_accuracies_of_one_modality_accompany_their_method() -> None:
    result = {one.name: one for one in published_of(parse(["--dataset", "ks", "--method", "agm"]).settings)}
    assert result["InfoReg, CVPR 2025"].unimodal == {"audio": Decimal("53.12"), "visual": Decimal("37.24")}


def test_every_accuracy_has_its_source_and_uses_existing_names() -> None:
    assert len(all_published()) == 44
    for one in all_published():
        assert one.source and one.protocol and one.name
        assert one.dataset in list(DATASETS) and one.method in list(METHODS)
        assert (one.modality is not None) == (one.method == "unimodal")
        assert 0 < one.accuracy < 100
        assert one.footnote.startswith(one.source) and one.protocol in one.footnote


def test_every_source_is_used() -> None:
    content = json.loads((Path(published.__file__).parent / "published.json").read_text(encoding="utf-8"))
    assert set(content["sources"]) == {one["source"] for one in content["accuracies"]}


def test_a_footnote_has_source_protocol_and_note() -> None:
    accuracies = [one for one in all_published() if one.note]
    assert accuracies and len(accuracies) < len(all_published())
    for one in all_published():
        end = f"{one.protocol}." + (f" {one.note}." if one.note else "")
        assert one.footnote.startswith(f"{one.source}. Protocol: ") and one.footnote.endswith(end)
