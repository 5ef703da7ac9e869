import ast
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmpareto.errors import InputError
from mmpareto.training.loop import learning_rate
from mmpareto.training.settings import (
    Role,
    Settings,
    from_config,
    parse,
    parser,
    settings_with,
    to_config,
    whole_arguments,
)
from prepared_clips import write_prepared
from tiny_runs import resume, run

CODE = Path(__file__).resolve().parents[2] / "code"
# Values of the released code from method.md and data.md, not read from the recipe.
RELEASED = {
    "learning_rate": 0.002,
    "batch_size": 64,
    "epochs": 50,
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "scheduler": "none",
    "audio": "fbank",
    "frames": 2,
    "image_size": 224,
    "audio_frames": 1024,
    "audio_pool": (1, 1),
    "crop_scale": (0.08, 1.0),
}


BAD_VALUES = (
    "batch_size=0 batch_size=-1 epochs=0 learning_rate=0 learning_rate=-1 learning_rate=nan learning_rate=inf "
    "momentum=-0.1 weight_decay=-1 weight_decay=nan lr_decay_step=0 lr_decay_ratio=0 clip_grad=0 clip_grad=nan "
    "frames=0 image_size=0 audio_frames=0 workers=-1 random_seed=-1 random_seed=4294967296 val_fraction=0 "
    "val_fraction=1 val_fraction=nan accumulate=0 accumulate=65 record_gradients=0 best_from_epoch=0"
)


CREMAD = "--dataset cremad"


def settings(line: str) -> Settings:
    return parse(line.split()).settings


def assert_values(parsed: Settings, expected: dict[str, object]) -> None:
    assert {name: getattr(parsed, name) for name in expected} == expected


def test_the_released_codes_command_gives_its_settings() -> None:
    parsed = settings("--dataset CREMAD --model MMPareto --gpu_ids 3 --n_classes 6 --train")
    assert_values(parsed, RELEASED | {"dataset": "cremad", "method": "mmpareto", "gpu_ids": "3", "n_classes": 6})
    assert parsed.name == "cremad-MMPareto-seed0"
    assert parsed.random_seed == 0 and parsed.clip_grad is None and parsed.amp is None and parsed.use_tensorboard


def test_all_other_flags_of_the_released_code_are_accepted() -> None:
    parsed = settings(
        "--dataset CREMAD --model m --n_classes 6 --batch_size 32 --epochs 7 --optimizer adam --learning_rate 0.1"
        " --lr_decay_step 3 --lr_decay_ratio 0.5 --ckpt_path log_cd --train --clip_grad --use_tensorboard True"
        " --tensorboard_path logs --random_seed 4 --gpu_ids 0,1,2,3"
    )
    assert_values(parsed, {"batch_size": 32, "epochs": 7, "optimizer": "adam", "learning_rate": 0.1})
    assert_values(parsed, {"lr_decay_step": 3, "lr_decay_ratio": 0.5, "ckpt_path": "log_cd", "clip_grad": 40.0})
    assert_values(parsed, {"use_tensorboard": True, "tensorboard_path": "logs", "random_seed": 4, "gpu_ids": "0,1,2,3"})


def test_the_released_schedule_has_no_effect_without_scheduler_step() -> None:
    parsed = settings("--dataset CREMAD --train --lr_decay_step 30 --lr_decay_ratio 0.1")
    assert [learning_rate(parsed, epoch) for epoch in (1, 30, 31, 50)] == [0.002] * 4
    parsed = dataclasses.replace(parsed, scheduler="step")
    assert [learning_rate(parsed, epoch) for epoch in (1, 30, 31, 60, 61)] == pytest.approx(
        [2e-3, 2e-3, 2e-4, 2e-4, 2e-5]
    )


def test_recipes_hold_the_sources_values_and_flags_override_them() -> None:
    assert_values(settings("--dataset cremad"), RELEASED)
    assert_values(settings("--dataset cremad --recipe paper"), RELEASED | {"learning_rate": 1e-3})
    parsed = settings("--dataset cremad --recipe paper --learning_rate 0.3 --audio_pool 2 4 --crop_scale 0.5 0.9")
    assert_values(parsed, RELEASED | {"learning_rate": 0.3, "audio_pool": (2, 4), "crop_scale": (0.5, 0.9)})
    assert settings("--dataset cremad --momentum 0").momentum == 0  # a flag's zero is a value, too
    with pytest.raises(InputError, match=r"no recipe 'papers'.*released or paper or dgl"):
        settings("--dataset cremad --recipe papers")


