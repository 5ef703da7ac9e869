"""SMV: values against a mean over orders of joining, copies against the released code's table, and those drawn."""

import itertools
import math

import pytest
import torch
from every_method import CLASSES, FEATURE, NAMES, Loop, Model, batch_of
from mmpareto import SMV
from mmpareto.integration.methods.smv import copies_of
from torch import Tensor


def features_and_labels(count: int, size: int = 40) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(count)
    features = {name: torch.randn(size, FEATURE, generator=generator).double() for name in NAMES[:count]}
    return features, torch.randint(CLASSES, (size,), generator=generator)


def method_of(model: Model, **options: object) -> SMV:
    method = SMV(**options)  # type: ignore[arg-type]
    method.use_fusion(model.fusion)
    return method


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_values_are_mean_gains_over_all_orders_in_which_modalities_join(count: int) -> None:
    model, (features, labels) = Model(count), features_and_labels(count)
    found = method_of(model).values(features, labels)
    names = list(features)
    for i, label in enumerate(labels.tolist()):

        def worth(chosen: set[str], i: int = i, label: int = label) -> int:
            row = torch.cat([features[n][i] if n in chosen else torch.zeros(FEATURE).double() for n in names])
            logits = model.fusion.weight @ row + model.fusion.bias
            return len(chosen) if chosen and int(logits.argmax()) == label else 0

        gains = dict.fromkeys(names, 0)
        for order in itertools.permutations(names):
            for place, name in enumerate(order):
                gains[name] += worth({*order[: place + 1]}) - worth({*order[:place]})
        for name in names:
            assert float(found[name][i]) == pytest.approx(gains[name] / math.factorial(count), abs=1e-8)
        whole = worth({*names})
        assert sum(float(found[name][i]) for name in names) == pytest.approx(whole, abs=1e-7)  # efficiency


def test_copies_are_those_of_the_released_code() -> None:
    """Of two modalities: three of −½, two of 0, one of ½, and none of 1 and 1½."""
    values = torch.tensor([-0.5, 0.0, 0.5, 1.0, 1.5], dtype=torch.float64)
    assert copies_of(values).tolist() == [3, 2, 1, 0, 0]
    torch.testing.assert_close(copies_of(values).double(), (2 * (1 - values)).clamp(min=0))
    assert copies_of(torch.tensor([-2.0, 1 / 3, 2 / 3, 5 / 6])).tolist() == [3, 2, 1, 1]


def test_every_sample_has_its_copies_whatever_the_order_of_the_batches() -> None:
    model, (features, labels) = Model(2), features_and_labels(2)
    method = method_of(model)
    values = method.values(features, labels)
    indices = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1)) + 100
    parts = [({name: x[s] for name, x in features.items()}, labels[s]) for s in (slice(0, 7), slice(7, None))]
    method.resample(parts, indices)
    for name, copies in method.copies().items():
        for position, index in enumerate(indices.tolist()):
            assert copies.tolist().count(index) == int(copies_of(values[name][position : position + 1]))
    assert {len(copies) for copies in method.copies().values()} != {0}


def test_a_weaker_modality_has_a_share_of_the_samples_with_replacement() -> None:
    """The share is ⅔·α·(φ̄ of the stronger − φ̄ of the weaker one)."""
    model, (features, labels) = Model(2), features_and_labels(2)
    with torch.no_grad():
        model.fusion.weight[:, :FEATURE] *= 100  # audio decides
    method = method_of(model, level="modality", alpha=1.5)
    # Audio alone is right where both are, and visual is never right but by chance.
    labels = model.fusion(features).argmax(1)
    means = {name: float(phi.mean()) for name, phi in method.values(features, labels).items()}
    indices = torch.arange(30, 330)
    torch.manual_seed(0)
    method.resample([(features, labels)], indices)
    ((name, copies),) = method.copies().items()
    assert name == "visual" and means["audio"] > means["visual"]
    assert len(copies) == int(2 / 3 * 1.5 * (means["audio"] - means["visual"]) * 300) > 0
    assert set(copies.tolist()) <= set(indices.tolist()) and len(set(copies.tolist())) < len(copies)


def test_equal_values_and_one_modality_have_no_copies_at_modality_level() -> None:
    model = Model(1)
    features, labels = features_and_labels(1)
    for level in ("sample", "modality"):
        method = method_of(model, level=level)
        method.resample([(features, labels)], torch.arange(40))
        assert dict(method.copies()) == {}
    method = method_of(Model(2), level="modality")
    right = Model(2).fusion({name: torch.zeros(3, FEATURE).double() for name in NAMES[:2]}).argmax(1)
    method.resample([({name: torch.zeros(3, FEATURE).double() for name in NAMES[:2]}, right)], torch.arange(3))
    assert all(len(copies) == 0 for copies in method.copies().values())  # both are worth the same


def test_the_warm_up_has_no_copies() -> None:
    loop = Loop(Model(), batch_of(size=30), epoch=3)
    method = SMV(warmup=3)
    method.begin_training(loop)
    method.begin_epoch(loop)
    assert dict(method.copies()) == {}
    loop.epoch = 4
    method.begin_epoch(loop)
    assert sum(len(copies) for copies in method.copies().values()) > 0


def test_values_wait_for_a_fusion_and_options_are_checked() -> None:
    with pytest.raises(ValueError, match="needs the fusion"):
        SMV().values(*features_and_labels(2))
    for options in ({"level": "class"}, {"warmup": -1}, {"part_ratio": 1.5}, {"alpha": 0}, {"samples": "test"}):
        with pytest.raises(ValueError):
            SMV(**options)  # type: ignore[arg-type]
