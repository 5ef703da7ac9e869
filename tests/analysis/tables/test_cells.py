"""The cells of a table: their command lines, and the identity and folder name of their runs."""

import dataclasses
from typing import Any

import pytest
from mmpareto.analysis.finished_run import identity
from mmpareto.analysis.tables.cells import make_cells, run_name, share_of
from mmpareto.analysis.tables.definitions import TABLES, Column, Row, Table
from mmpareto.errors import InputError
from mmpareto.training.settings import Settings, parse, to_config

ONE = Table(
    "one", "One", "?", (Column("CREMA-D", "--dataset cremad"),), (Row("Uniform", "--method uniform"),), "Uniform"
)
# For each setting, a value that is not its default.
OTHER: dict[str, Any] = {
    "dataset": "ave",
    "method": "joint",
    "variant": "paper",
    "options": {"gamma": 2.0},
    "recipe": "paper",
    "protocol": "paper",
    "val_fraction": 0.2,
    "model": "mine",
    "data": "elsewhere",
    "ckpt_path": "there",
    "random_seed": 1,
    "n_classes": 6,
    "encoder": "cnn",
    "fusion": "sum",
    "cosine_scale": 15.0,
    "blocks": "mmtm",
    "cross_terms": "included",
    "init": "ogm_ge",
    "pretrained": "file.pt",
    "optimizer": "adam",
    "learning_rate": 0.5,
    "momentum": 0.8,
    "weight_decay": 0.1,
    "scheduler": "step",
    "lr_decay_step": 31,
    "lr_decay_ratio": 0.2,
    "clip_grad": 1.0,
    "drop_last": "all",
    "best_from_epoch": 2,
    "batch_size": 3,
    "epochs": 7,
    "amp": "bf16",
    "accumulate": 2,
    "audio": "spectrogram",
    "frames": 4,
    "frame_choice": "spread",
    "image_size": 48,
    "crop_scale": (0.5, 1.0),
    "audio_frames": 99,
    "audio_pool": (2, 2),
    "cache": True,
    "gpu_ids": "1",
    "workers": 3,
    "worker_timeout": 30.0,
    "cache_dir": "there",
    "process_timeout": 300.0,
    "compile": True,
    "channels_last": True,
    "tf32": True,
    "fused": True,
    "checkpoint_activations": True,
    "no_probe": True,
    "objective": "contrastive",
    "temperature": 0.1,
    "train_fraction": 0.5,
    "probe_every": 2,
    "plugin": ("my_package",),
    "use_tensorboard": False,
    "tensorboard_path": "board",
    "record_gradients": 10,
    "encoder_learning_rate": 0.1,
    "warmup_epochs": 1.0,
    "patience": 3,
    "logger": "mlflow",
    "log_every": 5,
}
FIELDS = [field.name for field in dataclasses.fields(Settings)]
WITHOUT_EFFECT = [
    "model",
    "ckpt_path",
    "data",
    "gpu_ids",
    "workers",
    "worker_timeout",
    "cache_dir",
    "process_timeout",
    "use_tensorboard",
    "tensorboard_path",
]
WITHOUT_EFFECT += ["record_gradients", "no_probe", "probe_every", "plugin", "logger", "log_every"]


def identity_of(settings: Settings, fingerprint: str = "f") -> dict[str, Any]:
    return identity(to_config(settings), fingerprint)


@pytest.mark.parametrize("name", FIELDS)
def test_settings_with_an_effect_are_part_of_the_identity(name: str) -> None:
    settings = parse(["--dataset", "cremad", "--method", "mmpareto"]).settings
    changed = dataclasses.replace(settings, **{name: OTHER[name]})
    assert getattr(changed, name) != getattr(settings, name)
    assert (identity_of(changed) == identity_of(settings)) is (name in WITHOUT_EFFECT)
    same_name = run_name(identity_of(changed)) == run_name(identity_of(settings))
    assert same_name is (name in WITHOUT_EFFECT)


def test_the_fingerprint_of_the_data_is_part_of_the_identity() -> None:
    settings = parse(["--dataset", "cremad", "--method", "mmpareto"]).settings
    assert identity_of(settings) != identity_of(settings, "g")