def test_default_settings() -> None:
    parsed = settings("--dataset cremad")
    assert_values(
        parsed, {"method": "mmpareto", "variant": "per_tensor", "protocol": "validation", "val_fraction": 0.1}
    )
    assert parsed.options == {
        "gamma": 1.5,
        "weights": "parameter",
        "rescale": "parameter",
        "boost": "conflict",
        "zero_is_conflict": False,
        "refresh": 1,
    }
    assert_values(parsed, {"data": "data/cremad", "ckpt_path": None, "encoder": "resnet18", "fusion": "concat"})
    assert parsed.gpu_ids == "auto" and parsed.name == "cremad-mmpareto-seed0"
    assert parsed.workers is None  # decided on the machine that runs it
    assert settings("--dataset cremad --workers 0").workers == 0


@pytest.mark.parametrize("spelling", ["CREMAD", "cremad", "CREMA-D", "crema_d", "Crema-d"])
def test_names_of_data_sets_ignore_case_and_dashes(spelling: str) -> None:
    assert settings(f"--dataset {spelling}").dataset == "cremad"


def test_names_of_methods_ignore_case_and_dashes() -> None:
    assert settings("--dataset cremad --method MM-Pareto").method == "mmpareto"


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("--dataset cremat", "unknown data set 'cremat'.*'cremad'"),
        ("--dataset cremad --method mmparetto", "unknown method 'mmparetto'.*'mmpareto'"),
        ("--dataset cremad --method unifrom", "unknown method 'unifrom'.*'uniform'"),
        ("--dataset cremad --encoder resnet19", "unknown encoder 'resnet19'.*'resnet18'"),
        ("--dataset cremad --fusion concatt", "unknown fusion 'concatt'.*'concat'"),
        ("--method joint", "--dataset is missing.*cremad"),
    ],
)
def test_unknown_names_suggest_the_closest(line: str, near: str) -> None:
    with pytest.raises(InputError, match=near) as error:
        settings(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "flag",
    BAD_VALUES.split(),
)
def test_a_bad_value_names_its_flag(flag: str) -> None:
    name, _, value = flag.partition("=")
    with pytest.raises(InputError, match=f"^--{name} is .*must be") as error:
        settings(f"--dataset cremad --{flag}")
    assert "\n" not in str(error.value)
    assert value.lstrip("-") in str(error.value) or float(value) == float(str(error.value).split()[2].rstrip(";"))


@pytest.mark.parametrize("flag", ["crop_scale 0 1", "crop_scale 0.9 0.5", "crop_scale 0.5 1.5", "audio_pool 0 1"])
def test_a_bad_pair_names_its_flag(flag: str) -> None:
    with pytest.raises(InputError, match=f"^--{flag.split()[0]} is"):
        settings(f"--dataset cremad --{flag}")


def test_the_stand_in_replaces_missing_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = "--dataset cremad --stand_in --method joint"
    request = parse(line.split())
    assert request.stand_in
    assert_values(request.settings, {"dataset": "synthetic", "data": "data/synthetic", "method": "joint"})
    assert request.settings.epochs < 50 and request.settings.image_size < 224  # the stand-in's own recipe
    given = parse([*line.split(), "--data", "nowhere"])
    assert not given.stand_in and given.settings.data == "nowhere"  # the user meant a folder: that is an error
    (tmp_path / "data/cremad").mkdir(parents=True)
    request = parse(line.split())
    assert not request.stand_in
    assert_values(request.settings, RELEASED | {"dataset": "cremad", "data": "data/cremad"})


def test_settings_survive_a_round_trip_through_config_json() -> None:
    parsed = settings("--dataset cremad --clip_grad 3 --audio_pool 2 4 --gamma 2 --method mmpareto")
    assert from_config({"arguments": to_config(parsed)}) == parsed
    with pytest.raises(InputError, match=r"another version.*epochs"):
        from_config({"arguments": {k: v for k, v in to_config(parsed).items() if k != "epochs"}})
    with pytest.raises(InputError, match=r"another version.*unheard_of"):
        from_config({"arguments": to_config(parsed) | {"unheard_of": 1}})


def test_a_run_older_than_an_option_has_its_default() -> None:
    now = settings(f"{CREMAD} --method dgl --alpha 2")
    older = to_config(now) | {"options": {"alpha": 2.0}}
    assert from_config({"arguments": older}) == now and now.options["truncate_joint"] is True
    unknown = to_config(now) | {"method": "of a later version", "variant": None, "options": {"beta": 1}}
    assert whole_arguments({"arguments": unknown})["options"] == {"beta": 1}


