"""The largest eigenvalue of a Hessian, compared with dense matrices, and its plot."""

import json
from collections.abc import Callable
from pathlib import Path

import figures as figures_cli
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.analysis.plots import sharpness
from mmpareto.analysis.plots.measured import Subject
from mmpareto.analysis.plots.sharpness import Hessian, largest_eigenvalue, saved_bytes, sharpness_plot
from mmpareto.data import DATASETS
from mmpareto.errors import InputError
from mmpareto.training.losses import losses
from scipy.sparse.linalg import eigsh
from small_subject import curved_network, inputs_of, subject_of
from torch import Tensor, nn
from torch.func import functional_call

pytest_plugins = ["plot_fixtures"]


def symmetric(eigenvalues: list[float], seed: int = 0) -> np.ndarray:
    """A dense matrix with these eigenvalues."""
    random = np.random.default_rng(seed).standard_normal((len(eigenvalues),) * 2)
    vectors, _ = np.linalg.qr(random)
    return vectors @ np.diag(eigenvalues) @ vectors.T


@pytest.mark.parametrize(
    "eigenvalues",
    [
        [5.0, 1.0, 0.5, 0.2, 0.1, 0.0],
        [3.0, 2.0, -10.0, -0.5, 0.0, 1.0],  # the largest in magnitude is negative
        [-1.0, -2.0, -3.0, -40.0],  # all are negative
        [2.0, 2.0, 2.0, 1.0, 1.0],
        [7.0],
        [0.0, 0.0, 0.0],
        [*np.linspace(0.9, 1, 40)],
    ],
)
def test_the_largest_eigenvalue_is_the_algebraically_largest(eigenvalues: list[float]) -> None:
    matrix = symmetric(eigenvalues)
    result = largest_eigenvalue(lambda v: matrix @ v, len(matrix), tolerance=1e-10)
    assert result.value == pytest.approx(max(eigenvalues), abs=1e-9)
    assert np.linalg.norm(result.vector) == pytest.approx(1)
    residual = np.linalg.norm(matrix @ result.vector - result.value * result.vector)
    assert result.residual == pytest.approx(residual, abs=1e-10)
    if len(matrix) > 2 and max(eigenvalues) > 0:
        assert result.value == pytest.approx(eigsh(matrix, k=1, which="LA")[0][0], abs=1e-9)


def test_iteration_ends_when_the_residual_is_below_the_tolerance() -> None:
    matrix = symmetric([*np.linspace(0, 1, 60), 4.0])
    products = 0

    def product(vector: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        return matrix @ vector

    rough, exact = (largest_eigenvalue(product, 61, tolerance=tolerance) for tolerance in (0.1, 1e-8))
    assert rough.products + exact.products == products and rough.products < exact.products < 61
    for result, tolerance in ((rough, 0.1), (exact, 1e-8)):
        residual = np.linalg.norm(matrix @ result.vector - result.value * result.vector)
        assert result.residual == pytest.approx(residual, rel=1e-4) and residual <= tolerance * result.value
        assert 4 - result.value <= residual**2 / (4 - 1) + 1e-12  # the docstring's bound: the next eigenvalue is 1


def test_nonfinite_products_give_nan() -> None:
    result = largest_eigenvalue(lambda v: v * np.inf, 5)
    assert np.isnan(result.value) and np.isnan(result.residual)


def test_failure_to_converge_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpness, "MAX_PRODUCTS", 2)
    matrix = symmetric([*np.linspace(0, 1, 20)])
    with pytest.raises(ValueError, match="2 products"):
        largest_eigenvalue(lambda v: matrix @ v, 20, tolerance=1e-9)
    with pytest.raises(InputError, match=r"a-run, joint loss.*other --samples"):
        sharpness.measure(subject_of(curved_network()), samples=9)


def dense_hessian(subject: Subject, name: str, samples: int) -> np.ndarray:
    """The Hessian of a loss over the drawn samples with respect to the parameters it reaches."""
    indices = [int(index) for batch in subject.sample(samples, samples) for index in batch.indices]
    inputs, labels = inputs_of(subject, indices)
    network = subject.network
    prefixes = ["encoders", "fusion"] if name == "joint" else [f"encoders.{name}", f"heads.{name}"]
    names = [n for n, _ in network.named_parameters() if any(n.startswith(prefix) for prefix in prefixes)]
    parameters = [dict(network.named_parameters())[n] for n in names]
    sizes = [p.numel() for p in parameters]

    def loss(vector: Tensor) -> Tensor:
        pieces = [x.view_as(p) for x, p in zip(vector.split(sizes), parameters, strict=True)]
        outputs = functional_call(network, dict(zip(names, pieces, strict=True)), (inputs,))
        joint, unimodal = losses(outputs, labels)
        return joint if name == "joint" else unimodal[name]

    start = torch.cat([p.detach().reshape(-1) for p in parameters])
    return torch.func.hessian(loss)(start).numpy()


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("at_once", [11, 4, 1])  # one graph of all samples; three of 4, 4 and 3; one per sample
def test_the_sharpness_of_a_small_network_is_that_of_its_dense_hessian(
    batch_norm: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharpness, "_batch_size", lambda *arguments: at_once)
    subject = subject_of(curved_network(batch_norm))
    buffers = {name: buffer.clone() for name, buffer in subject.network.named_buffers()}
    result = sharpness.measure(subject, samples=11)["losses"]
    assert list(result) == ["joint", "sound", "touch"]
    for name, metrics in result.items():
        truth = np.linalg.eigvalsh(dense_hessian(subject, name, 11))
        gap = truth[-1] - truth[-2]
        assert metrics["residual"] <= 0.02 * truth[-1]
        assert 0 <= truth[-1] - metrics["largest_eigenvalue"] <= metrics["residual"] ** 2 / gap + 1e-10
        assert metrics["largest_eigenvalue"] == pytest.approx(truth[-1], rel=1e-3)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in subject.network.named_buffers())
    assert all(parameter.grad is None for parameter in subject.network.parameters())


