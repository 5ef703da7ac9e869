"""Networks with shared heads and with blocks between the encoders."""

from collections.abc import Mapping

import pytest
import torch
from mmpareto.errors import InputError
from mmpareto.models import ENCODERS, FUSIONS
from mmpareto.models.building import build_network
from mmpareto.models.network import MultimodalNetwork, Outputs
from tiny_encoder import TinyEncoder
from torch import Tensor
from torch.nn.parallel import scatter_gather

ENCODERS.add("tiny", "tiny_encoder:TinyEncoder")
TWO = {"visual": 3, "audio": 1}
THREE = {"visual": 3, "audio": 1, "flow": 2}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def batch_for(channels: Mapping[str, int], side: int = 32) -> dict[str, Tensor]:
    """Three samples, each with two visual frames and one image for every other modality."""
    return {
        name: torch.randn(3, 2, count, side, side) if name == "visual" else torch.randn(3, count, side, side)
        for name, count in channels.items()
    }


def tiny(channels: Mapping[str, int] = TWO, **options: str) -> MultimodalNetwork:
    return build_network(channels, 4, encoder="tiny", **options)


def reached(network: MultimodalNetwork, *losses: Tensor) -> set[str]:
    """Names of the parameters that receive a gradient from the losses."""
    parameters = dict(network.named_parameters())
    loss = torch.stack([loss.square().sum() for loss in losses]).sum()
    gradients = torch.autograd.grad(loss, [*parameters.values()], allow_unused=True, retain_graph=True)
    return {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


def of_encoder(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("encoders.")}


# Shared heads


@pytest.mark.parametrize("fusion", list(FUSIONS))
def test_with_shared_heads_the_fusion_predicts_from_each_modality(fusion: str) -> None:
    network = tiny(fusion=fusion, heads="shared")
    outputs = network(batch_for(TWO))
    assert network.n_classes == 4
    assert not network.interaction
    assert not list(network.heads.parameters())
    assert list(outputs.unimodal) == list(TWO)
    for name, logits in outputs.unimodal.items():
        torch.testing.assert_close(logits, network.fusion.alone(name, outputs.features[name]))
        names = reached(network, logits)
        assert of_encoder(names) == {name}
        assert {part.split(".")[0] for part in names} == {"encoders", "fusion"}


@pytest.mark.parametrize("fusion", list(FUSIONS))
def test_own_heads_do_not_touch_the_fusion(fusion: str) -> None:
    network = tiny(fusion=fusion)
    outputs = network(batch_for(TWO))
    for name, logits in outputs.unimodal.items():
        torch.testing.assert_close(logits, network.heads[name](outputs.features[name]))
        assert {part.split(".")[0] for part in reached(network, logits)} == {"encoders", "heads"}


@pytest.mark.parametrize("heads", ["own", "shared"])
@pytest.mark.parametrize(("fusion", "channels"), [("concat", TWO), ("concat", THREE), ("sum", THREE), ("gated", TWO)])
def test_contributions_of_additive_networks_sum_to_the_joint_logits(
    fusion: str, channels: dict[str, int], heads: str
) -> None:
    network = tiny(channels, fusion=fusion, heads=heads)
    outputs = network(batch_for(channels))
    assert network.additive == bool(outputs.contributions)
    if network.additive:
        assert list(outputs.contributions) == list(channels)
        torch.testing.assert_close(sum(outputs.contributions.values()), outputs.joint)


# Blocks between encoders


def channel_means(x: Tensor, batch: int) -> Tensor:
    return x.reshape(batch, -1, *x.shape[1:]).mean(dim=(1, 3, 4))


def test_blocks_follow_the_last_three_stages_of_resnet18() -> None:
    network = build_network(TWO, 4, blocks="mmtm").eval()
    for block in network.blocks:
        block.mean_audio.uniform_()
    inputs = batch_for(TWO, side=64)
    for hold in (None, "audio"):
        maps = {}
        for name, encoder in network.encoders.items():
            x = inputs[name].reshape(-1, *inputs[name].shape[-3:])
            maps[name] = encoder.layer1(encoder.maxpool(encoder.bn1(encoder.conv1(x)).relu()))
        for block, layer in zip(network.blocks, ("layer2", "layer3", "layer4"), strict=True):
            maps = {name: getattr(network.encoders[name], layer)(x) for name, x in maps.items()}
            maps = block(maps, 3, hold)
        outputs = network(inputs, hold=hold)
        for name, x in maps.items():
            assert outputs.features[name].shape == (3, 512)
            torch.testing.assert_close(outputs.features[name], channel_means(x, 3))
    assert [block.squeeze.in_features for block in network.blocks] == [256, 512, 1024]


def test_blocks_with_open_gates_leave_resnet18_unchanged() -> None:
    """Open gates leave each encoder's features unchanged; half-open gates halve them."""
    network = build_network(TWO, 4, blocks="mmtm").eval()
    inputs = batch_for(TWO, side=64)
    for block in network.blocks:
        for layer in block.excite.values():
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.constant_(layer.bias, 100.0)
    features = network(inputs).features
    for name, encoder in network.encoders.items():
        torch.testing.assert_close(features[name], encoder(inputs[name]))
    torch.nn.init.zeros_(network.blocks[-1].excite["visual"].bias)
    halved = network(inputs).features
    torch.testing.assert_close(halved["visual"], features["visual"] / 2)
    torch.testing.assert_close(halved["audio"], features["audio"])


def test_through_blocks_a_unimodal_loss_reaches_the_other_encoder() -> None:
    name = "visual"
    network = build_network(TWO, 4, blocks="mmtm")
    assert network.interaction
    outputs = network(batch_for(TWO, side=64))
    other = next(modality for modality in TWO if modality != name)
    outputs.unimodal[name].square().sum().backward()
    for modality in (name, other):
        assert torch.count_nonzero(network.encoders[modality].conv1.weight.grad)
    # The other modality's last gates do not affect this loss.
    assert network.blocks[2].excite[other].weight.grad is None
    assert torch.count_nonzero(network.blocks[1].excite[other].weight.grad)


def test_a_held_modality_learns_through_its_own_encoder_alone() -> None:
    network = tiny(THREE, blocks="mmtm")
    inputs = batch_for(THREE)
    network(inputs)
    for hold in THREE:
        outputs = network(inputs, hold=hold)
        names = reached(network, outputs.unimodal[hold])
        assert {name.split(".")[0] for name in names} == {"encoders", "heads"}
        assert of_encoder(names) == {hold}
        free = next(name for name in THREE if name != hold)
        assert of_encoder(reached(network, outputs.unimodal[free])) == set(THREE)


def test_without_blocks_the_encoders_are_called_directly() -> None:
    network = build_network(TWO, 4).eval()
    assert not network.interaction
    inputs = batch_for(TWO, side=64)
    features = network(inputs, hold="audio").features
    for name, encoder in network.encoders.items():
        assert torch.equal(features[name], encoder(inputs[name]))


@pytest.mark.parametrize("channels", [TWO, THREE])
def test_bypass_holds_the_parameters_of_a_modalitys_gates(channels: dict[str, int]) -> None:
    """Its own and the shared layers of every block, each once; no parameters of the encoders."""
    network = tiny(channels, blocks="mmtm")
    names = {parameter: name for name, parameter in network.named_parameters()}
    bypass = network.bypass()
    assert list(bypass) == list(channels)
    for modality, parameters in bypass.items():
        result = [names[parameter] for parameter in parameters]
        layers = ["squeeze", f"excite.{modality}"]
        kinds = ["weight", "bias"]
        expected = [f"blocks.{i}.{layer}.{kind}" for i in range(3) for layer in layers for kind in kinds]
        assert sorted(result) == sorted(expected)
    in_all = set.union(*({names[p] for p in parameters} for parameters in bypass.values()))
    assert in_all == {name for name in names.values() if name.startswith("blocks.")}


def test_without_blocks_there_is_no_bypass() -> None:
    assert tiny().bypass() == {"visual": [], "audio": []}


def test_a_network_with_blocks_compiles_as_one_graph() -> None:
    """Tested in training; evaluation runs part of the same graph."""
    network = tiny(blocks="mmtm", heads="shared")
    inputs = batch_for(TWO)
    start = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    expected = network(inputs, hold="audio")
    after = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.load_state_dict(start)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs, hold="audio"), expected)
    torch.testing.assert_close(dict(network.state_dict()), after)


