"""MBT compared with torchvision's and timm's vision transformers, and with a second implementation, in float64."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from mmpareto.errors import InputError
from mmpareto.integration import METHODS
from mmpareto.integration.method import Method
from mmpareto.models import FUSIONS
from mmpareto.models.building import build_network
from mmpareto.models.mbt import MBT, MBTBase, MBTSmall, MBTTiny, resized_positions
from mmpareto.models.network import MultimodalNetwork
from mmpareto.models.pretrained import load_pretrained
from torch import Tensor, nn
from torchvision.models import VisionTransformer

SHAPES = {"audio": (1, 40, 16), "visual": (2, 3, 16, 24), "flow": (2, 16, 16)}
TWO = ["audio", "visual"]
CHANNELS = {"audio": 1, "visual": 3, "flow": 2}
CLASSES, BATCH, WIDTH, HEADS, PATCH = 5, 3, 64, 4, 8
EXACT = {"rtol": 1e-10, "atol": 1e-10}


class LateMBT(MBTTiny):
    """Without fusion layers: the branches share the classifier alone."""

    fusion_layer = 4


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def network(names: Iterable[str] = SHAPES, **more: Any) -> MultimodalNetwork:
    """A network in float64 whose every parameter is random, the class tokens and biases, too."""
    channels = {name: CHANNELS[name] for name in names}
    made = build_network(channels, CLASSES, encoder="mbt-tiny", input_shapes=SHAPES, **more).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def inputs(names: Iterable[str] = SHAPES, batch: int = BATCH) -> dict[str, Tensor]:
    return {name: torch.randn(batch, *SHAPES[name], dtype=torch.float64) for name in names}


# The second implementation: one sample at a time, from the papers' equations.


def linear(w: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def normalised(w: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def layer(w: Mapping[str, Tensor], index: int, x: Tensor) -> Tensor:
    """One transformer layer on the tokens (N, width) of a sample."""
    own = {name.removeprefix(f"blocks.{index}."): tensor for name, tensor in w.items()}
    qkv, size = linear(own, "attn.qkv", normalised(own, "norm1", x)), WIDTH // HEADS
    mixed = []
    for head in range(HEADS):
        q, k, v = (qkv[:, WIDTH * part + size * head : WIDTH * part + size * (head + 1)] for part in range(3))
        mixed.append(torch.softmax(q @ k.T / math.sqrt(size), dim=1) @ v)
    x = x + linear(own, "attn.proj", torch.cat(mixed, dim=1))
    hidden = linear(own, "mlp.fc1", normalised(own, "norm2", x))
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return x + linear(own, "mlp.fc2", hidden)


def embedded(w: Mapping[str, Tensor], sample: Tensor) -> Tensor:
    """Class token and patches, frame by frame and row by row, with their position embeddings."""
    frames = sample if sample.dim() == 4 else sample[None]
    kernel, bias = w["patch_embed.proj.weight"], w["patch_embed.proj.bias"]
    tokens = [w["cls_token"][0, 0]]
    for frame in frames:
        for top in range(0, frame.shape[1], PATCH):
            for left in range(0, frame.shape[2], PATCH):
                patch = frame[:, top : top + PATCH, left : left + PATCH]
                tokens.append((kernel * patch).sum(dim=(1, 2, 3)) + bias)
    return torch.stack(tokens) + w["pos_embed"][0]


def class_tokens(made: MultimodalNetwork, samples: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The features of one sample: layers 0 and 1 apart, then layers 2 and 3 with the four bottleneck tokens."""
    weights = {name: made.encoders[name].state_dict() for name in samples}
    tokens = {name: embedded(weights[name], sample) for name, sample in samples.items()}
    for index in (0, 1):
        tokens = {name: layer(weights[name], index, x) for name, x in tokens.items()}
    bottlenecks = made.state_dict()["blocks.0.tokens"][0]
    for index in (2, 3):
        updated = {name: layer(weights[name], index, torch.cat([x, bottlenecks])) for name, x in tokens.items()}
        tokens = {name: x[:-4] for name, x in updated.items()}
        bottlenecks = sum(x[-4:] for x in updated.values()) / len(updated)
    return {name: normalised(weights[name], "norm", x[:1])[0] for name, x in tokens.items()}


