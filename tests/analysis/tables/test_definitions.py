"""The tables: every cell is a command line that train.py accepts and that matches its labels."""

import dataclasses
import itertools
import shlex
from pathlib import Path
from typing import Any

import pytest
from mmpareto.analysis.finished_run import identity
from mmpareto.analysis.tables import choices, stand_in
from mmpareto.analysis.tables.cells import Cell, make_cells
from mmpareto.analysis.tables.definitions import (
    DERIVED,
    HELD_OUT,
    ON_VALIDATION,
    QUICK,
    QUICK_STAND_IN,
    TABLES,
    Column,
    Row,
    Table,
    chain,
    list_text,
    method_row,
    modalities_of,
)
from mmpareto.data import DATASETS
from mmpareto.data.cgmnist import CHANNELS
from mmpareto.data.mmsa_files import MODALITIES
from mmpareto.data.modelnet40 import VIEWS
from mmpareto.integration import METHODS
from mmpareto.training.method_labels import NAMES, label
from mmpareto.training.settings import Settings, parse, to_config

GRIDS = [name for name, table in TABLES.items() if table.columns]
every_grid = pytest.mark.parametrize("name", GRIDS)


@pytest.fixture(autouse=True)
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def by_label(cells: list[Cell], seed: int = 0) -> dict[tuple[str, str], Settings]:
    return {(cell.row.label, cell.column.label): cell.settings for cell in cells if cell.seed == seed}


# Pairs of cells that are the same runs, by their rows: two epochs of one run; the recipe's α and the same α typed.
NEIGHBOURS = [(HELD_OUT.label, ON_VALIDATION.label)]
SAME_RUNS = {
    "bridge": NEIGHBOURS,
    "bridge_dgl": NEIGHBOURS,
    "dgl": [("DGL", "DGL (alpha 4)"), ("DGL", "DGL (alpha 3)")],
}


@every_grid
def test_every_cell_is_a_command_of_train_py(name: str) -> None:
    table = TABLES[name]
    cells = make_cells(table, [0], "validation")
    assert len(cells) == len(table.rows) * len(table.columns)
    recipes = {cell.settings.recipe for cell in cells}
    expected = {
        "variants": {"released", "paper"}, "dgl": {"dgl"}, "bridge_dgl": {"dgl", "released"}, "mbt": {"mbt"},
        "interaction": {"dgl", "released"},
        "pretraining": {"contrastive"},
    }  # fmt: skip
    assert recipes == expected.get(name, {"released"})
    whole = [identity(to_config(cell.settings), cell.settings.data) for cell in cells]
    same = [
        (cells[m].row.label, cells[n].row.label) for n in range(len(cells)) for m in range(n) if whole[m] == whole[n]
    ]
    assert same == SAME_RUNS.get(name, [])


@pytest.mark.parametrize(
    ("protocol", "kind"), [("validation", "validation"), ("last", "validation"), ("paper", "paper")]
)
def test_seeds_and_protocols(protocol: str, kind: str) -> None:
    cells = make_cells(TABLES["refresh"], [3, 0, 3], protocol)
    assert [cell.settings.random_seed for cell in cells] == [3, 3, 3, 0, 0, 0]
    assert {cell.settings.protocol for cell in cells} == {kind}


@pytest.mark.parametrize("name", [name for name in GRIDS if name != "tasks"])  # the stand-in has one task
def test_every_cell_runs_on_the_stand_in_at_a_small_size(name: str) -> None:
    table = choices.with_data_sets(TABLES[name], ["Synthetic"])
    cells = make_cells(table, [0], "validation", size=shlex.split(QUICK), data=stand_in.QUICK_FOLDER)
    for cell in cells:
        settings = cell.settings
        assert (settings.dataset, settings.epochs, settings.image_size) == ("synthetic", 2, 32)
        held_out = settings.val_fraction * QUICK_STAND_IN["clips"] * 5 / 6  # the other sixth is the test set
        assert settings.drop_last != "all" or settings.batch_size <= held_out
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
            settings, rate = cell.settings, choices.flag_of(cell.row.flags, "--learning_rate")
            # The labels of a bridge name changes, and those of pre-training the start or what is trained. Of α, a label
            # names what is typed, which may be the default, and not the recipe's value, which is not the default on
            # Kinetics-Sounds.
            named = "bridge" in name or name in ("pretraining", "finetuning") or settings.fusion == "cosine"
            of_alpha = name == "dgl" and (settings.n_classes == 33 or settings.options.get("alpha") == 4)
            if choices.flag_of(cell.row.flags, "--method") and not named and not of_alpha:
                terms = settings.cross_terms
                further = [f"learning_rate {rate}"] if rate else []
                further += [f"cross_terms {terms}"] if terms != "excluded" else []
                assert cell.row.label == label(settings.method, settings.variant, settings.options, further)
                labels.add(cell.row.label)
    assert {"MMPareto", "MMPareto (paper)", "MMPareto (gamma 2)", "MMPareto (paper, refresh 10)"} <= labels
    assert {"MMPareto (released, gamma 2)", "Uniform (encoder_scale 1.5)", "DGL (alpha 2)"} <= labels
    for row in TABLES["cost"].rows:
        assert row.label == label(row.flags.split()[1])
    assert method_row("torchjd:UPGrad").label == "TorchJD UPGrad"