def test_blocks_join_encoders_of_different_depths_and_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks follow the last three stages of each; open gates leave the features unchanged."""
    monkeypatch.setattr(TinyEncoder, "stages", lambda self: [self._stem, self.layers[3], self.layers[4]])
    monkeypatch.setattr(TinyEncoder, "_stem", lambda self, x: self._second(self._first(x)), raising=False)
    monkeypatch.setattr(TinyEncoder, "widths", (4, 8, 8))
    network = build_network(TWO, 4, encoder={"visual": "resnet18", "audio": "tiny"}, blocks="mmtm").eval()
    assert [block.squeeze.in_features for block in network.blocks] == [128 + 4, 256 + 8, 512 + 8]
    for block in network.blocks:
        for layer in block.excite.values():
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.constant_(layer.bias, 100.0)
    inputs = batch_for(TWO, side=64)
    features = network(inputs).features
    for name, encoder in network.encoders.items():
        torch.testing.assert_close(features[name], encoder(inputs[name]))


# Encoders of different kinds

ONE_LENGTH = ("average_logits", "entropy", "entropy_over_batch", "boosted")  # one layer for features of all modalities


@pytest.mark.parametrize("heads", ["own", "shared"])
@pytest.mark.parametrize("fusion", [name for name in FUSIONS if name not in ONE_LENGTH])
def test_encoders_of_different_kinds_are_fused(fusion: str, heads: str) -> None:
    """An MLP has features of length 256, a transformer of length 64."""
    kinds = {"vitals": "mlp", "notes": "transformer"}
    network = build_network({"vitals": 5, "notes": 8}, 4, encoder=kinds, fusion=fusion, heads=heads)
    outputs = network({"vitals": torch.randn(3, 5), "notes": torch.ones(3, 6, 9)})
    assert [feature.shape[1] for feature in outputs.features.values()] == [256, 64]
    assert all(logits.shape == (3, 4) for logits in (outputs.joint, *outputs.unimodal.values()))
    assert of_encoder(reached(network, outputs.joint)) == {"vitals", "notes"}


# Trained parts


@pytest.mark.parametrize("blocks", [None, "mmtm"])
@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("unimodal", [True, False])
@pytest.mark.parametrize("heads", ["own", "shared"])
@pytest.mark.parametrize("fusion", list(FUSIONS))
def test_the_trained_parameters_are_those_with_a_gradient(
    fusion: str, heads: str, unimodal: bool, joint: bool, blocks: str | None
) -> None:
    network = tiny(fusion=fusion, heads=heads, **({"blocks": blocks} if blocks else {}))
    outputs = network(batch_for(TWO))
    losses = [outputs.joint] * joint + [*outputs.unimodal.values()] * unimodal
    expected = reached(network, *losses) if losses else set()
    network.train_parts(joint=joint, unimodal=unimodal)
    for name, parameter in network.named_parameters():
        if name.startswith(("fusion.", "heads.")):
            assert parameter.requires_grad == (name in expected), name
        else:
            assert parameter.requires_grad, name


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("unimodal", [True, False])
def test_frozen_encoders_stay_frozen(unimodal: bool, joint: bool) -> None:
    network = tiny(blocks="mmtm")
    network.encoders["audio"].requires_grad_(False)
    network.train_parts(joint=joint, unimodal=unimodal)
    assert not any(parameter.requires_grad for parameter in network.encoders["audio"].parameters())
    assert all(parameter.requires_grad for parameter in network.encoders["visual"].parameters())


def test_encoders_that_are_not_trained_are_frozen() -> None:
    """Without gradients, and in evaluation mode: BatchNorm's statistics do not change, whatever `train` is called."""
    network = tiny()
    assert any(isinstance(part, torch.nn.BatchNorm2d) for part in network.encoders.modules())
    network.train_parts(joint=True, unimodal=False, encoders=False)
    before = {name: tensor.clone() for name, tensor in network.encoders.state_dict().items()}
    for mode in (False, True):
        network.train(mode)
        parts = [part for encoder in network.encoders.values() for part in encoder.modules()]
        assert network.fusion.training is mode and not any(part.training for part in parts)
    outputs = network(batch_for(TWO))
    outputs.joint.sum().backward()
    assert {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None} == {"fusion"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.encoders.state_dict().items())