def test_the_name_of_a_run_has_its_method_and_seed() -> None:
    names = {}
    for method in ("uniform", "torchjd:MGDA"):
        settings = dataclasses.replace(parse(["--dataset", "cremad"]).settings, method=method)
        for seed in (0, 17):
            names[method, seed] = run_name(identity_of(dataclasses.replace(settings, random_seed=seed)))
    first, second = names["uniform", 0], names["uniform", 17]
    assert first.startswith("cremad-uniform-") and first.endswith("-seed0")
    assert second == first.removesuffix("0") + "17"  # the hash covers everything but the seed
    assert len(first.split("-")[2]) == 8 and int(first.split("-")[2], 16) >= 0
    assert names["torchjd:MGDA", 0].startswith("cremad-torchjd-MGDA-")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("", "cremad-mmpareto-f16496dd-seed0"),
        ("--recipe dgl --method dgl", "cremad-dgl-0b27db07-seed0"),
        ("--method ogm", "cremad-ogm-f86abf2f-seed0"),
        ("--method ogm_ge", "cremad-ogm_ge-e394944f-seed0"),
        ("--method pmr", "cremad-pmr-acc34733-seed0"),
        ("--method agm --variant paper", "cremad-agm-5d74a7ee-seed0"),  # the default variant of before
    ],
)
def test_a_run_keeps_the_name_that_an_older_version_gave_it(line: str, name: str) -> None:
    """Add to `LATER` what makes this fail: tables would not resume runs that were begun before."""
    assert run_name(identity_of(parse(["--dataset", "cremad", *line.split()]).settings)) == name


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--random_seed", "3"], "--random_seed after the -- is set by the table; use --seeds"),
        (["--method=joint"], "use --methods"),
        (["--ckpt_path", "x"], "use --runs"),
        (["--gpu_ids", "0"], "use --gpu_ids before the --"),
        (["--gpu-ids=0"], "use --gpu_ids before the --"),
        (["--no_such", "3"], "unknown flag --no_such"),
    ],
)
def test_flags_that_the_table_sets_are_refused(words: list[str], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        make_cells(ONE, [0], "last", words)


def test_extra_flags_apply_to_every_cell_and_override() -> None:
    cells = make_cells(
        TABLES["preprocessing"], [0], "last", ["--epochs", "3", "--data", "my data", "--audio-pool", "4", "4"]
    )
    assert {(cell.settings.epochs, cell.settings.audio_pool) for cell in cells} == {(3, (4, 4))}
    assert {cell.settings.data for cell in cells} == {"my data", "my data-fps3", "my data-spectrogram"}
    with pytest.raises(InputError, match=r"--data x .* several data sets"):
        make_cells(TABLES["main"], [0], "last", ["--data=x"])


@pytest.mark.parametrize(
    ("protocol", "flags", "expected"),
    [
        ("paper", "", "paper"),
        ("paper", "--protocol validation", "validation"),
        ("validation", "", "validation"),
        (None, "", "validation"),
    ],
)
def test_a_row_with_a_protocol_of_its_own_is_trained_for_it(protocol: str | None, flags: str, expected: str) -> None:
    table = dataclasses.replace(ONE, rows=(Row("Uniform", f"--method uniform {flags}", protocol),))
    (cell,) = make_cells(table, [0], "last")
    assert cell.settings.protocol == expected
    assert cell.words.count("--protocol") == 1


@pytest.mark.parametrize(("name", "count"), [("gamma", 4), ("preprocessing", 7), ("bridge", 3)])
def test_shares_of_a_table_have_all_cells_and_no_run_in_common(name: str, count: int) -> None:
    cells = make_cells(TABLES[name], [0, 1, 2], "validation")
    shares = [share_of(cells, number, count) for number in range(1, count + 1)]
    assert sorted(cell.label for share in shares for cell in share) == sorted(cell.label for cell in cells)
    runs = [{run_name(identity_of(cell.settings)) for cell in share} for share in shares]
    assert sum(map(len, runs)) == len(set.union(*runs))
    sizes = [len(share) for share in shares]
    assert max(sizes) <= 2 * min(sizes)  # some runs are of two cells
    assert share_of(cells, 1, 1) == cells and share_of(cells, 999, 1000) == []


def test_an_extra_flag_needs_an_effect_in_one_cell() -> None:
    rows = (Row("SGD", "--method uniform"), Row("Adam", "--method uniform --optimizer adam"))
    mixed = dataclasses.replace(ONE, rows=rows, baseline="SGD")
    first, second = make_cells(mixed, [0], "last", ["--momentum", "0.5"])
    assert (first.settings.momentum, second.settings.optimizer) == (0.5, "adam")
    with pytest.raises(InputError, match=r"--momentum has no effect in this run: .*nor in any other run of the table"):
        make_cells(dataclasses.replace(mixed, rows=rows[1:], baseline="Adam"), [0], "last", ["--momentum", "0.5"])
