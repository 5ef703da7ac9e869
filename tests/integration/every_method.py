"""A model and a training context with everything that any method needs."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from mmpareto import METHODS
from mmpareto.integration.hooks import Trial
from mmpareto.integration.method import Method
from mmpareto.integration.report import Report
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

CLASSES, FEATURE = 3, 4
NAMES = ("audio", "visual", "text", "depth", "touch", "flow")
COMBINING = ("uniform", "pareto", "mmpareto", "gradnorm", "pcgrad", "metabalance")  # accept any list of objectives
STATEFUL = (
    "agm",
    "greedy",
    "gradnorm",
    "metabalance",
    "pmr",
    "gblending",
    "inforeg",
    "relearning",
    "lfm",
    "cggm",
    "mcr",
    "opm",
    "mla",
    "reconboost",
)
OWN_JOINT_LOSS = ("opm",)  # descend a joint loss that they compute from the features


class Outputs(NamedTuple):
    joint: Tensor
    unimodal: dict[str, Tensor]
    features: dict[str, Tensor]
    contributions: dict[str, Tensor]


class Encoder(nn.Module):
    """Encoder of 2×5×5 images to 4 features; has a 4-D weight, which some methods treat separately; no BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.layer = nn.Linear(27, FEATURE)
        self.gate = nn.Linear(FEATURE, FEATURE)  # Greedy's bypass

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(torch.tanh(self.conv(x)).flatten(1))
        return torch.tanh(x) * torch.sigmoid(self.gate(x))


class Fusion(nn.Linear):
    """One linear layer of the concatenated features."""

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        return super().forward(torch.cat([*features.values()], 1))


