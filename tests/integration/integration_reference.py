"""Slow, independently derived reference of the gradient integration, with which these tests compare.

Everything here follows the equations of the MMPareto paper (Wei & Hu, ICML 2024, arXiv 2405.17730) one loss and one
group at a time, in float64, with one autograd.grad per loss. The min-norm weights are *searched for* (bisection on
the derivative of ‖α·g₁ + (1 − α)·g₂‖²); the closed form is used only to check the search.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

STATIONARY = 32  # a conflicting group is stationary where ‖h‖ < 32·eps·(‖g₁‖ + ‖g₂‖)


# --- the equations -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """The arguments of MMPareto."""

    gamma: float = 1.5
    weights: str = "parameter"
    rescale: str = "parameter"
    boost: str = "conflict"
    zero_is_conflict: bool = False

    def arguments(self) -> dict[str, Any]:
        return dict(vars(self))


PER_TENSOR = Options()
PAPER = Options(weights="encoder", rescale="encoder")
RELEASED = Options(weights="encoder", rescale="parameter", boost="always", zero_is_conflict=True)
ALL_OPTIONS = [
    *(
        Options(1.5, weights, rescale, boost, zero_is_conflict)
        for weights, rescale in (("parameter", "parameter"), ("encoder", "encoder"), ("encoder", "parameter"))
        for boost in ("conflict", "always")
        for zero_is_conflict in (False, True)
    ),
    *(Options(1.5, weights, "none", boost) for weights, boost in (("parameter", "conflict"), ("encoder", "always"))),
]


def option_name(options: Options) -> str:
    zero = "zero-is-conflict" if options.zero_is_conflict else "zero-is-none"
    return f"{options.weights}-{options.rescale}-{options.boost}-{zero}"


@dataclass(frozen=True)
class Expected:
    """Expected result of one encoder's integration; `stationary` marks the rescale groups whose h is 0."""

    h: list[Tensor]
    cosine: float
    norms: tuple[float, float]
    weights: Tensor
    conflict: Tensor
    rescale: Tensor
    stationary: Tensor
    groups: list[list[int]]
    rescale_groups: list[list[int]]