def logits_of(made: MultimodalNetwork, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Joint and unimodal logits of a batch."""
    w, features = made.state_dict(), []
    for number in range(BATCH):
        features.append(class_tokens(made, {name: x[number] for name, x in batch.items()}))
    stacked = {name: torch.stack([one[name] for one in features]) for name in batch}
    joint = sum(linear(w, "fusion.fc", x) for x in stacked.values()) / len(stacked)
    return joint, {name: linear(w, f"heads.{name}", x) for name, x in stacked.items()}


@pytest.mark.parametrize("names", [TWO, [*SHAPES]])
def test_the_network_equals_a_second_implementation(names: list[str]) -> None:
    made, batch = network(names), inputs(names)
    joint, unimodal = logits_of(made, batch)
    outputs = made(batch)
    torch.testing.assert_close(outputs.joint, joint, **EXACT)
    torch.testing.assert_close(outputs.unimodal, unimodal, **EXACT)
    torch.testing.assert_close(torch.stack([*outputs.contributions.values()]).sum(0), joint, **EXACT)


def test_an_absent_modality_leaves_means_over_the_others() -> None:
    made = network()
    for names in (["audio", "flow"], ["visual"]):
        batch = inputs(names)
        joint, unimodal = logits_of(made, batch)
        outputs = made(batch)
        torch.testing.assert_close(outputs.joint, joint, **EXACT)
        torch.testing.assert_close(outputs.unimodal, unimodal, **EXACT)


def test_the_order_of_the_modalities_does_not_matter() -> None:
    made, batch = network(), inputs()
    other = network(reversed(SHAPES))
    other.load_state_dict(made.state_dict())
    expected, outputs = made(batch), other({name: batch[name] for name in reversed(SHAPES)})
    torch.testing.assert_close(outputs.joint, expected.joint, **EXACT)
    for name in SHAPES:
        torch.testing.assert_close(outputs.unimodal[name], expected.unimodal[name], **EXACT)


def random_weights(module: nn.Module) -> nn.Module:
    """Every parameter random; libraries start some at 0."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter))
    return module.double().eval()


def of_torchvision(size: int = 32, layers: int = 4, width: int = WIDTH) -> Any:
    return random_weights(VisionTransformer(size, PATCH, layers, HEADS, width, 4 * width, num_classes=7))


def test_without_fusion_layers_each_branch_is_the_vit_of_torchvision(tmp_path: Path) -> None:
    encoders = {name: LateMBT(3, (3, 32, 32)).double() for name in ("left", "right")}
    heads = {name: nn.Linear(WIDTH, CLASSES).double() for name in encoders}
    fusion = FUSIONS["average_logits"](dict.fromkeys(encoders, WIDTH), CLASSES).double()
    made = MultimodalNetwork(encoders, fusion, heads, LateMBT.bottleneck_blocks())
    assert not made.interaction
    batch, expected = {}, {}
    for name in encoders:
        theirs = of_torchvision()
        torch.save(theirs.state_dict(), tmp_path / f"{name}.pth")
        note = load_pretrained(encoders[name], tmp_path / f"{name}.pth", name)
        assert "not used: heads.head.weight, heads.head.bias" in note
        theirs.heads = nn.Identity()
        batch[name] = torch.randn(BATCH, 3, 32, 32, dtype=torch.float64)
        expected[name] = theirs(batch[name])
    torch.testing.assert_close(made(batch).features, expected, **EXACT)


def test_an_encoder_alone_is_the_vit_of_timm(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    theirs = timm.models.VisionTransformer(32, PATCH, embed_dim=WIDTH, depth=4, num_heads=HEADS, num_classes=7)
    random_weights(theirs)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "vit.pth")
    encoder = MBTTiny(3, (3, 32, 32)).double()
    assert "not used: head.weight, head.bias" in load_pretrained(encoder, tmp_path / "vit.pth")
    x = torch.randn(BATCH, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(encoder(x), theirs.forward_features(x)[:, 0], **EXACT)


def test_a_file_for_square_images_fits_clips_and_filterbanks(tmp_path: Path) -> None:
    zoom = pytest.importorskip("scipy.ndimage", reason="scipy is not installed").zoom  # of MBT's code
    state = of_torchvision().state_dict()
    torch.save(state, tmp_path / "vit.pth")
    file = state["encoder.pos_embedding"][0]
    # The last one has as many patches as the file, 16, but of four frames.
    for name, frames, grid in (("audio", 1, (5, 2)), ("visual", 2, (2, 3)), ("visual", 4, (2, 2))):
        shape = (CHANNELS[name], grid[0] * PATCH, grid[1] * PATCH)
        encoder = MBTTiny(CHANNELS[name], shape if name == "audio" else (frames, *shape)).double()
        note = load_pretrained(encoder, tmp_path / "vit.pth", name)
        assert f"position embeddings interpolated from 17 to {1 + frames * math.prod(grid)}" in note
        resized = zoom(file[1:].view(4, 4, WIDTH).numpy(), (grid[0] / 4, grid[1] / 4, 1), order=1)
        patches = torch.from_numpy(resized).reshape(-1, WIDTH)
        expected = torch.cat([file[:1], *[patches] * frames])
        torch.testing.assert_close(encoder.pos_embed[0], expected, rtol=1e-6, atol=1e-6)
        stem = state["conv_proj.weight"]
        mean = (stem[:, :1] + stem[:, 1:2] + stem[:, 2:]) / 3
        torch.testing.assert_close(encoder.patch_embed.proj.weight, mean if name == "audio" else stem)
        assert ("averaged over the file's three channels" in note) == (name == "audio")
        others = {"pos_embed", "patch_embed.proj.weight"}
        used = {
            name for name, tensor in encoder.state_dict().items() if any(torch.equal(tensor, t) for t in state.values())
        }
        assert used == set(encoder.state_dict()) - (others if name == "audio" else {"pos_embed"})


def test_an_encoder_of_a_run_keeps_its_positions(tmp_path: Path) -> None:
    """They are for four frames of four patches, not for one image of 16."""
    made, encoder = MBTTiny(3, (4, 3, 16, 16)), MBTTiny(3, (4, 3, 16, 16))
    state = {f"encoders.visual.{name}": tensor for name, tensor in made.state_dict().items()}
    torch.save({"model": state}, tmp_path / "best.pt")
    assert "interpolated" not in load_pretrained(encoder, tmp_path / "best.pt", "visual")
    torch.testing.assert_close(encoder.state_dict(), made.state_dict(), rtol=0, atol=0)


def test_positions_that_are_not_of_a_square_are_not_resized() -> None:
    assert resized_positions(torch.zeros(1, 7, 2), 1, (5, 2)) is None
    assert resized_positions(torch.zeros(1, 1, 2), 1, (5, 2)) is None


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ({"layers": 6}, r"unexpected: blocks\.4\."),
        ({"layers": 2}, r"missing: blocks\.2\."),
        ({"width": 32}, r"of another shape: cls_token"),
    ],
)
def test_weights_of_another_depth_or_width_are_refused(tmp_path: Path, file: dict[str, int], named: str) -> None:
    torch.save(of_torchvision(**file).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(InputError, match=rf"does not hold weights for MBTTiny of audio \({named}"):
        load_pretrained(MBTTiny(1, SHAPES["audio"]), tmp_path / "vit.pth", "audio")


class Recording(Method):
    """Keeps the gradients of every encoder's objectives, and descends their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, list[list[Tensor | None]]] = {}

    def integrate(self, modality: str, gradients: Any, scale: Tensor) -> tuple[list[Tensor | None], None]:
        self.seen[modality] = [list(one) for one in gradients]
        return [None if g is None else g.clone() for g in gradients[0]], None


def test_an_encoder_learns_from_the_joint_loss_and_its_own_and_the_bottlenecks_from_all() -> None:
    """Encoder k is embedding, layers and norm; the cross terms of the other unimodal losses are left out."""
    made, batch, labels = network(TWO), inputs(TWO), torch.tensor([0, 3, 1])
    assert made.interaction
    outputs = made(batch)
    loss = {
        name: nn.functional.cross_entropy(z, labels)
        for name, z in [("joint", outputs.joint), *outputs.unimodal.items()]
    }
    everything = dict(made.named_parameters())
    exact = {
        name: dict(
            zip(
                everything,
                torch.autograd.grad(one, [*everything.values()], retain_graph=True, allow_unused=True),
                strict=True,
            )
        )
        for name, one in loss.items()
    }
    method = Recording()
    method.backward(
        loss["joint"],
        {name: loss[name] for name in TWO},
        encoders=dict(made.encoders.items()),
        outputs=outputs,
        interaction=made.interaction,
    )
    for name, other in (TWO, TWO[::-1]):
        own = [f"encoders.{name}.{parameter}" for parameter, _ in made.encoders[name].named_parameters()]
        for objective, gradients in zip(("joint", name), method.seen[name], strict=True):
            torch.testing.assert_close(gradients, [exact[objective][parameter] for parameter in own], **EXACT)
        crossing = [exact[other][parameter] for parameter in own]
        assert any(g is not None and g.abs().max() > 1e-6 for g in crossing)  # so that leaving them out is a choice
        assert {parameter.split(".")[0] for parameter, _ in made.encoders[name].named_parameters()} == {
            "cls_token", "pos_embed", "patch_embed", "blocks", "norm",
        }  # fmt: skip
    rest = [name for name in everything if not name.startswith("encoders.")]
    assert [name for name in rest if name.startswith("blocks.")] == ["blocks.0.tokens"]
    for name in rest:
        reached = [gradients[name] for gradients in exact.values() if gradients[name] is not None]
        torch.testing.assert_close(everything[name].grad, sum(reached), **EXACT)
        assert len(reached) == (3 if name.startswith("blocks.") else 1)


@pytest.mark.parametrize("method", ["mmpareto", "pareto", "uniform", "joint", "dgl", "pcgrad", "ogm_ge"])
def test_every_kind_of_method_trains_it(method: str) -> None:
    made, batch, labels = network(TWO, **METHODS[method].network), inputs(TWO), torch.tensor([0, 3, 1])
    outputs = made(batch)
    unimodal = {name: nn.functional.cross_entropy(z, labels) for name, z in outputs.unimodal.items()}
    METHODS[method]().backward(
        nn.functional.cross_entropy(outputs.joint, labels),
        unimodal,
        encoders=dict(made.encoders.items()),
        outputs=outputs,
        labels=labels,
        interaction=made.interaction,
    )
    for parameter in [*made.encoders.parameters(), *made.blocks.parameters(), *made.fusion.parameters()]:
        assert parameter.grad is not None and parameter.grad.isfinite().all()


def test_recomputed_activations_give_the_same_gradients() -> None:
    made, batch = network(TWO), inputs(TWO)
    gradients = []
    for recompute in (False, True):
        made.recompute = recompute
        made.zero_grad()
        made(batch).joint.square().sum().backward()
        gradients.append([parameter.grad for parameter in made.encoders.parameters()])
    torch.testing.assert_close(*gradients, **EXACT)


def test_a_batch_may_be_empty() -> None:
    made = network()
    assert made(inputs(batch=0)).joint.shape == (0, CLASSES)


@pytest.mark.parametrize(("kind", "millions"), [(MBTBase, 85.798656), (MBTSmall, 21.665664)])
def test_the_sizes_are_those_of_the_vits(kind: type[MBT], millions: float) -> None:
    """ViT-B/16 and ViT-S/16 at 224 pixels have 86,567,656 and 22,050,664 parameters with heads of 1,000 classes."""
    with torch.device("meta"):
        encoder = kind(3, (3, 224, 224))
        blocks = kind.bottleneck_blocks()
    assert sum(parameter.numel() for parameter in encoder.parameters()) == millions * 1e6
    assert len(blocks) == 5  # the bottlenecks are appended after layer 7, and averaged after layers 8 to 11


def test_initial_weights_are_those_of_the_paper() -> None:
    made = build_network(CHANNELS, CLASSES, encoder="mbt-tiny", input_shapes=SHAPES, init="ogm_ge")
    encoder = made.encoders["visual"]
    assert not encoder.cls_token.any()
    assert encoder.pos_embed.std().item() == pytest.approx(0.02, rel=0.1)
    assert made.blocks[0].tokens.std().item() == pytest.approx(0.02, rel=0.25)
    for part in (*encoder.blocks[0].attn.qkv.weight.chunk(3), encoder.blocks[0].attn.proj.weight):
        assert part.abs().max().item() == pytest.approx(math.sqrt(6 / (WIDTH + WIDTH)), rel=0.01)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"encoder": {"audio": "mbt-tiny", "visual": "resnet18"}},
            "visual has resnet18; give --encoder mbt-tiny alone",
        ),
        ({"encoder": {"audio": "resnet18", "visual": "mbt-tiny"}}, "audio has resnet18; give --encoder mbt-tiny alone"),
        ({"encoder": {"audio": "mbt-tiny", "visual": "mbt-small"}}, "visual has mbt-small"),
        ({"channels": {"audio": 1}}, "between modalities, and there is only audio"),
        ({"encoder": "mbt-base"}, "mbt-base of audio: patches of 16 × 16 do not divide its input of 40 × 16"),
        ({"fusion": "concat"}, "always uses the fusion 'average_logits', not 'concat'"),
        ({"input_shapes": None}, "give input_shapes"),
        ({"blocks": "mmtm"}, "mbt-tiny, of audio, has none"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    arguments = {"channels": {"audio": 1, "visual": 3}, "encoder": "mbt-tiny", "input_shapes": SHAPES} | changes
    with pytest.raises(InputError, match=sentence):
        build_network(n_classes=CLASSES, **arguments)


def test_samples_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"samples of shape \(1, 40, 16\) expected, got \(1, 48, 16\)"):
        MBTTiny(1, SHAPES["audio"])(torch.zeros(2, 1, 48, 16))