def test_one_encoder_after_another_is_trained() -> None:
    """What the model's owner froze stays so."""
    network = tiny()
    owned = next(network.encoders["audio"].parameters()).requires_grad_(False)
    for trained in ({"audio"}, {"visual"}, set(), {"audio", "visual"}):
        network.train_parts(joint=True, unimodal=True, encoders=trained)
        for mode in (True, False):
            network.train(mode)
            for name, encoder in network.encoders.items():
                assert all(part.training is (mode and name in trained) for part in encoder.modules())
        for name, encoder in network.encoders.items():
            for p in encoder.parameters():
                assert p.requires_grad == (name in trained and p is not owned)


def test_parts_left_untrained_can_be_trained_later() -> None:
    """Pre-training trains first one part, then the other."""
    network = tiny()
    network.train_parts(joint=False, unimodal=True)
    network.train_parts(joint=True, unimodal=False)
    assert {name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad} == {"encoders", "fusion"}


# DataParallel


class GatherOnCpu:
    """Stand-in for DataParallel's Gather, which refuses tensors on the CPU."""

    @staticmethod
    def apply(target: object, dim: int, *tensors: Tensor) -> Tensor:
        return torch.cat(tensors, dim)


@pytest.mark.parametrize("heads", ["own", "shared"])
@pytest.mark.parametrize("fusion", [name for name in FUSIONS if name != "entropy_over_batch"])  # it mixes samples
def test_outputs_are_gathered_even_if_a_dict_is_empty(fusion: str, heads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scatter_gather, "Gather", GatherOnCpu)
    network = tiny(fusion=fusion, heads=heads).eval()
    inputs = batch_for(TWO)
    parts = [{name: x[part] for name, x in inputs.items()} for part in (slice(0, 2), slice(2, 3))]
    gathered = scatter_gather.gather([network(part) for part in parts], "cpu")
    assert isinstance(gathered, Outputs)
    torch.testing.assert_close(gathered, network(inputs))
    assert bool(gathered.contributions) == network.additive