class Model(nn.Module):
    """One encoder and one head per modality, fusion by concatenation; float64.

    Arguments:
        count: number of modalities.
        mixed: whether every encoder's feature depends on the others' (dense interaction).
        recompute: whether activations are recomputed in the backward pass.
    """

    def __init__(self, count: int = 2, *, mixed: bool = False, recompute: bool = False, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoders = nn.ModuleDict({name: Encoder() for name in NAMES[:count]})
            self.fusion = Fusion(FEATURE * count, CLASSES)
            self.heads = nn.ModuleDict({name: nn.Linear(FEATURE, CLASSES) for name in NAMES[:count]})
        self.interaction, self.recompute = mixed, recompute
        self.double()

    @property
    def modalities(self) -> list[str]:
        return list(self.encoders)

    def forward(self, inputs: Mapping[str, Tensor], hold: str | None = None) -> Outputs:
        features = {}
        for name, encoder in self.encoders.items():
            if name not in inputs:
                continue
            x = inputs[name]
            features[name] = checkpoint(encoder, x, use_reentrant=False) if self.recompute else encoder(x)
        if self.interaction:
            mean = torch.stack([*features.values()]).mean(0)
            features = {name: x + mean for name, x in features.items()}
        weights = dict(zip(self.heads, self.fusion.weight.split(FEATURE, dim=1), strict=True))
        bias = self.fusion.bias / len(features)
        parts = {name: x @ weights[name].T + bias for name, x in features.items()}
        unimodal = {name: self.heads[name](x) for name, x in features.items()}
        return Outputs(torch.stack([*parts.values()]).sum(0), unimodal, features, parts)

    def bypass(self) -> dict[str, list[nn.Parameter]]:
        return {name: list(encoder.gate.parameters()) for name, encoder in self.encoders.items()}


class Overflow(torch.autograd.Function):
    """The identity, whose gradient is infinite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * math.inf


Batch = tuple[dict[str, Tensor], Tensor]


def batch_of(count: int = 2, size: int = 12, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(100 + seed)
    inputs = {n: torch.randn(size, 2, 5, 5, generator=generator, dtype=torch.float64) for n in NAMES[:count]}
    return inputs, torch.randint(CLASSES, (size,), generator=generator)


class Loop:
    """A user-written loop that implements `mmpareto.integration.hooks.TrainingContext`."""

    def __init__(self, model: nn.Module, batch: Batch, epoch: int = 3) -> None:
        self.network, self.batch, self.epoch, self.epochs, self.steps = model, batch, epoch, 4, 3

    def eval_forward(self, inputs: Mapping[str, Tensor], graph: bool = False, network: Any = None) -> Outputs:
        with torch.set_grad_enabled(graph):
            return (network or self.network)(inputs)

    def load_network(self, path: str) -> "Model":
        network = Model(len(self.network.modalities), seed=int(path)).requires_grad_(False).eval()
        return network.to(next(self.network.parameters()).dtype)

    def features(self, share: float, samples: str = "training") -> Iterable[tuple[Mapping[str, Tensor], Tensor]]:
        yield self.eval_forward(self.batch[0]).features, self.batch[1]

    def indices(self, share: float) -> Tensor:
        return torch.arange(len(self.batch[1]))

    def cluster(self, features: Tensor, count: int) -> Tensor:
        return torch.from_numpy(KMeans(count, n_init=1, random_state=0).fit_predict(features.numpy())).long()

    def trial(self, loss: str, epochs: int) -> Trial:
        return Trial(2.0, 1.0, 2.2, 1.4 if loss == "joint" else 1.7)


# Options under which a method takes another path than by default.
CONTROLS: dict[str, tuple[str, dict[str, Any]]] = {
    "uniform, encoder gradients × 1.5": ("uniform", {"encoder_scale": 1.5}),
    "mmpareto, no λ": ("mmpareto", {"rescale": "none", "gamma": 1.0}),
    "dgl, joint loss not truncated": ("dgl", {"truncate_joint": False}),
    "dgl, unimodal loss not truncated": ("dgl", {"truncate_unimodal": False}),
    "dgl, no unimodal loss": ("dgl", {"unimodal_loss": False}),
    "lfm, gap of predictions": ("lfm", {"gap": "divergence"}),
    "inforeg, released": ("inforeg", dict(METHODS["inforeg"].variants["released"])),
    "cggm, no direction loss": ("cggm", {"direction_weight": 0.0}),
    "mcr, with its bottleneck": ("mcr", {"bottleneck_weight": 1.0}),
}

# The variants that are not the default, in an epoch in which they act.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    f"{name}, {variant}": (name, options | ({"modulation_starts": 0} if "modulation_starts" in options else {}))
    for name in METHODS
    for variant, options in list(METHODS[name].variants.items())[1:]
}


# Options without which a method does not begin, or does not act in the epoch of `Loop`. The path of a network is the
# seed of its weights.
NEEDED: dict[str, dict[str, Any]] = {
    "unimodal": {"modality": "audio"},
    "umt": {"teachers": ("7",)},
    "smv": {"warmup": 0},
    "relearning": {"reinit_epoch": 1},
}


def make(name: str, modality: str = "audio") -> Method:
    kind, options = (CONTROLS | VARIANTS).get(name, (name, {}))
    return METHODS[kind](**NEEDED.get(kind, {}) | options | ({"modality": modality} if name == "unimodal" else {}))


def ready(name: str, model: nn.Module, batch: Batch) -> tuple[Method, Loop]:
    """Return a method, and its loop, after the hooks of one epoch on `batch`."""
    method, loop = make(name), Loop(model, batch)
    method.begin_training(loop)
    method.begin_epoch(loop)
    method.end_epoch(loop)
    return method, loop


def losses_of(outputs: Outputs, labels: Tensor, share: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
    unimodal = {name: share * cross_entropy(z, labels) for name, z in outputs.unimodal.items()}
    return share * cross_entropy(outputs.joint, labels), unimodal


def step(
    method: Method,
    loop: Loop,
    batch: Batch,
    *,
    share: float = 1.0,
    scale: float | None = None,
    model: nn.Module | None = None,
    seed: int = 0,
) -> Report:
    """Take one step: hooks, forward pass, losses, backward pass; `model` may be a compiled version of the network.

    The turns of a method add up in `.grad`, and the report is that of the last one.
    """
    for turn in turns_of(method, batch):
        report = take_turn(method, loop, turn, share=share, scale=scale, model=model, seed=seed)
    return report


def turns_of(method: Method, batch: Batch) -> list[Batch]:
    """Return the batch with the inputs of each turn."""
    inputs, labels = batch
    return [({name: inputs[name] for name in names}, labels) for names in method.turns(list(inputs))]


def take_turn(
    method: Method,
    loop: Loop,
    batch: Batch,
    *,
    share: float = 1.0,
    scale: float | None = None,
    model: nn.Module | None = None,
    seed: int = 0,
) -> Report:
    """Take one turn; see `step`."""
    inputs, labels = batch
    forward_arguments = method.before_forward(loop, inputs, labels)
    outputs = (loop.network if model is None else model)(inputs, **forward_arguments)
    joint, unimodal = losses_of(outputs, labels, share)
    torch.manual_seed(seed)
    return method.backward(
        joint,
        unimodal,
        encoders=dict(loop.network.encoders.items()),
        outputs=outputs,
        labels=labels,
        scale=scale,
        interaction=loop.network.interaction,
        share=share,
    )


def take_grads(model: nn.Module) -> dict[str, Tensor | None]:
    """Return `.grad` by name, and clear it."""
    result = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return result


def assert_close(a: Mapping[str, Tensor | None], b: Mapping[str, Tensor | None], tolerance: float = 1e-6) -> None:
    """Assert that gradients are equal to `tolerance`, relative to their norms; None equals None only."""
    assert list(a) == list(b)
    for name, left in a.items():
        right = b[name]
        assert (left is None) == (right is None), name
        if left is not None and right is not None:
            assert float((left - right).norm()) <= tolerance * float(right.norm()) + 1e-14, name


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield all tensors of a state, at any depth."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from tensors_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from tensors_in(inner)


def assert_same_state(a: Any, b: Any) -> None:
    """Assert bitwise equality at any depth; NaN equals NaN."""
    assert type(a) is type(b)
    if isinstance(a, Tensor):
        assert a.dtype == b.dtype and torch.equal(a.isnan(), b.isnan()) and torch.equal(a[~a.isnan()], b[~b.isnan()])
    elif isinstance(a, Mapping):
        assert list(a) == list(b)
        for key in a:
            assert_same_state(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same_state(x, y)
    else:
        assert a == b
