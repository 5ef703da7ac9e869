"""A gradient scaler, hooks after accumulation, and the check for non-finite steps, as users' own loops have them."""

import pytest
import torch
from every_method import Model, Overflow, assert_close, batch_of, losses_of, take_grads
from mmpareto import METHODS, MMPareto
from torch import Tensor
from torch.amp import GradScaler

NAMES = ["uniform", "mmpareto", "pareto", "dgl"]


def losses(model: Model) -> tuple[Tensor, dict[str, Tensor]]:
    return losses_of(model(batch_of()[0]), batch_of()[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_scaler_itself(name: str) -> None:
    model = Model()
    encoders = dict(model.encoders.items())
    METHODS[name]().backward(*losses(model), encoders=encoders)
    wanted = take_grads(model)
    scaler = GradScaler("cpu", init_scale=1024.0)
    METHODS[name]().backward(*losses(model), encoders=encoders, scale=scaler)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler.unscale_(optimizer)
    assert_close(take_grads(model), wanted)
    METHODS[name]().backward(*losses(model), encoders=encoders, scale=GradScaler("cpu", enabled=False))
    assert_close(take_grads(model), wanted)


def test_the_scaler_skips_a_step_that_overflows() -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = GradScaler("cpu", init_scale=1024.0)
    before = {key: p.clone() for key, p in model.named_parameters()}
    joint, unimodal = losses(model)
    report = MMPareto().backward(Overflow.apply(joint), unimodal, encoders=dict(model.encoders.items()), scale=scaler)
    assert not report.all_finite and report.finite.tolist() == [False, True, True]
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 512.0
    assert all(torch.equal(p, before[key]) for key, p in model.named_parameters())


@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_in_the_backward_pass(name: str) -> None:
    """Hooks of register_post_accumulate_grad_hook run once per step, with the integrated gradient."""
    ordinary, hooked = Model(), Model()
    optimizer = torch.optim.SGD(ordinary.parameters(), lr=0.1, momentum=0.9)
    calls = []
    for key, parameter in hooked.named_parameters():
        own = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)

        def hook(p: Tensor, own: torch.optim.SGD = own, key: str = key) -> None:
            calls.append(key)
            own.step()
            own.zero_grad()

        parameter.register_post_accumulate_grad_hook(hook)
    for model in (ordinary, hooked):
        method = METHODS[name]()
        for _ in range(3):
            with method.accumulate():
                method.backward(*losses(model), encoders=dict(model.encoders.items()))
            method.backward(*losses(model), encoders=dict(model.encoders.items()))
            if model is ordinary:
                optimizer.step()
                optimizer.zero_grad()
    for (key, ours), (_, wanted) in zip(hooked.named_parameters(), ordinary.named_parameters(), strict=True):
        assert torch.allclose(ours, wanted), key
        assert calls.count(key) in (0, 3)
    assert calls
