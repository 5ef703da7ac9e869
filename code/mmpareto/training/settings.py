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
from mmpareto.errors import InputError, first_few
from mmpareto.files import parse_json
from mmpareto.integration import METHODS
from mmpareto.models import BLOCKS, ENCODERS, FUSIONS
from mmpareto.models.per_modality import canonical, encoder_name
from mmpareto.training.effects import (
    ALWAYS,
    CONTRASTIVE,
    CONTRASTIVE_ONLY,
    FREE_BLOCKS,
    FREE_FUSION,
    HOLDS_OUT,
    IN_SEVERAL_PROCESSES,
    OF_AUDIO,
    OF_FILES,
    OF_FRAMES,
    OF_IMAGES,
    ON_GPU,
    UNTRAINED_HEADS,
    WITH_CACHE,
    WITH_CONVOLUTIONS,
    WITH_COSINE,
    WITH_CROSS_TERMS,
    WITH_LOGGER,
    WITH_SGD,
    WITH_STEPS,
    WITH_TENSORBOARD,
    WITH_VALIDATION,
    WITH_WORKERS,
    Effect,
    Facts,
    check_typed,
)
from mmpareto.training.method_options import (
    make_method,
    method_name,
    option_effects,
    read_options,
    recorded_variant,
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
AT_MOST_ALL = Condition("above 0 and at most 1", lambda value: 0 < value <= 1)
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
    "training hyper-parameters: released (default) or paper; some data sets have those of other methods' authors, too: "
    "dgl, ogm_ge, journal, pmr, agm, greedy, mbt (see docs/training.md), which may set options of these methods; your "
    "own data have default alone"
)
ENCODER_HELP = (
    "one of: {names}, timm:MODEL, hf:FOLDER, or auto (by the kind of input); for all modalities, or MODALITY=NAME for "
    "each (see docs/training.md)"
)
PRETRAINED_HELP = (
    "weights for the encoders, such as torchvision's, for all or as MODALITY=FILE for each; or none; never downloaded"
)
NO_BLOCKS = "none"
LARGEST_INT = 2**53  # what JSON readers and float64 keep exactly
BLOCKS_HELP = (
    "modules after each of the last stages, through which the encoders exchange information: {names} (see "
    "docs/methods.md), or none (default)"
)
CROSS_TERMS_HELP = (
    "of unimodal losses that reach other encoders than their own: excluded (default) from what an encoder learns from, "
    "with a backward pass per loss; or included, with one for all"
)
SCHEDULER_HELP = (
    "step: multiply the learning rate by --lr_decay_ratio every --lr_decay_step epochs; cosine: lower it to 0 over the "
    "steps that follow the warm-up"
)
ACCUMULATE_HELP = (
    "split each batch into N micro-batches, to save memory: the same step up to rounding, except that BatchNorm and "
    "the mean gates of MMTM see one micro-batch at a time"
)
OBJECTIVE_HELP = (
    "supervised (default): cross-entropy of the labels; contrastive: pre-train without labels, by InfoNCE between "
    "modalities and between views of each, for --pretrained of a later run (see docs/pretraining.md)"
)
TRAIN_FRACTION_HELP = (
    "train on this fraction of the training samples, of each class alike, drawn with the seed after the held-out ones"
)
SAME_RESULT = "the same result up to rounding, reproducible"


