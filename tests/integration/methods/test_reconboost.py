"""ReconBoost compared with its two phases written out sample by sample in float64."""

from typing import Any, NamedTuple

import pytest
import torch
from mmpareto.integration.methods.reconboost import ReconBoost
from torch import Tensor, nn

B, CLASSES = 6, 4
NAMES = ["audio", "visual", "text"]
BETA = 1.3


class Outputs(NamedTuple):
    joint: Tensor
    unimodal: dict[str, Tensor]
    features: dict[str, Tensor]
    contributions: dict[str, Tensor]


class Model(nn.Module):
    """One encoder per modality, and one MLP and β for all."""

    def __init__(self, count: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoders = nn.ModuleDict({name: nn.Linear(3, 5) for name in NAMES[:count]})
        self.head = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, CLASSES))
        self.rate = nn.Parameter(torch.tensor(BETA))
        self.double()

    def forward(self, inputs: dict[str, Tensor]) -> Outputs:
        features = {name: torch.tanh(encoder(inputs[name])) for name, encoder in self.encoders.items()}
        unimodal = {name: self.head(x) for name, x in features.items()}
        parts = {name: self.rate * z for name, z in unimodal.items()}
        return Outputs(torch.stack([*parts.values()]).sum(0), unimodal, features, parts)


def data(count: int) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = {name: 2 * torch.randn(B, 3, generator=generator, dtype=torch.float64) for name in NAMES[:count]}
    return inputs, torch.tensor([0, 1, 1, 0, 2, 1])  # no sample of class 3


def gradients(method: ReconBoost, model: Model, count: int) -> dict[str, Tensor | None]:
    inputs, y = data(count)
    outputs = model(inputs)
    cross_entropy = nn.functional.cross_entropy
    method.backward(
        cross_entropy(outputs.joint, y),
        {name: cross_entropy(z, y) for name, z in outputs.unimodal.items()},
        encoders=dict(model.encoders.items()),
        outputs=outputs,
        labels=y,
    )
    result = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    return result


def boosting_by_hand(model: Model, count: int, stage: int, variant: str) -> Tensor:
    """The loss of a boosting phase, by loops over samples and classes."""
    inputs, y = data(count)
    learner, names = NAMES[:count][stage % count], NAMES[:count]
    phi = {name: model.head(torch.tanh(model.encoders[name](x))) for name, x in inputs.items()}
    known = [name for number, name in enumerate(names) if number < stage and name != learner]
    total = torch.zeros((), dtype=torch.float64)
    for i in range(B):
        p = phi[learner][i].exp() / phi[learner][i].exp().sum()
        rest = sum(BETA * phi[name][i].detach() for name in known)
        s = rest.exp() / rest.exp().sum() if isinstance(rest, Tensor) else None
        if variant == "released":
            right = int(y[i])
            others = 1.0 if s is None and count > 1 else 0.0 if s is None else float(s[right])
            total = total - (5.0 - others) * p[right].log() / CLASSES
        else:
            for c in range(CLASSES):
                total = total - (float(y[i] == c) - (0.0 if s is None else float(s[c]))) * p[c].log()
            if s is not None:
                last = phi[names[(stage - 1) % count]][i].detach()
                total = total + 0.5 * ((p - last.exp() / last.exp().sum()) ** 2).sum() / CLASSES
    return total / B


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("variant", list(ReconBoost.variants))
def test_boosting_is_that_written_out(variant: str, count: int) -> None:
    model, method = Model(count), ReconBoost(**ReconBoost.variants[variant])
    for stage in range(5):
        method.set_epoch(8 * stage + 3, NAMES[:count])
        actual = gradients(method, model, count)
        boosting_by_hand(model, count, stage, variant).backward()
        learner = NAMES[:count][stage % count]
        assert list(method.trains_encoders) == [learner]  # type: ignore[call-overload]
        for name, p in model.named_parameters():
            expected, p.grad = p.grad, None
            if name.startswith((f"encoders.{learner}.", "head.")):
                torch.testing.assert_close(actual[name], expected)
                assert expected is not None and bool((expected != 0).any())
            else:  # the other encoders, and β
                assert actual[name] is None


