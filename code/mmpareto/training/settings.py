"""The settings of a run: the flags of train.py, the recipe's values, and config.json.

A setting is declared once, as a field of `Settings`: the command line, its help, the checks of values, config.json and
what may change on resume are derived from it.
"""

import argparse
import dataclasses
import enum
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mmpareto import plugins
from mmpareto.cli import ArgumentParser, argument_options
from mmpareto.data import DATASETS
from mmpareto.errors import InputError
from mmpareto.integration import METHODS
from mmpareto.models import ENCODERS, FUSIONS
from mmpareto.models.per_modality import canonical, encoder_name
from mmpareto.training.method_options import (
    make_method,
    method_name,
    read_options,
    typed_options,
    variant_name,
    whole_options,
)
from mmpareto.training.recipes import A_FILE, ADAM, options_in, recipe, recipe_name
from mmpareto.training.run_folder import read_config


class Role(enum.Enum):
    """Part that a setting plays in a run; `settings_with` lists the settings of a role."""

    IDENTITY = "decides what the run computes: two runs that differ in it are different runs"
    LENGTH = "decides how long the run computes: distinguishes two runs, and may change on resume"
    SEED = "distinguishes the repetitions that are averaged in a table or a plot"
    MACHINE = "names the device, the loader processes or the data's folder: may change on resume"
    MEASUREMENT = "controls what is measured once training is done: may change on resume"
    OUTPUT = "controls what the run writes, and where"


class Condition(NamedTuple):
    """A condition on a value, and its wording after "it must be"."""

    wording: str
    holds: Callable[[Any], bool]


AT_LEAST_0 = Condition("at least 0", lambda value: value >= 0)
AT_LEAST_1 = Condition("at least 1", lambda value: value >= 1)
AT_LEAST_1_EACH = Condition("at least 1 each", lambda pair: min(pair) >= 1)
POSITIVE = Condition("above 0", lambda value: value > 0)
POSITIVE_FINITE = Condition("above 0, and finite", lambda value: 0 < value < math.inf)
FRACTION = Condition("between 0 and 1", lambda value: 0 < value < 1)
CROP = Condition("0 < MIN <= MAX <= 1", lambda pair: 0 < pair[0] <= pair[1] <= 1)
SEED = Condition("from 0 to 2³² − 1, NumPy's range", lambda value: 0 <= value < 2**32)
NAME = Condition("a name, not a path", lambda value: Path(value).name == value)

PROTOCOL_HELP = (
    "validation (default): hold out --val_fraction of the training set and choose the best epoch on it; "
    "paper: train on everything and choose the best epoch on the test set, as the papers do"
)
RECIPE_HELP = (
    "training hyper-parameters: released (default) or paper; some data sets have dgl, ogm_ge, journal or pmr, too (see "
    "docs/training.md), which may set options of their methods; your own data have default alone"
)
ENCODER_HELP = (
    "one of: {names}, timm:MODEL, hf:FOLDER, or auto (by the kind of input); for all modalities, or MODALITY=NAME for "
    "each (see docs/training.md)"
)
PRETRAINED_HELP = (
    "weights for the encoders, such as torchvision's, for all or as MODALITY=FILE for each; or none; never downloaded"
)
ACCUMULATE_HELP = (
    "split each batch into N micro-batches, to save memory: the same step up to rounding, except that BatchNorm and "
    "the mean gates of MMTM see one micro-batch at a time"
)
SAME_RESULT = "the same result up to rounding, reproducible"


def _setting(
    group: str | None,
    help: str,
    *,
    role: Role = Role.IDENTITY,
    names: Mapping[str, Any] | None = None,
    canonical: Callable[[Any], Any] | None = None,
    check: Condition | None = None,
    older: Any = dataclasses.MISSING,
    **flag: Any,
) -> Any:
    """Declare a setting, and its flag on the command line.

    Arguments:
        group: of flags in --help; None where the setting has no flag.
        names: the known names, which replace {names} in `help`; more may be registered before it is printed.
        canonical: returns the value of what was typed, such as the registered name of a spelling.
        check: condition on values other than None.
        older: value of the setting in runs that were recorded before it existed; missing for the first settings.
        flag: `default`, without which the recipe gives the value, and the options of `add_argument` that do not follow
            from the field's type.
    """
    values = {"group": group, "help": help, "role": role, "names": names, "canonical": canonical, "check": check}
    return dataclasses.field(default=older, metadata=values | {"flag": flag})


