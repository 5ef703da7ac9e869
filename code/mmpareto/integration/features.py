"""The encoders' outputs: which parameters are behind them, and whether the losses depend on nothing else."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mmpareto.integration.objectives import Encoders, Objectives, graph_leaves, graph_nodes

NAME_THEM = "name the encoders: pass encoders=, modality → module"
HIDING = {
    "CheckpointFunctionBackward": "reentrant checkpointing (use_reentrant=True)",
    "BroadcastBackward": "DataParallel",
    "_DDPSinkBackward": "DistributedDataParallel with find_unused_parameters or static_graph",
}
"""Graph nodes behind which parameters cannot be told apart → what adds them."""


def read_output(outputs: Any, name: str) -> Any:
    """The field `name` of a model's outputs, an attribute or a key of a mapping; None if there is none."""
    return outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)


def given_labels(labels: Tensor | None, method: str) -> Tensor:
    """The labels (B,), which `backward` was given.

    Raises:
        ValueError: it was not; the message begins with the method's name.
    """
    if labels is None:
        raise ValueError(f"{method} needs the labels: pass labels=…, the class indices (B,)")
    return labels


def features_of(outputs: Any, features: Mapping[str, Tensor] | None) -> Mapping[str, Tensor] | None:
    """The encoders' outputs by modality: `features`, else that field of `outputs`; None if neither is given.

    Raises:
        ValueError: they are no mapping of tensors.
    """
    given = read_output(outputs, "features") if features is None else features
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise ValueError(f"features are a {type(given).__name__}: pass a mapping, modality → the encoder's output")
    given = {modality: feature for modality, feature in given.items() if feature is not None}
    for modality, feature in given.items():
        if not isinstance(feature, Tensor):
            raise ValueError(
                f"the feature of {modality!r} is a {type(feature).__name__}: pass the encoder's output tensor"
            )
    return given


def encoders_behind(features: Mapping[str, Tensor] | None) -> Encoders:
    """The parameters that each feature depends on, found in its autograd graph, in the order of their first use.

    Raises:
        ValueError: there are no features, or the graph does not tell which parameters are behind which feature.
    """
    if features is None:
        raise ValueError(f"{NAME_THEM}, or features= (or outputs=, with features), modality → the encoder's output")
    owner: dict[int, str] = {}
    encoders: dict[str, list[Tensor]] = {}
    for modality, feature in features.items():
        encoders[modality] = _in_order_of_use(modality, feature)
        for leaf in encoders[modality]:
            if not isinstance(leaf, nn.Parameter):
                raise ValueError(
                    f"the feature of {modality!r} depends on a tensor of shape {tuple(leaf.shape)} that requires a "
                    f"gradient but is no nn.Parameter (an input?): {NAME_THEM}"
                )
            other = owner.setdefault(id(leaf), modality)
            if other != modality:
                raise ValueError(
                    f"a parameter of shape {tuple(leaf.shape)} is behind the features of both {other!r} and "
                    f"{modality!r} (tied, exchanging or compiled encoders?): {NAME_THEM}"
                )
    return encoders


def _in_order_of_use(modality: str, feature: Tensor) -> list[Tensor]:
    """Trainable leaves of a feature's graph. Methods may depend on their order: GradNorm looks for the last layer."""
    if feature.grad_fn is None:
        return [feature] if feature.requires_grad else []
    first_use: dict[Tensor, int] = {}
    for node in graph_nodes([feature]):
        if node.name() in HIDING:
            raise ValueError(f"{HIDING[node.name()]} hides which parameters are behind {modality!r}: {NAME_THEM}")
        for following, _ in node.next_functions:
            leaf = getattr(following, "variable", None)  # only an AccumulateGrad node has one
            if isinstance(leaf, Tensor):
                number = node._sequence_nr()  # counts operations in the order of the forward pass
                first_use[leaf] = min(number, first_use.get(leaf, number))
    return sorted(first_use, key=lambda leaf: first_use[leaf])


@dataclasses.dataclass(frozen=True)
class Cut:
    """Outputs of all encoders through which alone the losses depend on them, or the reason why there are none.

    Attributes:
        features: modality → output of its encoder; None where the graph cannot be cut there.
        needed: with None, what would have to be true.
    """

    features: dict[str, Tensor] | None
    needed: str = ""


def find_cut(objectives: Objectives) -> Cut:
    """Look for the encoders' outputs among the features and check that the losses depend on nothing else of them.

    The graph is walked once per loss. Compiled and replicated models cannot be cut: their features are further outputs,
    beside the logits, and not on the way from the losses to the encoders.
    """
    if objectives.interaction:
        return Cut(None, "encoders that exchange nothing inside, not interaction=True")
    given = objectives.features
    if given is None:
        return Cut(None, "the encoders' outputs, outputs.features by modality: pass outputs")
    features: dict[str, Tensor] = {}
    for modality, encoder in objectives.encoders.items():
        feature = given.get(modality)
        if feature is None or feature.grad_fn is None:
            if objectives.is_absent(modality):
                continue
            return Cut(None, f"outputs.features[{modality!r}] as encoder {modality!r} computed it")
        parameters = {id(p) for p in encoder.parameters}
        if not all(id(leaf) in parameters for leaf in graph_leaves([feature])):
            return Cut(
                None,
                f"outputs.features[{modality!r}] to depend on encoder {modality!r} alone, but it depends on other "
                "trainable tensors, too",
            )
        features[modality] = feature
    owner = {id(p): modality for modality, encoder in objectives.encoders.items() for p in encoder.parameters}
    for name, loss in objectives.losses.items():
        for leaf in graph_leaves([loss], features.values()):
            if id(leaf) in owner:
                return Cut(
                    None,
                    f"losses that reach the encoders through outputs.features alone, but loss {name!r} reaches encoder "
                    f"{owner[id(leaf)]!r} in another way (as in compiled and replicated models, and copied outputs)",
                )
    return Cut(features)
