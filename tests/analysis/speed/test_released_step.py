"""The released algorithm in the benchmark, with the variant's gradients and the released code's cost."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmpareto import MMPareto
from mmpareto.analysis.speed.released_step import ReleasedStep
from mmpareto.models.network import MultimodalNetwork
from mmpareto.training.losses import losses
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

NAMES = ("a", "b", "c")


class Sum(nn.Module):
    """The sum of one linear head per modality."""

    additive = True

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: nn.Linear(4, 3) for name in names})

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return torch.stack([*self.contributions(features).values()]).sum(0)

    def contributions(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.parts[name](feature) for name, feature in features.items()}


def network_of(opposed: tuple[str, ...], names: tuple[str, ...] = NAMES) -> MultimodalNetwork:
    """A network whose unimodal heads are the fusion's, with reversed sign for the `opposed` modalities."""
    torch.manual_seed(len(opposed))
    encoders = {n: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 4)) for n in names}
    network = MultimodalNetwork(encoders, Sum(names), {name: nn.Linear(4, 3) for name in names}).double()
    for name in names:
        sign = -1 if name in opposed else 1
        network.heads[name].load_state_dict({k: sign * v for k, v in network.fusion.parts[name].state_dict().items()})
    return network


def batch(names: tuple[str, ...] = NAMES) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = {name: torch.randn(7, 5, generator=generator, dtype=torch.float64) for name in names}
    return inputs, torch.randint(3, (7,), generator=generator)


def stepped(method: Any, net: MultimodalNetwork, **more: Any) -> dict[str, Tensor]:
    """Parameter → gradient after `method.backward`."""
    net.zero_grad()
    if isinstance(method, ReleasedStep):
        method.begin_training(SimpleNamespace(network=net))
    inputs, labels = batch(tuple(net.encoders))
    joint, unimodal = losses(net(inputs), labels)
    method.backward(joint, unimodal, encoders=dict(net.encoders.items()), **more)
    return {name: p.grad.clone() for name, p in net.named_parameters()}


@pytest.mark.parametrize("gamma", [1.5, 0.7])
@pytest.mark.parametrize("opposed", [(), ("a",), ("b", "c"), NAMES], ids=str)
def test_gradients_are_those_of_the_released_variant(opposed: tuple[str, ...], gamma: float) -> None:
    net = network_of(opposed)
    inputs, labels = batch()
    joint, unimodal = losses(net(inputs), labels)
    report = MMPareto.released().backward(joint, unimodal, encoders=dict(net.encoders.items()))
    assert [name for name in NAMES if report[name].conflict.any()] == list(opposed)
    expected = stepped(MMPareto.released(gamma), net)
    for name, result in stepped(ReleasedStep(gamma), net).items():
        torch.testing.assert_close(result, expected[name], rtol=1e-9, atol=1e-14, msg=name)


def test_every_gradient_is_multiplied_by_the_loss_scale() -> None:
    net = network_of(("a",))
    plain = stepped(ReleasedStep(), net)
    for name, result in stepped(ReleasedStep(), net, scale=torch.tensor(8.0, dtype=torch.float64)).items():
        torch.testing.assert_close(result, 8 * plain[name], rtol=1e-9, atol=1e-14, msg=name)


class Transfers(TorchDispatchMode):
    """Counts the scalars that the host reads from tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_each_loss_and_the_sum_have_a_backward_pass_and_every_tensor_is_read() -> None:
    net = network_of(("a",), ("a", "b"))
    passes: Counter[str] = Counter()
    for name, encoder in net.encoders.items():
        encoder[0].weight.register_hook(lambda gradient, name=name: passes.update([name]))
    net.fusion.parts["a"].weight.register_hook(lambda gradient: passes.update(["fusion"]))
    with Transfers() as transfers:
        stepped(ReleasedStep(), net)
    assert passes == {"a": 3, "b": 3, "fusion": 2}  # the joint loss, the encoder's own loss, and their sum
    tensors = sum(len(list(encoder.parameters())) for encoder in net.encoders.values())
    # Three losses and their sum, two cosines, each tensor's λ, and the comparisons of the one solved problem.
    assert transfers.count == 4 + 2 + tensors + 3


def test_a_zero_direction_is_nan_unlike_in_the_variant() -> None:
    """In the released code, a conflicting tensor of one element has h = 0, and 0·inf is NaN."""
    encoder = nn.Linear(1, 1, bias=False).double()
    for method, expected in ((MMPareto.released(), 0.0), (ReleasedStep(), float("nan"))):
        encoder.weight.grad = None
        if isinstance(method, ReleasedStep):
            method.begin_training(SimpleNamespace(network=encoder))
        weight = encoder.weight.sum()
        method.backward(weight, {"a": -3 * weight}, encoders={"a": encoder})
        assert encoder.weight.grad.item() == pytest.approx(expected, nan_ok=True)


def test_a_loss_that_does_not_reach_the_encoder_is_refused() -> None:
    encoder = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1))
    loss = encoder[0].weight.sum()
    with pytest.raises(ValueError, match=r"does not reach .* shape \(1, 1\)"):
        ReleasedStep().backward(loss, {"a": loss}, encoders={"a": encoder})
