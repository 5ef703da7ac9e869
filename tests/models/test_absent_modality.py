"""Predictions without a modality: each fusion's and each method's own way."""

from collections.abc import Mapping

import pytest
import torch
from mmpareto.errors import InputError
from mmpareto.integration import METHODS
from mmpareto.integration.methods.agm import shapley_values
from mmpareto.models import ENCODERS, FUSIONS
from mmpareto.models.building import build_network
from mmpareto.models.network import MultimodalNetwork
from torch import Tensor, nn

ENCODERS.add("tiny", "tiny_encoder:TinyEncoder")
SIZES = {"text": 2, "audio": 3, "visual": 4}


def network_of(fusion: str, names: Mapping[str, int] = SIZES, heads: bool = True) -> MultimodalNetwork:
    torch.manual_seed(0)
    encoders = {name: nn.Linear(5, size) for name, size in names.items()}
    own = {name: nn.Linear(size, 3) for name, size in names.items()} if heads else None
    return MultimodalNetwork(encoders, FUSIONS[fusion](names, 3), own).double()


def inputs_of(network: MultimodalNetwork) -> dict[str, Tensor]:
    return {name: torch.randn(4, 5, dtype=torch.float64) for name in network.modalities}


def without(inputs: Mapping[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: x for name, x in inputs.items() if name not in names}


@pytest.mark.parametrize("heads", [True, False])
def test_concatenation_puts_zeros_in_place_of_the_feature(heads: bool) -> None:
    network = network_of("concat", heads=heads)
    inputs = inputs_of(network)
    whole = network(inputs)
    outputs = network(without(inputs, "audio"))
    weight, bias = network.fusion.fc_out.weight, network.fusion.fc_out.bias
    expected = whole.features["text"] @ weight[:, :2].T + whole.features["visual"] @ weight[:, 5:].T + bias
    torch.testing.assert_close(outputs.joint, expected)
    for part in ("unimodal", "features", "contributions"):
        assert list(getattr(outputs, part)) == ["text", "visual"]
        for name, values in getattr(outputs, part).items():
            torch.testing.assert_close(values, getattr(whole, part)[name])
    alone = network(without(inputs, "audio", "text"))
    torch.testing.assert_close(alone.joint, network.fusion.alone("visual", whole.features["visual"]))


def test_sum_and_average_are_over_the_modalities_that_are_given() -> None:
    for fusion in ("sum", "average"):
        network = network_of(fusion, heads=False)
        inputs = inputs_of(network)
        parts = network(inputs).unimodal  # fc_k(x_k)
        joint = network(without(inputs, "text")).joint
        if fusion == "sum":
            torch.testing.assert_close(joint, parts["audio"] + parts["visual"])
        else:
            mean = (parts["audio"].softmax(1) + parts["visual"].softmax(1)) / 2
            torch.testing.assert_close(joint.softmax(1), mean)


@pytest.mark.parametrize("fusion", ["film", "bilinear", "gated"])
def test_a_fusion_of_two_predicts_from_the_other_one_alone(fusion: str) -> None:
    network = network_of(fusion, {"audio": 4, "visual": 4})
    inputs = inputs_of(network)
    for name in network.modalities:
        outputs = network({name: inputs[name]})
        torch.testing.assert_close(outputs.joint, network.fusion.alone(name, outputs.features[name]))


def test_ogm_adds_the_contributions_of_the_others() -> None:
    network = network_of("concat")
    network.absent = METHODS["ogm_ge"].absent
    inputs = inputs_of(network)
    z = network(inputs).contributions
    torch.testing.assert_close(network(without(inputs, "text")).joint, z["audio"] + z["visual"])


def test_agm_puts_zeros_in_place_of_the_input() -> None:
    """As in its Shapley values, of which the joint logits without a modality are a part."""
    network = network_of("concat", {"audio": 3, "visual": 4})
    network.absent = METHODS["agm"].absent
    network.input_shapes = {"audio": (5,), "visual": (5,)}
    inputs = inputs_of(network)
    joint = {name: network({name: inputs[name]}).joint for name in inputs}
    both = network(inputs).joint
    phi = shapley_values(lambda masked: network(masked).joint, inputs)
    torch.testing.assert_close(phi["audio"], (both - joint["visual"] + joint["audio"]) / 2)
    assert list(network({"audio": inputs["audio"]}).unimodal) == ["audio"]
    network.input_shapes = {}
    with pytest.raises(InputError, match="visual is absent, and the size"):
        network({"audio": inputs["audio"]})


def test_blocks_hold_the_gates_of_the_others_at_their_means() -> None:
    """As in Greedy, whose held modality depends on no other one."""
    torch.manual_seed(0)
    network = build_network({"audio": 1, "visual": 3}, 3, encoder="tiny", blocks="mmtm")
    inputs = {"audio": torch.randn(2, 1, 32, 32), "visual": torch.randn(2, 3, 3, 32, 32)}
    network.train()(inputs)  # the means are those of one batch
    network.eval()
    held = network(inputs, hold="visual").features["visual"]
    outputs = network({"visual": inputs["visual"]})
    torch.testing.assert_close(outputs.features["visual"], held)
    expected = network.fusion.fc_out.weight[:, 8:] @ held.T + network.fusion.fc_out.bias[:, None]
    torch.testing.assert_close(outputs.joint, expected.T)


def test_every_method_names_a_known_way() -> None:
    from mmpareto.models.network import ABSENT

    ways = {name: METHODS[name].absent for name in METHODS}
    assert set(ways.values()) == set(ABSENT)
    assert {name for name, way in ways.items() if way != "feature"} == {"agm", "ogm", "ogm_ge", "inforeg"}
