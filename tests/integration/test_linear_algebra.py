"""GPU arithmetic, on one concatenated vector per objective, matches CPU arithmetic; tested on the CPU."""

import pytest
import torch
from integration_reference import ENCODER_SETS, model_and_batch
from mmpareto import METHODS, MMPareto
from mmpareto.integration import linear_algebra
from mmpareto.integration.method import Method
from mmpareto.integration.report import Report
from torch import Tensor, nn

KINDS = {
    "per_tensor": MMPareto.per_tensor,
    "paper": MMPareto.paper,
    "released": MMPareto.released,
    **{name: METHODS[name] for name in ("pareto", "pcgrad", "gradnorm", "metabalance")},
}


def concatenate(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Concatenate tensors on the CPU as on a GPU; return a list to which each call appends its number of tensors."""
    counts: list[int] = []

    def of(gradients: list[list[Tensor | None]]) -> object:
        if not any(g is not None for objective in gradients for g in objective):
            return None
        counts.append(len(gradients[0]))
        return linear_algebra._Concatenated(gradients)

    monkeypatch.setattr(linear_algebra._Concatenated, "of", staticmethod(of))
    return counts


def step(method: Method, name: str, dtype: torch.dtype) -> tuple[dict[str, Tensor | None], Report]:
    model, (inputs, labels) = model_and_batch(name)
    model.to(dtype)
    joint, unimodal = model.losses({m: x.to(dtype) for m, x in inputs.items()}, labels)
    report = method.backward(joint, unimodal, encoders=dict(model.encoders.items()), scale=4.0)
    return {key: p.grad for key, p in model.named_parameters()}, report


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ENCODER_SETS)
def test_a_step_on_concatenated_gradients_is_the_same(
    name: str, kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, expected_report = step(KINDS[kind](), name, dtype)
    counts = concatenate(monkeypatch)
    actual, report = step(KINDS[kind](), name, dtype)
    assert counts
    tolerance = {"rtol": 1e-10, "atol": 1e-14} if dtype == torch.float64 else {"rtol": 2e-4, "atol": 1e-6}
    assert [key for key, g in actual.items() if g is None] == [key for key, g in expected.items() if g is None]
    for key, gradient in actual.items():
        if gradient is not None:
            torch.testing.assert_close(gradient, expected[key], **tolerance)
    for modality, encoder_report in expected_report.items():
        torch.testing.assert_close(report[modality].weights, encoder_report.weights, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(report[modality].norms, encoder_report.norms, rtol=1e-4, atol=1e-8)
        assert torch.equal(report[modality].conflict, encoder_report.conflict)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_each_function_of_concatenated_gradients_is_the_same(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3,), (2, 5, 3, 3), (), (70_000,), (0,), (4, 4)]  # including more than one chunk, and no element

    def made() -> list[list[Tensor | None]]:
        generator.manual_seed(1)
        lists: list[list[Tensor | None]] = [
            [torch.randn(shape, generator=generator).to(dtype) for shape in shapes] for _ in range(3)
        ]
        lists[0][0] = lists[1][0] = lists[2][0] = lists[1][1] = lists[2][5] = None
        lists[0][1] = lists[0][1].contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr]
        return lists

    scale = torch.tensor(8.0)
    alpha = torch.rand(len(shapes), 3, dtype=torch.float64, generator=generator)
    factors = torch.rand(len(shapes), dtype=torch.float64, generator=generator)

    def results() -> list[Tensor | None]:
        gradients = made()
        grams = linear_algebra.gramians(gradients, scale)
        measured, *norms = linear_algebra.combine_measure_and_release(gradients, alpha, scale)
        assert all(g is None for objective in gradients for g in objective)
        combined = linear_algebra.combine_and_release(made(), alpha)
        return [grams, *norms, *measured, *linear_algebra.scale_(combined, factors)]

    expected = results()
    concatenate(monkeypatch)
    for actual, wanted in zip(results(), expected, strict=True):
        assert (actual is None) == (wanted is None)
        if actual is not None and wanted is not None:
            assert actual.dtype == wanted.dtype and actual.shape == wanted.shape
            torch.testing.assert_close(actual, wanted, rtol=1e-5 if dtype != torch.float64 else 1e-12, atol=1e-9)


def operations(layers: int) -> int:
    """Return the number of operations that would launch a kernel, for an encoder with this many layers."""
    encoder = nn.Sequential(*[nn.Linear(4, 4) for _ in range(layers)])
    head, other = nn.Linear(4, 3), nn.Linear(4, 3)
    features = encoder(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    method = MMPareto()
    with torch.profiler.profile() as profile:
        apply = method._integrate_all

        def marked(*arguments: object) -> Report:
            with torch.profiler.record_function("integration"):
                return apply(*arguments)  # type: ignore[arg-type]

        method._integrate_all = marked  # type: ignore[method-assign, assignment]
        method.backward(head(features).sum(), {"a": other(features).sum()}, encoders={"a": encoder})
    (marker,) = [event for event in profile.events() if event.name == "integration"]
    # These launch no kernel: views, conversions to the same dtype, and type promotion.
    views = ("view", "split", "reshape", "narrow", "expand", "select", "as_strided", "unsqueeze", "detach", "alias")
    free = (*views, "to", "promote_types")
    within = [e for e in profile.events() if e.time_range.start >= marker.time_range.start and e.cpu_parent == marker]
    return sum(not any(e.name.startswith(f"aten::{v}") for v in free) for e in within)


def test_the_number_of_kernels_does_not_grow_with_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    concatenate(monkeypatch)
    few, many = operations(3), operations(30)
    assert many == few < 100


@pytest.mark.gpu
def test_gradients_on_a_gpu_are_concatenated() -> None:
    gradients: list[list[Tensor | None]] = [[torch.ones(3, device="cuda"), None], [torch.ones(3, device="cuda")] * 2]
    assert linear_algebra._Concatenated.of(gradients) is not None
    grams = linear_algebra.gramians(gradients, torch.ones((), device="cuda"))
    assert grams[0].tolist() == [[3, 3], [3, 3]] and grams[1].tolist() == [[0, 0], [0, 3]]
