"""Everything that a run is told: the command line, the recipe behind it, and config.json."""

import argparse
import dataclasses
import enum
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmpareto.cli import at_least, truth
from mmpareto.data import DATASETS
from mmpareto.errors import InputError
from mmpareto.integration import METHODS
from mmpareto.models import ENCODERS, FUSIONS
from mmpareto.registry import normalised
from mmpareto.training.method_options import make_method, method_name, read_options, typed_options
from mmpareto.training.recipes import ADAM, recipe
from mmpareto.training.run_folder import read_config


class Role(enum.Enum):
    """Part that a setting plays in a run; `settings_with` lists the settings of a role."""

    IDENTITY = "decides what the run computes: two runs that differ in it are different runs"
    LENGTH = "decides how long the run computes: distinguishes two runs, and may change on resume"
    SEED = "distinguishes the repetitions that are averaged in a table or a plot"
    MACHINE = "says where the run computes and where its data is: may change on resume"
    OUTPUT = "says what the run writes, and where"


def _setting(role: Role) -> Any:
    return dataclasses.field(metadata={"role": role})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments of one run, complete and checked. Fields are named as their flags; `options` are the method's.

    A field with a default came later than the others: the default is what runs did before it was there.
    """

    dataset: str
    method: str
    variant: str | None
    options: dict[str, Any]
    recipe: str
    protocol: str
    val_fraction: float
    model: str | None = _setting(Role.OUTPUT)
    data: str = _setting(Role.MACHINE)
    ckpt_path: str | None = _setting(Role.OUTPUT)
    random_seed: int = _setting(Role.SEED)
    n_classes: int | None
    encoder: str
    fusion: str
    pretrained: str | None
    optimizer: str
    learning_rate: float
    momentum: float
    weight_decay: float
    scheduler: str
    lr_decay_step: int
    lr_decay_ratio: float
    clip_grad: float | None
    batch_size: int
    epochs: int = _setting(Role.LENGTH)
    amp: str | None
    accumulate: int
    audio: str
    frames: int
    image_size: int
    crop_scale: tuple[float, float]
    audio_frames: int
    audio_pool: tuple[int, int]
    cache: bool
    gpu_ids: str = _setting(Role.MACHINE)
    workers: int | None = _setting(Role.MACHINE)
    compile: bool
    channels_last: bool
    tf32: bool
    checkpoint_activations: bool
    use_tensorboard: bool = _setting(Role.OUTPUT)
    tensorboard_path: str | None = _setting(Role.OUTPUT)
    record_gradients: int | None = _setting(Role.OUTPUT)
    fused: bool = False

    @property
    def name(self) -> str:
        """The run's name: <dataset>-<method, or --model>-seed<n>."""
        return f"{self.dataset}-{self.model or self.method.replace(':', '-')}-seed{self.random_seed}"


def settings_with(*roles: Role) -> tuple[str, ...]:
    """Names of the settings of any of these roles, in the order of `Settings`."""
    return tuple(f.name for f in dataclasses.fields(Settings) if f.metadata.get("role", Role.IDENTITY) in roles)


RESUMABLE = settings_with(Role.LENGTH, Role.MACHINE)


@dataclasses.dataclass(frozen=True)
class Request:
    """What the command line asks for: a new run, or to go on with the one in `resume`."""

    settings: Settings
    resume: Path | None = None
    stand_in: str | None = None
    """The folder that is not there, where the synthetic stand-in takes its place."""