RUN, NETWORK, OPTIMISATION, INPUT, MACHINE = "the run", "the network", "optimisation", "the input", "the machine"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one run, complete and checked."""

    dataset: str = _setting(
        RUN, "one of: {names}; case, - and _ are ignored", names=DATASETS, canonical=DATASETS.name, default=None
    )
    data: str = _setting(
        RUN, "prepared data set (default: data/<dataset>)", role=Role.MACHINE, metavar="DIR", default=None
    )
    method: str = _setting(
        RUN, "one of: {names}, torchjd:NAME", names=METHODS, canonical=method_name, default="mmpareto"
    )
    variant: str | None = _setting(
        RUN, "named set of the method's options (default: its first; see --list_methods)", metavar="NAME", default=None
    )
    options: Mapping[str, Any] = _setting(None, "the method's options, by name", default=None)
    recipe: str = _setting(RUN, RECIPE_HELP, default=None)
    protocol: Literal["validation", "paper"] = _setting(RUN, PROTOCOL_HELP, default="validation")
    val_fraction: float = _setting(
        RUN, "fraction of the training set that is held out for validation", default=0.1, check=FRACTION
    )
    random_seed: int = _setting(RUN, "seed of all random numbers", role=Role.SEED, default=0, check=SEED)
    model: str | None = _setting(
        RUN, "name of the run, in place of the method's", role=Role.OUTPUT, metavar="NAME", default=None, check=NAME
    )
    ckpt_path: str | None = _setting(
        RUN,
        "the run's folder (default: runs/<dataset>-<method>-seed<n>)",
        role=Role.OUTPUT,
        metavar="DIR",
        default=None,
    )
    plugin: Sequence[str] | None = _setting(
        RUN, plugins.HELP, role=Role.MACHINE, metavar="MODULE", action="append", default=None, older=None
    )
    no_probe: bool = _setting(
        RUN,
        "do not measure the encoders by linear probes where the method trains no unimodal heads",
        role=Role.MEASUREMENT,
        metavar="true|false",
        nargs="?",
        const=True,
        default=False,
        older=False,
    )

    encoder: str | tuple[str, ...] = _setting(
        NETWORK, ENCODER_HELP, names=ENCODERS, canonical=lambda words: canonical(words, "encoder", encoder_name),
        nargs="+", metavar="NAME",
    )  # fmt: skip
    fusion: str = _setting(NETWORK, "one of: {names}", names=FUSIONS, canonical=FUSIONS.name, default="concat")
    init: Literal["mmpareto", "ogm_ge"] = _setting(
        NETWORK, "initial weights, as in the code of MMPareto, or of OGM-GE and DGL", older="mmpareto"
    )
    pretrained: str | tuple[str, ...] | None = _setting(
        NETWORK, PRETRAINED_HELP, default=None, nargs="+", metavar="FILE",
        canonical=lambda words: None if words in ("none", ("none",)) else canonical(words, "pretrained", str),
    )  # fmt: skip
    n_classes: int | None = _setting(
        NETWORK, "checked against the data; mosi, mosei and chsims offer several, and 1 for regression", default=None
    )

    epochs: int = _setting(OPTIMISATION, "passes over the training set", role=Role.LENGTH, check=AT_LEAST_1)
    batch_size: int = _setting(OPTIMISATION, "samples per step, over all GPUs and processes", check=AT_LEAST_1)
    optimizer: Literal["sgd", "adam", "adamw"] = _setting(OPTIMISATION, "SGD with momentum, Adam, or AdamW")
    learning_rate: float = _setting(OPTIMISATION, "learning rate of the first epoch", check=POSITIVE_FINITE)
    momentum: float = _setting(OPTIMISATION, "momentum of SGD", check=AT_LEAST_0)
    weight_decay: float = _setting(OPTIMISATION, "weight decay (with --optimizer adam: 0)", check=AT_LEAST_0)
    scheduler: Literal["none", "step"] = _setting(
        OPTIMISATION, "step: multiply the learning rate by --lr_decay_ratio every --lr_decay_step epochs"
    )
    lr_decay_step: int = _setting(OPTIMISATION, "see --scheduler", metavar="EPOCHS", check=AT_LEAST_1)
    lr_decay_ratio: float = _setting(OPTIMISATION, "see --scheduler", check=POSITIVE)
    clip_grad: float | None = _setting(
        OPTIMISATION, "clip gradients to NORM (bare: 40)", metavar="NORM", nargs="?", const=40.0, check=POSITIVE
    )
    drop_last: Literal["none", "train", "all"] = _setting(
        OPTIMISATION, "drop the last batch if it is partial: never, in training, or in evaluation, too", older="none"
    )
    best_from_epoch: int = _setting(
        OPTIMISATION, "first epoch that may be chosen as the best (of a shorter run: its last one)", metavar="EPOCH",
        check=AT_LEAST_1, older=1,
    )  # fmt: skip
    amp: Literal["bf16", "fp16"] | None = _setting(OPTIMISATION, "mixed precision; fp16 on a GPU only", default=None)
    accumulate: int = _setting(OPTIMISATION, ACCUMULATE_HELP, metavar="N", default=1)

    audio: Literal["fbank", "spectrogram", "stft"] = _setting(
        INPUT, "audio feature; stft, of 5 s at random, needs prepare.py --audio waveform"
    )
    frames: int = _setting(INPUT, "video frames per clip", check=AT_LEAST_1)
    frame_choice: Literal["spread", "released", "first", "starts"] = _setting(
        INPUT,
        "which frames: released, as in the released MMPareto code; spread, likewise, but spread over short clips; "
        "first, the first ones; starts, the first of each segment",
        older="spread",
    )
    image_size: int = _setting(INPUT, "width and height of images, in pixels", check=AT_LEAST_1)
    crop_scale: tuple[float, float] = _setting(
        INPUT, "area of the random crop, as a fraction of the image", metavar=("MIN", "MAX"), check=CROP
    )
    audio_frames: int = _setting(INPUT, "time steps of the audio feature to read, from its start", check=AT_LEAST_1)
    audio_pool: tuple[int, int] = _setting(
        INPUT, "average-pool the audio feature", metavar=("TIME", "MEL"), check=AT_LEAST_1_EACH
    )
    cache: bool = _setting(INPUT, "decode images only once, into a file in the data's folder", default=False)

    gpu_ids: str = _setting(
        MACHINE, "GPU ids, 0 or 0,1 (DataParallel), or cpu; default: up to two GPUs, else the CPU", role=Role.MACHINE,
        default="auto",
    )  # fmt: skip
    workers: int | None = _setting(
        MACHINE, "data loader processes (default: one per core, at most 16; none on the CPU)", role=Role.MACHINE,
        default=None, check=AT_LEAST_0,
    )  # fmt: skip
    compile: bool = _setting(MACHINE, f"torch.compile the model: {SAME_RESULT}", default=False)
    channels_last: bool = _setting(
        MACHINE, f"store images and convolutions with the channels last: {SAME_RESULT}", default=False
    )
    tf32: bool = _setting(
        MACHINE, "float32 products on a GPU in TF32: inputs rounded to 10 bits, reproducible", default=False
    )
    fused: bool = _setting(
        MACHINE, f"fused optimizer step (always so with --amp fp16): {SAME_RESULT}", default=False, older=False
    )
    checkpoint_activations: bool = _setting(
        MACHINE, f"recompute the encoders' activations in backward passes, to save memory: {SAME_RESULT}", default=False
    )
    use_tensorboard: bool = _setting(
        MACHINE, "write TensorBoard events", role=Role.OUTPUT, metavar="true|false", default=True
    )
    tensorboard_path: str | None = _setting(
        MACHINE, "folder of TensorBoard events (default: the run's)", role=Role.OUTPUT, metavar="DIR", default=None
    )
    record_gradients: int | None = _setting(
        MACHINE, "write the losses' gradients of every Nth step, by layer, to gradients.npz", role=Role.OUTPUT,
        metavar="N", default=None, check=AT_LEAST_1,
    )  # fmt: skip

    @property
    def name(self) -> str:
        """Name of the run: <dataset>-<method, or --model>-seed<n>."""
        return f"{self.dataset}-{self.model or self.method.replace(':', '-')}-seed{self.random_seed}"


def settings_with(*roles: Role) -> tuple[str, ...]:
    """Names of the settings with any of these roles, in the order of `Settings`."""
    return tuple(field.name for field in _FIELDS.values() if field.metadata["role"] in roles)


_FIELDS = {field.name: field for field in dataclasses.fields(Settings)}
RESUMABLE = settings_with(Role.LENGTH, Role.MACHINE, Role.MEASUREMENT)


@dataclasses.dataclass(frozen=True)
class Request:
    """A new run with these settings, or the continuation of the run in the folder `resume`."""

    settings: Settings
    resume: Path | None = None
    stand_in: str | None = None
    """Folder of the requested data, which does not exist: the synthetic stand-in is used in its place."""


def parser() -> ArgumentParser:
    """Return the parser of train.py's command line, whose namespace holds only the flags that were typed."""
    made = ArgumentParser(
        prog="train.py",
        description="Train a multimodal network with one of the methods. Each run is written to its own folder.",
        epilog="A flag for which no default is given takes the recipe's value (code/mmpareto/training/recipes.py). The "
        "options of a method, such as --gamma 2, are flags, too: see --list_methods. Words of a flag may be joined by "
        "dashes as well as by underscores.",
        argument_default=argparse.SUPPRESS,
    )
    groups = {name: made.add_argument_group(name) for name in (RUN, NETWORK, OPTIMISATION, INPUT, MACHINE)}
    for field in _FIELDS.values():
        if field.metadata["group"] is not None:
            groups[field.metadata["group"]].add_argument(f"--{field.name}", **_argument_options(field))
    run = groups[RUN]
    run.add_argument("--resume", metavar="DIR", help="continue the run in this folder")
    run.add_argument(
        "--stand_in",
        action="store_true",
        help="if neither --data nor data/<dataset> exists, create and use the synthetic data set",
    )
    run.add_argument("--list_methods", action=_ListMethods, nargs=0, help="print every method with its options")
    run.add_argument("--train", action="store_true", help="ignored; kept for commands of the released code")
    return made


