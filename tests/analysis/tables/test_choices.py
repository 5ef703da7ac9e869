"""Choice of other data sets, methods and encoders for a table."""

import dataclasses

import pytest
from mmpareto.analysis.tables import choices
from mmpareto.analysis.tables.cells import make_cells
from mmpareto.analysis.tables.definitions import TABLES, Table
from mmpareto.errors import InputError
from mmpareto.training.settings import Settings


def by_label(table: Table) -> dict[tuple[str, str], Settings]:
    return {(cell.row.label, cell.column.label): cell.settings for cell in make_cells(table, [0], "last")}


def test_data_sets_can_be_replaced() -> None:
    table = choices.with_data_sets(TABLES["main"], ["KS", "ave", "ave"])
    assert [column.label for column in table.columns] == ["Kinetics-Sounds", "AVE"]
    fusion = choices.with_data_sets(TABLES["fusion"], ["ave"])
    assert [column.label for column in fusion.columns] == [column.label for column in TABLES["fusion"].columns]
    cells = by_label(fusion)
    assert {s.dataset for s in cells.values()} == {"ave"} and len({s.fusion for s in cells.values()}) == 4
    both = choices.with_data_sets(TABLES["fusion"], ["ave", "cremad"])
    assert len(both.columns) == 8 and both.columns[4].label == "CREMA-D: Concatenation"
    paths = {s.data for s in by_label(choices.with_data_sets(TABLES["preprocessing"], ["ave"])).values()}
    assert paths == {"data/ave", "data/ave-fps3", "data/ave-spectrogram"}
    with pytest.raises(InputError, match="Did you mean 'cremad'"):
        choices.with_data_sets(TABLES["main"], ["crema"])
    assert len(choices.with_data_sets(TABLES["tasks"], ["multimnist"]).columns) == 2
    with pytest.raises(InputError, match=r"table 'tasks' compares methods for several tasks .* synthetic has a single"):
        choices.with_data_sets(TABLES["tasks"], ["multimnist", "synthetic"])


def test_a_data_set_of_the_table_keeps_its_columns() -> None:
    def flags(name: str, *given: str) -> list[str]:
        return [column.flags for column in choices.with_data_sets(TABLES[name], given).columns]

    assert flags("dgl", "CREMAD") == ["--dataset cremad --data {data}-spectrogram"]
    assert flags("dgl", "ave", "ks") == ["--dataset ave", "--dataset kinetics_sounds --data {data}-33"]
    assert flags("mosi", "mosi") == ["--dataset mosi --n_classes 2", "--dataset mosi --n_classes 7"]


def test_unimodal_rows_are_those_of_the_data_sets() -> None:
    def unimodal(table: Table) -> list[str]:
        return [row.label for row in table.rows if "unimodal" in row.flags.split()]

    assert unimodal(TABLES["main"]) == ["Unimodal (modality audio)", "Unimodal (modality visual)"]
    table = choices.with_data_sets(TABLES["main"], ["cremad", "modelnet40"])
    assert unimodal(table) == [f"Unimodal (modality {name})" for name in ("audio", "visual", "front", "rear")]
    assert [row.label for row in table.rows[4:]] == [row.label for row in TABLES["main"].rows[2:]]
    alone = dataclasses.replace(table, rows=table.rows[:4], baseline=table.rows[0].label)
    modalities = {(settings.options["modality"], column) for (_, column), settings in by_label(alone).items()}
    assert modalities == {  # each on the data set that has it
        *(("audio", "CREMA-D"), ("visual", "CREMA-D"), ("front", "ModelNet40"), ("rear", "ModelNet40"))
    }
    added = choices.with_methods(choices.with_data_sets(TABLES["multitask"], ["mosi"]), ["unimodal"])
    assert unimodal(added) == [f"Unimodal (modality {name})" for name in ("text", "audio", "vision")]