def parser() -> argparse.ArgumentParser:
    """The command line of train.py. Flags without a default take the recipe's value."""
    made = argparse.ArgumentParser(
        prog="train.py",
        description="Train a multimodal network by one of the methods, into a folder of its own.",
        epilog="A flag without a default takes the recipe's value (code/mmpareto/training/recipes.py). The options of "
        "a method, such as --gamma 2, are flags too: see --list-methods.",
        allow_abbrev=False,
    )

    run = made.add_argument_group("the run")
    run.add_argument("--dataset", help=f"one of: {', '.join(DATASETS)}; case, - and _ do not count")
    run.add_argument("--data", metavar="DIR", help="prepared data set (default: data/<dataset>)")
    run.add_argument(
        "--stand_in", action="store_true", help="without --data and data/<dataset>, make and use the synthetic one"
    )
    run.add_argument("--method", help=f"one of: {', '.join(METHODS)}, torchjd:NAME (default: mmpareto)")
    run.add_argument("--variant", help="of the method's options, where its sources differ (see --list-methods)")
    run.add_argument("--list-methods", action=_ListMethods, nargs=0, help="print every method with its options")
    run.add_argument("--recipe", default="released", help="training hyper-parameters: released (default), paper, dgl")
    run.add_argument("--protocol", choices=("validation", "paper"), default="validation", help=PROTOCOL_HELP)
    run.add_argument("--val_fraction", type=float, default=0.1, help="share held out for validation (default: 0.1)")
    run.add_argument("--random_seed", type=int, default=0, help="default: 0")
    run.add_argument("--model", metavar="NAME", help="names the run, in place of the method")
    run.add_argument("--ckpt_path", metavar="DIR", help="the run's folder (default: runs/<dataset>-<method>-seed<n>)")
    run.add_argument("--resume", metavar="DIR", help="go on with the run in this folder")
    run.add_argument("--train", action="store_true", help="accepted for the released code's commands; always so")

    network = made.add_argument_group("the network")
    network.add_argument("--encoder", help=f"one of: {', '.join(ENCODERS)}")
    network.add_argument("--fusion", default="concat", help=f"one of: {', '.join(FUSIONS)}")
    network.add_argument("--pretrained", metavar="FILE", help="ImageNet weights for the encoders; never downloaded")
    network.add_argument(
        "--n_classes",
        type=int,
        help="checked against the data; mosi, mosei and chsims have several to choose from, and 1 for regression",
    )

    steps = made.add_argument_group("optimisation")
    steps.add_argument("--epochs", type=int)
    steps.add_argument("--batch_size", type=int)
    steps.add_argument("--optimizer", choices=("sgd", "adam", "adamw"))
    steps.add_argument("--learning_rate", type=float)
    steps.add_argument("--momentum", type=float, help="of SGD")
    steps.add_argument("--weight_decay", type=float)
    steps.add_argument("--scheduler", choices=("none", "step"), help="step: times the ratio every lr_decay_step epochs")
    steps.add_argument("--lr_decay_step", type=int, metavar="EPOCHS")
    steps.add_argument("--lr_decay_ratio", type=float)
    steps.add_argument("--clip_grad", type=float, nargs="?", const=40.0, metavar="NORM", help="clip to NORM (bare: 40)")
    steps.add_argument("--amp", choices=("bf16", "fp16"), help="mixed precision; fp16 on a GPU only")
    steps.add_argument(
        "--accumulate",
        type=int,
        default=1,
        metavar="N",
        help="go through each batch in N parts, for less memory: the same step to rounding, but for BatchNorm and the "
        "mean gates of MMTM, which see a part at a time (default: 1)",
    )

    inputs = made.add_argument_group("the input")
    inputs.add_argument("--audio", choices=("fbank", "spectrogram"), help="the prepared feature to read")
    inputs.add_argument("--frames", type=int, help="frames a clip")
    inputs.add_argument("--image_size", type=int, help="pixels a side")
    inputs.add_argument("--crop_scale", type=float, nargs=2, metavar=("MIN", "MAX"), help="area of the random crop")
    inputs.add_argument("--audio_frames", type=int, help="steps of time read of the feature, from its start")
    inputs.add_argument("--audio_pool", type=int, nargs=2, metavar=("TIME", "MEL"), help="average-pools the feature")
    inputs.add_argument(
        "--cache", action="store_true", help="decode pictures once, into a file in the data's folder (README)"
    )

    machine = made.add_argument_group("the machine")
    machine.add_argument(
        "--gpu_ids", help="such as 0 or 0,1 (DataParallel); cpu; default: up to two GPUs, else the CPU"
    )
    machine.add_argument(
        "--workers", type=int, help="loader processes (default: one a core, at most 16; on the CPU none)"
    )
    machine.add_argument(
        "--compile", action="store_true", help="torch.compile the model: the same result to rounding, repeatable"
    )
    machine.add_argument(
        "--channels_last",
        action="store_true",
        help="images and convolutions with the channels last in memory: the same result to rounding, repeatable",
    )
    machine.add_argument(
        "--tf32",
        action="store_true",
        help="GPU products and convolutions of float32 in TF32: inputs rounded to 10 bits, repeatable; none on the CPU",
    )
    machine.add_argument(
        "--fused",
        action="store_true",
        help="the optimiser's step in one kernel (always so under --amp fp16): the same result to rounding, repeatable",
    )
    machine.add_argument(
        "--checkpoint_activations",
        action="store_true",
        help="compute the encoders' activations again in each backward pass, for less memory: the same result to "
        "rounding, repeatable",
    )
    machine.add_argument("--use_tensorboard", type=truth, default=True, metavar="true|false", help="default: true")
    machine.add_argument("--tensorboard_path", metavar="DIR", help="default: the run's folder")
    machine.add_argument(
        "--record-gradients",
        "--record_gradients",
        dest="record_gradients",
        type=at_least(1),
        metavar="N",
        help="write the losses' gradients, layer by layer, to gradients.npz: of every Nth step from the first on",
    )
    return made


