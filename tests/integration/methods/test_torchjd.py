"""Every aggregator of TorchJD as a method, against the library called on a Jacobian built by hand."""

import builtins
import copy
import importlib.util
import inspect
import io
import itertools
import math
import pickle
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from every_method import Loop, Model, assert_close, assert_same_state, batch_of, losses_of, step, take_grads
from integration_reference import linear_loss, parameters_like
from mmpareto.integration.methods.pareto import Pareto
from mmpareto.integration.methods.torchjd import HOMOGENEOUS, TorchJD
from torch import Tensor

aggregation = pytest.importorskip("torchjd.aggregation")

NAMES = TorchJD.known()
COUNTS = [2, 3, 6]
STATEFUL = ["ExcessMTL", "GradVac", "NashMTL", "PCD"]
FEWEST = {"Krum": 3}  # by its definition: a row, its nearest neighbour, and another row
SHAPES = [(3, 2), (), (4,), (2, 2)]
Gradients = list[list[Tensor | None]]

every = pytest.mark.parametrize("name", NAMES)


def arguments(name: str, count: int) -> dict[str, Any]:
    """Arguments without a default, as given on the command line."""
    weights = ",".join(str(0.25 * (i + 1)) for i in range(count))
    return {
        "CAGrad": {"c": 0.4},
        "Constant": {"weights": weights},
        "FairGrad": {"alpha": 1.0},
        "Krum": {"n_byzantine": 0},
        "NashMTL": {"n_tasks": count},
        "TrimmedMean": {"trim_number": (count - 1) // 2},
    }.get(name, {})


def direct(name: str, count: int) -> Any:
    """The library's own object with the same arguments."""
    given = arguments(name, count)
    if "weights" in given:
        given["weights"] = torch.tensor([0.25 * (i + 1) for i in range(count)], dtype=torch.float64)
    return getattr(aggregation, name)(**given)


def random_gradients(count: int, seed: int = 0) -> Gradients:
    """Random float64 gradients; the second task does not reach the first tensor, and no task reaches the last."""
    generator = torch.Generator().manual_seed(seed)
    result: Gradients = [
        [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES[:-1]] + [None] for _ in range(count)
    ]
    result[1][0] = None
    return result


def by_hand(gradients: Gradients) -> Tensor:
    rows = []
    for own in gradients:
        row: list[float] = []
        for g, shape in zip(own[:-1], SHAPES, strict=False):
            row += [0.0] * math.prod(shape) if g is None else g.flatten().tolist()
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def descend(method: Any, gradients: Gradients, scale: float | None = None, dtype: torch.dtype = torch.float64) -> Any:
    """Take a step on tasks with these gradients; return `.grad` of their encoder and its report."""
    parameters = parameters_like([torch.zeros(s, dtype=dtype) for s in SHAPES])
    cast: Gradients = [[None if g is None else g.to(dtype) for g in own] for own in gradients]
    losses = {f"task{i}": linear_loss(parameters, own) for i, own in enumerate(cast)}
    report = method.backward(None, losses, encoders={"shared": (parameters, list(losses))}, scale=scale)
    return [p.grad for p in parameters], report["shared"]


def flat(tensors: Sequence[Tensor | None]) -> Tensor:
    assert tensors[-1] is None  # no task reaches it
    return torch.cat([t.flatten() for t in tensors if t is not None])


def test_all_aggregators_are_known_and_nothing_else() -> None:
    concrete = {"AlignedMTL", "CAGrad", "ConFIG", "Constant", "DualProj", "IMTLG", "MGDA", "Mean", "NashMTL", "PCGrad"}
    assert concrete | {"Sum", "UPGrad", *STATEFUL} <= set(NAMES)
    assert not {"Aggregator", "WeightedAggregator", "GramianWeightedAggregator", "UPGradWeighting"} & set(NAMES)
    with_reset = [n for n in NAMES if hasattr(direct(n, 3), "reset")]
    assert with_reset == STATEFUL


@every
@pytest.mark.parametrize("count", COUNTS)
def test_it_matches_the_library(name: str, count: int) -> None:
    if count < FEWEST.get(name, 2):
        with pytest.raises(ValueError, match=rf"torchjd:{name} at encoder 'shared'.*rows"):
            descend(TorchJD.of(name)(**arguments(name, count)), random_gradients(count))
        return
    method, library = TorchJD.of(name)(**arguments(name, count)), direct(name, count)
    for seed in range(2):
        gradients = random_gradients(count, seed)
        torch.manual_seed(seed)
        expected = library(by_hand(gradients))
        torch.manual_seed(seed)
        actual, report = descend(method, gradients)
        torch.testing.assert_close(flat(actual), expected, rtol=1e-7 if name == "GradVac" else 1e-9, atol=1e-12)
        assert [h.shape for h in actual[:-1]] == [torch.Size(s) for s in SHAPES[:-1]]
        jacobian = by_hand(gradients)
        nearest = torch.linalg.lstsq(jacobian.T, expected[:, None], driver="gelsd").solution[:, 0]
        torch.testing.assert_close(count * report.weights[0], nearest, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(report.norms, jacobian.norm(dim=1))
        assert report.conflict.tolist() == [bool((jacobian @ jacobian.T < 0).any())]


@every
@pytest.mark.parametrize("count", [2, 3])
def test_joint_and_unimodal_losses(name: str, count: int) -> None:
    """Two objectives per encoder, one aggregator per encoder, over two steps."""
    if FEWEST.get(name, 2) > 2:
        pytest.skip("needs more than two objectives")
    model, batch = Model(count), batch_of(count)
    loop, method = Loop(model, batch), TorchJD.of(name)(**arguments(name, 2))
    library = {modality: direct(name, 2) for modality in model.modalities}
    for seed in range(2):
        joint, unimodal = losses_of(model(batch[0]), batch[1])
        jacobians = {}
        for modality, encoder in model.encoders.items():
            weights, own = list(encoder.parameters()), (joint, unimodal[modality])
            rows = [torch.autograd.grad(loss, weights, retain_graph=True) for loss in own]
            jacobians[modality] = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
        torch.manual_seed(seed)
        expected = {modality: library[modality](jacobian) for modality, jacobian in jacobians.items()}
        step(method, loop, batch, seed=seed)
        for modality, encoder in model.encoders.items():
            actual = torch.cat([p.grad.flatten() for p in encoder.parameters() if p.grad is not None])
            torch.testing.assert_close(actual, expected[modality], rtol=1e-6, atol=1e-9)
        heads = torch.autograd.grad(joint + sum(unimodal.values()), list(model.heads.parameters()))
        for p, g in zip(model.heads.parameters(), heads, strict=True):
            torch.testing.assert_close(p.grad, g)
        take_grads(model)


@every
def test_loss_scaling_changes_nothing_but_the_scale(name: str) -> None:
    """Including aggregators that are not homogeneous: NashMTL clips at a norm of 1."""
    count = 3
    plain, scaled = (TorchJD.of(name)(**arguments(name, count)) for _ in range(2))
    for seed in range(2):
        torch.manual_seed(seed)
        expected, report = descend(plain, random_gradients(count, seed))
        torch.manual_seed(seed)
        actual, other = descend(scaled, random_gradients(count, seed), scale=4096.0)
        torch.testing.assert_close(flat(actual) / 4096, flat(expected), rtol=1e-12, atol=0.0)
        torch.testing.assert_close(other.weights, report.weights)
    assert_same_state(scaled.state_dict(), plain.state_dict())


def conflicting(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    rows = torch.randn(count, 60, generator=generator, dtype=torch.float64)
    rows[1] = 0.7 * rows[1] - rows[0]
    return rows


@every
def test_homogeneous_aggregators_are_those_that_scale(name: str) -> None:
    """A(sJ) = s·A(J), measured on the library itself, for sizes at which none of its bounds matters."""
    results = []
    for size in (1.0, 16.0):
        torch.manual_seed(0)
        results.append(direct(name, 3)(size * conflicting(3)) / size)
    same = torch.allclose(results[0], results[1], rtol=1e-7, atol=0.0)
    assert same == (name in HOMOGENEOUS or name == "PCD"), "PCD scales up to its eps, and keeps averages of squares"


@every
@pytest.mark.parametrize("size", [2.0**-120, 2.0**-20, 2.0**110])
def test_float32_gradients_of_any_size(name: str, size: float) -> None:
    """As the library aggregates them in float64: homogeneous aggregators those of size 1, others these."""
    reference = 1.0 if name in HOMOGENEOUS else size
    rows = conflicting(3).float()
    torch.manual_seed(0)
    library = direct(name, 3)
    expected = library(rows.double() * reference) / reference
    parameter = torch.nn.Parameter(torch.zeros(60))
    losses = {f"task{i}": (row * size * parameter).sum() for i, row in enumerate(rows)}
    torch.manual_seed(0)
    TorchJD.of(name)(**arguments(name, 3)).backward(None, losses, encoders={"shared": ([parameter], list(losses))})
    actual = parameter.grad.double() / size
    if name == "GradDrop":  # other random numbers in float32: every element is a sum of some of the rows
        sums = torch.stack(
            [rows[list(chosen)].sum(0) for n in range(4) for chosen in itertools.combinations(range(3), n)]
        )
        expected = sums[(sums - actual).abs().argmin(0), torch.arange(60)].double()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@every
def test_gradients_of_zero_and_opposite_ones(name: str) -> None:
    for first in (torch.zeros(1), torch.ones(1), torch.randn(40)):
        parameter = torch.nn.Parameter(torch.zeros_like(first))
        losses = {"a": (first * parameter).sum(), "b": -(first * parameter).sum(), "c": (first * parameter).sum()}
        method = TorchJD.of(name)(**arguments(name, 3))
        report = method.backward(None, losses, encoders={"shared": ([parameter], list(losses))})
        assert bool(report.all_finite) and bool(parameter.grad.isfinite().all())
        assert bool(first.any()) or not bool(parameter.grad.any())


def test_a_result_that_is_not_finite_is_an_error() -> None:
    """PCGrad divides by the squares of gradients, which are 0 in float32 where the sizes differ too much."""
    rows = conflicting(3).float() * torch.tensor([[1e-15], [1e15], [1.0]])
    parameter = torch.nn.Parameter(torch.zeros(60))
    losses = {f"task{i}": (row * parameter).sum() for i, row in enumerate(rows)}
    with pytest.raises(ValueError, match=r"^torchjd:PCGrad at encoder 'shared': it .* not finite .*e\+15"):
        TorchJD.of("PCGrad")().backward(None, losses, encoders={"shared": ([parameter], list(losses))})
    assert parameter.grad is None


@every
def test_micro_batches_are_one_batch(name: str) -> None:
    count = 3
    method, other = (TorchJD.of(name)(**arguments(name, count)) for _ in range(2))
    for seed in range(2):
        first, second = random_gradients(count, seed), random_gradients(count, seed + 10)
        total: Gradients = [
            [None if x is None or y is None else x + y for x, y in zip(a, b, strict=True)]
            for a, b in zip(first, second, strict=True)
        ]
        torch.manual_seed(seed)
        expected, _ = descend(method, total)
        torch.manual_seed(seed)
        parameters = parameters_like([torch.zeros(s, dtype=torch.float64) for s in SHAPES])
        losses = [{f"task{i}": linear_loss(parameters, x) for i, x in enumerate(part)} for part in (first, second)]
        encoders = {"shared": (parameters, list(losses[0]))}
        with other.accumulate():
            other.backward(None, losses[0], encoders=encoders)
        other.backward(None, losses[1], encoders=encoders)
        torch.testing.assert_close(flat([p.grad for p in parameters]), flat(expected), rtol=1e-9, atol=1e-12)


@every
def test_a_loaded_state_continues_bit_for_bit(name: str) -> None:
    count = 3
    method = TorchJD.of(name)(**arguments(name, count))
    for seed in range(3):
        descend(method, random_gradients(count, seed))
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    fresh = TorchJD.of(name)(**arguments(name, count))
    fresh.load_state_dict(torch.load(file, weights_only=True))
    copies = [fresh, copy.deepcopy(method), pickle.loads(pickle.dumps(method))]
    assert all(type(other) is type(method) for other in copies)
    for seed in range(3, 6):
        torch.manual_seed(seed)
        expected, _ = descend(method, random_gradients(count, seed))
        after = torch.get_rng_state()
        for other in copies:
            unused = TorchJD.of(name)(**arguments(name, count))
            unused.load_state_dict({"kept": {}})  # of checkpoints from before stateless aggregators had no state
            assert_same_state(unused.state_dict(), {"kept": {}} if name in STATEFUL else {})
            torch.manual_seed(seed)
            actual, _ = descend(other, random_gradients(count, seed))
            assert_same_state(actual, expected)
            assert torch.equal(torch.get_rng_state(), after)
            assert_same_state(other.state_dict(), method.state_dict())
    assert bool(method.state_dict()) == (name in STATEFUL)
    assert name not in STATEFUL or method.state_dict()["kept"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ExcessMTL", {"n_warmup_steps": 2}),
        ("NashMTL", {"n_tasks": 3, "update_weights_every": 2}),
        ("PCD", {"tau": "0.1,0.3"}),
        ("GradVac", {"beta": 0.9}),
    ],
)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_state_saved_after_any_step_continues_bit_for_bit(name: str, options: dict[str, Any], steps: int) -> None:
    method = TorchJD.of(name)(**options)
    for seed in range(steps):
        descend(method, random_gradients(3, seed))
    fresh = TorchJD.of(name)(**options)
    fresh.load_state_dict(method.state_dict())
    assert_same_state(fresh.state_dict(), method.state_dict())  # even before its first step
    differs = False
    for seed in range(steps, steps + 3):
        rest = []
        for other in (method, fresh, TorchJD.of(name)(**options)):
            torch.manual_seed(seed)
            rest.append(descend(other, random_gradients(3, seed))[0])
        assert_same_state(rest[1], rest[0])
        differs = differs or not torch.equal(flat(rest[2]), flat(rest[0]))
    assert differs  # the state makes a difference


@every
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_aggregators_are_not_given_nonfinite_gradients(name: str, value: float) -> None:
    method = TorchJD.of(name)(**arguments(name, 3))
    descend(method, random_gradients(3))
    before = copy.deepcopy(method.state_dict())
    gradients = random_gradients(3, 1)
    gradients[2][1] = torch.tensor(value, dtype=torch.float64)
    actual, report = descend(method, gradients)
    assert actual[1] is not None and not bool(actual[1].isfinite())
    assert bool(report.weights.isfinite().all())
    assert_same_state(method.state_dict(), before)


@pytest.mark.parametrize("name", STATEFUL)
def test_an_overflow_in_one_encoder_keeps_the_state_of_all(name: str) -> None:
    """A GradScaler skips the whole step."""
    model, batch = Model(), batch_of()
    method = TorchJD.of(name)(**arguments(name, 2))
    step(method, Loop(model, batch), batch)
    before = copy.deepcopy(method.state_dict())
    joint, unimodal = losses_of(model(batch[0]), batch[1])
    unimodal["visual"] = unimodal["visual"] * math.inf
    method.backward(joint, unimodal, encoders=dict(model.encoders.items()))
    assert_same_state(method.state_dict(), before)


@every
def test_half_precision_is_aggregated_in_float32(name: str) -> None:
    """Gradients of 1e-3, whose squares underflow in float16."""
    gradients: Gradients = [[None if g is None else 1e-3 * g.half() for g in own] for own in random_gradients(3)]
    torch.manual_seed(0)
    actual, _ = descend(TorchJD.of(name)(**arguments(name, 3)), gradients, dtype=torch.float16)
    assert all(h.dtype == torch.float16 for h in actual[:-1])
    matrix, size = by_hand(gradients), 1024.0 if name in HOMOGENEOUS else 1.0
    library = direct(name, 3)
    if name == "GradDrop":  # the same random numbers
        matrix = matrix.float()
    torch.manual_seed(0)
    torch.testing.assert_close(flat(actual), (library(size * matrix) / size).half(), rtol=2e-3, atol=1e-6)


@every
def test_a_single_objective_is_plain_descent(name: str) -> None:
    gradients = random_gradients(2)[:1]
    actual, report = descend(TorchJD.of(name)(**arguments(name, 2)), gradients)
    assert torch.equal(flat(actual), flat(gradients[0]))
    torch.testing.assert_close(report.weights, torch.ones(1, 1, dtype=torch.float64))


@pytest.mark.parametrize("count", [2, 3])
def test_pareto_is_n_times_mgda(count: int) -> None:
    """Up to the tolerance of MGDA's Frank-Wolfe iteration."""
    generator = torch.Generator().manual_seed(count)
    common = torch.randn(24, generator=generator, dtype=torch.float64)
    matrix = common + torch.randn(count, 24, generator=generator, dtype=torch.float64)
    gradients: Gradients = [[row.clone()] for row in matrix]
    parameters = [parameters_like(gradients[0]) for _ in range(2)]
    actual = []
    for method, own in zip((Pareto(), TorchJD.of("MGDA")(epsilon=1e-12, max_iters=20000)), parameters, strict=True):
        losses = {f"task{i}": linear_loss(own, g) for i, g in enumerate(gradients)}
        report = method.backward(None, losses, encoders={"shared": (own, list(losses))})
        actual.append((own[0].grad, report["shared"].weights[0]))
    (h, alpha), (mean, weights) = actual
    assert h is not None and mean is not None and int((alpha > 0.01).sum()) >= 2
    torch.testing.assert_close(count * mean, h, rtol=1e-3, atol=1e-3 * float(h.norm()))
    torch.testing.assert_close(count * weights, alpha, rtol=1e-3, atol=1e-3)


# --- names, arguments and errors ---


@every
def test_arguments_are_those_of_the_aggregator(name: str) -> None:
    method, library = TorchJD.of(name), getattr(aggregation, name)
    ours, theirs = inspect.signature(method).parameters, inspect.signature(library).parameters
    assert {k: p.default for k, p in ours.items()} == {k: p.default for k, p in theirs.items()}
    assert not any(isinstance(p.annotation, str) for p in ours.values())
    assert TorchJD.of(name) is method and method.__name__ == name
    sentence = (method.__doc__ or "").splitlines()[0]
    assert sentence.endswith(".") and not any(mark in sentence for mark in (":class:", "`", "<http"))
    assert "TorchJD" in method.source


@pytest.mark.parametrize("given", ["0.2,0.5,0.3", [0.2, 0.5, 0.3], (0.2, 0.5, 0.3), torch.tensor([0.2, 0.5, 0.3])])
@pytest.mark.parametrize(
    ("name", "argument"), [("Constant", "weights"), ("UPGrad", "pref_vector"), ("ConFIG", "pref_vector")]
)
def test_vectors_can_be_text_or_numbers(name: str, argument: str, given: Any) -> None:
    gradients = random_gradients(3)
    actual, _ = descend(TorchJD.of(name)(**{argument: given}), gradients)
    values = given.double() if isinstance(given, Tensor) else torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    library = getattr(aggregation, name)(**{argument: values})
    torch.testing.assert_close(flat(actual), library(by_hand(gradients)), rtol=1e-9, atol=1e-12)


def test_a_number_is_not_converted_where_numbers_are_allowed() -> None:
    results = [descend(TorchJD.of("PCD")(tau=tau), random_gradients(3))[0] for tau in ("0.5", 0.5, "0.5,0.5")]
    for one, other in itertools.pairwise(results):
        assert torch.equal(flat(one), flat(other))


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("NashMTL", {}, "torchjd:NashMTL: missing a required argument: 'n_tasks'"),
        ("UPGrad", {"gamma": 1}, "torchjd:UPGrad: .*'gamma'"),
        ("CAGrad", {"c": -1.0}, "torchjd:CAGrad: c must be non-negative"),
        ("Constant", {"weights": "a,b"}, "torchjd:Constant: 'a,b' is not .* such as 0.3,0.7"),
        ("MGDA", {"epsilon": "small"}, "torchjd:MGDA: "),
    ],
)
def test_wrong_arguments_are_rejected(name: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        TorchJD.of(name)(**options)


def test_a_wrong_number_of_objectives_is_rejected_and_leaves_no_gradient() -> None:
    model, batch = Model(), batch_of()
    with pytest.raises(ValueError, match=r"torchjd:Constant at encoder 'audio': .*3 rows"):
        step(TorchJD.of("Constant")("1,2,3"), Loop(model, batch), batch)
    assert all(g is None for g in take_grads(model).values())


def test_the_nearest_name_is_suggested_for_an_unknown_aggregator() -> None:
    with pytest.raises(ValueError, match=r"'UPgrad': did you mean UPGrad\? There are AlignedMTL, .*UPGrad"):
        TorchJD.of("UPgrad")
    with pytest.raises(ValueError, match="'xyz': there are AlignedMTL"):
        TorchJD.of("xyz")
    with pytest.raises(ValueError, match=r"choose one, such as TorchJD\.of\('UPGrad'\)"):
        TorchJD()


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    TorchJD.of.cache_clear()
    for module in [m for m in sys.modules if m.split(".")[0] == "torchjd"]:
        monkeypatch.setitem(sys.modules, module, None)
    assert TorchJD.known() == []
    with pytest.raises(ValueError, match=r"^torchjd:UPGrad needs the TorchJD library: pip install torchjd$"):
        TorchJD.of("UPGrad")


@pytest.mark.parametrize(("name", "missing"), [("CAGrad", "cvxpy"), ("UPGrad", "quadprog"), ("FairGrad", "scipy")])
def test_without_a_library_that_an_aggregator_needs(monkeypatch: pytest.MonkeyPatch, name: str, missing: str) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("torchjd._mixins.find_spec", lambda n: None if n == missing else find_spec(n))
    with pytest.raises(ValueError, match=rf"^torchjd:{name} lacks a library: .*{missing}.*pip install"):
        TorchJD.of(name)(**arguments(name, 2))


def test_the_module_can_be_imported_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == "torchjd":
            raise ImportError(name)
        return imported(name, *rest, **more)

    monkeypatch.delitem(sys.modules, "mmpareto.integration.methods.torchjd")
    monkeypatch.setattr(builtins, "__import__", refuse)
    import mmpareto.integration.methods.torchjd as again

    assert again.TorchJD is not TorchJD


def test_an_encoder_that_the_joint_loss_does_not_reach() -> None:
    """An encoder whose only objective, the joint loss, does not reach it receives no gradient."""
    used, idle = parameters_like([torch.zeros(2).double(), torch.zeros(2).double()])
    joint, own = linear_loss([used], [torch.ones(2).double()]), linear_loss([used], [torch.ones(2).double()])
    method = TorchJD.of("UPGrad")()
    method.backward(joint, {"audio": own}, encoders={"audio": [used], "idle": ([idle], [])})
    assert idle.grad is None and used.grad is not None


def test_sum_is_plain_training() -> None:
    model, batch = Model(), batch_of()
    loop = Loop(model, batch)
    step(TorchJD.of("Sum")(), loop, batch)
    actual = take_grads(model)
    joint, unimodal = losses_of(model(batch[0]), batch[1])
    (joint + sum(unimodal.values())).backward()
    assert_close(actual, take_grads(model), 1e-12)