def _setting(
    group: str | None,
    effect: Effect,
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
        effect: the condition under which the setting has an effect; a typed flag without one is refused.
        names: the known names, which replace {names} in `help`; more may be registered before it is printed.
        canonical: returns the value of what was typed, such as the registered name of a spelling.
        check: condition on values other than None.
        older: value of the setting in runs that were recorded before it existed; missing for the first settings.
        flag: `default`, without which the recipe gives the value, and the options of `add_argument` that do not follow
            from the field's type.
    """
    about = {"group": group, "effect": effect, "help": help, "role": role, "names": names, "canonical": canonical}
    return dataclasses.field(default=older, metadata=about | {"check": check, "flag": flag})


RUN, NETWORK, OPTIMISATION, INPUT, MACHINE = "the run", "the network", "optimisation", "the input", "the machine"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one run, complete and checked."""

    # fmt: off
    dataset: str = _setting(
        RUN, ALWAYS, "one of: {names}; case, - and _ are ignored", names=DATASETS, canonical=DATASETS.name,
        default=None,
    )
    data: str = _setting(
        RUN, ALWAYS, "prepared data set (default: data/<dataset>)", role=Role.MACHINE, metavar="DIR", default=None
    )
    method: str = _setting(
        RUN, ALWAYS, "one of: {names}, torchjd:NAME", names=METHODS, canonical=method_name, default="mmpareto"
    )
    variant: str | None = _setting(
        RUN, ALWAYS, "named set of the method's options (default: its first; see --list_methods)", metavar="NAME",
        default=None,
    )
    options: Mapping[str, Any] = _setting(None, ALWAYS, "the method's options, by name", default=None)
    objective: Literal["supervised", "contrastive"] = _setting(
        RUN, ALWAYS, OBJECTIVE_HELP, default="supervised", older="supervised"
    )
    temperature: float = _setting(
        RUN, CONTRASTIVE_ONLY, "temperature of the InfoNCE losses", default=0.07, check=POSITIVE_FINITE, older=0.07
    )
    recipe: str = _setting(RUN, ALWAYS, RECIPE_HELP, default=None)
    protocol: Literal["validation", "paper"] = _setting(RUN, ALWAYS, PROTOCOL_HELP, default="validation")
    val_fraction: float = _setting(
        RUN, HOLDS_OUT, "fraction of the training set that is held out for validation", default=0.1, check=FRACTION
    )
    train_fraction: float = _setting(
        RUN, ALWAYS, TRAIN_FRACTION_HELP, metavar="FRACTION", default=1.0, check=AT_MOST_ALL, older=1.0
    )
    random_seed: int = _setting(RUN, ALWAYS, "seed of all random numbers", role=Role.SEED, default=0, check=SEED)
    model: str | None = _setting(
        RUN, ALWAYS, "name of the run, in place of the method's", role=Role.OUTPUT, metavar="NAME", default=None,
        check=NAME,
    )
    ckpt_path: str | None = _setting(
        RUN, ALWAYS, "the run's folder (default: runs/<dataset>-<method>-seed<n>)", role=Role.OUTPUT, metavar="DIR",
        default=None,
    )
    plugin: Sequence[str] | None = _setting(
        RUN, ALWAYS, plugins.HELP, role=Role.MACHINE, metavar="MODULE", action="append", default=None, older=None
    )
    no_probe: bool = _setting(
        RUN, UNTRAINED_HEADS, "do not measure the encoders by linear probes where the method trains no unimodal heads",
        role=Role.MEASUREMENT, metavar="true|false", nargs="?", const=True, default=False, older=False,
    )
    probe_every: int | None = _setting(
        RUN, CONTRASTIVE_ONLY, "fit linear probes after every Nth epoch, beside those at the end",
        role=Role.MEASUREMENT, metavar="N", default=None, check=AT_LEAST_1, older=None,
    )

    encoder: str | tuple[str, ...] = _setting(
        NETWORK, ALWAYS, ENCODER_HELP, names=ENCODERS, nargs="+", metavar="NAME",
        canonical=lambda words: canonical(words, "encoder", encoder_name),
    )
    fusion: str = _setting(
        NETWORK, FREE_FUSION, "one of: {names}", names=FUSIONS, canonical=FUSIONS.name, default="concat",
    )
    cosine_scale: float = _setting(
        NETWORK, WITH_COSINE, "factor of the cosines of --fusion cosine", metavar="S", default=10.0,
        check=POSITIVE_FINITE, older=10.0,
    )
    blocks: str = _setting(
        NETWORK, FREE_BLOCKS, BLOCKS_HELP, names=BLOCKS, default=NO_BLOCKS, older=NO_BLOCKS,
        canonical=lambda word: NO_BLOCKS if word.lower() == NO_BLOCKS else BLOCKS.name(word),
    )
    init: Literal["mmpareto", "ogm_ge"] = _setting(
        NETWORK, ALWAYS, "initial weights, as in the code of MMPareto, or of OGM-GE and DGL", older="mmpareto"
    )
    pretrained: str | tuple[str, ...] | None = _setting(
        NETWORK, ALWAYS, PRETRAINED_HELP, default=None, nargs="+", metavar="FILE",
        canonical=lambda words: None if words in ("none", ("none",)) else canonical(words, "pretrained", str),
    )
    n_classes: int | None = _setting(
        NETWORK, ALWAYS, "checked against the data; mosi, mosei and chsims offer several, and 1 for regression",
        default=None,
    )

    epochs: int = _setting(OPTIMISATION, ALWAYS, "passes over the training set", role=Role.LENGTH, check=AT_LEAST_1)
    batch_size: int = _setting(OPTIMISATION, ALWAYS, "samples per step, over all GPUs and processes", check=AT_LEAST_1)
    optimizer: Literal["sgd", "adam", "adamw"] = _setting(OPTIMISATION, ALWAYS, "SGD with momentum, Adam, or AdamW")
    learning_rate: float = _setting(
        OPTIMISATION, ALWAYS, "learning rate, which --scheduler and --warmup_epochs change", check=POSITIVE_FINITE
    )
    encoder_learning_rate: float | None = _setting(
        OPTIMISATION, ALWAYS, "learning rate of the encoders, in place of --learning_rate", metavar="RATE",
        default=None, check=POSITIVE_FINITE, older=None,
    )
    momentum: float = _setting(OPTIMISATION, WITH_SGD, "momentum of SGD", check=AT_LEAST_0)
    weight_decay: float = _setting(OPTIMISATION, ALWAYS, "weight decay (with --optimizer adam: 0)", check=AT_LEAST_0)
    scheduler: Literal["none", "step", "cosine"] = _setting(OPTIMISATION, ALWAYS, SCHEDULER_HELP)
    lr_decay_step: int = _setting(OPTIMISATION, WITH_STEPS, "see --scheduler", metavar="EPOCHS", check=AT_LEAST_1)
    lr_decay_ratio: float = _setting(OPTIMISATION, WITH_STEPS, "see --scheduler", check=POSITIVE)
    warmup_epochs: float = _setting(
        OPTIMISATION, ALWAYS, "raise the learning rate linearly over the steps of the first EPOCHS, such as 0.5",
        metavar="EPOCHS", default=0.0, check=AT_LEAST_0, older=0.0,
    )
    clip_grad: float | None = _setting(
        OPTIMISATION, ALWAYS, "clip gradients to NORM (bare: 40)", metavar="NORM", nargs="?", const=40.0,
        check=POSITIVE,
    )
    drop_last: Literal["none", "train", "all"] = _setting(
        OPTIMISATION, ALWAYS, "drop the last batch if it is partial: never, in training, or in evaluation, too",
        older="none",
    )
    best_from_epoch: int = _setting(
        OPTIMISATION, ALWAYS, "first epoch that may be chosen as the best (of a shorter run: its last one)",
        metavar="EPOCH", check=AT_LEAST_1, older=1,
    )
    patience: int | None = _setting(
        OPTIMISATION, WITH_VALIDATION, "stop after EPOCHS without a better result on the validation set",
        role=Role.LENGTH, metavar="EPOCHS", default=None, check=AT_LEAST_1, older=None,
    )
    amp: Literal["bf16", "fp16"] | None = _setting(
        OPTIMISATION, ALWAYS, "mixed precision; fp16 on a GPU only", default=None
    )
    cross_terms: Literal["excluded", "included"] = _setting(
        OPTIMISATION, WITH_CROSS_TERMS, CROSS_TERMS_HELP, default="excluded", older="excluded"
    )
    accumulate: int = _setting(OPTIMISATION, ALWAYS, ACCUMULATE_HELP, metavar="N", default=1)

    audio: Literal["fbank", "spectrogram", "stft"] = _setting(
        INPUT, OF_AUDIO, "audio feature; stft, of 5 s at random, needs prepare.py --audio waveform"
    )
    frames: int = _setting(INPUT, OF_FRAMES, "video frames per clip", check=AT_LEAST_1)
    frame_choice: Literal["spread", "released", "first", "starts"] = _setting(
        INPUT, OF_FRAMES,
        "which frames: released, as in the released MMPareto code; spread, likewise, but spread over short clips; "
        "first, the first ones; starts, the first of each segment", older="spread",
    )
    image_size: int = _setting(INPUT, OF_IMAGES, "width and height of images, in pixels", check=AT_LEAST_1)
    crop_scale: tuple[float, float] = _setting(
        INPUT, OF_IMAGES, "area of the random crop, as a fraction of the image", metavar=("MIN", "MAX"), check=CROP
    )
    audio_frames: int = _setting(
        INPUT, OF_AUDIO, "time steps of the audio feature to read, from its start", check=AT_LEAST_1
    )
    audio_pool: tuple[int, int] = _setting(
        INPUT, OF_AUDIO, "average-pool the audio feature", metavar=("TIME", "MEL"), check=AT_LEAST_1_EACH
    )
    cache: bool = _setting(INPUT, OF_FILES, "decode images only once, into a file in the data's folder", default=False)

    gpu_ids: str = _setting(
        MACHINE, ALWAYS, "GPU ids, 0 or 0,1 (DataParallel), or cpu; default: up to two GPUs, else the CPU",
        role=Role.MACHINE, default="auto",
    )
    workers: int | None = _setting(
        MACHINE, ALWAYS, "data loader processes (default: one per core, at most 16; none on the CPU)",
        role=Role.MACHINE, default=None, check=AT_LEAST_0,
    )
    worker_timeout: float = _setting(
        MACHINE, WITH_WORKERS, "seconds without a batch after which loader processes count as hung", role=Role.MACHINE,
        metavar="SECONDS", default=60.0, check=POSITIVE_FINITE, older=60.0,
    )
    process_timeout: float = _setting(
        MACHINE, IN_SEVERAL_PROCESSES, "seconds that a process of torchrun waits for the others before it gives up",
        role=Role.MACHINE, metavar="SECONDS", default=1800.0, check=POSITIVE_FINITE, older=1800.0,
    )
    cache_dir: str | None = _setting(
        MACHINE, WITH_CACHE, "folder for the file of --cache, where the data's own cannot be written",
        role=Role.MACHINE, metavar="DIR", default=None, older=None,
    )
    compile: bool = _setting(MACHINE, ALWAYS, f"torch.compile the model: {SAME_RESULT}", default=False)
    channels_last: bool = _setting(
        MACHINE, WITH_CONVOLUTIONS, f"store images and convolutions with the channels last: {SAME_RESULT}",
        default=False,
    )
    tf32: bool = _setting(
        MACHINE, ON_GPU, "float32 products on a GPU in TF32: inputs rounded to 10 bits, reproducible", default=False
    )
    fused: bool = _setting(
        MACHINE, ALWAYS, f"fused optimizer step (always so with --amp fp16): {SAME_RESULT}", default=False,
        older=False,
    )
    checkpoint_activations: bool = _setting(
        MACHINE, ALWAYS, f"recompute the encoders' activations in backward passes, to save memory: {SAME_RESULT}",
        default=False,
    )
    use_tensorboard: bool = _setting(
        MACHINE, ALWAYS, "write TensorBoard events", role=Role.OUTPUT, metavar="true|false", default=True
    )
    tensorboard_path: str | None = _setting(
        MACHINE, WITH_TENSORBOARD, "folder of TensorBoard events (default: the run's)", role=Role.OUTPUT,
        metavar="DIR", default=None,
    )
    logger: Literal["wandb", "mlflow"] | None = _setting(
        MACHINE, ALWAYS, "log to Weights & Biases or to MLflow, too (to be installed)", role=Role.OUTPUT, default=None,
        older=None,
    )
    log_every: int | None = _setting(
        MACHINE, WITH_LOGGER, "log the losses of every Nth step, beside those of every epoch", role=Role.OUTPUT,
        metavar="N", default=None, check=AT_LEAST_1, older=None,
    )
    record_gradients: int | None = _setting(
        MACHINE, ALWAYS, "write the losses' gradients of every Nth step, by layer, to gradients.npz", role=Role.OUTPUT,
        metavar="N", default=None, check=AT_LEAST_1,
    )
    # fmt: on

    @property
    def name(self) -> str:
        """Name of the run: <dataset>-<method, or --model>-seed<n>; pre-training has its objective in it, too."""
        objective = f"{self.objective}-" if self.objective == CONTRASTIVE else ""
        return f"{self.dataset}-{self.model or objective + self.method.replace(':', '-')}-seed{self.random_seed}"


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
    typed: tuple[str, ...] = ()
    """Names of the settings that were typed on the command line."""
    allow_unused: bool = False
    """Whether a typed flag without effect is a warning only."""

    def check_flags(self, facts: Facts | None = None) -> list[str]:
        """Return a warning for every typed flag that has no effect in this run, and is not refused.

        Arguments:
            facts: None before the data are open; then only what the settings decide is checked.

        Raises:
            InputError: a typed flag has no effect; see `effects.check_typed`.
        """
        by_name = {name: field.metadata["effect"] for name, field in _FIELDS.items()}
        by_name |= option_effects(self.settings.method)
        return check_typed(self.typed, by_name, self.settings, facts, self.allow_unused)


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
        "--config",
        metavar="FILE",
        help="start a run with the settings of another run's config.json (or folder), which all other flags override",
    )
    run.add_argument(
        "--allow_unused",
        action="store_true",
        help="warn of flags without effect instead of refusing them, for the same flags with several data sets",
    )
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
    resume, config, stand_in, allow_unused = (
        typed.pop(name, None) for name in ("resume", "config", "stand_in", "allow_unused")
    )
    if resume is None:
        request = _new(typed, rest, flags, bool(stand_in), config)
    elif config is None:
        request = _resumed(Path(resume), typed, rest, flags, bool(stand_in))
    else:
        raise InputError("--resume continues a run, and --config starts a new one; give one of them.")
    request = dataclasses.replace(request, allow_unused=bool(allow_unused))
    request.check_flags()
    return request


