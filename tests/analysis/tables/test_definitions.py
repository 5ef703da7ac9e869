"""The tables: every cell is a command line that train.py accepts and that matches its labels."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest
from mmpareto.analysis.finished_run import identity
from mmpareto.analysis.tables import choices, stand_in
from mmpareto.analysis.tables.cells import Cell, make_cells
from mmpareto.analysis.tables.definitions import DERIVED, QUICK, TABLES, Column, Row, Table, list_text, method_row
from mmpareto.data import DATASETS
from mmpareto.integration import METHODS
from mmpareto.training.method_labels import NAMES, label
from mmpareto.training.settings import Settings, to_config

GRIDS = [name for name, table in TABLES.items() if table.columns]
every_grid = pytest.mark.parametrize("name", GRIDS)


@pytest.fixture(autouse=True)
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def by_label(cells: list[Cell], seed: int = 0) -> dict[tuple[str, str], Settings]:
    return {(cell.row.label, cell.column.label): cell.settings for cell in cells if cell.seed == seed}


@every_grid
def test_every_cell_is_a_command_of_train_py(name: str) -> None:
    table = TABLES[name]
    cells = make_cells(table, [0], "validation")
    assert len(cells) == len(table.rows) * len(table.columns)
    recipes = {cell.settings.recipe for cell in cells}
    assert recipes == ({"released", "paper"} if name == "variants" else {"released"})
    whole = [identity(to_config(cell.settings), cell.settings.data) for cell in cells]
    assert all(a != b for n, a in enumerate(whole) for b in whole[:n])  # no two cells are the same run


@pytest.mark.parametrize(
    ("protocol", "kind"), [("validation", "validation"), ("last", "validation"), ("paper", "paper")]
)
def test_seeds_and_protocols(protocol: str, kind: str) -> None:
    cells = make_cells(TABLES["refresh"], [3, 0, 3], protocol)
    assert [cell.settings.random_seed for cell in cells] == [3, 3, 3, 0, 0, 0]
    assert {cell.settings.protocol for cell in cells} == {kind}


@every_grid
def test_every_cell_runs_on_the_stand_in_at_a_small_size(name: str) -> None:
    table = choices.with_data_sets(TABLES[name], ["Synthetic"])
    cells = make_cells(table, [0], "validation", size=shlex.split(QUICK), data=stand_in.QUICK_FOLDER)
    for cell in cells:
        settings = cell.settings
        assert (settings.dataset, settings.epochs, settings.image_size) == ("synthetic", 2, 32)
        assert settings.data in (stand_in.QUICK_FOLDER, *(stand_in.QUICK_FOLDER + end for end in DERIVED))
    assert "here on synthetic stand-in" in table.title


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_a_name_a_question_and_unique_labels(name: str) -> None:
    table = TABLES[name]
    assert table.name == name and "?" in table.question and table.baseline
    for lines in (table.rows, table.columns):
        assert len({line.label for line in lines}) == len(lines)
    assert f"{name} " in list_text() and table.question in list_text()


def test_a_table_without_its_baseline_is_refused() -> None:
    with pytest.raises(ValueError, match="no row 'Uniform'"):
        Table("t", "T", "Q?", (Column("C", ""),), (Row("R", ""),), "Uniform")


def test_rows_are_labelled_as_their_runs_are_in_plots() -> None:
    assert set(NAMES) == set(METHODS)
    labels = set()
    for name in GRIDS:
        for cell in make_cells(TABLES[name], [0], "last"):
            words, settings = shlex.split(cell.row.flags), cell.settings
            if "--method" in words:
                assert cell.row.label == label(settings.method, settings.variant, settings.options)
                labels.add(cell.row.label)
    assert {"MMPareto", "MMPareto (paper)", "MMPareto (gamma 2)", "MMPareto (paper, refresh 10)"} <= labels
    for row in TABLES["cost"].rows:
        assert row.label == label(row.flags.split()[1])
    assert method_row("torchjd:UPGrad").label == "TorchJD UPGrad"


def methods(table: Table) -> list[str]:
    return [str(choices.flag_of(row.flags, "--method")) for row in table.rows]


def test_what_the_tables_compare() -> None:
    ten = ["joint", "uniform", "pareto", "gblending", "ogm_ge", "greedy", "pmr", "agm", "mmpareto", "dgl"]
    assert methods(TABLES["main"]) == methods(TABLES["modelnet40"]) == ten
    assert choices.data_sets_of(TABLES["main"].columns) == ["cremad", "kinetics_sounds"]
    assert choices.data_sets_of(TABLES["mosi"].columns) == ["mosi"]
    assert methods(TABLES["multitask"]) == ["uniform", "gradnorm", "pcgrad", "metabalance", "mmpareto"]
    assert set(methods(TABLES["cost"])) == set(METHODS)
    fusions = {s.fusion for s in by_label(make_cells(TABLES["fusion"], [0], "last")).values()}
    assert fusions == {"concat", "sum", "film", "gated"}
    gammas = [s.options.get("gamma") for s in by_label(make_cells(TABLES["gamma"], [0], "last")).values()]
    assert gammas == [None, 1, 1.25, 1.5, 1.75, 2, 2.5]
    variants = by_label(make_cells(TABLES["variants"], [0], "last"))
    assert {(s.recipe, s.learning_rate) for s in variants.values()} == {("released", 0.002), ("paper", 0.001)}
    assert {s.variant for s in variants.values()} == {None, "per_tensor", "paper", "released"}
    assert TABLES["variants"].title == "MMPareto per tensor, as the paper and as the released code"
    kept = by_label(make_cells(TABLES["refresh"], [0], "last"))
    assert [s.options.get("refresh") for s in kept.values()] == [None, 1, 10]


CHANGES: dict[str, dict[str, Any]] = {
    "Spectrogram": {"data": "data/cremad-spectrogram", "audio": "spectrogram", "audio_frames": 188},
    "1 frame": {"frames": 1},
    "3 frames": {"frames": 3},
    "2 frames at 3 fps": {"data": "data/cremad-fps3"},
    "3 frames at 3 fps": {"data": "data/cremad-fps3", "frames": 3},
    "Schedule: × 0.1 after 30 epochs": {"scheduler": "step"},
    "100 epochs": {"epochs": 100},
    "Learning rate 0.001": {"learning_rate": 0.001},
    "Learning rate 0.01": {"learning_rate": 0.01},
    "3 frames at 3 fps, 100 epochs, learning rate 0.001": {
        "data": "data/cremad-fps3",
        "frames": 3,
        "epochs": 100,
        "learning_rate": 0.001,
    },
    "As DGL: spectrogram, 1 frame, 100 epochs, × 0.1 after 70, gradient clipping": {
        "data": "data/cremad-spectrogram",
        "audio": "spectrogram",
        "audio_frames": 188,
        "frames": 1,
        "epochs": 100,
        "scheduler": "step",
        "lr_decay_step": 70,
        "clip_grad": 40.0,
    },
}


@pytest.mark.parametrize("column", ["Uniform", "MMPareto"])
def test_a_row_of_preprocessing_changes_only_what_its_label_says(column: str) -> None:
    table = TABLES["preprocessing"]
    cells = make_cells(table, [0], "last")
    rows = {cell.row.label: dataclasses.asdict(cell.settings) for cell in cells if cell.column.label == column}
    base = rows.pop(table.baseline)
    assert (base["audio"], base["frames"], base["data"]) == ("fbank", 2, "data/cremad")
    changed = {
        row: {key: value for key, value in settings.items() if value != base[key]} for row, settings in rows.items()
    }
    assert changed == CHANGES


@pytest.mark.parametrize("name", ["cremad", "kinetics_sounds", "synthetic"])
def test_derived_data_are_prepared_with_flags_of_prepare_py(name: str) -> None:
    import argparse

    for flags in DERIVED.values():
        parser = argparse.ArgumentParser()
        DATASETS[name].add_arguments(parser)
        raw = [] if name == "synthetic" else ["--raw", "."]
        assert vars(parser.parse_args([*raw, *shlex.split(flags)])) != vars(parser.parse_args(raw))
