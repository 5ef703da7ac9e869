"""The decisions that `--refresh` would have made in a run, from known records of gradients."""

import json
from pathlib import Path
from typing import Any

import figures
import numpy as np
import pytest
import torch
from made_runs import accuracies, write_run
from matplotlib.figure import Figure
from mmpareto import MMPareto
from mmpareto.analysis.plots.refresh import KS
from mmpareto.errors import InputError
from torch import Tensor

pytest_plugins = ["plot_fixtures"]

SIZES = {"conv": 7, "bias": 3, "fc": 12}
PAPER: dict[str, Any] = {
    "gamma": 2.0,
    "weights": "encoder",
    "rescale": "encoder",
    "boost": "conflict",
    "zero_is_conflict": False,
}
pytestmark = pytest.mark.usefixtures("unsaved")
Pairs = list[tuple[list[Tensor], list[Tensor]]]


def pairs_of(steps: int, seed: int) -> Pairs:
    """Gradients of two losses per step, layer by layer; about half of the steps are in conflict."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> list[Tensor]:
        return [torch.randn(size, generator=generator) for size in SIZES.values()]

    return [(draw(), draw()) for _ in range(steps)]


def write_records(folder: Path, encoders: dict[str, Pairs], every: int = 1, **arguments: Any) -> Path:
    """Write the run folder of train.py --record_gradients for MMPareto with these gradients; return its path."""
    write_run(folder, accuracies(0), **{"method": "mmpareto", "variant": "paper", "options": PAPER, **arguments})
    steps = len(next(iter(encoders.values())))
    content: dict[str, Any] = {
        "step": np.arange(steps) * every + 1,
        "epoch": np.arange(steps) // 5 + 1,
        "modalities": np.array(list(encoders)),
        "objectives": np.array(["joint", "unimodal"]),
        **{"dataset": "cremad", "method": "mmpareto", "seed": 7, "every": every, "banner": ""},
    }
    for name, pairs in encoders.items():
        vectors = np.array([[[float(g.norm()) for g in one] for one in pair] for pair in pairs])
        inner = np.array([[float(a @ b) for a, b in zip(*pair, strict=True)] for pair in pairs])
        reports = [exact(pair)[1] for pair in pairs]
        content |= {f"layers_{name}": np.array(list(SIZES)), f"cosine_{name}": inner / vectors.prod(1)}
        content |= {f"norm_joint_{name}": vectors[:, 0], f"norm_unimodal_{name}": vectors[:, 1]}
        for field in ("weights", "conflict", "rescale"):
            content[f"{field}_{name}"] = np.stack([getattr(report, field).float().numpy() for report in reports])
    np.savez(folder / "gradients.npz", **content)
    return folder


def exact(pair: tuple[list[Tensor], list[Tensor]]) -> tuple[np.ndarray, Any]:
    """The update as one vector, and the report."""
    combined, report = MMPareto(**PAPER).integrate("x", [list(one) for one in pair], torch.ones(()))
    return torch.cat([h for h in combined if h is not None]).double().numpy(), report


def as_decided(pair: tuple[list[Tensor], list[Tensor]], report: Any) -> np.ndarray:
    """The update with the decisions of an earlier step."""
    factors = 2 * report.weights[0] * report.rescale * (PAPER["gamma"] if bool(report.conflict) else 1.0)
    return sum(float(f) * torch.cat(one).double().numpy() for f, one in zip(factors, pair, strict=True))


def test_metrics_match_those_of_the_whole_vectors(
    tmp_path: Path, unsaved: list[Figure], capsys: pytest.CaptureFixture[str]
) -> None:
    encoders = {"sound": pairs_of(23, 0), "touch": pairs_of(23, 1)}
    run = write_records(tmp_path / "run", encoders)
    assert figures.main(["refresh", "--run", str(run)]) == 0
    result = json.loads((run / "refresh.json").read_text())
    assert result["steps"] == 23 and list(result["encoders"]) == list(encoders)
    for name, pairs in encoders.items():
        for every in KS:
            cosines, ratios, same = [], [], []
            for step, pair in enumerate(pairs):
                if step % every:
                    decided = exact(pairs[step - step % every])[1]
                    (h, report), other = exact(pair), as_decided(pair, decided)
                    norms = np.linalg.norm(h), np.linalg.norm(other)
                    cosines.append(h @ other / np.prod(norms))
                    ratios.append(norms[1] / norms[0])
                    same.append(bool(report.conflict) == bool(decided.conflict))
            metrics = result["encoders"][name][str(every)]
            assert metrics["steps"] == len(same) and 0 < np.mean(same) < 1
            assert metrics["same_conflict"] == pytest.approx(np.mean(same))
            for key, value in (
                ("mean", np.mean(cosines)),
                ("min", min(cosines)),
                ("5_percent", np.percentile(cosines, 5)),
            ):
                assert metrics[f"cosine_{key}"] == pytest.approx(value, abs=1e-6)
            for key, value in (("median", np.median(ratios)), ("min", min(ratios)), ("max", max(ratios))):
                assert metrics[f"norm_ratio_{key}"] == pytest.approx(value, rel=1e-5)
    printed = capsys.readouterr().out
    assert "touch" in printed and str(run / "refresh.png") in printed and str(run / "refresh.json") in printed
    (figure,) = unsaved
    (line,) = [line for line in figure.axes[-1].lines if line.get_label() == "cosine: mean"]
    truth = [json.loads((run / "refresh.json").read_text())["encoders"]["touch"][str(k)] for k in KS]
    assert list(line.get_ydata()) == pytest.approx([one["cosine_mean"] for one in truth])
    assert sum(len(line.get_xdata()) for line in figure.axes[0].lines) == 20  # 23 steps except 1, 11 and 21


def test_a_nonfinite_step_decides_nothing_and_is_left_out(tmp_path: Path) -> None:
    pairs = pairs_of(23, 0)
    pairs[10] = ([torch.full_like(g, torch.nan) for g in pairs[10][0]], pairs[10][1])
    run = write_records(tmp_path / "run", {"sound": pairs})
    assert figures.main(["refresh", "--run", str(run)]) == 0
    result = json.loads((run / "refresh.json").read_text())["encoders"]["sound"]
    cosines = []
    for step in [*range(1, 10), *range(11, 20), 21, 22]:
        h, other = exact(pairs[step])[0], as_decided(pairs[step], exact(pairs[20 if step > 20 else 0])[1])
        cosines.append(h @ other / np.linalg.norm(h) / np.linalg.norm(other))
    assert result["10"]["steps"] == len(cosines)
    assert result["10"]["cosine_mean"] == pytest.approx(np.mean(cosines), abs=1e-6)


def test_a_run_of_one_step_has_no_metrics(tmp_path: Path) -> None:
    run = write_records(tmp_path / "run", {"sound": pairs_of(1, 0)})
    assert figures.main(["refresh", "--run", str(run)]) == 0
    result = json.loads((run / "refresh.json").read_text())["encoders"]["sound"]
    assert all(one["steps"] == 0 and one["cosine_mean"] is None for one in result.values())


@pytest.mark.parametrize(
    "arguments",
    [
        {"method": "uniform", "variant": None, "options": {}},
        {"options": PAPER | {"weights": "parameter", "rescale": "parameter"}},
        {"options": PAPER | {"rescale": "parameter"}},
        {"options": PAPER | {"refresh": 10}},
    ],
    ids=["uniform", "per_tensor", "released", "refreshed"],
)
def test_other_methods_and_options_are_refused(arguments: dict[str, Any], tmp_path: Path) -> None:
    run = write_records(tmp_path / "run", {"sound": pairs_of(5, 0)}, **arguments)
    with pytest.raises(InputError, match="variant paper"):
        figures.main(["refresh", "--run", str(run)])


def test_records_with_gaps_are_refused(tmp_path: Path) -> None:
    run = write_records(tmp_path / "run", {"sound": pairs_of(5, 0)}, every=2)
    with pytest.raises(InputError, match="record_gradients 1"):
        figures.main(["refresh", "--run", str(run)])