def _new(
    typed: dict[str, Any], rest: Sequence[str], flags: Sequence[str], stand_in: bool, config: str | None
) -> Request:
    """The request for a new run: the typed settings over those of `config`, over the recipe's and the defaults."""
    typed = {name: _canonical(name, value) for name, value in typed.items()}
    before = {} if config is None else _from_run(Path(config), typed)
    if "dataset" not in typed | before:
        raise InputError(f"--dataset is missing; it takes one of: {', '.join(DATASETS)}.")
    defaults = {name: field.metadata["flag"].get("default") for name, field in _FIELDS.items()}
    values = defaults | before | typed
    values["data"] = values["data"] or f"data/{values['dataset']}"
    absent = None
    if stand_in and "data" not in typed and not Path(values["data"]).exists():  # a wrong --data is an error
        absent = values["data"]
        values |= {"dataset": "synthetic", "data": "data/synthetic"}
    values["recipe"] = recipe_name(values["dataset"], values["recipe"])
    hyper_parameters = recipe(values["dataset"], values["recipe"])
    kept = {} if "recipe" in typed else before
    values["variant"], values["options"] = read_options(
        values["method"],
        typed.get("variant"),
        rest,
        flags,
        {} if "options" in kept else options_in(hyper_parameters, values["method"]),
        (before["variant"], before["options"]) if "options" in before else None,
    )
    if typed.get("optimizer") == "adam":
        hyper_parameters = hyper_parameters | ADAM
    values |= {
        name: _canonical(name, value)
        for name, (value, _) in hyper_parameters.items()
        if name in _FIELDS and name not in typed | kept
    }
    if values["pretrained"] == A_FILE:
        raise InputError(
            f"recipe {values['recipe']!r} of {values['dataset']} starts from ImageNet weights: give --pretrained FILE, "
            "such as torchvision's resnet18-f37072fd.pth, or --pretrained none to train from scratch."
        )
    typed_names = (*typed, *typed_options(values["method"], rest, flags))
    return Request(_checked(Settings(**values)), stand_in=absent, typed=typed_names)