def _argument_options(field: "dataclasses.Field[Any]") -> dict[str, Any]:
    flag, text = dict(field.metadata["flag"]), field.metadata["help"]
    default = flag.pop("default", None)
    if field.metadata["names"] is not None:
        text = text.format(names=", ".join(field.metadata["names"]))
    if default is False and not flag:
        return {"action": "store_true", "help": text}
    if "default" not in text and default is not None:
        text += f" (default: {str(default).lower() if default is True else default})"
    return argument_options(field.type) | flag | {"help": text}


class _ListMethods(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        from mmpareto.training.method_options import methods_text  # imports torch

        print(methods_text())
        parser.exit()


def parse(arguments: Sequence[str] | None = None) -> Request:
    """Read the command line (default: `sys.argv[1:]`).

    Raises:
        InputError: a value is out of range, a name is unknown, or a folder does not exist.
    """
    names, words = plugins.take_plugins(arguments)
    made = parser()
    namespace, rest = made.parse_known_args(words)
    flags = [action.dest for action in made._actions]
    typed = _with_tuples(vars(namespace) | ({"plugin": names} if names else {}))
    typed.pop("train", None)
    resume, stand_in = typed.pop("resume", None), typed.pop("stand_in", False)
    if resume is None:
        return _new(typed, rest, flags, stand_in)
    return _resumed(Path(resume), typed, rest, flags, stand_in)


def _new(typed: dict[str, Any], rest: Sequence[str], flags: Sequence[str], stand_in: bool) -> Request:
    """The request for a new run: the typed settings over the recipe's and the defaults."""
    if "dataset" not in typed:
        raise InputError(f"--dataset is missing; it takes one of: {', '.join(DATASETS)}.")
    defaults = {name: field.metadata["flag"].get("default") for name, field in _FIELDS.items()}
    values = defaults | {name: _canonical(name, value) for name, value in typed.items()}
    values["data"] = values["data"] or f"data/{values['dataset']}"
    absent = None
    if stand_in and "data" not in typed and not Path(values["data"]).exists():  # a wrong --data is an error
        absent = values["data"]
        values |= {"dataset": "synthetic", "data": "data/synthetic"}
    values["recipe"] = recipe_name(values["dataset"], values["recipe"])
    hyper_parameters = recipe(values["dataset"], values["recipe"])
    values["variant"], values["options"] = read_options(
        values["method"], values["variant"], rest, flags, options_in(hyper_parameters, values["method"])
    )
    if values["optimizer"] == "adam":
        hyper_parameters = hyper_parameters | ADAM
    values |= {
        name: _canonical(name, value)
        for name, (value, _) in hyper_parameters.items()
        if name in _FIELDS and name not in typed
    }
    if values["pretrained"] == A_FILE:
        raise InputError(
            f"recipe {values['recipe']!r} of {values['dataset']} starts from ImageNet weights: give --pretrained FILE, "
            "such as torchvision's resnet18-f37072fd.pth, or --pretrained none to train from scratch."
        )
    return Request(_checked(Settings(**values)), stand_in=absent)


def _resumed(folder: Path, typed: dict[str, Any], rest: Sequence[str], flags: Sequence[str], stand_in: bool) -> Request:
    """The request to continue the run in `folder`; of its settings, only those in `RESUMABLE` may differ."""
    settings = from_config(read_config(folder))
    changes = {name: typed.pop(name) for name in RESUMABLE if name in typed}
    if stand_in:
        typed.pop("dataset", None)  # named by the scripts, also where the run is of the stand-in
    if "variant" in typed:
        typed["variant"] = variant_name(settings.method, typed["variant"])
    recorded = {**dataclasses.asdict(settings), **settings.options}
    typed |= typed_options(settings.method, rest, flags)
    for name, value in sorted(typed.items()):
        if _canonical(name, value) != recorded.get(name):
            raise InputError(
                f"--resume continues the run in {folder} with its own --{name} {recorded.get(name)}: leave --{name} "
                f"out (only {', '.join('--' + name for name in RESUMABLE)} may change)."
            )
    return Request(_checked(dataclasses.replace(settings, **changes)), folder)


def _canonical(name: str, value: Any) -> Any:
    """The registered name, where the setting's value is a name."""
    canonical = _FIELDS[name].metadata["canonical"] if name in _FIELDS else None
    return canonical(value) if canonical else value


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the lists of argparse and of JSON by the tuples of `Settings`."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def to_config(settings: Settings) -> dict[str, Any]:
    """Return the "arguments" of config.json."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def portable_settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in config.json without those that name folders or devices, or that may change on resume."""
    aside = {*RESUMABLE, *settings_with(Role.OUTPUT)}
    return {name: value for name, value in arguments.items() if name not in aside}


def whole_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the "arguments" of a config.json of any age: today's names, and the settings and options added since.

    The run's plug-ins are imported.

    Raises:
        InputError: the method or variant no longer exists, or a plug-in is missing.
    """
    plugins.import_plugins(config["arguments"].get("plugin") or (), "this run")
    added = {name: field.default for name, field in _FIELDS.items() if field.default is not dataclasses.MISSING}
    arguments = added | config["arguments"]
    if "method" in arguments and arguments.get("variant") is not None:
        arguments["variant"] = variant_name(arguments["method"], arguments["variant"])
    if "method" in arguments and arguments.get("options") is not None:
        arguments["options"] = whole_options(arguments["method"], arguments["options"])
    return arguments


def from_config(config: Mapping[str, Any]) -> Settings:
    """Return the settings that config.json holds.

    Raises:
        InputError: they are not those of this version of the code.
    """
    arguments = whole_arguments(config)
    different = sorted(set(_FIELDS) ^ set(arguments))
    if different:
        raise InputError(f"config.json was written by another version of this code: see {', '.join(different)}.")
    make_method(arguments["method"], arguments["options"])
    return Settings(**_with_tuples(arguments))


def _checked(settings: Settings) -> Settings:
    for name, field in _FIELDS.items():
        value, check = getattr(settings, name), field.metadata["check"]
        if check is not None and value is not None and not check.holds(value):
            raise InputError(f"--{name} is {value}; it must be {check.wording}.")
    if not 1 <= settings.accumulate <= settings.batch_size:
        limit = f"from 1 to --batch_size {settings.batch_size}"
        raise InputError(f"--accumulate is {settings.accumulate}; it must be {limit}.")
    return settings
