"""Effects of flags: one that is typed and has no effect in a run is an error, or a warning.

Every setting states its `Effect` where it is declared (`settings.Settings`); the options of a method that do not always
have one are in its class (`Method.without_effect`). Values of recipes, of another run's config.json and of tables are
never refused: they are written for many runs.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from mmpareto.errors import InputError

CONTRASTIVE = "contrastive"  # the value of `--objective` without labels


@dataclasses.dataclass(frozen=True)
class Facts:
    """The properties of a run that are known once its data are open and its network is built.

    Attributes:
        modalities: names of the modalities that are read, for messages.
        input_options: fields of `InputOptions` that a modality's source reads.
        own_validation: whether the data set has a validation set of its own.
        convolutions: whether the network has convolutions.
        heads_trained: whether the unimodal heads are trained to the end.
        gpu: whether it runs on a GPU.
        fusion: the fusion that the method, the encoders or the objective require, if any.
        free_blocks: whether the network has room for blocks, and the method has none of its own.
        cross_terms: whether leaving out cross terms changes a gradient.
        tasks: names of the tasks, where the network has one encoder for several of them, and no fusion.
    """

    modalities: str
    input_options: frozenset[str]
    own_validation: bool
    convolutions: bool
    heads_trained: bool
    gpu: bool
    fusion: str | None = None
    free_blocks: bool = True
    cross_terms: bool = True
    tasks: str = ""

    @property
    def fixed_fusion(self) -> str:
        """The reason why the fusion cannot be chosen, for messages."""
        if self.tasks:
            return f"{self.tasks} are tasks of one encoder, so that nothing is fused"
        return f"the run, with its --method, --encoder and --objective, always uses the fusion {self.fusion!r}"


class Effect(NamedTuple):
    """The condition under which a setting has an effect.

    Attributes:
        absent: reason why it has none, a clause in which {settings.optimizer} and the like are replaced.
        holds: returns whether it has one, from the settings and the facts. These are None before the data are open;
            until then, a condition on them counts as met.
        released: whether the released code has the flag, too: its commands must run, so it is never refused.
    """

    absent: str
    holds: Callable[[Any, Facts | None], bool]
    released: bool = False


ALWAYS = Effect("", lambda settings, facts: True)
WITH_SGD = Effect("--optimizer {settings.optimizer} has no momentum", lambda s, facts: s.optimizer == "sgd")
WITH_STEPS = Effect(
    "--scheduler {settings.scheduler} has no steps; --scheduler step has", lambda s, facts: s.scheduler == "step", True
)
WITH_VALIDATION = Effect(
    "--protocol paper trains on everything and has no validation set", lambda s, facts: s.protocol == "validation"
)
HOLDS_OUT = Effect(
    "nothing is held out of the training set: {settings.data} has a validation set of its own, or --protocol is paper",
    # G-Blending measures on samples that are held out where a run has no validation set.
    lambda s, facts: s.method == "gblending" if s.protocol == "paper" else not (facts and facts.own_validation),
)
FREE_FUSION = Effect(
    "{facts.fixed_fusion}",
    lambda s, facts: facts is None or (not facts.tasks and facts.fusion in (None, s.fusion)),
)
WITH_COSINE = Effect(
    "--fusion {settings.fusion} has no such scale; --fusion cosine has", lambda s, facts: s.fusion == "cosine"
)
FREE_BLOCKS = Effect(
    "there is one modality only ({facts.modalities}), or method {settings.method!r} has blocks of its own",
    lambda s, facts: facts is None or facts.free_blocks,
)
WITH_CROSS_TERMS = Effect(
    "there are no cross terms, because the encoders exchange nothing (see --blocks), or method {settings.method!r} "
    "descends a sum of losses",
    lambda s, facts: facts is None or facts.cross_terms,
)
CONTRASTIVE_ONLY = Effect(
    "--objective {settings.objective} compares no samples; --objective contrastive does",
    lambda s, facts: s.objective == CONTRASTIVE,
)
UNTRAINED_HEADS = Effect(
    "method {settings.method!r} trains the unimodal heads, so nothing is probed",
    lambda s, facts: facts is None or not facts.heads_trained,
)
WITH_TENSORBOARD = Effect("--use_tensorboard is false", lambda s, facts: s.use_tensorboard, True)
WITH_LOGGER = Effect(
    "there is neither TensorBoard (--use_tensorboard) nor a --logger to write to",
    lambda s, facts: s.use_tensorboard or s.logger is not None,
)
WITH_WORKERS = Effect(
    "this process reads the data itself (--workers)",
    lambda s, facts: (facts is None or facts.gpu) if s.workers is None else s.workers > 0,
)
IN_SEVERAL_PROCESSES = Effect(
    "torchrun has not started this process, so that it waits for no other",
    lambda s, facts: facts is None or "WORLD_SIZE" in os.environ,
)
ON_GPU = Effect("the run is on the CPU", lambda s, facts: facts is None or facts.gpu)
WITH_CONVOLUTIONS = Effect("the network has no convolutions", lambda s, facts: facts is None or facts.convolutions)


def _of_inputs(option: str, inputs: str) -> Effect:
    """The effect of options for reading some kind of input: that a modality's source reads this field of them."""
    absent = f"no modality that is read ({{facts.modalities}}) has {inputs}"
    return Effect(absent, lambda settings, facts: facts is None or option in facts.input_options)


OF_AUDIO = _of_inputs("audio", "audio features of clips")
OF_FRAMES = _of_inputs("frames", "video frames")
OF_IMAGES = _of_inputs("image_size", "images in files, which are cropped and resized")
OF_FILES = _of_inputs("cache", "images in files that are cached")
WITH_CACHE = Effect("nothing is cached without --cache", lambda settings, facts: settings.cache)


def check_typed(
    typed: Iterable[str], effects: Mapping[str, Effect], settings: Any, facts: Facts | None, allow_unused: bool
) -> list[str]:
    """Return a warning for every typed flag without an effect that is not refused.

    Arguments:
        typed: names of the settings, or of the method's options, that were typed on the command line.
        effects: by name; those that are absent always have an effect.
        allow_unused: refuse nothing.

    Raises:
        InputError: a typed flag has no effect in this run, and is none of the released code.
    """
    warnings = []
    for name in typed:
        effect = effects.get(name, ALWAYS)
        if effect.holds(settings, facts):
            continue
        sentence = f"--{name} has no effect in this run: {effect.absent.format(settings=settings, facts=facts)}"
        if not (allow_unused or effect.released):
            raise InputError(f"{sentence}. Leave --{name} out, or add --allow_unused.")
        warnings.append(sentence)
    return warnings