def methods(table: Table) -> list[str]:
    return [str(choices.flag_of(row.flags, "--method")) for row in table.rows]


def test_what_the_tables_compare() -> None:
    ten = ["joint", "uniform", "pareto", "gblending", "ogm_ge", "greedy", "pmr", "agm", "mmpareto", "dgl"]
    main = methods(TABLES["main"])
    assert main[:2] == ["unimodal"] * 2 and main[-4:] == ["ensemble", *["pretrain_finetune"] * 2, "uniform"]
    assert list(dict.fromkeys(main[2:-4])) == ten
    assert list(dict.fromkeys(methods(TABLES["modelnet40"])[2:])) == ten
    for name in ("main", "modelnet40", "cgmnist", "mosi"):  # wherever AGM is compared, with both signs
        rows = [cell.settings for cell in make_cells(TABLES[name], [0], "last") if cell.settings.method == "agm"]
        assert {s.options["ratio"] for s in rows} == {"released", "paper"}
    ogm = [
        cell.settings.options for cell in make_cells(TABLES["mosi"], [0], "last") if cell.settings.method == "ogm_ge"
    ]
    assert {options["modulated"] for options in ogm} == {"weights"}
    assert choices.data_sets_of(TABLES["main"].columns) == ["cremad", "kinetics_sounds"]
    assert choices.data_sets_of(TABLES["mosi"].columns) == ["mosi"]
    table_3 = ["joint", "uniform", "pareto", "gradnorm", "pcgrad", "metabalance", "mmpareto"]
    assert methods(TABLES["multitask"]) == table_3
    assert set(methods(TABLES["cost"])) == set(METHODS) == set(methods(TABLES["field"]))
    fusions = {s.fusion for s in by_label(make_cells(TABLES["fusion"], [0], "last")).values()}
    assert fusions == {"concat", "sum", "film", "gated"}
    variants = by_label(make_cells(TABLES["variants"], [0], "last"))
    assert {(s.recipe, s.learning_rate) for s in variants.values()} == {("released", 0.002), ("paper", 0.001)}
    assert {s.variant for s in variants.values()} == {None, "per_tensor", "paper", "released"}
    assert TABLES["variants"].title == "MMPareto per tensor, as the paper and as the released code"
    kept = by_label(make_cells(TABLES["refresh"], [0], "last"))
    assert [s.options.get("refresh") for s in kept.values()] == [None, 1, 10]


def test_the_tables_of_real_data_have_all_variants_and_controls() -> None:
    for name, columns in (("cgmnist", 1), ("avdigits", 2)):
        cells = make_cells(TABLES[name], [0], "last")
        settings = [cell.settings for cell in cells if cell.column == TABLES[name].columns[0]]
        assert len(cells) == columns * len(settings)
        variants = {(s.variant, s.options["gamma"], s.options["rescale"]) for s in settings if s.method == "mmpareto"}
        assert variants == {
            ("per_tensor", 1.5, "parameter"),
            ("paper", 1.5, "encoder"),
            ("released", 1.5, "parameter"),
            ("per_tensor", 1, "none"),
        }
        assert {s.options["encoder_scale"] for s in settings if s.method == "uniform"} == {1, 1.5}
        assert {s.options["modality"] for s in settings if s.method == "unimodal"} == set(modalities_of(name))
        assert {"joint", "pareto", "dgl"} < {s.method for s in settings} and len(
            {s.learning_rate for s in settings}
        ) == 1
    assert {cell.settings.data for cell in cells} == {"data/avdigits", "data/avdigits-speaker"}
    assert stand_in.how_to_prepare("avdigits", "data/avdigits-speaker").endswith(
        "--split speaker --out data/avdigits-speaker"
    )


