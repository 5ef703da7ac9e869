import math

import pytest
import torch
from mmpareto.errors import InputError
from mmpareto.models.building import build_network
from mmpareto.models.fusion import ConcatFusion
from mmpareto.models.network import MultimodalNetwork, Outputs
from torch import nn
from torch.nn.parallel import scatter_gather


def small_network(**sizes: int) -> MultimodalNetwork:
    """Linear encoders with 5 inputs per modality; three classes."""
    encoders = {name: nn.Linear(5, size) for name, size in sizes.items()}
    heads = {name: nn.Linear(size, 3) for name, size in sizes.items()}
    return MultimodalNetwork(encoders, ConcatFusion(sizes, 3), heads)


def small_batch(network: MultimodalNetwork, size: int = 4) -> dict[str, torch.Tensor]:
    return {name: torch.randn(size, 5) for name in network.modalities}


@pytest.mark.parametrize("sizes", [{"only": 4}, {"b": 4, "a": 2}, {"z": 2, "y": 3, "x": 4}])
def test_the_joint_head_reads_the_features_in_the_order_given(sizes: dict[str, int]) -> None:
    network = small_network(**sizes)
    inputs = small_batch(network)
    outputs = network(dict(reversed(inputs.items())))
    assert list(outputs.unimodal) == list(outputs.features) == network.modalities == list(sizes)
    joint, offset = network.fusion.fc_out.bias.expand(4, 3), 0
    for name, size in sizes.items():
        feature = network.encoders[name](inputs[name])
        torch.testing.assert_close(outputs.features[name], feature)
        torch.testing.assert_close(outputs.unimodal[name], network.heads[name](feature))
        joint = joint + feature @ network.fusion.fc_out.weight[:, offset : offset + size].T
        offset += size
    torch.testing.assert_close(outputs.joint, joint)


@pytest.mark.parametrize("names", [["audio", "visual", "smell"], ["audio", "vision"], []])
def test_an_unknown_modality_or_none_is_an_input_error(names: list[str]) -> None:
    network = small_network(audio=2, visual=2)
    with pytest.raises(InputError, match="takes the modalities audio, visual but the batch has"):
        network({name: torch.zeros(1, 5) for name in names})


def test_every_encoder_needs_a_head() -> None:
    with pytest.raises(ValueError, match="one head per modality"):
        MultimodalNetwork({"a": nn.Linear(5, 2)}, ConcatFusion({"a": 2}, 3), {})


def test_a_unimodal_loss_reaches_its_own_encoder_only() -> None:
    network = small_network(audio=2, visual=2)
    network(small_batch(network)).unimodal["audio"].sum().backward()
    assert network.encoders["audio"].weight.grad is not None
    assert network.encoders["visual"].weight.grad is None
    assert network.fusion.fc_out.weight.grad is None


def test_outputs_survive_the_gathering_of_data_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    class GatherOnCpu:  # the real one refuses CPU tensors
        @staticmethod
        def apply(target: object, dim: int, *tensors: torch.Tensor) -> torch.Tensor:
            return torch.cat(tensors, dim)

    monkeypatch.setattr(scatter_gather, "Gather", GatherOnCpu)
    network = small_network(audio=2, visual=3)
    inputs = small_batch(network, size=7)
    halves = [{name: x[part] for name, x in inputs.items()} for part in (slice(0, 4), slice(4, 7))]
    gathered = scatter_gather.gather([network(half) for half in halves], "cpu")
    assert isinstance(gathered, Outputs)
    torch.testing.assert_close(gathered, network(inputs))


def test_the_network_compiles_as_one_graph() -> None:
    network = small_network(audio=2, visual=3)
    inputs = small_batch(network)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs), network(inputs))


def test_build_network_makes_the_papers_network() -> None:
    network = build_network({"audio": 1, "visual": 3}, 6)
    inputs = {"audio": torch.randn(2, 1, 48, 32), "visual": torch.randn(2, 3, 3, 32, 32)}
    outputs = network(inputs)
    assert outputs.joint.shape == outputs.unimodal["audio"].shape == outputs.unimodal["visual"].shape == (2, 6)
    assert outputs.features["audio"].shape == outputs.features["visual"].shape == (2, 512)
    assert network.fusion.fc_out.weight.shape == (6, 1024)


def test_build_network_suggests_the_closest_encoder() -> None:
    with pytest.raises(InputError, match="resnet18"):
        build_network({"audio": 1}, 6, encoder="resnet-81")


def test_the_initialisation_of_ogm_ge_covers_the_whole_network() -> None:
    """DGL and OGM-GE apply it to the model with its fusion: Xavier normal has the variance 2 / (inputs + outputs)."""
    torch.manual_seed(0)
    network = build_network({"audio": 1, "visual": 3}, 6, fusion="gated", init="ogm_ge")
    linear = {name: part for name, part in network.named_modules() if isinstance(part, torch.nn.Linear)}
    assert {name.partition(".")[0] for name in linear} == {"fusion", "heads"}
    for part in linear.values():
        outputs, inputs = part.weight.shape
        deviation = part.weight.std().item() / math.sqrt(2 / (inputs + outputs))
        assert abs(deviation - 1) < 5 / math.sqrt(2 * part.weight.numel())  # five standard errors
        assert not part.bias.any()
    norms = [part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert len(norms) == 2 * 20
    assert all((part.weight == 1).all() and not part.bias.any() for part in norms)
    stem = network.encoders["visual"].conv1.weight
    assert abs(stem.std().item() / math.sqrt(2 / (64 * 7 * 7)) - 1) < 5 / math.sqrt(2 * stem.numel())


def test_an_unknown_initialisation_is_refused() -> None:
    with pytest.raises(InputError, match="'mmpareto' or 'ogm_ge'"):
        build_network({"audio": 1}, 6, encoder="cnn", init="xavier")