def searched_weights(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return the α ≥ 0, Σα = 1 of smallest ‖α₁·first + α₂·second‖, by bisection on the derivative along the segment."""
    difference = first - second

    def slope(alpha: float) -> float:
        return float(np.dot(alpha * first + (1 - alpha) * second, difference))

    if slope(0.0) >= 0:
        return 0.0, 1.0
    if slope(1.0) <= 0:
        return 1.0, 0.0
    low, high = 0.0, 1.0
    for _ in range(64):
        middle = (low + high) / 2
        if slope(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2, 1 - (low + high) / 2


def closed_form_weights(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return the same weights by the closed form."""
    a, b, c = float(first @ first), float(second @ second), float(first @ second)
    if np.array_equal(first, second):
        return 0.5, 0.5
    if c >= a:
        return 1.0, 0.0
    if c >= b:
        return 0.0, 1.0
    return (b - c) / (a + b - 2 * c), (a - c) / (a + b - 2 * c)


def flat(tensors: Iterable[Tensor]) -> np.ndarray:
    """Return all elements as one float64 vector."""
    return np.concatenate([np.zeros(0)] + [t.detach().cpu().double().reshape(-1).numpy() for t in tensors])


def norm(tensors: Iterable[Tensor]) -> float:
    return float(np.linalg.norm(flat(tensors)))


def dot(first: Iterable[Tensor], second: Iterable[Tensor]) -> float:
    return float(np.dot(flat(first), flat(second)))


def grouping(kind: str, count: int) -> list[list[int]]:
    return [[i] for i in range(count)] if kind == "parameter" else [list(range(count))]


def integrated(first: Sequence[Tensor], second: Sequence[Tensor], options: Options, eps: float) -> Expected:
    """Apply MMPareto to the two gradients of one encoder; tensors that a loss does not reach have a gradient of zeros.

    Arguments:
        first, second: one tensor per parameter, of any dtype; the arithmetic here is float64.
        options: MMPareto's arguments.
        eps: machine epsilon of the arithmetic under test, for the stationary threshold only.
    """
    first, second = [t.detach().double() for t in first], [t.detach().double() for t in second]
    restores = options.rescale != "none"
    groups = grouping(options.weights, len(first))
    rescale_groups = grouping(options.rescale if restores else options.weights, len(first))
    h, conflicting = list(first), [False] * len(first)
    weights, conflict = [], []
    for group in groups:
        one, two = flat(first[i] for i in group), flat(second[i] for i in group)
        product = float(one @ two)
        both = bool(one.any() and two.any())
        conflict.append(both and (product < 0 or (options.zero_is_conflict and product == 0)))
        weights.append(searched_weights(one, two) if conflict[-1] else (0.5, 0.5))
        for i in group:
            conflicting[i] = conflict[-1]
            h[i] = 2 * weights[-1][0] * first[i] + 2 * weights[-1][1] * second[i]
    rescale, stationary = [], []
    for group in rescale_groups:
        size, plain = norm(h[i] for i in group), norm(first[i] + second[i] for i in group)
        threshold = STATIONARY * eps * (norm(first[i] for i in group) + norm(second[i] for i in group))
        in_conflict = conflicting[group[0]]
        stationary.append(in_conflict and size < threshold)
        restored = restores and in_conflict and size > 0 and not stationary[-1]
        rescale.append(max(1.0, plain / size) if restored else 1.0)
        for i in group:
            boost = options.gamma if in_conflict or options.boost == "always" else 1.0
            h[i] = torch.zeros_like(h[i]) if stationary[-1] else boost * rescale[-1] * h[i]
    norms = (norm(first), norm(second))
    return Expected(
        h=h,
        cosine=dot(first, second) / (norms[0] * norms[1]) if min(norms) > 0 else math.nan,
        norms=norms,
        weights=torch.tensor(weights, dtype=torch.float64),
        conflict=torch.tensor(conflict),
        rescale=torch.tensor(rescale, dtype=torch.float64),
        stationary=torch.tensor(stationary),
        groups=groups,
        rescale_groups=rescale_groups,
    )


Gradients = dict[nn.Parameter, Tensor | None]


def gradients_of(loss: Tensor, parameters: Sequence[nn.Parameter]) -> Gradients:
    result = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return dict(zip(parameters, result, strict=True))


def plain_sum(gradients: Iterable[Tensor | None]) -> Tensor | None:
    reached = [gradient for gradient in gradients if gradient is not None]
    return torch.stack(reached).sum(0) if reached else None


def reference_gradients(
    method: str,
    joint: Tensor | None,
    unimodal: Mapping[str, Tensor],
    parameters: Iterable[nn.Parameter],
    encoders: Mapping[str, Iterable[nn.Parameter]],
    options: Options = PER_TENSOR,
    objectives: Mapping[str, Sequence[str]] | None = None,
) -> tuple[Gradients, dict[str, Expected]]:
    """Return the expected `.grad` and reports of one step; the graph of the losses is retained.

    Arguments:
        method: "joint", "uniform" or "mmpareto".
        joint, unimodal: the scalar losses; `joint` may be None.
        parameters: all parameters of the model; frozen ones are ignored.
        encoders: modality → its parameters.
        objectives: encoder → two unimodal losses; by default, the joint loss and the encoder's own unimodal loss.
    """
    trainable = [p for p in parameters if p.requires_grad]
    losses: dict[str, Tensor] = dict(unimodal) if joint is None else {"(joint)": joint, **unimodal}
    each = {name: gradients_of(loss, trainable) for name, loss in losses.items() if method != "joint" or loss is joint}
    expected = {p: plain_sum(each[name][p] for name in each) for p in trainable}
    reports: dict[str, Expected] = {}
    if method != "mmpareto":
        return expected, reports
    for modality, members in encoders.items():
        own = [p for p in members if p.requires_grad]
        names = ["(joint)", modality] if objectives is None else list(objectives[modality])
        pairs = [[each[name][p] for p in own] for name in names]
        filled = [[torch.zeros_like(p) if g is None else g for p, g in zip(own, gs, strict=True)] for gs in pairs]
        report = integrated(filled[0], filled[1], options, torch.finfo(own[0].dtype).eps)
        reports[modality] = report
        for p, h, *gradients in zip(own, report.h, *pairs, strict=True):
            expected[p] = None if all(g is None for g in gradients) else h
    return expected, reports


# --- comparing ---------------------------------------------------------------------------------------------------


def assert_gradients(expected: Gradients, before: Mapping[nn.Parameter, Tensor] | None = None) -> None:
    """Assert that `.grad` of every parameter is `expected` (plus `before`) to 1e-6 of its norm, zeros exactly."""
    for parameter, wanted in expected.items():
        start = (before or {}).get(parameter)
        if wanted is None and start is None:
            assert parameter.grad is None
            continue
        assert parameter.grad is not None
        left = parameter.grad.double() - (0 if start is None else start)
        right = torch.zeros_like(left) if wanted is None else wanted
        allowed = 1e-6 * float(right.norm()) + (0.0 if start is None else 1e-12 * float(start.norm()))
        assert float((left - right).norm()) <= allowed, f"{left} is not {right}"


def assert_report(result: Any, expected: Expected, tolerance: float = 1e-6) -> None:
    """Assert that an encoder's report equals the reference's; rescaling of a stationary group need only be finite."""

    def close(left: Tensor, right: Tensor) -> None:
        torch.testing.assert_close(left.double(), right.double(), rtol=tolerance, atol=tolerance)

    assert result.cosine.shape == ()
    assert result.norms.shape == (2,)
    assert result.weights.shape == expected.weights.shape
    assert result.conflict.shape == expected.conflict.shape
    assert result.conflict.dtype == torch.bool
    assert result.rescale.shape == expected.rescale.shape
    if math.isnan(expected.cosine):
        assert bool(result.cosine.isfinite())
    else:
        close(result.cosine, torch.tensor(expected.cosine, dtype=torch.float64))
    wanted = torch.tensor(expected.norms, dtype=torch.float64)
    torch.testing.assert_close(result.norms.double(), wanted, rtol=tolerance, atol=0.0)
    close(result.weights, expected.weights)
    assert torch.equal(result.conflict, expected.conflict)
    moving = ~expected.stationary
    torch.testing.assert_close(
        result.rescale.double()[moving], expected.rescale[moving], rtol=max(tolerance, 1e-6), atol=0.0
    )
    assert bool(result.rescale.isfinite().all())
    for tensor in (result.cosine, result.norms, result.weights, result.conflict, result.rescale):
        assert not tensor.requires_grad


def finite_flags(report: Any) -> list[bool]:
    return [bool(flag) for flag in report.finite]


# --- losses with given gradients ---------------------------------------------------------------------------------


def linear_loss(parameters: Iterable[nn.Parameter], gradients: Iterable[Tensor | None]) -> Tensor:
    """Return Σ⟨Aᵢ, θᵢ⟩, whose gradient with respect to θᵢ is exactly Aᵢ; None if the loss does not reach θᵢ."""
    terms = [(a * p).sum() for p, a in zip(parameters, gradients, strict=True) if a is not None]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def parameters_like(gradients: Iterable[Tensor | None], seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for gradient in gradients:
        assert gradient is not None
        values = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
        made.append(nn.Parameter(values.to(gradient.dtype)))
    return made


# --- small models ------------------------------------------------------------------------------------------------


class Gained(nn.Module):
    """A layer between a learned gain of shape () and a learned shift of shape (1,): one-element tensors."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.3))
        self.inside = inside
        self.shift = nn.Parameter(torch.tensor([0.2]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.inside(self.gain * x)) + self.shift


class Tied(nn.Module):
    """One layer that is used twice."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.layer(x)))


class Unused(nn.Module):
    """A linear layer, and another one that no loss reaches."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.idle = nn.Linear(2, 2)
        self.layer = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x))


def linear() -> nn.Module:
    return nn.Linear(5, 4)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4))


def convolutional() -> nn.Module:
    """Encoder of 1×6×6 images to 4 features; no bias before BatchNorm, where its gradient is only rounding noise."""
    return nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))


def gained() -> nn.Module:
    return Gained(nn.Linear(5, 4))


def tied() -> nn.Module:
    return nn.Sequential(Tied(5), nn.Tanh(), nn.Linear(5, 4))


def unused() -> nn.Module:
    return Unused(5, 4)


def partly_frozen() -> nn.Module:
    network = mlp()
    for parameter in network[0].parameters():
        parameter.requires_grad_(False)
    return network


CLASSES = 3
ENCODER_SETS: dict[str, dict[str, Callable[[], nn.Module]]] = {
    "one modality": {"touch": mlp},
    "two linear": {"audio": linear, "visual": linear},
    "convolution and mlp": {"audio": convolutional, "visual": mlp},
    "one-element and tied": {"audio": gained, "visual": tied},
    "unused and frozen": {"audio": unused, "visual": partly_frozen},
    "three modalities": {"text": linear, "audio": mlp, "visual": gained},
}


class Multimodal(nn.Module):
    """Encoders, a fusion by concatenation with a joint head, and one head per modality; in float64."""

    def __init__(self, kinds: Mapping[str, Callable[[], nn.Module]]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: make() for name, make in kinds.items()})
        self.fusion = nn.Linear(4 * len(kinds), 6)
        self.joint_head = nn.Linear(6, CLASSES)
        self.heads = nn.ModuleDict({name: nn.Linear(4, CLASSES) for name in kinds})
        self.double()

    def features(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: encoder(inputs[name]) for name, encoder in self.encoders.items()}

    def losses(self, inputs: Mapping[str, Tensor], labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.losses_of(self.features(inputs), labels)

    def losses_of(self, features: Mapping[str, Tensor], labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.joint_head(torch.tanh(self.fusion(torch.cat(list(features.values()), 1))))
        unimodal = {name: functional.cross_entropy(self.heads[name](x), labels) for name, x in features.items()}
        return functional.cross_entropy(logits, labels), unimodal

    def encoder_parameters(self) -> dict[str, list[nn.Parameter]]:
        return {name: list(encoder.parameters()) for name, encoder in self.encoders.items()}


class Dense(Multimodal):
    """Every encoder's second layer also receives the other encoders' first activations."""

    def __init__(self, names: Sequence[str] = ("audio", "visual")) -> None:
        super().__init__(dict.fromkeys(names, linear))
        for name in names:
            layers = {"first": nn.Linear(5, 3), "second": nn.Linear(3 * len(names), 4)}
            self.encoders[name] = nn.ModuleDict(layers)
        self.double()

    def features(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        first = {name: torch.tanh(layers["first"](inputs[name])) for name, layers in self.encoders.items()}
        return {
            name: layers["second"](torch.cat([first[name], *(x for other, x in first.items() if other != name)], 1))
            for name, layers in self.encoders.items()
        }


class Tasks(nn.Module):
    """One shared network with one head per task."""

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.shared = mlp()
        self.heads = nn.ModuleDict({task: nn.Linear(4, CLASSES) for task in tasks})
        self.double()

    def losses(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        features = self.shared(inputs)
        return {task: functional.cross_entropy(head(features), labels) for task, head in self.heads.items()}


Batch = tuple[dict[str, Tensor], Tensor]


def batch_for(kinds: Mapping[str, Callable[[], nn.Module]], size: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: (1, 6, 6) if make is convolutional else (5,) for name, make in kinds.items()}
    inputs = {
        name: torch.randn(size, *shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()
    }
    return inputs, torch.randint(CLASSES, (size,), generator=generator)


def model_and_batch(name: str, seed: int = 0, size: int = 8) -> tuple[Multimodal, Batch]:
    kinds = ENCODER_SETS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Multimodal(kinds)
    return model, batch_for(kinds, size, 1000 + seed)


def dense_and_batch(seed: int = 0, names: Sequence[str] = ("audio", "visual")) -> tuple[Dense, Batch]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Dense(names)
    return model, batch_for(dict.fromkeys(names, linear), 8, 1000 + seed)


def tasks_and_batch(seed: int = 0) -> tuple[Tasks, Tensor, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Tasks(["depth", "normals"])
    inputs, labels = batch_for({"shared": linear}, 8, 1000 + seed)
    return model, inputs["shared"], labels


def expectation(
    method: str, model: Multimodal, batch: Batch, options: Options = PER_TENSOR
) -> tuple[dict[nn.Parameter, Tensor | None], dict[str, Expected]]:
    """Return the reference for one step of `model` on `batch`, computed on a copy so that `model` does not change."""
    twin = copy.deepcopy(model)
    joint, unimodal = twin.losses(*batch)
    result, reports = reference_gradients(
        method, joint, unimodal, twin.parameters(), twin.encoder_parameters(), options
    )
    pairs: Iterator[tuple[nn.Parameter, nn.Parameter]] = zip(model.parameters(), twin.parameters(), strict=True)
    return {p: result.get(other) for p, other in pairs}, reports