def test_a_run_older_than_a_setting_has_its_default() -> None:
    parsed = parse(["--dataset", "cremad"]).settings
    older = {name: value for name, value in to_config(parsed).items() if name != "fused"}
    assert from_config({"arguments": older}) == parsed and not parsed.fused
    added = {"init": "mmpareto", "drop_last": "none", "best_from_epoch": 1, "frame_choice": "spread"}
    dgl = to_config(parse(["--dataset", "cremad", "--recipe", "dgl"]).settings)
    before = from_config({"arguments": {name: value for name, value in dgl.items() if name not in added}})
    assert_values(before, added | {"recipe": "dgl", "epochs": 100})  # as that run was trained
    later = parse(["--dataset", "cremad", "--fused"]).settings
    assert from_config({"arguments": to_config(later)}) == later != parsed


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = write_prepared(tmp_path_factory.mktemp("data") / "cremad", prepared={})
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert run(data, folder, "--epochs", "1", "--clip_grad", "3", "--audio_pool", "1", "2") == 0
    return folder


@pytest.mark.parametrize(
    "flag",
    [
        *("learning_rate 0.06", "batch_size 5", "method joint", "variant paper", "random_seed 1", "clip_grad"),
        *("accumulate 2", "compile", "channels_last", "tf32", "fused", "checkpoint_activations"),
        *("gamma 2", "boost always", "zero_is_conflict true", "record_gradients 3"),
        *("protocol paper", "audio_pool 1 1", "encoder resnet18", "amp bf16", "dataset synthetic", "model x"),
    ],
)
def test_resume_refuses_flags_that_would_change_the_run(flag: str, finished: Path) -> None:
    with pytest.raises(InputError, match=rf"^--resume .*with its own --{flag.split()[0]}"):
        parse(["--resume", str(finished), *f"--{flag}".split()])


def test_resume_accepts_the_same_flags_and_changeable_settings(finished: Path) -> None:
    same = (
        "--dataset CREMA-D --method MMPareto --variant per_tensor --gamma 1.5 --learning_rate 0.05 --train --stand_in"
    )
    request = parse(["--resume", str(finished), *same.split(), "--clip_grad", "3", "--audio_pool", "1", "2"])
    assert request.resume == finished and request.settings.epochs == 1 and not request.stand_in
    changes = "--epochs 3 --workers 1 --gpu_ids 0 --data there"
    anew = parse(["--resume", str(finished), *changes.split()]).settings
    assert_values(anew, {"epochs": 3, "workers": 1, "gpu_ids": "0", "data": "there", "learning_rate": 0.05})
    assert resume(finished) == 0


def test_resume_validates_changed_settings(finished: Path) -> None:
    with pytest.raises(InputError, match="--epochs is 0"):
        parse(["--resume", str(finished), "--epochs", "0"])


def test_resuming_a_stand_in_run_accepts_the_scripts_flags(finished: Path, tmp_path: Path) -> None:
    """`sh script/mmpareto.sh --resume DIR` passes --dataset cremad --stand_in, although the run used the stand-in."""
    config = (finished / "config.json").read_text().replace('"dataset": "cremad"', '"dataset": "synthetic"')
    (tmp_path / "config.json").write_text(config)
    line = "--dataset cremad --stand_in --method mmpareto --variant per_tensor --recipe released --resume"
    assert parse([*line.split(), str(tmp_path)]).settings.dataset == "synthetic"


def test_every_setting_has_a_role_and_help() -> None:
    for field in dataclasses.fields(Settings):
        assert isinstance(field.metadata["role"], Role) and field.metadata["help"], field.name
    assert sorted(name for role in Role for name in settings_with(role)) == sorted(to_config(settings(CREMAD)))
    assert settings_with(Role.SEED) == ("random_seed",)
    resumable = {"epochs", "patience", "data", "gpu_ids", "workers", "worker_timeout", "process_timeout", "plugin"}
    resumable |= {"cache_dir"}
    assert set(settings_with(Role.LENGTH, Role.MACHINE)) == resumable
    assert settings_with(Role.MEASUREMENT) == ("no_probe", "probe_every")


def test_the_parser_has_a_flag_for_every_setting_and_few_others() -> None:
    flags = {string for action in parser()._actions for string in action.option_strings}
    names = {field.name for field in dataclasses.fields(Settings)} - {"options"}
    others = {"--resume", "--stand_in", "--train", "--list_methods", "--config", "--allow_unused", "-h", "--help"}
    assert flags == {f"--{name}" for name in names} | others