# Invalid combinations


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"heads": "sharde"}, "heads is 'sharde'; it must be 'own' or 'shared'"),
        ({"blocks": "mmtn"}, "unknown kind of block 'mmtn'. Did you mean 'mmtm'"),
        ({"fusion": "conkat"}, "unknown fusion 'conkat'. Did you mean 'concat'"),
        ({"encoder": "resnet-81"}, "unknown encoder 'resnet-81'. Did you mean 'resnet18'"),
    ],
)
def test_unknown_names_are_input_errors(options: dict[str, str], match: str) -> None:
    with pytest.raises(InputError, match=match) as error:
        build_network(TWO, 4, **({"encoder": "tiny"} | options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("fusion", ["film", "bilinear", "gated"])
def test_three_modalities_in_a_pair_fusion_are_an_input_error(fusion: str) -> None:
    with pytest.raises(InputError, match=f"^--fusion {fusion}: it fuses two modalities, not 3; concat and sum"):
        tiny(THREE, fusion=fusion)


def test_blocks_need_an_encoder_with_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(TinyEncoder, "stages")
    with pytest.raises(
        InputError, match="mmtm blocks follow an encoder's last three stages, and tiny, of visual, has none"
    ):
        tiny(blocks="mmtm")


def test_the_tiny_encoder_equals_its_stages_and_pool() -> None:
    encoder = TinyEncoder(3)
    for x in (torch.randn(3, 3, 32, 24), torch.randn(3, 2, 3, 32, 24)):
        features, maps = encoder(x), x
        for stage, width in zip(encoder.stages(), encoder.widths, strict=True):
            maps = stage(maps)
            assert maps.shape[:2] == (x.numel() // (3 * 32 * 24), width)
        torch.testing.assert_close(features, channel_means(maps, 3))
        assert torch.equal(features, encoder.pool(maps, 3))
