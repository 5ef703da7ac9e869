"""Activations computed again: the same gradients and statistics as without, from less memory."""

import copy

import pytest
import torch
from mmpareto.models import ENCODERS
from mmpareto.models.network import MultimodalNetwork, Outputs, build_network
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
    """The same network twice; the second one computes its activations again."""
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
    torch.manual_seed(2)  # of dropout
    return network(inputs(case))


def two_passes(network: MultimodalNetwork, case: str) -> list[Tensor | None]:
    """Gradients of two losses over one graph, by two backward passes."""
    outputs = forward(network, case)
    torch.rand(7)  # what is drawn between the passes changes nothing
    found: list[Tensor | None] = []
    for number, loss in enumerate([outputs.joint.exp().mean(), sum(z.exp().mean() for z in outputs.unimodal.values())]):
        assert isinstance(loss, Tensor)
        parameters = list(network.parameters())
        found += torch.autograd.grad(loss, parameters, retain_graph=number == 0, allow_unused=True)
    return found


@case
def test_gradients_and_statistics_are_those_of_the_network_that_keeps_everything(case: str) -> None:
    plain, recomputing = networks(case)
    before = copy.deepcopy(dict(plain.named_buffers()))
    expected, found = two_passes(plain, case), two_passes(recomputing, case)
    assert all((a is None) == (b is None) for a, b in zip(expected, found, strict=True))
    for a, b in zip(expected, found, strict=True):
        if a is not None:
            torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-8)
    for name, buffer in recomputing.named_buffers():
        assert torch.equal(buffer, plain.get_buffer(name)), name
        if name.endswith("num_batches_tracked"):
            assert buffer == 1 and before[name] == 0


def saved_bytes(network: MultimodalNetwork, case: str) -> int:
    """What a forward pass keeps for the backward pass, beside the parameters."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = forward(network, case)  # held, so that no storage's place is given away
        assert outputs.joint.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize(("case", "share"), [("resnet18 at 64×64", 0.35), ("as a whole", 0.2), ("with dropout", 0.2)])
def test_less_is_kept(case: str, share: float) -> None:
    plain, recomputing = networks(case)
    assert saved_bytes(recomputing, case) < share * saved_bytes(plain, case)


@case
def test_evaluation_is_the_same_and_keeps_nothing(case: str) -> None:
    plain, recomputing = (network.eval() for network in networks(case))
    with torch.no_grad():
        assert torch.equal(recomputing(inputs(case)).joint, plain(inputs(case)).joint)
        assert saved_bytes_without_graph(recomputing, case) == 0


def saved_bytes_without_graph(network: MultimodalNetwork, case: str) -> int:
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda nothing: nothing):
        network(inputs(case))
    return len(kept)


def test_a_pass_that_fails_leaves_the_statistics_in_place() -> None:
    _, network = networks("in stages")
    norm = network.encoders["visual"].layers[1]
    statistics = norm.running_mean
    outputs = forward(network, "in stages")
    norm.register_forward_hook(lambda *_: pytest.fail("as an encoder that runs out of memory"))
    with pytest.raises(pytest.fail.Exception, match="out of memory"):
        outputs.joint.sum().backward()
    assert norm.running_mean is statistics
