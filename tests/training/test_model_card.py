"""Model cards of runs with known settings and metrics."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from made_runs import SETTINGS
from mmpareto.data import DATASETS
from mmpareto.errors import InputError
from mmpareto.training.model_card import add_model_card, write_model_card


def epoch(number: int, joint: float, audio: float | None = 0.5) -> dict[str, Any]:
    return {"epoch": number, "acc": joint, "per_class_accuracy": [joint], "map": joint, "acc_audio": audio}


def finished(folder: Path, **changes: Any) -> Path:
    """Write config.json and summary.json; return the folder."""
    data = {
        "fingerprint": "0123abcd",
        "clips": {"train": 6698, "val": 0, "test": 744},
        "prepared": {"title": "CREMA-D", "split": "official split"},
    }
    arguments = SETTINGS | {"method": "joint", "protocol": "paper"} | changes.pop("arguments", {})
    config = {"arguments": arguments, "data": data, "versions": {"torch": "2.11.0"}, "git_commit": "abc+"}
    summary = {
        "name": "my-run",
        "protocol": "paper",
        "last": epoch(4, 0.6),
        "best_val": None,
        "best_val_reason": "no validation set: --protocol paper trains on everything",
        "best_test": epoch(3, 0.625, None),
        "data": data,
    } | changes
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def rows(text: str) -> dict[str, list[str]]:
    """First cell → the others, of all tables."""
    lines = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("|")
    ]
    return {first: rest for first, *rest in lines}


@pytest.mark.parametrize(
    ("arguments", "fusion", "blocks"),
    [
        ({}, ["concat"], ["none"]),
        ({"encoder": "mbt-tiny"}, ["average_logits"], ["none"]),
        ({"method": "ensemble"}, ["average"], ["none"]),
        ({"method": "greedy"}, ["concat"], ["mmtm"]),
        ({"objective": "contrastive"}, None, ["none"]),
    ],
)
def test_a_card_shows_the_network_that_was_built(
    arguments: dict[str, Any], fusion: list[str] | None, blocks: list[str], tmp_path: Path
) -> None:
    cells = rows(write_model_card(finished(tmp_path / "run", arguments=arguments)).read_text())
    assert (cells.get("fusion"), cells["blocks"]) == (fusion, blocks)


def test_a_card_has_data_recipe_results_and_limits(tmp_path: Path) -> None:
    text = write_model_card(finished(tmp_path / "run", arguments={"pretrained": "/x/y/resnet18.pth"})).read_text()
    assert text.startswith("# my-run\n")
    cells = rows(text)
    assert cells["licence"] == [DATASETS["cremad"].download.terms] and "0123abcd" in cells["fingerprint"][0]
    assert cells["samples"] == ["6,698 train, 744 test"] and cells["split"] == ["official split"]
    assert (
        cells["learning_rate"] == ["0.002"] and cells["pretrained"] == ["resnet18.pth"] and "abc+" in cells["code"][0]
    )
    assert cells["epoch chosen"] == ["epoch", "accuracy, %", "mAP, %", "accuracy of audio, %"]
    assert cells["last epoch"] == ["4", "60.00", "60.00", "50.00"]
    (best,) = (name for name in cells if name.startswith("best on the test set"))
    assert "optimistic" in best and cells[best] == ["3", "62.50", "62.50", "–"]
    (none,) = (name for name in cells if name.startswith("best on the validation set"))
    assert "trains on everything" in none and cells[none] == ["–"] * 4
    assert "744 test samples" in text and "60.0% a 95% interval from 56.4 to 63.5% (Wilson)" in text
    assert re.search(r'mmpareto\.load\(".*run"\)', text) and "synthetic" not in text.lower()


def test_four_of_four_are_not_certain(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", last=epoch(4, 1.0))
    config = json.loads((folder / "config.json").read_text())
    config["data"]["clips"]["test"] = 4
    (folder / "config.json").write_text(json.dumps(config))
    text = write_model_card(folder).read_text()
    assert "100.0% a 95% interval from 51.0 to 100.0% (Wilson)" in text


def test_adam_has_no_momentum(tmp_path: Path) -> None:
    for name, optimizer in (("a", "sgd"), ("b", "adamw")):
        arguments = {"optimizer": optimizer, "momentum": 0.9}
        text = write_model_card(finished(tmp_path / name, arguments=arguments)).read_text()
        assert ("momentum" in rows(text)) == (optimizer == "sgd")


def test_probes_and_synthetic_data_are_mentioned(tmp_path: Path) -> None:
    probed = {"unimodal_note": "…", "probe": {"samples": 25_000, "available": 60_000}}
    text = write_model_card(finished(tmp_path / "run", arguments={"dataset": "synthetic"}, **probed)).read_text()
    assert " ".join(DATASETS["synthetic"].banner.split()) in text
    assert "linear probes on the frozen encoders, fitted to 25,000 training samples" in text
    finished(tmp_path / "run", unimodal_note="…")
    assert "were not measured" in write_model_card(tmp_path / "run").read_text()


def test_a_regression_has_its_errors(tmp_path: Path) -> None:
    line = {"epoch": 4, "acc": 0.7, "mae": 0.75, "correlation": 0.5, "acc_text": 0.6}
    text = write_model_card(finished(tmp_path / "run", last=line, best_test=line)).read_text()
    assert rows(text)["last epoch"] == ["4", "70.00", "0.7500", "0.5000", "60.00"]
    assert "percentage points" not in text


def test_a_missing_card_is_added_where_possible(tmp_path: Path) -> None:
    add_model_card(tmp_path)  # not a run
    assert not list(tmp_path.iterdir())
    folder = finished(tmp_path / "run")
    add_model_card(folder)
    (folder / "model_card.md").write_text("mine")
    add_model_card(folder)
    assert (folder / "model_card.md").read_text() == "mine"


def test_a_damaged_summary_is_an_input_error(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", last=3)
    with pytest.raises(InputError, match=r"summary.json (or config.json )?is damaged"):
        write_model_card(folder)
    (folder / "summary.json").unlink()
    with pytest.raises(InputError, match=r"summary.json cannot be read"):
        write_model_card(folder)
    assert {path.name for path in folder.iterdir()} == {"config.json"}
