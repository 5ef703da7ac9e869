"""Activation checkpointing: the same gradients and statistics as without it, with less memory."""

import copy

import pytest
import torch
from mmpareto.models import ENCODERS
from mmpareto.models.building import build_network
from mmpareto.models.network import MultimodalNetwork, Outputs
from torch import Tensor

ENCODERS.add("tiny", "tiny_encoder:TinyEncoder")

CASES = {
    "resnet18 at 64×64": {"encoder": "resnet18"},
    "in stages": {"encoder": "tiny"},
    "in stages, with blocks": {"encoder": "tiny", "blocks": "mmtm"},
    "as a whole": {"encoder": "cnn"},
    "with dropout": {"encoder": "transformer"},
}
case = pytest.mark.parametrize("case", CASES)


def networks(case: str) -> tuple[MultimodalNetwork, MultimodalNetwork]:
    """The same network twice; the second recomputes its activations."""
    torch.manual_seed(0)
    channels = {"audio": 5, "visual": 7} if case == "with dropout" else {"audio": 1, "visual": 3}
    plain = build_network(channels, 4, **CASES[case])  # type: ignore[arg-type]
    recomputing = copy.deepcopy(plain)
    recomputing.recompute = True
    return plain, recomputing


def inputs(case: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"audio": (4, 1, 64, 64), "visual": (4, 2, 3, 64, 64)}
    if case == "as a whole":
        shapes["visual"] = (4, 3, 64, 64)
    if case == "with dropout":
        shapes = {"audio": (4, 9, 6), "visual": (4, 9, 8)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def forward(network: MultimodalNetwork, case: str) -> Outputs:
    torch.manual_seed(2)  # for dropout
    return network(inputs(case))


def two_passes(network: MultimodalNetwork, case: str) -> list[Tensor | None]:
    """Gradients of two losses over one graph, by two backward passes."""
    outputs = forward(network, case)
    torch.rand(7)  # random numbers drawn between the passes change nothing
    gradients: list[Tensor | None] = []
    for number, loss in enumerate([outputs.joint.exp().mean(), sum(z.exp().mean() for z in outputs.unimodal.values())]):
        assert isinstance(loss, Tensor)
        parameters = list(network.parameters())
        gradients += torch.autograd.grad(loss, parameters, retain_graph=number == 0, allow_unused=True)
    return gradients


@case
def test_gradients_and_statistics_equal_those_without_checkpointing(case: str) -> None:
    plain, recomputing = networks(case)
    before = copy.deepcopy(dict(plain.named_buffers()))
    expected, result = two_passes(plain, case), two_passes(recomputing, case)
    assert all((a is None) == (b is None) for a, b in zip(expected, result, strict=True))
    for a, b in zip(expected, result, strict=True):
        if a is not None:
            torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-8)
    for name, buffer in recomputing.named_buffers():
        assert torch.equal(buffer, plain.get_buffer(name)), name
        if name.endswith("num_batches_tracked"):
            assert buffer == 1 and before[name] == 0


def saved_bytes(network: MultimodalNetwork, case: str) -> int:
    """Bytes that a forward pass saves for the backward pass, not counting the parameters."""
    parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = forward(network, case)  # kept alive, so that no storage's address is reused
        assert outputs.joint.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize(("case", "share"), [("resnet18 at 64×64", 0.35), ("as a whole", 0.2), ("with dropout", 0.2)])
def test_less_memory_is_saved_for_the_backward_pass(case: str, share: float) -> None:
    plain, recomputing = networks(case)
    assert saved_bytes(recomputing, case) < share * saved_bytes(plain, case)


@case
def test_evaluation_is_unchanged_and_saves_nothing(case: str) -> None:
    plain, recomputing = (network.eval() for network in networks(case))
    with torch.no_grad():
        assert torch.equal(recomputing(inputs(case)).joint, plain(inputs(case)).joint)
        assert saved_bytes_without_graph(recomputing, case) == 0


def saved_bytes_without_graph(network: MultimodalNetwork, case: str) -> int:
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda nothing: nothing):
        network(inputs(case))
    return len(kept)


def test_a_failed_backward_pass_leaves_the_statistics_in_place() -> None:
    _, network = networks("in stages")
    norm = network.encoders["visual"].layers[1]
    statistics = norm.running_mean
    outputs = forward(network, "in stages")
    norm.register_forward_hook(lambda *_: pytest.fail("the encoder runs out of memory"))
    with pytest.raises(pytest.fail.Exception, match="out of memory"):
        outputs.joint.sum().backward()
    assert norm.running_mean is statistics
