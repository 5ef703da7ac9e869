"""Fusions compared with their formulas, written out in float64."""

from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from mmpareto.models import FUSIONS
from mmpareto.models.fusion import CosineFusion, Fusion
from torch import Tensor

B, SIZE, CLASSES = 4, 5, 3
NAMES = ["visual", "audio", "flow", "text", "depth", "touch"]  # not in alphabetical order
ADDITIVE = ["concat", "sum", "cosine"]  # of features of any lengths
ONE_LAYER = "average_logits"  # additive, too
BY_ENTROPY = ["entropy", "entropy_over_batch"]  # of one layer, and not additive
BOOSTED = "boosted"  # of one MLP, and additive
PAIRS = ["film", "bilinear", "gated"]

Weights = Mapping[str, Tensor]
Formula = Callable[[Weights, Tensor, Tensor], Tensor]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return torch.einsum("ij,bj->bi", w[f"{name}.weight"], x) + w[f"{name}.bias"]


def film(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    both = linear(w, "fc", x)
    return linear(w, "fc_out", both[:, :SIZE] * y + both[:, SIZE:])


def bilinear(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    back = torch.einsum("kij,bi,bj->bk", w["fc.weight"].view(SIZE, SIZE, SIZE), x, y) + w["fc.bias"]
    return linear(w, "fc_out", back)


def gated(w: Weights, x: Tensor, y: Tensor, *, first: str = "visual", second: str = "audio") -> Tensor:
    gate = 1 / (1 + torch.exp(-linear(w, f"fc.{first}", x)))
    return linear(w, "fc_out", gate * linear(w, f"fc.{second}", y))


def concat(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    left, right = w["fc_out.weight"][:, :SIZE], w["fc_out.weight"][:, SIZE:]
    return torch.einsum("ij,bj->bi", left, x) + torch.einsum("ij,bj->bi", right, y) + w["fc_out.bias"]


def cosines(weights: Tensor, x: Tensor) -> Tensor:
    """Ten times the cosine of every feature with every class."""
    return 10 * F.cosine_similarity(x.unsqueeze(1), weights.unsqueeze(0), dim=2)


def cosine(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return cosines(w["fc_out.weight"][:, :SIZE], x) + cosines(w["fc_out.weight"][:, SIZE:], y)


def added(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return linear(w, "fc.visual", x) + linear(w, "fc.audio", y)


def average(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    parts = [linear(w, "fc.visual", x).exp(), linear(w, "fc.audio", y).exp()]
    return torch.log(sum(part / part.sum(1, keepdim=True) for part in parts) / 2)


def average_labels(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    p = (1 / (1 + torch.exp(-linear(w, "fc.visual", x))) + 1 / (1 + torch.exp(-linear(w, "fc.audio", y)))) / 2
    return torch.log(p / (1 - p))


def average_logits(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return linear(w, "fc", (x + y) / 2)


def entropy(w: Weights, x: Tensor, y: Tensor, over_batch: bool = False) -> Tensor:
    """Sample by sample, or with softmax over the samples and one weight for all of them (MLA's released code)."""
    logits = [linear(w, "fc", x), linear(w, "fc", y)]
    weights = []
    for z in logits:
        p = z.exp() / z.exp().sum(0 if over_batch else 1, keepdim=True)
        terms = p * p.log()
        weights.append(torch.exp(terms.sum() if over_batch else terms.sum(1, keepdim=True)))
    return sum(z * v for z, v in zip(logits, weights, strict=True)) / sum(weights)


def mlp(w: Weights, x: Tensor) -> Tensor:
    return linear(w, "head.2", linear(w, "head.0", x).clamp(min=0))


def boosted(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return w["rate"] * (mlp(w, x) + mlp(w, y))


def entropy_over_batch(w: Weights, x: Tensor, y: Tensor) -> Tensor:
    return entropy(w, x, y, over_batch=True)


JOINT: dict[str, Formula] = {
    "concat": concat, "sum": added, "cosine": cosine, "film": film, "bilinear": bilinear, "gated": gated,
    "average": average, "average_labels": average_labels, "average_logits": average_logits, "entropy": entropy,
    "entropy_over_batch": entropy_over_batch, "boosted": boosted,
}  # fmt: skip


def alone(fusion: str, w: Weights, name: str, x: Tensor) -> Tensor:
    """Unimodal logits as in method.md on DGL; FiLM, which it does not cover, modulates itself."""
    zeros = torch.zeros_like(x)
    if fusion in ("concat", "cosine"):  # a feature of zeros has no angle, and contributes 0
        joint = JOINT[fusion]
        return joint(w, x, zeros) if name == "visual" else joint(w, zeros, x)
    if fusion in ("sum", "average", "average_labels"):
        return linear(w, f"fc.{name}", x)
    if fusion in (ONE_LAYER, *BY_ENTROPY):
        return linear(w, "fc", x)
    if fusion == BOOSTED:
        return mlp(w, x)
    if fusion == "gated":
        return gated(w, x, x, first=name, second=name)
    return JOINT[fusion](w, x, x)


def pair(fusion: str) -> Fusion:
    made = FUSIONS[fusion]({"visual": SIZE, "audio": SIZE}, CLASSES).double()
    if fusion == BOOSTED:
        made.rate.data.fill_(1.5)  # type: ignore[operator, union-attr]
    return made


def features(sizes: Mapping[str, int]) -> dict[str, Tensor]:
    return {name: torch.randn(B, size, dtype=torch.float64) for name, size in sizes.items()}


def two_features() -> tuple[Tensor, Tensor]:
    both = features({"visual": SIZE, "audio": SIZE})
    return both["visual"], both["audio"]


def sizes_of(n: int) -> dict[str, int]:
    return {name: 2 + number for number, name in enumerate(NAMES[:n])}


def test_every_fusion_has_its_formula_here() -> None:
    assert set(JOINT) == set(FUSIONS)


@pytest.mark.parametrize("name", list(FUSIONS))
def test_joint_logits_are_those_of_the_formula(name: str) -> None:
    fusion = pair(name)
    x, y = two_features()
    torch.testing.assert_close(fusion({"visual": x, "audio": y}), JOINT[name](fusion.state_dict(), x, y))


@pytest.mark.parametrize("name", list(FUSIONS))
def test_the_sizes_set_the_order_of_modalities(name: str) -> None:
    fusion = pair(name)
    x, y = two_features()
    logits = fusion({"visual": x, "audio": y})
    assert torch.equal(fusion({"audio": y, "visual": x}), logits)
    assert torch.allclose(fusion({"visual": y, "audio": x}), logits) == (name in (ONE_LAYER, BOOSTED, *BY_ENTROPY))
    parts = fusion.contributions({"audio": y, "visual": x})
    assert sorted(parts) == (["audio", "visual"] if name in [*ADDITIVE, ONE_LAYER, BOOSTED] else [])


@pytest.mark.parametrize("modality", ["visual", "audio"])
@pytest.mark.parametrize("name", list(FUSIONS))
def test_unimodal_logits_are_those_of_dgl(name: str, modality: str) -> None:
    fusion = pair(name)
    x, _ = two_features()
    torch.testing.assert_close(fusion.alone(modality, x), alone(name, fusion.state_dict(), modality, x))


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_unimodal_logits_of_concat_set_the_other_features_to_zero(n: int) -> None:
    sizes = sizes_of(n)
    fusion, given = FUSIONS["concat"](sizes, CLASSES).double(), features(sizes)
    for name, x in given.items():
        with_zeros = {other: x if other == name else torch.zeros_like(given[other]) for other in sizes}
        torch.testing.assert_close(fusion.alone(name, x), fusion(with_zeros))


@pytest.mark.parametrize("modality", ["visual", "audio"])
@pytest.mark.parametrize("name", list(FUSIONS))
def test_unimodal_logits_give_every_feature_a_gradient(name: str, modality: str) -> None:
    """With zeros for the other modality, multiplied features would have no gradient."""
    x, _ = two_features()
    x.requires_grad_()
    F.cross_entropy(pair(name).alone(modality, x), torch.tensor([0, 1, 2, 0])).backward()
    assert x.grad is not None
    assert (x.grad != 0).all()


@pytest.mark.parametrize("n", [1, 2, 3, 6])
@pytest.mark.parametrize("name", ADDITIVE)
def test_contributions_sum_to_the_joint_logits(name: str, n: int) -> None:
    sizes = sizes_of(n)
    fusion, given = FUSIONS[name](sizes, CLASSES).double(), features(sizes)
    parts = fusion.contributions(given)
    assert fusion.additive
    assert list(parts) == list(sizes)
    torch.testing.assert_close(sum(parts.values()), fusion(given))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_one_layer_for_all_modalities_averages_its_logits_over_those_given(n: int) -> None:
    sizes = dict.fromkeys(NAMES[:n], SIZE)
    fusion, given = FUSIONS[ONE_LAYER](sizes, CLASSES).double(), features(sizes)
    logits = {name: linear(fusion.state_dict(), "fc", x) for name, x in given.items()}
    parts = fusion.contributions(given)
    assert fusion.additive and list(parts) == list(sizes)
    torch.testing.assert_close(parts, {name: z / n for name, z in logits.items()})
    for number in range(1, n + 1):
        some = dict([*given.items()][:number])
        torch.testing.assert_close(fusion(some), sum(logits[name] for name in some) / number)
    with pytest.raises(ValueError, match=r"features of one length, not \[5, 6\]"):
        FUSIONS[ONE_LAYER](sizes | {"other": 6}, CLASSES)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_contributions_to_a_concatenation_share_the_bias_equally(n: int) -> None:
    """z_k = W_k x_k + b/n, OGM-GE's b/2 for two modalities."""
    sizes = sizes_of(n)
    fusion, given = FUSIONS["concat"](sizes, CLASSES).double(), features(sizes)
    w, offset = fusion.state_dict(), 0
    for name, part in fusion.contributions(given).items():
        columns = w["fc_out.weight"][:, offset : offset + sizes[name]]
        torch.testing.assert_close(part, torch.einsum("ij,bj->bi", columns, given[name]) + w["fc_out.bias"] / n)
        offset += sizes[name]


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_contributions_to_a_sum_are_the_logits_of_its_layers(n: int) -> None:
    sizes = sizes_of(n)
    fusion, given = FUSIONS["sum"](sizes, CLASSES).double(), features(sizes)
    for name, part in fusion.contributions(given).items():
        torch.testing.assert_close(part, linear(fusion.state_dict(), f"fc.{name}", given[name]))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_cosines_depend_on_directions_alone_and_leave_absent_modalities_out(n: int) -> None:
    sizes = sizes_of(n)
    fusion, given = CosineFusion(sizes, CLASSES, scale=4.0).double(), features(sizes)
    parts = fusion.contributions(given)
    columns = fusion.fc_out.weight.split([*sizes.values()], dim=1)
    for (name, x), weights in zip(given.items(), columns, strict=True):
        torch.testing.assert_close(parts[name], 0.4 * cosines(weights, x))
        assert float(parts[name].detach().abs().max()) <= 4.0
        some = {other: z for other, z in given.items() if other != name}
        if some:
            torch.testing.assert_close(fusion(some), sum(parts[other] for other in some))
    longer = {name: x * 10.0**number for number, (name, x) in enumerate(given.items(), start=-2)}
    torch.testing.assert_close(fusion(longer), fusion(given))
    with torch.no_grad():
        fusion.fc_out.weight.mul_(7.0)
    torch.testing.assert_close(fusion.contributions(given), parts)
    assert list(fusion.state_dict()) == ["fc_out.weight"]  # no bias


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_feature_of_zeros_contributes_nothing_and_has_a_finite_gradient(dtype: torch.dtype) -> None:
    fusion = CosineFusion({"visual": SIZE, "audio": SIZE}, CLASSES)
    x = torch.randn(B, SIZE).to(dtype)
    x[0] = 0
    x.requires_grad_()
    logits = fusion({"visual": x, "audio": torch.zeros(B, SIZE, dtype=dtype)})
    assert logits.dtype == torch.float32 and not bool(logits[0].any())
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    for gradient in (x.grad, fusion.fc_out.weight.grad):
        assert gradient is not None and bool(gradient.isfinite().all()) and float(gradient.abs().max()) < 100


@pytest.mark.parametrize("name", [*PAIRS, "average", *BY_ENTROPY])
def test_fusions_that_are_not_additive_have_no_contributions(name: str) -> None:
    fusion = pair(name)
    x, y = two_features()
    assert fusion.contributions({"visual": x, "audio": y}) == {}
    assert not fusion.additive


def test_weights_by_entropy_are_those_of_each_sample_and_add_up_to_1() -> None:
    """A prediction depends on its batch only where softmax is over the batch; equal modalities count equally."""
    sizes = dict.fromkeys(NAMES[:3], SIZE)
    given = features(sizes)
    for name in BY_ENTROPY:
        fusion = FUSIONS[name](sizes, CLASSES).double()
        whole, half = fusion(given), fusion({key: x[:2] for key, x in given.items()})
        assert torch.allclose(whole[:2], half) == (name == "entropy")
        same = fusion(dict.fromkeys(sizes, given["audio"]))
        torch.testing.assert_close(same, fusion.alone("audio", given["audio"]))
        torch.testing.assert_close(fusion({"audio": given["audio"]}), same)
        confident = {key: 1e4 * x for key, x in given.items()}
        assert fusion(confident).isfinite().all()


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_an_average_of_probabilities_is_a_distribution(n: int) -> None:
    """The joint logits are log-probabilities, so softmax does not change them; for one output, scores are averaged."""
    sizes = sizes_of(n)
    fusion, given = FUSIONS["average"](sizes, CLASSES).double(), features(sizes)
    probabilities = torch.stack([fusion.alone(name, x).softmax(1) for name, x in given.items()])
    logits = fusion(given)
    torch.testing.assert_close(logits.softmax(1), probabilities.mean(0))
    torch.testing.assert_close(logits.log_softmax(1), logits)
    labels = torch.tensor([0, 1, 2, 0])
    loss = -probabilities.mean(0)[range(B), labels].log().mean()
    torch.testing.assert_close(F.cross_entropy(logits, labels), loss)
    scores = FUSIONS["average"](sizes, 1).double()
    expected = torch.stack([scores.alone(name, x) for name, x in given.items()]).mean(0)
    torch.testing.assert_close(scores(given), expected)


def test_an_average_of_confident_predictions_is_finite() -> None:
    """Probabilities below the smallest float32 do not become logits of −∞, nor their gradients NaN."""
    fusion = FUSIONS["average"]({"visual": 1, "audio": 1}, 2)
    x = torch.full((1, 1), 1e30, requires_grad=True)
    logits = fusion({"visual": x, "audio": x})
    F.cross_entropy(logits, torch.tensor([0])).backward()
    assert bool(logits.isfinite().all()) and x.grad is not None and bool(x.grad.isfinite().all())


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("n", [1, 3])
def test_a_pair_fusion_refuses_another_number_of_modalities(name: str, n: int) -> None:
    with pytest.raises(ValueError, match=f"two modalities, not {n}; concat and sum"):
        FUSIONS[name](dict.fromkeys(NAMES[:n], SIZE), CLASSES)


@pytest.mark.parametrize("sizes", [{"visual": 6, "audio": SIZE}, {"visual": SIZE, "audio": 6}])
@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_fusion_maps_the_longer_feature_to_the_length_of_the_shorter(name: str, sizes: dict[str, int]) -> None:
    fusion, given = FUSIONS[name](sizes, CLASSES).double(), features(sizes)
    w = dict(fusion.state_dict())
    (longer,) = (modality for modality in sizes if sizes[modality] > SIZE)
    x = given | {longer: linear(w, f"project.{longer}", given[longer])}
    torch.testing.assert_close(fusion(given), JOINT[name](w, x["visual"], x["audio"]))
    for modality in sizes:
        torch.testing.assert_close(fusion.alone(modality, given[modality]), alone(name, w, modality, x[modality]))


def test_an_average_of_confident_labels_is_finite() -> None:
    sizes = {"visual": 2, "audio": 3, "text": 4}
    given = {name: 1e5 * x for name, x in features(sizes).items()}
    assert FUSIONS["average_labels"](sizes, CLASSES).double()(given).isfinite().all()
