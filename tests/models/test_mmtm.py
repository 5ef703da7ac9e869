"""MMTM blocks compared with an independent implementation in float64."""

import copy
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from mmpareto.models.mmtm import MMTM
from torch import Tensor

WIDTHS = {"visual": 6, "audio": 4}
THREE = {"visual": 6, "audio": 4, "flow": 3}
FRAMES = {"visual": 3, "audio": 1, "flow": 2}
BATCH = 4
FIXED = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def block(widths: Mapping[str, int]) -> MMTM:
    """A block in float64, with weights that make its gates differ."""
    made = MMTM(widths).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
        made.squeeze.bias.copy_(torch.linspace(-1, 1, len(made.squeeze.bias)))  # the ReLU zeroes some units, never all
    return made


def maps_for(widths: Mapping[str, int], batch: int = BATCH) -> dict[str, Tensor]:
    """Feature maps of several sizes and numbers of frames, (B·T, C, H, W)."""
    return {
        name: torch.randn(batch * FRAMES[name], width, 2 + number, 3, dtype=torch.float64)
        for number, (name, width) in enumerate(widths.items())
    }


def gates_of(made: MMTM, maps: Mapping[str, Tensor], batch: int = BATCH) -> dict[str, np.ndarray]:
    """Gates of each modality, (B, C), computed sample by sample from the papers' equations."""
    w = {name: tensor.detach().numpy() for name, tensor in made.state_dict().items()}
    rows: dict[str, list[np.ndarray]] = {name: [] for name in maps}
    for sample in range(batch):
        squeezed = []
        for x in maps.values():
            frames = len(x) // batch
            frame_maps = x.detach().numpy()[sample * frames : (sample + 1) * frames]
            squeezed.append([frame_maps[:, channel].mean() for channel in range(frame_maps.shape[1])])
        common = np.maximum(w["squeeze.weight"] @ np.concatenate(squeezed) + w["squeeze.bias"], 0)
        for name in maps:
            logits = w[f"excite.{name}.weight"] @ common + w[f"excite.{name}.bias"]
            rows[name].append(1 / (1 + np.exp(-logits)))
    return {name: np.stack(gates) for name, gates in rows.items()}


