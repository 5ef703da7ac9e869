"""PMR against an independent derivation, one sample at a time, and against statements of paper and released code."""

import io
import math
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from every_method import CLASSES, Batch, Loop, Model, assert_close, assert_same_state, batch_of, losses_of, take_grads
from hypothesis import given, settings
from hypothesis import strategies as st
from mmpareto.integration.methods.pmr import PMR
from mmpareto.integration.report import Report
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Prototypes = Mapping[str, Mapping[int, Tensor]]


# --- independent derivation --------------------------------------------------------------------------------------


def class_means(features: Mapping[str, Tensor], labels: Tensor) -> dict[str, dict[int, Tensor]]:
    result: dict[str, dict[int, Tensor]] = {name: {} for name in features}
    for name, x in features.items():
        for c in sorted(set(labels.tolist())):
            members = [row for row, label in zip(x.detach(), labels.tolist(), strict=True) if label == c]
            result[name][c] = sum(members[1:], members[0]) / len(members)
    return result


def distribution(x: Tensor, prototypes: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Return class → probability of one sample (equation 7)."""
    closeness = {c: torch.exp(-((x - p) ** 2).sum().sqrt()) for c, p in prototypes.items()}
    return {c: e / sum(closeness.values()) for c, e in closeness.items()}


def terms(x: Tensor, labels: Tensor, prototypes: Mapping[int, Tensor]) -> tuple[float, Tensor, Tensor]:
    """Return s, mean CE and mean entropy of a modality; samples without a prototype count in the last only."""
    score, ce, entropy = 0.0, torch.zeros((), dtype=x.dtype), torch.zeros((), dtype=x.dtype)
    for row, label in zip(x, labels.tolist(), strict=True):
        p = distribution(row, prototypes)
        if label in p:
            score += p[label].item()
            ce = ce - torch.log(p[label]) / len(x)
        entropy = entropy - sum(q * torch.log(q) for q in p.values()) / len(x)
    return score, ce, entropy


def clip(low: float, value: float, high: float) -> float:
    return max(low, min(value, high))


def expected(
    model: Model,
    batch: Batch,
    prototypes: Prototypes,
    *,
    alpha: float = 1.0,
    mu: float = 0.01,
    clipped: bool = True,
    entropy: bool = True,
) -> tuple[dict[str, Tensor | None], dict[str, float]]:
    """Return the gradient of every parameter, and the coefficient of CE of every modality."""
    outputs = model(batch[0])
    joint, _ = losses_of(outputs, batch[1])
    result = {name: terms(x, batch[1], prototypes[name]) for name, x in outputs.features.items()}
    losses, coefficients = {}, {}
    for name, (score, ce, h) in result.items():
        others = [s for other, (s, _, _) in result.items() if other != name]
        rho = sum(others) / len(others) / score
        faster, slower = clip(0, rho - 1, 1), clip(0, 1 / rho - 1, 1)
        if not clipped:
            faster, slower = float(rho > 1), float(rho < 1)
        coefficients[name] = alpha * faster
        losses[name] = joint + alpha * faster * ce - (mu * slower * h if entropy else 0)
    gradients: dict[str, Tensor | None] = {}
    for key, parameter in model.named_parameters():
        part, name = key.split(".")[:2]
        loss = losses[name] if part == "encoders" else joint
        gradients[key] = torch.autograd.grad(loss, parameter, retain_graph=True, allow_unused=True)[0]
    return gradients, coefficients


# --- helpers -----------------------------------------------------------------------------------------------------


def two_groups(count: int = 2, seed: int = 0) -> tuple[Model, Batch, Batch]:
    """A model, a batch to train on and one for the prototypes; later modalities separate the classes more clearly."""
    model = Model(count, seed=seed)
    patterns = torch.randn(CLASSES, 2, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    batches = []
    for inputs, labels in (batch_of(count, 12, seed), batch_of(count, 30, seed + 1)):
        plain = {name: x + 4.0 * number * patterns[labels] for number, (name, x) in enumerate(inputs.items())}
        batches.append((plain, labels))
    with torch.no_grad():
        for encoder in model.encoders.values():
            encoder.layer.weight.mul_(5.0)
            encoder.gate.bias.fill_(3.0)
    return model, batches[0], batches[1]


def with_prototypes(method: PMR, model: Model, batch: Batch) -> PMR:
    outputs = model(batch[0])
    method.update_prototypes([(outputs.features, batch[1])])
    return method


def descend(
    method: PMR, model: Model, batch: Batch, share: float = 1.0, scale: float | None = None, **changes: Any
) -> Report:
    outputs = model(batch[0])
    joint, unimodal = losses_of(outputs, batch[1], share)
    given = {"joint": joint, "unimodal": unimodal, "outputs": outputs, "labels": batch[1]} | changes
    return method.backward(
        given.pop("joint"),
        given.pop("unimodal"),
        encoders=dict(model.encoders.items()),
        scale=scale,
        interaction=model.interaction,
        **given,
    )


def part_of(batch: Batch, rows: Tensor) -> Batch:
    return {name: x[rows] for name, x in batch[0].items()}, batch[1][rows]


# --- the step ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize("factor", ["clipped", "one"])
@pytest.mark.parametrize("mu", [0.0, 0.7])
def test_a_step_matches_the_independent_derivation(count: int, factor: str, mu: float) -> None:
    model, batch, sample = two_groups(count)
    method = with_prototypes(PMR(alpha=1.7, factor=factor, mu=mu), model, sample)
    report = descend(method, model, batch)
    actual = take_grads(model)
    means = class_means(model(sample[0]).features, sample[1])
    wanted, coefficients = expected(model, batch, means, alpha=1.7, mu=mu, clipped=factor == "clipped")
    assert_close(actual, wanted)
    assert any(coefficients.values()) and not all(coefficients.values())
    for name, value in coefficients.items():
        assert float(report.metrics[f"coefficient_{name}"]) == pytest.approx(value, rel=1e-9)


def test_one_modality_is_the_joint_loss_alone() -> None:
    model, batch, _ = two_groups(1)
    report = descend(PMR(), model, batch)
    assert report.losses == ["joint"]
    actual = take_grads(model)
    losses_of(model(batch[0]), batch[1])[0].backward()
    assert_close(actual, take_grads(model), 1e-12)


def test_gradients_match_finite_differences() -> None:
    """Checks CE of the weaker modality and entropy of the stronger one, in every element of one parameter tensor."""
    model, batch, sample = two_groups()
    means = class_means(model(sample[0]).features, sample[1])
    scores = {name: terms(x, batch[1], means[name])[0] for name, x in model(batch[0]).features.items()}
    weak, strong = sorted(scores, key=lambda name: scores[name])
    strength = clip(0, scores[strong] / scores[weak] - 1, 1)
    assert 0.1 < strength < 1
    method = with_prototypes(PMR(alpha=2.0, mu=0.5), model, sample)
    descend(method, model, batch)
    actual = take_grads(model)
    losses_of(model(batch[0]), batch[1])[0].backward()
    plain = take_grads(model)
    for name, index, factor in ((weak, 1, 2.0 * strength), (strong, 2, -0.5 * strength)):
        key = f"encoders.{name}.layer.bias"
        parameter = model.encoders[name].layer.bias
        added, joint = actual[key], plain[key]
        assert added is not None and joint is not None
        for i in range(len(parameter)):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter[i] += sign * 1e-5
                    x = model(batch[0]).features[name]
                    values.append(float(terms(x, batch[1], means[name])[index]))
                    parameter[i] -= sign * 1e-5
            assert float(added[i] - joint[i]) == pytest.approx(factor * (values[0] - values[1]) / 2e-5, rel=1e-6)


@settings(max_examples=50)
@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=6), st.floats(0.01, 100))
def test_properties_of_the_strengths(scores: list[float], unit: float) -> None:
    """In [0, 1]; never both; largest for the weakest modality; independent of the scores' unit and order."""
    s = torch.tensor(scores, dtype=torch.float64)
    method = PMR()

    def strengths(s: Tensor) -> tuple[Tensor, Tensor]:
        others = (s.sum() - s) / (len(s) - 1)
        return method._strength(others, s), method._strength(s, others)

    faster, slower = strengths(s)
    assert bool(((faster >= 0) & (faster <= 1) & (slower >= 0) & (slower <= 1)).all())
    assert not bool((faster * slower).any())
    assert float(faster[s.argmin()]) == float(faster.max()) and float(slower[s.argmax()]) == float(slower.max())
    torch.testing.assert_close(strengths(s * unit)[0], faster, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(strengths(s.flip(0))[0].flip(0), faster, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("factor", ["clipped", "one"])
def test_equally_good_modalities_are_not_modulated(factor: str) -> None:
    model, batch, sample = two_groups()
    model.encoders["visual"].load_state_dict(model.encoders["audio"].state_dict())
    batch = {"audio": batch[0]["audio"], "visual": batch[0]["audio"]}, batch[1]
    sample = {"audio": sample[0]["audio"], "visual": sample[0]["audio"]}, sample[1]
    descend(with_prototypes(PMR(factor=factor), model, sample), model, batch)
    actual = take_grads(model)
    losses_of(model(batch[0]), batch[1])[0].backward()
    assert_close(actual, {**take_grads(model)}, 1e-12)


def test_unimodal_losses_are_ignored() -> None:
    model, batch, sample = two_groups()
    descend(with_prototypes(PMR(), model, sample), model, batch)
    actual = take_grads(model)
    assert all((g is None) == key.startswith("heads.") for key, g in actual.items())
    descend(with_prototypes(PMR(), model, sample), model, batch, unimodal={"audio": torch.tensor(math.nan)})
    assert_same_state(take_grads(model), actual)


def test_micro_batches_with_different_weaker_modalities_give_the_full_batch() -> None:
    model, batch, sample = two_groups()
    for row in range(3):  # here the clearer modality shows another class
        other = int((batch[1] != batch[1][row]).nonzero()[-1])
        batch[0]["visual"][row] = batch[0]["visual"][other]
    parts = [part_of(batch, torch.arange(start, end)) for start, end in ((0, 3), (3, 8), (8, 12))]
    weak = []
    for part in parts:
        report = descend(with_prototypes(PMR(), model, sample), model, part)
        weak.append(max(("audio", "visual"), key=lambda name: float(report.metrics[f"coefficient_{name}"])))
    assert len(set(weak)) == 2
    take_grads(model)

    method = with_prototypes(PMR(alpha=1.3, mu=0.4), model, sample)
    for _ in range(2):  # the second step must not depend on the first
        whole = descend(method, model, batch)
        wanted = take_grads(model)
        with method.accumulate():
            descend(method, model, parts[0], 3 / 12)
            descend(method, model, parts[1], 5 / 12)
        report = descend(method, model, parts[2], 4 / 12)
        assert_close(take_grads(model), wanted, 1e-9)
        for key, value in whole.metrics.items():
            torch.testing.assert_close(report.metrics[key], value)


def test_a_failed_accumulation_has_no_effect() -> None:
    model, batch, sample = two_groups()
    method = with_prototypes(PMR(), model, sample)
    descend(method, model, batch)
    wanted = take_grads(model)
    part = part_of(batch, torch.arange(5))
    with pytest.raises(RuntimeError, match="stop"), method.accumulate():
        descend(method, model, part, 5 / 12)
        raise RuntimeError("stop")
    descend(method, model, batch)
    assert_close(take_grads(model), wanted, 1e-12)
    with pytest.raises(RuntimeError, match="stop"), method.accumulate():
        descend(method, model, part, 5 / 12)
        raise RuntimeError("stop")
    method.set_epoch(101)
    assert descend(method, model, batch).losses == ["joint"]


@pytest.mark.parametrize("factor", ["clipped", "one"])
def test_a_loss_scale_changes_nothing_but_the_scale(factor: str) -> None:
    model, batch, sample = two_groups(3)
    method = with_prototypes(PMR(factor=factor), model, sample)
    plain = descend(method, model, batch)
    wanted = take_grads(model)
    scaled = descend(method, model, batch, scale=2.0**16)
    assert_close({key: None if g is None else g / 2.0**16 for key, g in take_grads(model).items()}, wanted)
    assert_same_state(dict(scaled.metrics), dict(plain.metrics))


def test_with_interaction_prototypes_train_their_own_encoder_only() -> None:
    model, batch, sample = two_groups(3)
    model.interaction = True
    method = with_prototypes(PMR(mu=0.3), model, sample)
    descend(method, model, batch)
    means = class_means(model(sample[0]).features, sample[1])
    assert_close(take_grads(model), expected(model, batch, means, mu=0.3)[0])


def test_layers_between_encoder_and_feature_learn_from_the_joint_loss_alone() -> None:
    torch.manual_seed(0)
    encoders = nn.ModuleDict({name: nn.Linear(3, 4) for name in ("audio", "visual")}).double()
    shared, head = nn.Linear(4, 2).double(), nn.Linear(4, 3).double()
    x, labels = torch.randn(9, 3, dtype=torch.float64), torch.arange(9) % 3
    features = {name: shared(torch.tanh(encoder(x))) for name, encoder in encoders.items()}
    joint = nn.functional.cross_entropy(head(torch.cat([*features.values()], 1)), labels)
    wanted = torch.autograd.grad(joint, [shared.weight, encoders["audio"].weight], retain_graph=True)
    method = PMR(factor="one")
    method.update_prototypes([(features, labels)])
    method.backward(
        joint, {}, encoders=dict(encoders.items()), outputs=SimpleNamespace(features=features), labels=labels
    )
    torch.testing.assert_close(shared.weight.grad, wanted[0])
    assert not torch.allclose(encoders["audio"].weight.grad, wanted[1])


# --- edge cases of features and prototypes -----------------------------------------------------------------------


class Direct:
    """Features that are the encoders' parameters themselves, so that `.grad` is the gradient by the features."""

    def __init__(self, **features: Tensor) -> None:
        self.parameters = {name: nn.Parameter(x) for name, x in features.items()}

    def gradients(self, method: PMR, labels: list[int], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        features = {name: p if dtype is None else p.to(dtype) for name, p in self.parameters.items()}
        joint = sum((p.sum() * 0.0 for p in self.parameters.values()), torch.zeros(()))
        method.backward(
            joint,
            {},
            encoders={name: [p] for name, p in self.parameters.items()},
            outputs=SimpleNamespace(features=features),
            labels=torch.tensor(labels),
        )
        result = {}
        for name, p in self.parameters.items():
            assert p.grad is not None
            result[name], p.grad = p.grad, None
        return result


def direct_reference(
    x: Mapping[str, Tensor], labels: list[int], prototypes: Prototypes, mu: float
) -> dict[str, Tensor]:
    x = {name: value.detach().double().requires_grad_() for name, value in x.items()}
    result = {name: terms(v, torch.tensor(labels), prototypes[name]) for name, v in x.items()}
    gradients = {}
    for name, (score, ce, entropy) in result.items():
        (other,) = (s for n, (s, _, _) in result.items() if n != name)
        loss = clip(0, other / score - 1, 1) * ce - mu * clip(0, score / other - 1, 1) * entropy
        (gradients[name],) = torch.autograd.grad(loss, [x[name]])
    return gradients


def test_a_feature_on_its_prototype_has_a_finite_gradient() -> None:
    """The distance has no gradient at 0, but the distances to the other prototypes have one."""
    tables = {"audio": torch.tensor([[0.0, 0.0], [3.0, 4.0]]), "visual": torch.tensor([[0.0, 0.0], [9.0, 0.0]])}
    method = PMR(mu=0.5)
    method.update_prototypes([(tables, torch.tensor([0, 1]))])
    actual = Direct(audio=torch.tensor([[0.0, 0.0]]), visual=torch.tensor([[0.0, 0.0]])).gradients(method, [0])
    p = 1 / (1 + math.exp(-5))  # for audio; for visual, 1/(1 + exp(−9)), slightly larger
    q = 1 / (1 + math.exp(-9))
    pull = (q / p - 1) * (1 - p) / 5
    # CE = log(1 + exp(−d₁)), d₁ = ‖x − (3, 4)‖: its gradient is −(1 − p)·(x − (3, 4))/d₁ = (1 − p)·(3, 4)/5.
    torch.testing.assert_close(actual["audio"], pull * torch.tensor([[3.0, 4.0]]), rtol=1e-3, atol=0)
    assert bool(actual["visual"].isfinite().all())


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_class_without_a_prototype_is_left_out(missing: int) -> None:
    """The missing class may be below, between or above the known ones."""
    generator = torch.Generator().manual_seed(missing)
    seen = [c for c in range(CLASSES) if c != missing] * 3
    tables = {n: torch.randn(6, 2, generator=generator, dtype=torch.float64) for n in ("audio", "visual")}
    method = PMR(mu=0.6)
    method.update_prototypes([(tables, torch.tensor(seen))])
    labels = [0, 1, 2, 2, 1, 0, 1]
    x = {n: torch.randn(7, 2, generator=generator, dtype=torch.float64) * s for n, s in (("audio", 1), ("visual", 3))}
    actual = Direct(**x).gradients(method, labels)
    wanted = direct_reference(x, labels, class_means(tables, torch.tensor(seen)), 0.6)
    for name, gradient in wanted.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-9, atol=1e-12)
        assert bool(gradient.any())


def test_a_batch_of_unknown_classes_is_the_joint_loss_alone() -> None:
    method = PMR(mu=0.0)
    method.update_prototypes([({"audio": torch.eye(2), "visual": torch.eye(2)}, torch.tensor([0, 1]))])
    actual = Direct(audio=torch.randn(3, 2), visual=torch.randn(3, 2)).gradients(method, [4, 4, 5])
    assert not any(bool(g.any()) for g in actual.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_compared_in_float32(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    tables = {n: torch.randn(6, 8, generator=generator) + 20 for n in ("audio", "visual")}
    seen, labels = [0, 1, 2, 0, 1, 2], [0, 1, 2, 2, 1]
    method = PMR()
    method.update_prototypes([(tables, torch.tensor(seen))])
    noise = {"audio": 0.3, "visual": 2.0}
    x = {n: (20 + s * torch.randn(5, 8, generator=generator)).to(dtype).float() for n, s in noise.items()}
    actual = Direct(**x).gradients(method, labels, dtype)
    wanted = direct_reference(x, labels, class_means({n: t.double() for n, t in tables.items()}, torch.tensor(seen)), 0)
    weak = max(wanted, key=lambda name: float(wanted[name].norm()))
    error = (actual[weak].double() - wanted[weak]).norm() / wanted[weak].norm()
    assert float(error) < 2 * torch.finfo(dtype).eps  # the gradient is rounded to the type of the feature only once


def test_distances_are_exact_for_features_far_from_0() -> None:
    generator = torch.Generator().manual_seed(0)
    tables = {n: torch.randn(6, 8, generator=generator) + 1000 for n in ("audio", "visual")}
    seen, labels = [0, 1, 2, 0, 1, 2], [0, 1, 2, 2, 1]
    method = PMR(factor="one", mu=0.0)
    method.update_prototypes([(tables, torch.tensor(seen))])
    x = {n: 1000 + s * torch.randn(5, 8, generator=generator) for n, s in (("audio", 0.3), ("visual", 1.0))}
    actual = Direct(**x).gradients(method, labels)
    for name, prototypes in class_means({n: t.double() for n, t in tables.items()}, torch.tensor(seen)).items():
        point = x[name].double().requires_grad_()
        (wanted,) = torch.autograd.grad(terms(point, torch.tensor(labels), prototypes)[1], [point])
        if bool(actual[name].any()):  # the weaker modality
            # A prototype is rounded to float32, by 3e-5, where distances are about 1.
            torch.testing.assert_close(actual[name].double(), wanted, rtol=1e-3, atol=1e-4)
            return
    raise AssertionError("no modality was weaker")


class NoWaiting(TorchDispatchMode):
    """Rejects operations for whose result the host has to wait."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert str(func.name()) not in ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal"), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("factor", ["clipped", "one"])
def test_a_step_never_waits_for_the_device(factor: str) -> None:
    model, batch, sample = two_groups(3)
    method = with_prototypes(PMR(factor=factor), model, sample)
    outputs = model(batch[0])
    joint, _ = losses_of(outputs, batch[1])
    with NoWaiting():
        report = method.backward(
            joint, {}, encoders=dict(model.encoders.items()), outputs=outputs, labels=batch[1], scale=torch.tensor(8.0)
        )
    assert bool(report.finite.all())
    with pytest.raises(AssertionError), NoWaiting():
        float(joint.detach())  # the guard works


def test_prototypes_are_moving_averages_of_class_means() -> None:
    generator = torch.Generator().manual_seed(0)
    rounds = [
        ({"a": torch.randn(9, 2, 3, generator=generator, dtype=torch.float64)}, torch.arange(9) % 3) for _ in range(4)
    ]
    means = [class_means({"a": x["a"].reshape(9, 6)}, y)["a"] for x, y in rounds]
    for starts in (1, 2):
        method = PMR(momentum_coef=0.2, momentum_starts=starts)
        wanted = dict(means[0])
        for number, (features, labels) in enumerate(rounds):
            halves = [({"a": features["a"][i : i + 5]}, labels[i : i + 5]) for i in (0, 5)]
            method.update_prototypes(halves)
            if 0 < number < starts:
                wanted = dict(means[number])
            elif number:
                wanted = {c: 0.8 * new + 0.2 * wanted[c] for c, new in means[number].items()}
            torch.testing.assert_close(method.prototypes["a"], torch.stack([wanted[c] for c in range(3)]))


def test_a_class_without_samples_keeps_its_prototype() -> None:
    method = PMR(momentum_coef=0.25)
    method.update_prototypes([({"a": torch.tensor([[1.0], [3.0]])}, torch.tensor([0, 2]))])
    assert_same_state(method.prototypes["a"], torch.tensor([[1.0], [math.nan], [3.0]], dtype=torch.float64))
    method.update_prototypes([({"a": torch.tensor([[5.0], [7.0], [4.0]])}, torch.tensor([0, 1, 1]))])
    assert_same_state(method.prototypes["a"], torch.tensor([[4.0], [5.5], [3.0]], dtype=torch.float64))
    method.update_prototypes([({"a": torch.tensor([[8.0]])}, torch.tensor([3]))])
    known = torch.tensor([[4.0], [5.5], [3.0], [8.0]], dtype=torch.float64)
    assert_same_state(method.prototypes["a"], known)
    method.update_prototypes([({"a": torch.tensor([[1.0], [math.inf]])}, torch.tensor([1, 0]))])
    assert_same_state(method.prototypes["a"], known)


def test_a_step_does_not_change_prototypes() -> None:
    model, batch, sample = two_groups()
    method = with_prototypes(PMR(), model, sample)
    assert not any(table.requires_grad for table in method.prototypes.values())
    before = {name: table.clone() for name, table in method.prototypes.items()}
    descend(method, model, batch)
    assert_same_state(method.prototypes, before)


# --- epochs, state, errors ---------------------------------------------------------------------------------------


def test_epochs_in_which_it_is_active() -> None:
    model, batch, sample = two_groups()
    method = with_prototypes(PMR(entropy_epochs=3, modulation_starts=2, modulation_ends=4), model, sample)
    kinds = []
    for epoch in range(6):
        method.set_epoch(epoch)
        kinds.append({name.split()[0] for name in descend(method, model, batch).losses})
    joint, ce, both = {"joint"}, {"joint", "prototypes"}, {"joint", "prototypes", "entropy"}
    assert kinds == [joint, joint, both, ce, ce, joint]


def test_the_hook_updates_prototypes_before_every_epoch_that_uses_them() -> None:
    model, _, sample = two_groups()
    requested = []

    class Watched(Loop):
        def features(self, share: float) -> Any:
            requested.append((self.epoch, share))
            return super().features(share)

    method = PMR(modulation_starts=1, modulation_ends=2)
    for epoch in (1, 2, 3, 4):
        method.begin_epoch(Watched(model, sample, epoch))
        assert method.epoch == epoch - 1
    assert requested == [(1, 0.1), (2, 0.1), (3, 0.1)] and method.renewals == 3
    means = class_means(model(sample[0]).features, sample[1])
    for name, table in method.prototypes.items():
        torch.testing.assert_close(table, torch.stack([means[name][c] for c in range(CLASSES)]))


@pytest.mark.parametrize(("samples", "share"), [("augmented", 0.1), ("validation", 1.0)])
def test_prototypes_may_come_from_other_samples(samples: str, share: float) -> None:
    model, _, sample = two_groups()
    requested = []

    class Watched(Loop):
        def features(self, share: float, samples: str = "training") -> Any:
            requested.append((share, samples))
            return super().features(share)

    method = PMR(samples=samples)
    method.begin_training(Watched(model, sample, 1))  # refuses what the run lacks
    method.begin_epoch(Watched(model, sample, 1))
    assert requested == [(share, samples)] * 2 and method.renewals == 1


def test_an_interrupted_update_changes_nothing() -> None:
    model, _, sample = two_groups()
    method = with_prototypes(PMR(), model, sample)
    before = method.state_dict()

    class Stopped(Loop):
        def features(self, share: float) -> Iterator[tuple[Mapping[str, Tensor], Tensor]]:
            yield from super().features(share)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method.begin_epoch(Stopped(model, batch_of(seed=9), 2))
    assert_same_state(method.state_dict(), before)


def test_the_state_survives_bit_for_bit() -> None:
    model, batch, sample = two_groups(3)
    method = with_prototypes(with_prototypes(PMR(mu=0.2, entropy_epochs=4), model, sample), model, batch)
    method.set_epoch(4)
    descend(method, model, part_of(batch, torch.arange(7)))
    take_grads(model)
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    other = PMR(mu=0.2, entropy_epochs=4)
    other.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(2):
        descend(method, model, batch)
        wanted = take_grads(model)
        descend(other, model, batch)
        assert_same_state(take_grads(model), wanted)
        assert_same_state(other.state_dict(), method.state_dict())
        with_prototypes(method, model, sample)
        with_prototypes(other, model, sample)


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 0.0},
        {"alpha": math.inf},
        {"momentum_coef": 1.0},
        {"momentum_coef": -0.1},
        {"momentum_starts": 0},
        {"factor": "half"},
        {"mu": -1.0},
        {"mu": math.nan},
        {"entropy_epochs": -1},
        {"modulation_starts": -1},
        {"modulation_starts": 3, "modulation_ends": 2},
    ],
)
def test_bad_options_are_rejected_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        PMR(**options)


def test_bad_input_is_rejected_and_leaves_no_gradient() -> None:
    model, batch, sample = two_groups()
    method = with_prototypes(PMR(), model, sample)
    features = model(batch[0]).features
    cases: list[tuple[str, PMR, dict[str, Any]]] = [
        ("joint loss", method, {"joint": None}),
        ("labels", method, {"labels": None}),
        ("features of 'audio': pass outputs", method, {"outputs": None}),
        ("features of 'audio': pass outputs", method, {"outputs": SimpleNamespace(features={})}),
        ("features of 'visual'", method, {"outputs": SimpleNamespace(features={"audio": features["audio"]})}),
        ("no prototypes of 'audio': call update_prototypes", PMR(), {}),
        ("4 numbers", from_features(torch.eye(3)), {}),
        (
            "'prototypes of audio' needs no gradient",
            method,
            {"outputs": SimpleNamespace(features={name: x.detach() for name, x in features.items()})},
        ),
        ("does not reach encoder 'audio'", method, {"outputs": Model(seed=5)(batch[0])}),
    ]
    for match, case, changes in cases:
        before = dict(case.state_dict())
        with pytest.raises(ValueError, match=match):
            descend(case, model, batch, **changes)
        assert all(g is None for g in take_grads(model).values())
        assert_same_state(case.state_dict(), before)
    with pytest.raises(ValueError, match="at least one batch"):
        PMR().update_prototypes([])


def from_features(features: Tensor) -> PMR:
    method = PMR()
    method.update_prototypes([({"audio": features, "visual": features}, torch.arange(len(features)))])
    return method


def test_variants_are_the_paper_and_the_released_code() -> None:
    assert vars(PMR(**PMR.variants["paper"])).keys() == vars(PMR()).keys()
    default, paper = PMR(), PMR(**PMR.variants["paper"])
    released = PMR(**PMR.variants["released"])
    for option in ("factor", "mu", "momentum_starts"):
        assert getattr(default, option) == getattr(paper, option)
    assert (released.factor, released.mu, released.momentum_starts) == ("one", 0.0, 2)


# --- as in BalanceBenchmark --------------------------------------------------------------------------------------


def test_three_modalities_as_in_balancebenchmark_have_no_prototype_loss_but_factors_and_noise() -> None:
    """κ = 1 − tanh(η·s/min s) of s from prototypes, on gradients that are not 1-D, with noise of their spread."""
    model, batch, others = two_groups(3, seed=2)
    method = with_prototypes(PMR(**PMR.variants["balancebenchmark"] | {"eta": 0.4}), model, others)
    prototypes = class_means(model(others[0]).features, others[1])
    scores = {name: terms(x, batch[1], prototypes[name])[0] for name, x in model(batch[0]).features.items()}
    ratios = {name: s / min(scores.values()) for name, s in scores.items()}
    wanted = {name: 1 - math.tanh(0.4 * ratio) if ratio > 1 else 1.0 for name, ratio in ratios.items()}
    assert sorted(kappa < 0.9 for kappa in wanted.values()) == [False, True, True]
    losses_of(model(batch[0]), batch[1])[0].backward()
    expected = take_grads(model)
    torch.manual_seed(0)
    report = descend(method, model, batch)
    assert report.losses == ["joint"]
    assert {name: float(report.metrics[f"coefficient_{name}"]) for name in wanted} == pytest.approx(wanted)
    noises = []
    for key, gradient in take_grads(model).items():
        plain = expected[key]
        assert (gradient is None) == (plain is None)
        if gradient is None or plain is None:
            continue
        if key.startswith("encoders.") and plain.ndim != 1:
            noises.append(((gradient - wanted[key.split(".")[1]] * plain) / plain.std()).flatten())
        else:
            assert torch.equal(gradient, plain), key
    noise = torch.cat(noises)
    assert abs(float(noise.mean())) < 5 / math.sqrt(len(noise))
    assert abs(float(noise.square().mean()) - 1) < 5 * math.sqrt(2 / len(noise))
    method.set_epoch(81)
    report = descend(method, model, batch)
    assert_close(take_grads(model), expected, 1e-12)
    assert all(float(kappa) == 1 for kappa in report.metrics.values())


def test_two_modalities_of_balancebenchmark_are_those_of_the_released_code() -> None:
    model, batch, others = two_groups(2)
    gradients = []
    for options in (PMR.variants["released"] | {"alpha": 0.6}, PMR.variants["balancebenchmark"]):
        descend(with_prototypes(PMR(**options), model, others), model, batch)
        gradients.append(take_grads(model))
    assert_close(*gradients, 1e-12)
