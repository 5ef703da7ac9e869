"""Encoders that exchange activations: a unimodal loss is an objective of its own encoder only."""

from collections.abc import Sequence
from contextlib import nullcontext

import pytest
import torch
from integration_reference import (
    ALL_OPTIONS,
    PER_TENSOR,
    Batch,
    Dense,
    Options,
    assert_gradients,
    assert_report,
    dense_and_batch,
    expectation,
    model_and_batch,
    option_name,
    reference_gradients,
)
from mmpareto import METHODS, MMPareto
from mmpareto.integration.features import find_cut
from mmpareto.integration.objectives import collect
from torch import Tensor

NAMES = (("audio", "visual"), ("text", "audio", "visual"))


def test_the_dense_model_has_cross_terms() -> None:
    model, batch = dense_and_batch()
    _, unimodal = model.losses(*batch)
    first = list(model.encoders["audio"]["first"].parameters())
    assert all(bool(g.any()) for g in torch.autograd.grad(unimodal["visual"], first))


@pytest.mark.parametrize("options", ALL_OPTIONS, ids=option_name)
@pytest.mark.parametrize("names", NAMES, ids=len)
def test_cross_terms_are_left_out(names: tuple[str, ...], options: Options) -> None:
    for seed in range(3):
        model, batch = dense_and_batch(seed, names)
        expected, reports = expectation("mmpareto", model, batch, options)
        joint, unimodal = model.losses(*batch)
        report = MMPareto(**options.arguments()).backward(
            joint, unimodal, encoders=dict(model.encoders.items()), interaction=True
        )
        assert_gradients(expected)
        assert list(report) == list(names)
        for modality, wanted in reports.items():
            assert_report(report[modality], wanted)


def test_heads_and_fusion_receive_the_plain_sum() -> None:
    model, batch = dense_and_batch()
    joint, unimodal = model.losses(*batch)
    outside = [*model.fusion.parameters(), *model.joint_head.parameters(), *model.heads.parameters()]
    total = joint + torch.stack(list(unimodal.values())).sum()
    wanted = torch.autograd.grad(total, outside, retain_graph=True)
    MMPareto().backward(joint, unimodal, encoders=dict(model.encoders.items()), interaction=True)
    for parameter, gradient in zip(outside, wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("scale", [None, 256.0])
def test_the_option_changes_nothing_for_a_model_without_interaction(scale: float | None) -> None:
    model, batch = model_and_batch("three modalities")
    expected, reports = expectation("mmpareto", model, batch, PER_TENSOR)
    joint, unimodal = model.losses(*batch)
    report = MMPareto().backward(joint, unimodal, encoders=dict(model.encoders.items()), interaction=True, scale=scale)
    assert_gradients({p: None if g is None else (scale or 1.0) * g for p, g in expected.items()})
    for modality, wanted in reports.items():
        assert_report(report[modality], wanted)


@pytest.mark.parametrize("names", NAMES, ids=len)
def test_without_the_option_cross_terms_are_included(names: tuple[str, ...]) -> None:
    """Each encoder's second objective is the sum of all unimodal losses, whether features are given or not."""
    for features_given in (False, True):
        model, batch = dense_and_batch(3, names)
        joint, unimodal = model.losses(*batch)
        total = torch.stack([*unimodal.values()]).sum()
        encoders = model.encoder_parameters()
        of_encoders = [p for parameters in encoders.values() for p in parameters]
        expected, reports = reference_gradients(
            "mmpareto", joint, dict.fromkeys(names, total), of_encoders, encoders, PER_TENSOR
        )
        model, batch = dense_and_batch(3, names)
        features, (joint, unimodal) = losses_with_features(model, batch)
        more = {"features": features} if features_given else {}
        with pytest.warns(UserWarning, match="do not save memory") if features_given else nullcontext():
            report = MMPareto().backward(joint, unimodal, encoders=dict(model.encoders.items()), **more)
        twins = zip((p for ps in model.encoder_parameters().values() for p in ps), of_encoders, strict=True)
        assert_gradients({ours: expected[theirs] for ours, theirs in twins})
        for modality, wanted in reports.items():
            assert_report(report[modality], wanted)


def losses_with_features(model: Dense, batch: Batch) -> tuple[dict[str, Tensor], tuple[Tensor, dict[str, Tensor]]]:
    kept: dict[str, Tensor] = {}
    compute = model.features
    model.features = lambda inputs: kept.update(compute(inputs)) or kept  # type: ignore[method-assign, func-returns-value]
    return kept, model.losses(*batch)


@pytest.mark.parametrize("frozen", [(), ("visual",)])
def test_the_graph_is_never_cut_at_features_of_encoders_that_interact(frozen: Sequence[str]) -> None:
    """Also with a frozen encoder, where the other's feature depends on no further trainable tensor."""
    model, batch = dense_and_batch()
    for name in frozen:
        model.encoders[name].requires_grad_(False)
    features, (joint, unimodal) = losses_with_features(model, batch)
    objectives = collect(joint, unimodal, dict(model.encoders.items()))
    objectives.features = features
    assert find_cut(objectives).features is None


@pytest.mark.parametrize("interaction", [True, False])
def test_unimodal_gradients_are_those_of_finite_differences(interaction: bool) -> None:
    """DGL's update is α times the unimodal gradient: its own loss's with `interaction`, else that of all losses."""
    model, batch = dense_and_batch(1)
    joint, unimodal = model.losses(*batch)
    METHODS["dgl"](alpha=2.0).backward(joint, unimodal, encoders=dict(model.encoders.items()), interaction=interaction)
    for name, parameters in model.encoder_parameters().items():
        generator = torch.Generator().manual_seed(5)
        direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
        values = []
        for step in (1e-6, -2e-6):
            with torch.no_grad():
                for parameter, d in zip(parameters, direction, strict=True):
                    parameter += step * d
                _, losses = model.losses(*batch)
            values.append(losses[name] if interaction else torch.stack([*losses.values()]).sum())
        with torch.no_grad():
            for parameter, d in zip(parameters, direction, strict=True):
                parameter += 1e-6 * d
        slope = (values[0] - values[1]) / 2e-6
        product = sum((p.grad * d).sum() for p, d in zip(parameters, direction, strict=True))
        torch.testing.assert_close(product / 2, slope, rtol=1e-6, atol=1e-9)