class _ListMethods(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        from mmpareto.training.method_options import methods_text  # imports torch

        print(methods_text())
        parser.exit()


PROTOCOL_HELP = (
    "validation (default): hold out --val_fraction of the training set and choose the best epoch on it; "
    "paper: train on everything and choose the best epoch on the test set, as the papers do"
)


def parse(arguments: Sequence[str] | None = None) -> Request:
    """Read the command line into a complete request.

    Raises:
        InputError: a value makes no sense, a name is unknown, or a folder is not there.
    """
    made = parser()
    given, rest = made.parse_known_args(arguments)
    flags = [action.dest for action in made._actions]
    if given.resume is None:
        return _new(given, rest, flags)
    folder = Path(given.resume)
    settings = from_config(read_config(folder))
    typed = _typed(made, arguments)
    for name in sorted(typed - {*RESUMABLE, "resume", "train", "stand_in"}):
        if not _same(name, getattr(given, name), getattr(settings, name)) and not (
            name == "dataset" and given.stand_in
        ):
            raise InputError(
                f"--resume goes on with {folder} as it was, --{name} {getattr(settings, name)}: leave --{name} out "
                f"(only {', '.join('--' + name for name in RESUMABLE)} may change)."
            )
    for name, value in typed_options(settings.method, rest, flags).items():
        if value != settings.options.get(name):
            raise InputError(
                f"--resume goes on with {folder} as it was, --{name} {settings.options.get(name)}: leave --{name} out."
            )
    anew = {name: getattr(given, name) for name in RESUMABLE if name in typed}
    return Request(_checked(dataclasses.replace(settings, **anew)), folder)


def _new(given: argparse.Namespace, rest: Sequence[str], flags: Sequence[str]) -> Request:
    if given.dataset is None:
        raise InputError(f"--dataset is missing; it takes one of: {', '.join(DATASETS)}.")
    values: dict[str, Any] = vars(given) | {
        "dataset": DATASETS.name(given.dataset),
        "method": method_name(given.method or "mmpareto"),
        "fusion": FUSIONS.name(given.fusion),
    }
    values["variant"], values["options"] = read_options(values["method"], given.variant, rest, flags)
    values["data"] = values["data"] or f"data/{values['dataset']}"
    stand_in = None
    if given.stand_in and given.data is None and not Path(values["data"]).exists():  # a wrong DIR is an error
        stand_in = values["data"]
        values |= {"dataset": "synthetic", "data": "data/synthetic"}
    chosen = recipe(values["dataset"], values["recipe"])
    if values["optimizer"] == "adam":
        chosen = chosen | ADAM
    for name, (value, _) in chosen.items():
        if values[name] is None:
            values[name] = value
    values["encoder"] = ENCODERS.name(values["encoder"])
    values["crop_scale"], values["audio_pool"] = tuple(values["crop_scale"]), tuple(values["audio_pool"])
    values["gpu_ids"] = values["gpu_ids"] or "auto"
    fields = {field.name: values[field.name] for field in dataclasses.fields(Settings)}
    return Request(_checked(Settings(**fields)), stand_in=stand_in)


def _same(name: str, typed: Any, kept: Any) -> bool:
    if name in ("dataset", "method", "encoder", "fusion"):
        return normalised(typed) == normalised(kept)
    return (tuple(typed) if isinstance(typed, list) else typed) == kept


def to_config(settings: Settings) -> dict[str, Any]:
    """The settings as JSON holds them."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def whole_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """Those of a config.json, with the settings that came after it was written."""
    later = {f.name: f.default for f in dataclasses.fields(Settings) if f.default is not dataclasses.MISSING}
    return later | config["arguments"]


def from_config(config: dict[str, Any]) -> Settings:
    """The settings of config.json's "arguments".

    Raises:
        InputError: they are not those of this version.
    """
    arguments = whole_arguments(config)
    names = {field.name for field in dataclasses.fields(Settings)}
    if set(arguments) != names:
        odd = sorted(names ^ set(arguments))
        raise InputError(f"config.json is of another version of this code: it differs in {', '.join(odd)}.")
    arguments["crop_scale"], arguments["audio_pool"] = tuple(arguments["crop_scale"]), tuple(arguments["audio_pool"])
    make_method(arguments["method"], arguments["options"])
    return Settings(**arguments)


def _typed(made: argparse.ArgumentParser, arguments: Sequence[str] | None) -> set[str]:
    """The names of the flags that were typed, not defaulted."""
    blank = argparse.Namespace(**{action.dest: _UNTYPED for action in made._actions})
    return {name for name, value in vars(made.parse_known_args(arguments, blank)[0]).items() if value is not _UNTYPED}


_UNTYPED = object()


def _checked(settings: Settings) -> Settings:
    low, high = settings.crop_scale
    for sound, flag, need in (
        (settings.batch_size >= 1, "batch_size", "at least 1"),
        (
            1 <= settings.accumulate <= settings.batch_size,
            "accumulate",
            f"from 1 to --batch_size {settings.batch_size}",
        ),
        (settings.epochs >= 1, "epochs", "at least 1"),
        (0 < settings.learning_rate < math.inf, "learning_rate", "above 0, and finite"),
        (settings.momentum >= 0, "momentum", "at least 0"),
        (settings.weight_decay >= 0, "weight_decay", "at least 0"),
        (settings.lr_decay_step >= 1, "lr_decay_step", "at least 1"),
        (settings.lr_decay_ratio > 0, "lr_decay_ratio", "above 0"),
        (settings.clip_grad is None or settings.clip_grad > 0, "clip_grad", "above 0"),
        (settings.frames >= 1, "frames", "at least 1"),
        (settings.image_size >= 1, "image_size", "at least 1"),
        (0 < low <= high <= 1, "crop_scale", "0 < MIN <= MAX <= 1"),
        (settings.audio_frames >= 1, "audio_frames", "at least 1"),
        (min(settings.audio_pool) >= 1, "audio_pool", "at least 1 each"),
        (settings.workers is None or settings.workers >= 0, "workers", "at least 0"),
        (0 <= settings.random_seed < 2**32, "random_seed", "from 0 to 2³² − 1, NumPy's range"),
        (0 < settings.val_fraction < 1, "val_fraction", "between 0 and 1"),
        (settings.model is None or Path(settings.model).name == settings.model, "model", "a name, not a path"),
    ):
        if not sound:
            raise InputError(f"--{flag} is {getattr(settings, flag)}; it must be {need}.")
    return settings
