"""MLA compared with its steps written out in float64: shared head, recursive least squares, and released code."""

import copy
from collections.abc import Mapping

import pytest
import torch
from mmpareto.integration.methods.mla import MLA
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

D, CLASSES, BATCHES = 5, 3, 4
NAMES = ["audio", "visual", "text"]


class Model(nn.Module):
    """One encoder per modality, and one linear head for all."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: nn.Linear(4, D) for name in NAMES[:count]})
        self.head = nn.Linear(D, CLASSES)
        self.double()


def batch_of(seed: int, count: int, size: int = 7) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = {name: torch.randn(size, 4, generator=generator, dtype=torch.float64) + 1 for name in NAMES[:count]}
    return inputs, torch.randint(CLASSES, (size,), generator=generator)


def step(method: MLA, model: Model, optimizer: torch.optim.Optimizer, inputs: Mapping[str, Tensor], y: Tensor) -> None:
    """Take the steps of a batch, as a user's loop does."""
    for (name,) in method.turns(list(inputs)):
        feature = torch.tanh(model.encoders[name](inputs[name]))
        loss = cross_entropy(model.head(feature), y)
        method.backward(None, {name: loss}, encoders={name: model.encoders[name]}, features={name: feature}, labels=y)
        optimizer.step()
        optimizer.zero_grad()


def trained(variant: str, count: int, epochs: int = 2, **options: str) -> tuple[MLA, Model, list[Tensor]]:
    """Train by the method; return it, the model, and the mean feature of every step."""
    torch.manual_seed(0)
    model, method = Model(count), MLA(**(dict(MLA.variants[variant]) | options))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    means: list[Tensor] = []
    watched = method.prepare

    def prepare(objectives, gradients):  # type: ignore[no-untyped-def]
        means.append(gradients.statistics["features"] / gradients.statistics["samples"])
        return watched(objectives, gradients)

    method.prepare = prepare  # type: ignore[method-assign]
    for _ in range(epochs):
        method.set_epoch(BATCHES, count)
        for number in range(BATCHES):
            step(method, model, optimizer, *batch_of(number, count))
    return method, model, means


def by_hand(variant: str, count: int, epochs: int = 2) -> Model:
    """The same by autograd and plain SGD, with P and all encoders' features computed before a batch's first step."""
    torch.manual_seed(0)
    model = Model(count)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    past = torch.eye(D, dtype=torch.float64)  # the inverse of P
    projection = torch.eye(D, dtype=torch.float64)
    calls = 0
    for _ in range(epochs):
        for j in range(BATCHES):
            inputs, y = batch_of(j, count)
            features = {name: torch.tanh(model.encoders[name](x)) for name, x in inputs.items()}
            alpha = 0.1 ** (1 + j / BATCHES)
            for x in features.values():
                loss = cross_entropy(x @ model.head.weight.T + model.head.bias, y)
                loss.backward()
                r = x.detach().mean(0)
                w = model.head.weight
                if variant == "paper":
                    past += torch.outer(r, r) / alpha
                    w.grad = w.grad @ torch.linalg.inv(past)
                elif calls > 0:  # rows and columns as in the released code, element by element
                    k = projection @ r
                    old, projection = projection, torch.empty_like(projection)
                    for a in range(D):
                        for b in range(D):
                            projection[a, b] = old[a, b] - k[a] * k[b] / (alpha + k[a] * r[b])
                    projection = projection / (projection**2).sum().sqrt()
                    w.grad = w.grad @ projection.T if variant == "released" else w.grad + w.grad @ projection.T
                calls += 1
                optimizer.step()
                optimizer.zero_grad()
    return model


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("variant", list(MLA.variants))
def test_two_epochs_are_those_written_out(variant: str, count: int) -> None:
    _, model, _ = trained(variant, count)
    expected = by_hand(variant, count).state_dict()
    # The released recursion divides by numbers close to 0, which magnifies rounding.
    torch.testing.assert_close(dict(model.state_dict()), dict(expected), rtol=1e-6, atol=1e-7)