VALUES = {"crop_scale": "0.5 0.9", "audio_pool": "2 4", "val_fraction": "0.2", "use_tensorboard": "false"}
VALUES |= {
    "cross_terms": "included",
    "drop_last": "all",
    "no_probe": "true",
    "best_from_epoch": "2",
    "frame_choice": "spread",
    "train_fraction": "0.5",
}
WITH_UNDERSCORES = [action.dest for action in parser()._actions if "_" in action.dest and action.dest != "list_methods"]


@pytest.mark.parametrize("name", WITH_UNDERSCORES)
def test_every_flag_is_accepted_with_dashes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where there is no data, for --stand_in
    (action,) = (action for action in parser()._actions if action.dest == name)
    value = "" if action.nargs == 0 else VALUES.get(name, "1")
    needed = {
        "probe_every": " --objective contrastive",
        "cosine_scale": " --fusion cosine",
        "cache_dir": " --cache",
    }
    start = CREMAD + needed.get(name, "")
    underscores, dashes = f"{start} --{name} {value}", f"{start} --{name.replace('_', '-')} {value}"
    assert parse(dashes.split()) == parse(underscores.split()) != parse(start.split())


def test_options_of_methods_are_accepted_with_dashes() -> None:
    assert settings(f"{CREMAD} --zero-is-conflict true").options["zero_is_conflict"] is True
    assert settings(f"{CREMAD} --method ogm --modulation-ends=7").options["modulation_ends"] == 7
    with pytest.raises(InputError, match="--learning_rate"):
        settings(f"{CREMAD} --learning-rat 2")


def test_the_old_name_of_a_variant_is_accepted() -> None:
    now = settings(f"{CREMAD} --variant per_tensor")
    assert settings(f"{CREMAD} --variant brief") == now
    older = to_config(now) | {"variant": "brief"}
    assert from_config({"arguments": older}) == now
    assert whole_arguments({"arguments": older}) == to_config(now)


def test_a_run_from_before_its_method_had_variants_has_the_first_one() -> None:
    now = settings(f"{CREMAD} --method ogm_ge --alpha 0.3")
    older = to_config(now) | {"variant": None, "options": {"alpha": 0.3, "modulation_starts": 0, "modulation_ends": 50}}
    assert from_config({"arguments": older}) == now and now.variant == "paper"
    assert whole_arguments({"arguments": older}) == to_config(now)
    older = to_config(settings(f"{CREMAD} --method joint"))
    assert whole_arguments({"arguments": older})["variant"] is None


def test_a_run_with_the_old_variant_name_resumes_under_both_names(finished: Path, tmp_path: Path) -> None:
    config = (finished / "config.json").read_text().replace('"per_tensor"', '"brief"')
    (tmp_path / "config.json").write_text(config)
    for name in ("brief", "per_tensor"):
        assert parse(["--resume", str(tmp_path), "--variant", name]).settings.variant == "per_tensor"
    with pytest.raises(InputError, match="--variant"):
        parse(["--resume", str(tmp_path), "--variant", "paper"])


def test_help_needs_no_torch_and_shows_every_setting() -> None:
    probe = (
        "import sys\n"
        "from mmpareto.training.settings import parse\n"
        "try:\n    parse(['--help'])\n"
        "except SystemExit as leave:\n    print([leave.code, sorted({'torch', 'numpy', 'av'} & set(sys.modules))])\n"
    )
    process = subprocess.run([sys.executable, "-c", probe], cwd=CODE, capture_output=True, text=True, check=True)
    assert ast.literal_eval(process.stdout.splitlines()[-1]) == [0, []]
    for flag in {field.name for field in dataclasses.fields(Settings)} - {"options"}:
        assert re.search(rf"--{flag}\s", process.stdout), flag


def test_the_entry_point_exits_with_2_and_one_line_on_bad_input(tmp_path: Path) -> None:
    bad = subprocess.run(
        [sys.executable, CODE / "train.py", "--dataset", "cremat"], capture_output=True, text=True, cwd=tmp_path
    )
    assert bad.returncode == 2 and bad.stderr.startswith("error: ") and bad.stderr.count("\n") == 1


