"""Networks built from the names of their parts, and their initial weights."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from mmpareto.errors import InputError
from mmpareto.models import BLOCKS, ENCODERS, FUSIONS
from mmpareto.models.fusion import CosineFusion
from mmpareto.models.network import MultimodalNetwork, MultiTaskNetwork
from mmpareto.models.projections import JointProjections, ProjectionHead

HEADS = ("own", "shared")
INITIALISATIONS = ("mmpareto", "ogm_ge")


def build_network(
    channels: Mapping[str, int],
    n_classes: int,
    *,
    encoder: str | Mapping[str, str] = "resnet18",
    fusion: str | None = None,
    cosine_scale: float = 10.0,
    heads: str = "own",
    blocks: str | None = None,
    projections: int | None = None,
    init: str = "mmpareto",
    tasks: Sequence[str] = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> MultimodalNetwork:
    """The network of the papers' experiments, freshly initialised.

    Arguments:
        channels: modality → channels of its input; their order is the order of modalities.
        n_classes: number of classes.
        encoder: modality → name in `ENCODERS`, or one name for all; every modality gets an encoder of its own.
        fusion: a name in `FUSIONS`; None for "concat", or the one that the encoders require.
        cosine_scale: of the fusion "cosine".
        heads: "own" for one linear head per modality; "shared" for unimodal predictions by the fusion (DGL).
        blocks: a name in `BLOCKS`, for a block after each of the encoders' last three stages; None for the encoders'
            own, if they have any (MBT), else no blocks.
        projections: for contrastive pre-training, the length of the projections that take the place of fusion and
            heads; None for a classifier.
        init: initial weights, "mmpareto" or "ogm_ge" (`initialise`).
        tasks: names of the tasks of a `MultiTaskNetwork`, which has one modality, and neither fusion nor blocks.
        input_shapes: modality → shape of a sample, for encoders that are made for one (`input_sized`, such as MBT).

    Raises:
        InputError: a name is unknown, or parts do not fit together.
    """
    if heads not in HEADS:
        raise InputError(f"heads is {heads!r}; it must be {HEADS[0]!r} or {HEADS[1]!r}.")
    names = dict.fromkeys(channels, encoder) if isinstance(encoder, str) else encoder
    _check_one_network(names)
    fusion = required_fusion(names, fusion) or "concat"
    encoders = {
        name: _build_encoder(names[name], name, count, (input_shapes or {}).get(name))
        for name, count in channels.items()
    }
    if tasks:
        return _build_multitask(encoders, n_classes, tasks, init)
    sizes = {name: module.feature_size for name, module in encoders.items()}
    head_kind: type[nn.Linear | ProjectionHead] = nn.Linear if projections is None else ProjectionHead
    fusion_kind = FUSIONS[fusion] if projections is None else JointProjections
    options = {"scale": cosine_scale} if fusion_kind is CosineFusion else {}
    outputs = projections or n_classes
    own_heads = {name: head_kind(size, outputs) for name, size in sizes.items()} if heads == "own" else None
    try:
        fusion_module = fusion_kind(sizes, outputs, **options)
    except ValueError as error:
        raise InputError(f"--fusion {FUSIONS.name(fusion)}: {error}.") from error
    block_modules = _build_blocks(blocks, names, encoders) if blocks else _own_blocks(encoders)
    network = MultimodalNetwork(encoders, fusion_module, own_heads, block_modules)
    initialise(network, init)
    return network


def _build_multitask(encoders: Mapping[str, Any], n_classes: int, tasks: Sequence[str], init: str) -> MultimodalNetwork:
    if len(encoders) != 1:
        raise InputError(f"several tasks share one encoder, but the inputs are {' and '.join(encoders)}.")
    ((modality, encoder),) = encoders.items()
    heads = {task: nn.Linear(encoder.feature_size, n_classes) for task in tasks}
    network = MultiTaskNetwork(modality, encoder, heads)
    initialise(network, init)
    return network


def required_fusion(encoders: Mapping[str, str], fusion: str | None = None) -> str | None:
    """The fusion that encoders require, as MBT does, or else `fusion`.

    Arguments:
        encoders: modality → name of its encoder.

    Raises:
        InputError: `fusion` is another than the one that they require.
    """
    name = next((name for name in encoders.values() if hasattr(ENCODERS[name], "fusion")), None)
    if name is None:
        return fusion
    required = ENCODERS[name].fusion
    if fusion not in (None, required):
        raise InputError(f"--encoder {name} always uses the fusion {required!r}, not {fusion!r}.")
    return required


def _check_one_network(encoders: Mapping[str, str]) -> None:
    """Raise InputError if encoders that only work together, such as MBT's, are alone or beside others."""
    name = next((name for name in encoders.values() if hasattr(ENCODERS[name], "bottleneck_blocks")), None)
    other = next((modality for modality in encoders if encoders[modality] != name), None)
    if name is not None and other is not None:
        raise InputError(
            f"--encoder {name} is one network for all modalities, with common bottleneck tokens, but {other} has "
            f"{encoders[other]}; give --encoder {name} alone."
        )
    if name is not None and len(encoders) < 2:
        raise InputError(
            f"--encoder {name} exchanges information between modalities, and there is only {next(iter(encoders))}; "
            "take another encoder."
        )