def test_the_controls_of_the_main_table() -> None:
    rows = {cell.row.label: cell.settings.options for cell in make_cells(TABLES["main"], [0], "last")[:19]}
    assert {options["modality"] for options in rows.values() if "modality" in options} == {"audio", "visual"}
    assert [options["freeze_encoders"] for options in rows.values() if "freeze_encoders" in options] == [True, False]
    assert [options["encoder_scale"] for options in rows.values() if "encoder_scale" in options] == [1, 1.5]
    boosts = [options["boost"] for options in rows.values() if "boost" in options]
    assert boosts == ["conflict", "conflict", "always"]


def test_all_methods_of_the_table_of_interaction_have_blocks_once() -> None:
    cells = [cell.settings for cell in make_cells(TABLES["interaction"], [0], "last")]
    without = {s.method for s in cells if s.blocks == "none"}
    assert without == {"unimodal", "greedy"} and not {"ensemble", "pretrain_finetune"} & {s.method for s in cells}
    assert {s.method for s in cells if s.cross_terms == "included"} == {"pareto", "mmpareto", "dgl"}
    assert {s.encoder for s in cells} == {"resnet18"}  # has stages
    added = choices.with_methods(TABLES["interaction"], ["pcgrad"]).rows
    assert [choices.flag_of(row.flags, "--blocks") for row in added] == ["mmtm", "mmtm"]


def test_the_boost_is_compared_with_larger_steps() -> None:
    cells = [cell.settings for cell in make_cells(TABLES["gamma"], [0], "last")]
    per_tensor = [s.options for s in cells if s.variant == "per_tensor"]
    assert [one["gamma"] for one in per_tensor] == [1, 1.25, 1.5, 1.75, 2, 2.5, 1]
    assert [one["rescale"] for one in per_tensor] == ["parameter"] * 6 + ["none"]
    released = [s.options["gamma"] for s in cells if s.variant == "released"]
    assert released == [1, 1.5, 2, 3]
    uniform = [(s.options["encoder_scale"], s.learning_rate) for s in cells if s.method == "uniform"]
    assert uniform[:4] == [(scale, 0.002) for scale in (1, *released[1:])]  # a control for every boost
    assert uniform[4:] == [(1, rate) for rate in (0.001, 0.003, 0.004, 0.006)]


def test_the_parts_and_the_weight_of_dgl() -> None:
    table = choices.with_data_sets(TABLES["dgl"], ["cremad"])
    options = [s.options for s in by_label(make_cells(table, [0], "last")).values() if s.method == "dgl"]
    parts = ("unimodal_loss", "truncate_joint", "truncate_unimodal")
    assert [[name for name in parts if not one[name]] for one in options] == [
        [],
        *[[part] for part in parts],
        *[[]] * 6,
    ]
    assert [one["alpha"] for one in options] == [4] * 4 + [1, 2, 3, 4, 5, 6]
    sounds = make_cells(choices.with_data_sets(TABLES["dgl"], ["ks"]), [0], "last")
    assert {(s.settings.n_classes, s.settings.audio, s.settings.data) for s in sounds} == {
        (33, "stft", "data/kinetics_sounds-33")
    }


@pytest.mark.parametrize("name", ["bridge", "bridge_dgl"])
def test_a_row_of_a_bridge_makes_one_change_to_the_row_before(name: str) -> None:
    """Settings that only make sense together (a feature and its folder and length) count as one."""
    rows = []
    for cell in make_cells(TABLES[name], [0], "validation"):
        settings = dataclasses.asdict(cell.settings)
        feature = tuple(settings.pop(key) for key in ("data", "audio", "audio_frames"))
        del settings["recipe"], settings["variant"]  # names for values that are compared one by one
        rows.append(settings | settings.pop("options") | {"feature": feature, "selection": cell.row.protocol})
    changes = [{key for key in row if row[key] != before[key]} for before, row in itertools.pairwise(rows)]
    assert changes == [{change} for change in BRIDGES[name]]
    assert (rows[0]["protocol"], rows[0]["selection"]) == ("paper", "paper")
    assert (rows[-1]["protocol"], rows[-1]["selection"]) == ("validation", "validation")


BRIDGES = {
    "bridge": ["protocol", "selection", "frame_choice", "boost", "zero_is_conflict", "weights"],
    "bridge_dgl": [
        *("protocol", "selection", "best_from_epoch", "drop_last", "drop_last", "lr_decay_step", "frame_choice"),
        *("init", "feature", "frames", "scheduler", "epochs", "clip_grad"),
    ],
}


