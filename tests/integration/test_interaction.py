"""Encoders that exchange activations: a unimodal loss is an objective of its own encoder only."""

import pytest
import torch
from integration_reference import (
    ALL_OPTIONS,
    PER_TENSOR,
    Options,
    assert_gradients,
    assert_report,
    dense_and_batch,
    expectation,
    model_and_batch,
    option_name,
)
from mmpareto import MMPareto

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