def test_methods_can_be_selected_and_added() -> None:
    def labels(name: str, *given: str) -> list[str]:
        return [row.label for row in choices.with_methods(TABLES[name], given).rows]

    every = ["MMPareto", "MMPareto (paper)", "MMPareto (released)"]
    assert labels("main", "MM-Pareto", "dgl") == ["Uniform", *every, "DGL"]
    assert labels("main", "mmpareto:paper", "ogm") == ["Uniform", "MMPareto (paper)", "OGM"]
    assert labels("main", "mmpareto:released", "uniform") == [
        *("Uniform", "MMPareto (released)", "Uniform (encoder_scale 1.5)")
    ]
    assert labels("variants", "mmpareto:paper") == ["Uniform", "MMPareto (paper)"]
    for default in ("mmpareto:per_tensor", "MM-Pareto:brief"):  # its current and its old name
        assert labels("main", default) == labels("variants", default) == ["Uniform", "MMPareto"]
        assert labels("multitask", default, "ogm") == ["Uniform", "MMPareto", "OGM"]
        assert labels("modelnet40", "dgl", default) == ["Uniform", "MMPareto", "DGL"]
    assert len(labels("variants", "mmpareto")) == 4 and len(labels("gamma", "mmpareto")) == 12
    assert labels("main", "torchjd:UPGrad") == ["Uniform", "TorchJD UPGrad"]
    with pytest.raises(InputError, match="Did you mean 'mmpareto'"):
        labels("main", "mpareto")
    (added,) = [row for row in choices.with_methods(TABLES["dgl"], ["agm"]).rows if row.label == "AGM"]
    assert choices.flag_of(added.flags, "--recipe") == "dgl"  # that of the whole table
    columns = choices.with_methods(TABLES["preprocessing"], ["mmpareto", "dgl"]).columns
    assert [column.label for column in columns] == ["MMPareto", "DGL"]
    assert choices.data_sets_of(columns) == ["cremad"]


def test_each_column_is_repeated_for_every_encoder() -> None:
    table = choices.with_encoders(TABLES["main"], ["resnet18", "CNN"])
    assert [column.label for column in table.columns][1::2] == ["CREMA-D, cnn", "Kinetics-Sounds, cnn"]
    assert {s.encoder for (_, c), s in by_label(table).items() if "cnn" in c} == {"cnn"}
    with pytest.raises(InputError, match="unknown encoder"):
        choices.with_encoders(TABLES["main"], ["resnet"])


def test_each_row_may_have_its_authors_recipe_and_the_data_that_it_reads() -> None:
    table = choices.with_own_recipes(choices.with_data_sets(TABLES["main"], ["cremad", "ave"]))
    cells = {(cell.row.label, cell.column.label): cell.settings for cell in make_cells(table, [0], "last")}
    chosen = {key: (s.recipe, s.data, s.epochs) for key, s in cells.items()}
    assert chosen["AGM", "CREMA-D"] == ("agm", "data/cremad-spectrogram", 1500)
    assert chosen["AGM (paper)", "CREMA-D"] == ("agm", "data/cremad-spectrogram", 1500)
    assert chosen["PMR", "AVE"] == ("pmr", "data/ave-spectrogram", 130)
    assert chosen["DGL", "CREMA-D"] == ("dgl", "data/cremad-spectrogram", 100)
    assert chosen["MMPareto", "CREMA-D"] == chosen["Uniform", "CREMA-D"] == ("released", "data/cremad", 50)
    assert chosen["AGM", "AVE"] == ("released", "data/ave", 50)  # its authors state none
    assert "authors" in table.title and "trained with the same" not in table.note and "they state one" in table.note
    sounds = make_cells(choices.with_own_recipes(choices.with_data_sets(TABLES["main"], ["ks"])), [0], "last")
    assert {cell.settings.data for cell in sounds if cell.settings.method == "dgl"} == {"data/kinetics_sounds-33"}
    named = make_cells(choices.with_own_recipes(TABLES["variants"]), [0], "last")
    assert {cell.settings.recipe for cell in named} == {"released", "paper"}  # columns that name a recipe keep it
    with pytest.raises(InputError, match="--recipe own"):
        choices.with_own_recipes(choices.with_methods(choices.with_data_sets(TABLES["main"], ["mosi"]), ["joint"]))


def test_invalid_choices_are_refused_before_anything_runs() -> None:
    with pytest.raises(InputError, match="method 'joint' has no variant 'paper'"):
        choices.with_methods(TABLES["main"], ["joint:paper"])
    with pytest.raises(InputError, match="table 'fusion', Joint loss, Concatenation: --gamma"):
        make_cells(TABLES["fusion"], [0], "last", ["--gamma", "2"])
