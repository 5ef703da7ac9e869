"""Flags that have no effect in a run are refused with the reason, or are a warning if the released code has them."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from mmpareto import METHODS
from mmpareto.errors import InputError
from mmpareto.integration.methods.torchjd import TorchJD
from mmpareto.training.effects import ALWAYS, Effect, Facts
from mmpareto.training.method_options import make_method
from mmpareto.training.run import make_trainer
from mmpareto.training.settings import Settings, parse
from prepared_clips import write_prepared
from tiny_runs import arguments, run
from torch import nn

# Every setting that does not always have an effect: a command line on which it has none, and the facts of that run.
CLIPS = Facts("audio, visual", frozenset(), False, True, True, True)  # of files in which no option of the input is read
UNUSED: dict[str, tuple[str, Facts | None]] = {
    "val_fraction": ("--protocol paper --val_fraction 0.2", None),
    "temperature": ("--temperature 0.1", None),
    "no_probe": ("--no_probe", CLIPS),
    "probe_every": ("--probe_every 2", None),
    "fusion": ("--method ensemble --fusion concat", dataclasses.replace(CLIPS, fusion="average")),
    "cosine_scale": ("--fusion sum --cosine_scale 15", None),
    "blocks": ("--method greedy --blocks mmtm", dataclasses.replace(CLIPS, free_blocks=False)),
    "cross_terms": ("--cross_terms included", dataclasses.replace(CLIPS, cross_terms=False)),
    "momentum": ("--optimizer adam --momentum 0.8", None),
    "lr_decay_step": ("--lr_decay_step 3", None),
    "lr_decay_ratio": ("--scheduler cosine --lr_decay_ratio 0.3", None),
    "patience": ("--protocol paper --patience 3", None),
    "audio": ("--audio fbank", CLIPS),
    "audio_frames": ("--audio_frames 5", CLIPS),
    "audio_pool": ("--audio_pool 2 2", CLIPS),
    "frames": ("--frames 3", CLIPS),
    "frame_choice": ("--frame_choice first", CLIPS),
    "image_size": ("--image_size 28", CLIPS),
    "crop_scale": ("--crop_scale 0.5 1", CLIPS),
    "cache": ("--cache", CLIPS),
    "cache_dir": ("--cache_dir there", None),
    "channels_last": ("--channels_last", dataclasses.replace(CLIPS, convolutions=False)),
    "tf32": ("--tf32", dataclasses.replace(CLIPS, gpu=False)),
    "worker_timeout": ("--worker_timeout 3", dataclasses.replace(CLIPS, gpu=False)),
    "process_timeout": ("--process_timeout 3", CLIPS),
    "tensorboard_path": ("--use_tensorboard false --tensorboard_path logs", None),
    "log_every": ("--use_tensorboard false --log_every 3", None),
}
OF_THE_RELEASED_CODE = {"lr_decay_step", "lr_decay_ratio", "tensorboard_path"}  # flags of the released MMPareto.py
# Every option of a method that does not always have an effect, likewise.
UNUSED_OPTIONS = {
    ("mmpareto", "boost"): "--gamma 1 --boost always",
    ("dgl", "alpha"): "--unimodal_loss false --alpha 2",
    ("dgl", "truncate_unimodal"): "--unimodal_loss false --truncate_unimodal false",
    ("gblending", "every"): "--every 3",
    ("mcr", "predictor_learning_rate"): "--bottleneck_weight 0 --predictor_learning_rate 0.001",
    ("pmr", "momentum_starts"): "--momentum_coef 0 --momentum_starts 3",
    ("pmr", "entropy_epochs"): "--mu 0 --entropy_epochs 3",
    ("smv", "part_ratio"): "--part_ratio 0.3",
    ("smv", "alpha"): "--alpha 2",
    ("pmr", "eta"): "--eta 0.1",
    ("mla", "projection"): "--correction none --projection released",
    ("lfm", "gap_reversed"): "--gap contrastive --gap_reversed true",
    ("lfm", "gap_temperature"): "--gap divergence --gap_temperature 0.1",
}


def test_every_setting_states_when_it_has_an_effect() -> None:
    effects = {field.name: field.metadata["effect"] for field in dataclasses.fields(Settings)}
    assert all(isinstance(effect, Effect) for effect in effects.values())
    assert {name for name, effect in effects.items() if effect is not ALWAYS} == set(UNUSED)
    assert {name for name, effect in effects.items() if effect.released} == OF_THE_RELEASED_CODE


@pytest.mark.parametrize("name", UNUSED)
def test_a_typed_flag_without_effect_is_refused_or_a_warning(name: str) -> None:
    line, facts = UNUSED[name]
    words = ["--dataset", "cremad", *line.split()]
    if name in OF_THE_RELEASED_CODE:
        (warning,) = parse(words).check_flags(facts)
    else:
        with pytest.raises(InputError, match=rf"^--{name} has no effect in this run: .*\. Leave --{name} out") as error:
            parse(words).check_flags(facts)
        (warning,) = parse([*words, "--allow_unused"]).check_flags(facts)
        assert str(error.value).startswith(warning)
    assert warning.startswith(f"--{name} has no effect in this run: ") and "{" not in warning


@pytest.mark.parametrize(
    "line",
    [
        "--optimizer sgd --momentum 0.8 --scheduler step --lr_decay_step 3 --lr_decay_ratio 0.3 --val_fraction 0.2",
        "--tensorboard_path logs --log_every 3 --patience 4 --scheduler cosine --warmup_epochs 2",
        "--use_tensorboard false --logger mlflow --log_every 3",
        "--protocol paper --method gblending --val_fraction 0.2",  # its trials hold samples out
        "--recipe journal",  # adamw: its momentum is the recipe's, and was not typed
        "--method gblending --mode online --every 3",
        "--variant released --gamma 2 --boost conflict",
    ],
)
def test_flags_with_an_effect_are_accepted(line: str) -> None:
    every = Facts("audio, visual", frozenset(), False, True, True, True)
    assert parse(["--dataset", "cremad", *line.split()]).check_flags(every) == []


def test_a_validation_set_of_the_datas_own_leaves_nothing_to_hold_out() -> None:
    own = dataclasses.replace(CLIPS, own_validation=True)
    for method in ("joint", "gblending"):
        with pytest.raises(
            InputError, match=r"--val_fraction has no effect .* data/mosi has a validation set of its own"
        ):
            parse(["--dataset", "mosi", "--method", method, "--val_fraction", "0.2"]).check_flags(own)


def test_every_option_of_every_method_states_when_it_has_an_effect() -> None:
    names = [*METHODS, *(f"torchjd:{aggregator}" for aggregator in TorchJD.known())]
    assert {(name, option) for name in names for option in METHODS[name].without_effect} == set(UNUSED_OPTIONS)


@pytest.mark.parametrize(("method", "option"), UNUSED_OPTIONS)
def test_a_typed_option_without_effect_is_refused(method: str, option: str) -> None:
    line = ["--dataset", "cremad", "--method", method, *UNUSED_OPTIONS[method, option].split()]
    with pytest.raises(InputError, match=rf"^--{option} has no effect in this run: --\w+ is "):
        parse(line)


@pytest.mark.parametrize(
    ("method", "given", "values"),
    [
        ("mmpareto", {"gamma": 1.0}, [{"boost": "conflict"}, {"boost": "always"}]),
        ("dgl", {"unimodal_loss": False}, [{"alpha": 1.0}, {"alpha": 3.0, "truncate_unimodal": False}]),
    ],
)
def test_such_options_indeed_change_nothing(method: str, given: dict[str, Any], values: list[dict[str, Any]]) -> None:
    gradients = []
    for value in values:
        torch.manual_seed(0)
        encoder, joint, head = nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(3, 2)
        x, y = torch.randn(5, 4), torch.tensor([0, 1, 1, 0, 1])
        loss, unimodal = (nn.functional.cross_entropy(layer(encoder(x)), y) for layer in (joint, head))
        make_method(method, given | value).backward(loss, {"a": -unimodal}, encoders={"a": encoder})
        gradients.append([p.grad for layer in (encoder, joint, head) for p in layer.parameters()])
    for first, second in zip(*gradients, strict=True):
        assert (first is None and second is None) or torch.equal(first, second)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "cremad", train=9, test=4)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("--method unimodal --modality audio", r"--frames has no .* \(audio\) has video frames"),
        ("--method unimodal --modality visual", r"--audio_frames has no .* \(visual\) has audio"),
        ("--method joint --no_probe", None),
        ("--method pretrain_finetune --no_probe", None),
        ("--method mmpareto --no_probe", "trains the unimodal heads"),
        ("--objective contrastive --no_probe --temperature 0.2 --probe_every 3", None),
        ("--objective contrastive --fusion concat", "always uses the fusion 'projections'"),
        ("--method ensemble --fusion concat", "always uses the fusion 'average'"),
        ("--cross_terms included", "the encoders exchange nothing"),
        ("--method uniform --blocks mmtm --encoder tiny --cross_terms included", "descends a sum of losses"),
        ("--method mmpareto --blocks mmtm --encoder tiny --cross_terms included", None),
        ("--tf32", "the run is on the CPU"),
        ("--channels_last", "the network has no convolutions"),
    ],
)
def test_what_is_known_once_the_data_are_open(line: str, reason: str | None, data: Path, tmp_path: Path) -> None:
    """The flags of all tiny runs are of frames, images and audio: those of an absent modality are refused."""
    request = parse(arguments(data, tmp_path / "run", "--encoder", "plain", *line.split()))
    if reason is None:
        make_trainer(request.settings, check_flags=request.check_flags)
        return
    with pytest.raises(InputError, match=reason):
        make_trainer(request.settings, check_flags=request.check_flags)
    assert not (tmp_path / "run").exists()


def test_warnings_are_printed_once(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--epochs", 1, "--lr_decay_step", 3, "--tf32", "--allow_unused")
    assert run(data, tmp_path / "run", *more) == 0
    errors = capsys.readouterr().err.splitlines()
    for flag in ("lr_decay_step", "tf32"):
        assert len([line for line in errors if line.startswith(f"warning: --{flag} has no effect in this run")]) == 1