def quadratic(matrix: np.ndarray, point: Tensor, shares: list[float]) -> list[Callable[[], Tensor]]:
    dense = torch.from_numpy(matrix)
    return [lambda share=share: share / 2 * point @ dense @ point for share in shares]  # type: ignore[misc]


@pytest.mark.parametrize("shares", [[1.0], [0.25, 0.5, 0.25]])
def test_products_of_a_quadratic_loss_are_those_of_its_matrix(shares: list[float]) -> None:
    matrix = symmetric([3.0, -20.0, 1.0, 0.5])
    point = torch.ones(4, dtype=torch.float64, requires_grad=True)
    made = Hessian(quadratic(matrix, point, shares), [point])
    for vector in np.eye(4):
        np.testing.assert_allclose(made.product(vector), matrix @ vector, atol=1e-12)
    assert largest_eigenvalue(made.product, 4, tolerance=1e-10).value == pytest.approx(3)


def test_a_loss_linear_in_a_parameter_has_no_curvature_there() -> None:
    a, b = (torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert Hessian([lambda: 3 * a.sum()], [a]).product(np.ones(2)).tolist() == [0, 0]
    mixed = Hessian([lambda: a.square().sum() + b.sum()], [a, b])
    assert mixed.product(np.array([1.0, 2, 3, 4])).tolist() == [2, 4, 0, 0]


def test_attention_can_be_differentiated_twice() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True).eval()
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    made = Hessian([lambda: layer(x).square().mean()], list(layer.parameters()))
    assert np.isfinite(made.product(np.ones(sum(p.numel() for p in layer.parameters())))).all()


def test_the_batch_size_is_limited_by_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of(curved_network())
    assert sharpness._batch_size(subject, 20) == 20
    monkeypatch.setattr(sharpness, "GRAPH_BYTES", 3000)
    assert 1 < sharpness._batch_size(subject, 20) < 20
    monkeypatch.setattr(sharpness, "GRAPH_BYTES", 0)
    assert sharpness._batch_size(subject, 20) == 1


def test_measurement_is_repeatable() -> None:
    subject = subject_of(curved_network())
    assert sharpness.measure(subject, samples=9) == sharpness.measure(subject, samples=9)


def test_losses_of_untrained_heads_are_left_out() -> None:
    assert list(sharpness.measure(subject_of(curved_network(), heads=False), samples=5)["losses"]) == ["joint"]


def test_more_samples_than_the_training_set_has_are_refused() -> None:
    with pytest.raises(InputError, match="--samples is 31, but a-run"):
        sharpness.measure(subject_of(curved_network()), samples=31)


def test_the_bytes_of_a_graph_are_counted_without_the_parameters() -> None:
    layer = nn.Linear(100, 50, bias=False)
    x = torch.zeros(8, 100)
    kept = saved_bytes(lambda: layer(x).exp(), list(layer.parameters()))
    assert kept == 4 * (8 * 100 + 8 * 50)  # the input, and the exponential's result


def test_every_loss_is_measured_drawn_and_printed(
    runs: list[Path], unsaved: list[Figure], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [runs[3], runs[2]]
    arguments = ["sharpness", "--run", *map(str, chosen), "--samples", "6", "--gpu_ids", "cpu"]
    assert figures_cli.main(arguments) == 0
    contents = [json.loads((run / "sharpness.json").read_text()) for run in chosen]
    for content in contents:
        assert content["samples"] == 6 and content["checkpoint"] == "last.pt" and content["epoch"] == 2
        assert list(content["losses"]) == ["joint", "audio", "visual"]
        for one in content["losses"].values():
            assert one["residual"] <= 0.02 * abs(one["largest_eigenvalue"]) and one["iterations"] >= 1
    (figure,) = unsaved
    assert [axes.get_title() for axes in figure.axes] == ["joint loss", "unimodal loss, audio", "unimodal loss, visual"]
    for axes, name in zip(figure.axes, ("joint", "audio", "visual"), strict=True):
        shown = [float(line.get_xdata()[0]) for line in axes.lines]
        assert shown == [pytest.approx(content["losses"][name]["largest_eigenvalue"]) for content in contents]
    notes = " ".join(text.get_text() for text in figure.texts)
    assert "6 training samples" in notes and "‖Hv − λv‖/|λ|" in notes and "Seed 0" in notes
    printed = capsys.readouterr().out
    value = contents[1]["losses"]["joint"]["largest_eigenvalue"]
    assert f"{value:.5g}" in printed and "6 training samples" in printed and "Joint loss" in printed
    monkeypatch.setattr(DATASETS["cremad"], "banner", "SYNTHETIC: made up.")
    figure = sharpness_plot([FinishedRun(run) for run in chosen])
    assert "SYNTHETIC: made up." in [text.get_text() for text in figure.texts]