@pytest.mark.parametrize("count", [1, 2, 3])
def test_rectification_descends_the_prediction_of_the_modalities_so_far(count: int) -> None:
    model, method = Model(count), ReconBoost()
    inputs, y = data(count)
    for stage in range(4):
        method.set_epoch(8 * stage + 4, NAMES[:count])
        actual = gradients(method, model, count)
        known = NAMES[:count][: stage + 1]
        z = model.rate * sum(model.head(torch.tanh(model.encoders[name](inputs[name]))) for name in known)
        (-z.log_softmax(1)[range(B), y].mean()).backward()
        assert list(method.trains_encoders) == known  # type: ignore[call-overload]
        for name, p in model.named_parameters():
            torch.testing.assert_close(actual[name], p.grad)
        model.zero_grad()


def test_the_residual_is_the_gradient_of_the_others_cross_entropy() -> None:
    """With w₁ = w₂ and no agreement, the gradient at φ_k is that of the cross-entropy at β Σ_{j≠k} φ_j: boosting."""
    method = ReconBoost(agreement=0.0)
    method.set_epoch(8 * 7, NAMES)
    _, y = data(3)
    phi = {name: torch.randn(B, CLASSES, dtype=torch.float64, requires_grad=True) for name in NAMES}
    loss = method._boosting_loss("visual", Outputs(y, phi, {}, {name: BETA * z for name, z in phi.items()}), y)
    (actual,) = torch.autograd.grad(loss, phi["visual"])
    rest = (BETA * (phi["audio"] + phi["text"])).detach().requires_grad_()
    (expected,) = torch.autograd.grad(nn.functional.cross_entropy(rest, y), rest)
    torch.testing.assert_close(actual, expected)
    sure = {name: 1e3 * nn.functional.one_hot(y, CLASSES).double() for name in NAMES} | {"visual": phi["visual"]}
    loss = method._boosting_loss("visual", Outputs(y, sure, {}, sure), y)
    assert float(torch.autograd.grad(loss, phi["visual"])[0].abs().max()) < 1e-12  # the others are right already


def test_stages_follow_one_another() -> None:
    method = ReconBoost(boost_epochs=2, rectify_epochs=1)
    context: Any = None
    trained, renewed = [], []
    for epoch in range(12):
        method.set_epoch(epoch, NAMES)
        trained.append("".join(name[0] for name in method.trains_encoders))  # type: ignore[union-attr]
        renewed.append(method.renews_optimizer(context))
        assert method.descends_joint is (epoch % 3 == 2) and method.descends_unimodal is (epoch % 3 != 2)
    assert trained == ["a", "a", "a", "v", "v", "av", "t", "t", "avt", "a", "a", "avt"]
    assert renewed == [True, False, True] * 4


def test_bad_calls_are_refused() -> None:
    model, (inputs, y) = Model(2), data(2)
    outputs = model(inputs)
    method, losses = ReconBoost(), {name: z.sum() for name, z in outputs.unimodal.items()}
    encoders = dict(model.encoders.items())
    with pytest.raises(ValueError, match="set_epoch"):
        method.backward(None, losses, encoders=encoders, outputs=outputs, labels=y)
    method.set_epoch(0, NAMES[:2])
    for missing in ({"labels": None}, {"outputs": {"features": outputs.features}}):
        with pytest.raises(ValueError, match="needs labels"):
            method.backward(None, losses, **{"encoders": encoders, "outputs": outputs, "labels": y, **missing})
    method.set_epoch(12, NAMES[:2])
    with pytest.raises(ValueError, match="rectification of ReconBoost descends the joint loss"):
        method.backward(None, losses, encoders=encoders, outputs=outputs, labels=y)
    with pytest.raises(ValueError, match="boost_epochs must be at least 1"):
        ReconBoost(boost_epochs=0)