def test_adam_has_no_weight_decay_unless_asked_for() -> None:
    """The released code builds Adam without weight decay."""
    assert parse(["--dataset", "cremad", "--optimizer", "adam"]).settings.weight_decay == 0
    assert parse(["--dataset", "cremad", "--optimizer", "adam", "--weight_decay", "0.1"]).settings.weight_decay == 0.1
    assert parse(["--dataset", "cremad", "--optimizer", "adamw"]).settings.weight_decay == 1e-4


@pytest.mark.parametrize("name", ["../up", "a/b", "/abs"])
def test_the_name_of_a_run_must_not_be_a_path(name: str) -> None:
    with pytest.raises(InputError, match="--model"):
        parse(["--dataset", "cremad", "--model", name])


def test_paths_are_compared_literally(finished: Path, tmp_path: Path) -> None:
    config = json.loads((finished / "config.json").read_text())
    config["arguments"]["tensorboard_path"] = "my-runs"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="--tensorboard_path"):
        parse(["--resume", str(tmp_path), "--tensorboard_path", "my_runs"])


# --config: the settings of another run


def test_config_starts_a_run_with_the_settings_of_another(finished: Path) -> None:
    first = parse(["--resume", str(finished)]).settings
    request = parse(["--config", str(finished / "config.json")])
    assert request.settings == dataclasses.replace(first, ckpt_path=None)  # a folder of its own
    assert request.resume is None and request.typed == ()
    assert parse(["--config", str(finished)]).settings == request.settings


def test_flags_override_the_config(finished: Path) -> None:
    changed = "--epochs 7 --clip_grad 2 --random_seed 3 --gamma 2 --recipe paper"
    anew = parse(["--config", str(finished), *changed.split()]).settings
    assert_values(anew, {"epochs": 7, "clip_grad": 2.0, "random_seed": 3, "frames": 2, "image_size": 224})
    assert_values(anew, {"learning_rate": 1e-3, "encoder": "resnet18"})  # a typed recipe gives its values again
    assert anew.options["gamma"] == 2 and anew.audio_pool == (1, 1)
    anew = parse(["--config", str(finished), "--audio_pool", "1", "4"]).settings
    assert_values(anew, {"audio_pool": (1, 4), "encoder": "tiny", "learning_rate": 0.05, "clip_grad": 3.0})


def test_options_of_the_config_stay_with_their_method(tmp_path: Path) -> None:
    made = settings(f"{CREMAD} --method mmpareto --variant released --gamma 2 --zero_is_conflict false --model mine")
    (tmp_path / "any.json").write_text(json.dumps({"arguments": to_config(made)}))
    config = f"--config {tmp_path / 'any.json'}"
    assert settings(config) == made
    changed = settings(f"{config} --gamma 3")
    assert changed.options == made.options | {"gamma": 3.0} and changed.variant == "released"
    paper = settings(f"{config} --variant paper")
    assert paper.options == settings(f"{CREMAD} --variant paper --gamma 2 --zero_is_conflict false").options
    other = settings(f"{config} --method dgl")
    assert other.options == settings(f"{CREMAD} --method dgl").options and (other.variant, other.model) == (None, None)


def test_another_data_set_has_its_own_network_and_input(tmp_path: Path) -> None:
    made = settings(f"{CREMAD} --learning_rate 0.3 --frames 5 --n_classes 6 --data elsewhere --epochs 4")
    (tmp_path / "config.json").write_text(json.dumps({"arguments": to_config(made)}))
    other = settings(f"--config {tmp_path} --dataset mosi")
    assert_values(other, {"learning_rate": 0.3, "epochs": 4, "optimizer": "sgd"})
    assert_values(other, {"data": "data/mosi", "encoder": "transformer", "n_classes": None, "frames": 2})


def test_a_config_that_cannot_be_used_is_named(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.json").write_text("{")
    for words, match in (
        (["--config", str(tmp_path / "torn.json")], "torn.json is damaged"),
        (["--config", str(tmp_path / "nothing")], "nothing holds no run"),
        (["--config", str(finished), "--resume", str(finished)], "--config starts a new one; give one of them"),
    ):
        with pytest.raises(InputError, match=match):
            parse(words)


def test_a_config_of_before_the_schedules_trains_as_it_did() -> None:
    parsed = settings(f"{CREMAD} --recipe dgl")
    added = {"encoder_learning_rate": None, "warmup_epochs": 0.0, "patience": None, "logger": None, "log_every": None}
    older = {name: value for name, value in to_config(parsed).items() if name not in added}
    assert from_config({"arguments": older}) == parsed
    assert_values(parsed, added)