def _build_encoder(name: str, modality: str, channels: int, shape: Sequence[int] | None) -> Any:
    kind = ENCODERS[name]
    if not getattr(kind, "input_sized", False):
        return kind(channels)
    if shape is None:
        raise InputError(f"--encoder {name} is made for inputs of one size; give input_shapes, with {modality}.")
    try:
        return kind(channels, shape)
    except ValueError as error:
        raise InputError(f"--encoder {name} of {modality}: {error}.") from error


def _own_blocks(encoders: Mapping[str, Any]) -> list[nn.Module]:
    """The blocks that encoders of one kind bring along, such as MBT's bottlenecks."""
    first = next(iter(encoders.values()))
    return first.bottleneck_blocks() if hasattr(first, "bottleneck_blocks") else []


def _build_blocks(kind: str, names: Mapping[str, str], encoders: Mapping[str, Any]) -> list[nn.Module]:
    """One block for each of the encoders' last three stages, as in Wu et al. (`mmtm.py`)."""
    block = BLOCKS[kind]
    for name, module in encoders.items():
        if not hasattr(module, "stages") or len(getattr(module, "widths", ())) < 3:
            raise InputError(
                f"{kind} blocks follow an encoder's last three stages, and {names[name]}, of {name}, has none; the "
                "ResNets do, for images and clips."
            )
    widths = [{name: module.widths[stage] for name, module in encoders.items()} for stage in (-3, -2, -1)]
    return [block(stage_widths) for stage_widths in widths]


def initialise(module: nn.Module, init: str) -> None:
    """Draw initial weights, in place, as one of the released codes does.

    Convolutions have Kaiming normal weights over the fan-out for ReLU in both. A part that sets `initialises_itself`,
    such as an encoder of another library, keeps the weights it has.

    Arguments:
        init: "mmpareto", as in the released MMPareto code (models/backbone.py): BatchNorm weights from N(1, 0.02²) and
            bias 0; linear layers keep PyTorch's default. "ogm_ge", as in the code of OGM-GE and DGL, which apply
            `weight_init` (utils/utils.py) to the whole model: BatchNorm weights exactly 1 and bias 0; linear layers
            Xavier normal with bias 0.

    Raises:
        InputError: another `init`.
    """
    if init not in INITIALISATIONS:
        raise InputError(f"init is {init!r}; it must be {' or '.join(map(repr, INITIALISATIONS))}.")
    for part in _initialised_here(module):
        if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and part.affine:
            if init == "mmpareto":
                nn.init.normal_(part.weight, mean=1.0, std=0.02)
            else:
                nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Linear) and init == "ogm_ge":
            nn.init.xavier_normal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def _initialised_here(module: nn.Module) -> Iterator[nn.Module]:
    """The parts of a module, in the order of `modules()`, without those that initialise themselves."""
    if not getattr(module, "initialises_itself", False):
        yield module
        for child in module.children():
            yield from _initialised_here(child)