def multiplied(x: Tensor, gates: np.ndarray, batch: int = BATCH) -> np.ndarray:
    """Every frame of a sample times that sample's gates (B, C)."""
    frames = len(x) // batch
    return np.stack([x[i].detach().numpy() * gates[i // frames][:, None, None] for i in range(len(x))])


def agree(ours: Tensor, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), theirs, **FIXED)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("widths", [{"visual": 6}, WIDTHS, THREE])
def test_each_channel_is_multiplied_by_its_gate(widths: dict[str, int], training: bool) -> None:
    made, maps = block(widths).train(training), maps_for(widths)
    gated, gates = made(maps, BATCH), gates_of(made, maps)
    assert list(gated) == list(maps)
    for name, x in maps.items():
        assert gated[name].shape == x.shape
        assert np.ptp(gates[name], axis=0).min() > 1e-4  # the gates differ between samples
        agree(gated[name], multiplied(x, gates[name]))


@pytest.mark.parametrize(("widths", "common"), [(WIDTHS, 5), (THREE, 6), ({"a": 512, "v": 512}, 512)])
def test_the_squeeze_width_is_half_the_sum_of_channels(widths: dict[str, int], common: int) -> None:
    made = MMTM(widths)
    assert made.squeeze.weight.shape == (common, sum(widths.values()))
    assert {name: layer.weight.shape for name, layer in made.excite.items()} == {
        name: (width, common) for name, width in widths.items()
    }


def test_the_order_of_the_maps_does_not_matter() -> None:
    made = block(THREE).eval()
    maps = maps_for(THREE)
    gated, other = made(maps, BATCH), made(dict(reversed(maps.items())), BATCH)
    assert all(torch.equal(gated[name], other[name]) for name in THREE)


def test_one_image_per_sample_is_one_frame() -> None:
    """Two equal frames have the gates of one."""
    made, maps = block(WIDTHS).eval(), maps_for(WIDTHS)
    images = maps | {"visual": maps["visual"][::3]}
    doubled = images | {"visual": images["visual"].repeat_interleave(2, dim=0)}
    once, twice = made(images, BATCH), made(doubled, BATCH)
    torch.testing.assert_close(twice["visual"], once["visual"].repeat_interleave(2, dim=0), **FIXED)
    torch.testing.assert_close(twice["audio"], once["audio"], **FIXED)


@pytest.mark.parametrize("hold", [None, "audio"])
def test_the_running_mean_averages_the_training_batches(hold: str | None) -> None:
    """The plain mean of batch means, for any batch sizes; updated also in steps that hold, but not in evaluation."""
    made = block(WIDTHS)
    batch_means: dict[str, list[np.ndarray]] = {name: [] for name in WIDTHS}
    for batch in (4, 1, 3, 4, 2):
        made.eval()
        before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
        made(maps_for(WIDTHS, batch), batch, hold)
        assert all(torch.equal(tensor, before[name]) for name, tensor in made.state_dict().items())
        maps = maps_for(WIDTHS, batch)
        made.train()(maps, batch, hold)
        for name, gates in gates_of(made, maps, batch).items():
            batch_means[name].append(gates.mean(axis=0))
            agree(made.get_buffer(f"mean_{name}"), np.mean(batch_means[name], axis=0))
    assert made.steps == 5


def trained(widths: Mapping[str, int]) -> MMTM:
    """A block with running means of three steps."""
    made = block(widths)
    for _ in range(3):
        made(maps_for(widths), BATCH)
    return made


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("widths", [WIDTHS, THREE])
def test_a_held_modality_is_multiplied_by_its_running_mean(widths: dict[str, int], training: bool) -> None:
    made, maps = trained(widths).train(training), maps_for(widths)
    free = copy.deepcopy(made)(maps, BATCH)
    held = made(maps, BATCH, "audio")
    mean = made.get_buffer("mean_audio").numpy()
    agree(held["audio"], multiplied(maps["audio"], np.stack([mean] * BATCH)))
    assert not torch.allclose(held["audio"], free["audio"])
    assert all(torch.equal(held[name], free[name]) for name in widths if name != "audio")


@pytest.mark.parametrize("widths", [WIDTHS, THREE])
def test_a_held_modality_learns_through_its_own_map_alone(widths: dict[str, int]) -> None:
    made, maps = trained(widths), maps_for(widths)
    for x in maps.values():
        x.requires_grad_()
    held = made(maps, BATCH, "audio")["audio"]
    held.backward(torch.ones_like(held))
    mean = made.get_buffer("mean_audio")
    torch.testing.assert_close(maps["audio"].grad, mean[:, None, None].expand_as(held).clone(), **FIXED)
    assert all(maps[name].grad is None for name in widths if name != "audio")
    assert all(parameter.grad is None for parameter in made.parameters())


def test_holding_a_modality_leaves_the_others_gradients_unchanged() -> None:
    """Its gates still depend on the held modality's map."""
    made, maps = trained(WIDTHS), maps_for(WIDTHS)
    for x in maps.values():
        x.requires_grad_()
    sources = [*made.squeeze.parameters(), *made.excite["visual"].parameters(), *maps.values()]
    gradients = []
    for hold in (None, "audio"):
        out = made(maps, BATCH, hold)["visual"]
        gradients.append(torch.autograd.grad(out.square().sum(), sources))
    assert all(torch.equal(g, h) and torch.count_nonzero(g) for g, h in zip(*gradients, strict=True))


def test_without_hold_every_modality_learns_through_all_maps_and_layers() -> None:
    made, maps = block(WIDTHS), maps_for(WIDTHS)
    for x in maps.values():
        x.requires_grad_()
    made(maps, BATCH)["audio"].square().sum().backward()
    assert all(torch.count_nonzero(x.grad) for x in maps.values())
    reached = {name for name, parameter in made.named_parameters() if parameter.grad is not None}
    assert reached == {f"{layer}.{kind}" for layer in ("squeeze", "excite.audio") for kind in ("weight", "bias")}


def test_the_state_dict_holds_the_running_means() -> None:
    made = trained(THREE)
    state = copy.deepcopy(made.state_dict())
    assert {"steps", "mean_visual", "mean_audio", "mean_flow"} <= set(state)
    loaded = MMTM(THREE).double()
    loaded.load_state_dict(state)
    maps = maps_for(THREE)
    for training in (False, True):  # training continues from the loaded means, too
        ours, theirs = made.train(training)(maps, BATCH, "flow"), loaded.train(training)(maps, BATCH, "flow")
        assert all(torch.equal(ours[name], theirs[name]) for name in THREE)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in made.state_dict().items())
    assert not torch.equal(made.get_buffer("mean_flow"), state["mean_flow"])


@pytest.mark.parametrize("hold", [None, "audio"])
def test_autocast_keeps_the_dtypes_of_maps_and_means(hold: str | None) -> None:
    made = MMTM(WIDTHS)
    maps = {name: x.bfloat16() for name, x in maps_for(WIDTHS).items()}
    exact = copy.deepcopy(made).double()
    exact({name: x.double() for name, x in maps.items()}, BATCH)
    with torch.autocast("cpu", torch.bfloat16):
        gated = made(maps, BATCH, hold)
    assert all(x.dtype == torch.bfloat16 for x in gated.values())
    for name in WIDTHS:
        mean = made.get_buffer(f"mean_{name}")
        assert mean.dtype == torch.float32
        torch.testing.assert_close(mean.double(), exact.get_buffer(f"mean_{name}"), rtol=0.02, atol=0)