@pytest.mark.parametrize(("name", "method"), [("bridge", "mmpareto"), ("bridge_dgl", "dgl")])
def test_a_bridge_begins_at_the_released_recipe_and_ends_at_the_default(name: str, method: str) -> None:
    def run(flags: str) -> dict[str, Any]:
        settings = dataclasses.asdict(parse(shlex.split(f"--dataset cremad --method {method} {flags}")).settings)
        return {key: settings[key] for key in settings if key not in ("data", "record_gradients", "lr_decay_step")}

    cells = make_cells(TABLES[name], [0], "validation")
    first, last = ({**dataclasses.asdict(cell.settings)} for cell in (cells[0], cells[-1]))
    start = {"bridge": "--variant released --protocol paper", "bridge_dgl": "--recipe dgl --protocol paper"}[name]
    for settings, expected in ((first, run(start)), (last, run("--frame_choice spread"))):
        assert {key: settings[key] for key in expected} == expected


def test_a_chain_replaces_earlier_values() -> None:
    rows = chain(
        Row("a", "--method x --pool 1 2 --bare", "paper"), Row("b", "--pool 3 4"), Row("c", "--data '{data} z'", "last")
    )
    assert [row.flags for row in rows[:2]] == ["--method x --pool 1 2 --bare", "--method x --pool 3 4 --bare"]
    assert shlex.split(rows[2].flags)[-2:] == ["--data", "{data} z"]
    assert [row.protocol for row in rows] == ["paper", "paper", "last"]


@pytest.mark.parametrize("name", ["cgmnist", "modelnet40", "mosi", "ucf101", "synthetic"])
def test_modalities_are_those_that_the_data_set_reads(name: str) -> None:
    names = {"cgmnist": CHANNELS, "modelnet40": VIEWS, "mosi": MODALITIES, "ucf101": ["rgb", "flow"]}
    assert modalities_of(name) == tuple(names.get(name, ["audio", "visual"]))


CHANGES: dict[str, dict[str, Any]] = {
    "Spectrogram": {"data": "data/cremad-spectrogram", "audio": "spectrogram", "audio_frames": 188},
    "Clips of few frames: first to last in test, any in training": {"frame_choice": "spread"},
    "Always the first frames": {"frame_choice": "first"},
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
    next(row.label for row in TABLES["preprocessing"].rows if row.label.startswith("As DGL")): {
        "data": "data/cremad-spectrogram",
        "audio": "spectrogram",
        "audio_frames": 188,
        "frames": 1,
        "frame_choice": "first",
        "epochs": 100,
        "scheduler": "step",
        "lr_decay_step": 69,
        "clip_grad": 40.0,
        "init": "ogm_ge",
        "drop_last": "all",
        "best_from_epoch": 2,
    },
}


@pytest.mark.parametrize("column", ["Uniform", "MMPareto"])
def test_a_row_of_preprocessing_changes_only_what_its_label_says(column: str) -> None:
    table = TABLES["preprocessing"]
    cells = make_cells(table, [0], "last")
    rows = {cell.row.label: dataclasses.asdict(cell.settings) for cell in cells if cell.column.label == column}
    base = rows.pop(table.baseline)
    assert (base["audio"], base["frames"], base["data"]) == ("fbank", 2, "data/cremad")
    assert base["frame_choice"] == "released"
    changed = {
        row: {key: value for key, value in settings.items() if value != base[key]} for row, settings in rows.items()
    }
    assert changed == CHANGES


def test_the_row_as_dgl_is_the_recipe_dgl() -> None:
    (row,) = [row for row in TABLES["preprocessing"].rows if row.label.startswith("As DGL")]
    method = "--dataset cremad --method uniform"
    by_flags, by_recipe = (
        dataclasses.asdict(parse(shlex.split(f"{method} {flags}")).settings) for flags in (row.flags, "--recipe dgl")
    )
    assert {key for key in by_flags if by_flags[key] != by_recipe[key]} == {"recipe", "data"}


@pytest.mark.parametrize(
    ("suffix", "name"),
    [
        *(
            (suffix, name)
            for suffix in ("-fps3", "-spectrogram")
            for name in ("cremad", "kinetics_sounds", "synthetic")
        ),
        ("-33", "kinetics_sounds"),
        ("-waveform", "vggsound"),
        ("-speaker", "avdigits"),
    ],
)
def test_derived_data_are_prepared_with_flags_of_prepare_py(suffix: str, name: str) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    DATASETS[name].add_arguments(parser)
    raw = [] if name == "synthetic" else ["--raw", "."]
    assert vars(parser.parse_args([*raw, *shlex.split(DERIVED[suffix])])) != vars(parser.parse_args(raw))