def test_the_first_step_along_the_mean_feature_is_shortened_to_a_known_share() -> None:
    """g P r = α/(α + rᵀr) · g r, by the formula of Sherman and Morrison."""
    torch.manual_seed(0)
    model, (inputs, y) = Model(1), batch_of(0, 1)
    r = torch.tanh(model.encoders["audio"](inputs["audio"])).mean(0).detach()
    moves = {}
    for correction in ("product", "none", "sum"):
        one = copy.deepcopy(model)
        step(MLA(correction=correction), one, torch.optim.SGD(one.parameters(), 0.1), inputs, y)
        moves[correction] = (one.head.weight - model.head.weight).detach() @ r
    torch.testing.assert_close(moves["product"], moves["none"] * 0.1 / (0.1 + r @ r))
    torch.testing.assert_close(moves["sum"], moves["none"] + moves["product"])


def test_the_projection_shrinks_for_good() -> None:
    method, _, means = trained("paper", 2)
    assert method.matrix is not None
    along = torch.stack([r @ method.matrix @ r / (r @ r) for r in means])
    assert float(along.max()) < 0.1
    eigenvalues = torch.linalg.eigvalsh(method.matrix)
    assert bool((eigenvalues > 0).all()) and bool((eigenvalues <= 1 + 1e-12).all())
    released, _, _ = trained("released", 2)
    assert released.matrix is not None
    torch.testing.assert_close(released.matrix.norm(), torch.ones((), dtype=torch.float64))


def test_without_correction_it_is_plain_alternation() -> None:
    _, model, _ = trained("paper", 2, epochs=1, correction="none")
    torch.manual_seed(0)
    plain = Model(2)
    optimizer = torch.optim.SGD(plain.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    for number in range(BATCHES):
        inputs, y = batch_of(number, 2)
        for name, x in inputs.items():
            cross_entropy(plain.head(torch.tanh(plain.encoders[name](x))), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(dict(model.state_dict()), dict(plain.state_dict()), rtol=1e-12, atol=1e-12)


def test_a_batch_of_one_and_an_overflow() -> None:
    """An overflow of the gradient alone, as under fp16, leaves P as it was."""
    torch.manual_seed(0)
    model, method = Model(2), MLA()
    step(method, model, torch.optim.SGD(model.parameters(), 0.1), *batch_of(0, 2, size=1))
    before = method.matrix
    inputs, y = batch_of(1, 2)
    feature = model.encoders["audio"](inputs["audio"])
    loss = 1e10 * cross_entropy(model.head(feature), y)
    report = method.backward(
        None, {"audio": loss}, encoders={"audio": model.encoders["audio"]}, features={"audio": feature}, scale=1e300
    )
    assert not bool(report.finite.any()) and before is not None and method.matrix is not None
    assert torch.equal(method.matrix, before) and float((before - torch.eye(D)).norm()) > 0.1


def test_bad_calls_are_refused() -> None:
    model, (inputs, y) = Model(2), batch_of(0, 2)
    features = {name: model.encoders[name](x) for name, x in inputs.items()}
    losses = {name: cross_entropy(model.head(x), y) for name, x in features.items()}
    encoders = dict(model.encoders.items())
    with pytest.raises(ValueError, match="a step per modality: pass the loss of one, not of audio, visual"):
        MLA().backward(None, losses, encoders=encoders, features=features)
    with pytest.raises(ValueError, match="needs the features of 'audio'"):
        MLA().backward(None, {"audio": losses["audio"]}, encoders=encoders)
    wide = {"audio": torch.cat([features["audio"]] * 2, 1)}
    with pytest.raises(ValueError, match="weight \\(classes, 10\\), and the loss of audio reaches none"):
        MLA().backward(None, {"audio": losses["audio"]}, encoders=encoders, features=wide)
    with pytest.raises(ValueError, match="projection must be"):
        MLA(projection="none")