def _from_run(path: Path, typed: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of another run that a new one takes over, unless they are typed.

    Left out are the run's own folders; for another data set, the settings of the network and its input; and for another
    method, its options and the run's name.
    """
    values = dataclasses.asdict(from_config(read_config(path)))
    left_out = {"ckpt_path", "tensorboard_path"}
    if typed.get("dataset", values["dataset"]) != values["dataset"]:
        left_out |= {"data", "recipe"} | {
            name for name, f in _FIELDS.items() if f.metadata["group"] in (NETWORK, INPUT)
        }
    if typed.get("method", values["method"]) != values["method"]:
        left_out |= {"variant", "options", "model"}
    return {name: value for name, value in values.items() if name not in left_out}


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
    if settings.scheduler == "cosine" and "epochs" in changes:
        typed["epochs"] = changes.pop("epochs")  # the schedule depends on it from the first epoch on
    for name, value in sorted(typed.items()):
        if _canonical(name, value) != recorded.get(name):
            raise InputError(
                f"--resume continues the run in {folder} with its own --{name} {recorded.get(name)}: leave --{name} "
                f"out (only {', '.join('--' + name for name in RESUMABLE)} may change)."
            )
    return Request(_checked(dataclasses.replace(settings, **changes)), folder, typed=tuple(changes))


def _canonical(name: str, value: Any) -> Any:
    """The registered name, where the setting's value is a name."""
    canonical = _FIELDS[name].metadata["canonical"] if name in _FIELDS else None
    return canonical(value) if canonical else value


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the lists of argparse and of JSON by the tuples of `Settings`."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def to_config(settings: Settings) -> dict[str, Any]:
    """Return the "arguments" of config.json."""
    return parse_json(json.dumps(dataclasses.asdict(settings)))


def portable_settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in config.json without those that name folders or devices, or that may change on resume."""
    aside = {*RESUMABLE, *settings_with(Role.OUTPUT)}
    return {name: value for name, value in arguments.items() if name not in aside}


def whole_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the "arguments" of a config.json of any age: today's names, and the settings and options added since.

    The run's plug-ins are imported.

    Raises:
        InputError: an argument has another type than its setting, the method or variant no longer exists, or a plug-in
            is missing.
    """
    from mmpareto.validation import mistakes_in_json  # a slow import

    types = {name: field.type for name, field in _FIELDS.items()}
    if found := mistakes_in_json(types, config["arguments"]):
        raise InputError(f"config.json is damaged ({first_few(found, 3)}); start the run again from the beginning.")
    plugins.import_plugins(config["arguments"].get("plugin") or (), "this run")
    added = {name: field.default for name, field in _FIELDS.items() if field.default is not dataclasses.MISSING}
    arguments = added | config["arguments"]
    if "method" in arguments and "variant" in arguments:
        arguments["variant"] = recorded_variant(arguments["method"], arguments["variant"])
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
        if isinstance(value, int) and abs(value) > LARGEST_INT:
            raise InputError(f"--{name} is a number of {len(str(abs(value)))} digits; it must be at most 2⁵³.")
    if not 1 <= settings.accumulate <= settings.batch_size:
        limit = f"from 1 to --batch_size {settings.batch_size}"
        raise InputError(f"--accumulate is {settings.accumulate}; it must be {limit}.")
    if settings.objective == CONTRASTIVE and settings.accumulate > 1:
        raise InputError(
            "--objective contrastive compares the samples of a batch, which --accumulate would split; leave it out."
        )
    if settings.objective == CONTRASTIVE and settings.batch_size < 2:
        raise InputError("--objective contrastive compares the samples of a batch; --batch_size must be at least 2.")
    if settings.warmup_epochs >= settings.epochs:
        raise InputError(f"--warmup_epochs is {settings.warmup_epochs:g}; it must be below --epochs {settings.epochs}.")
    return settings
