"""The claims of the MMPareto paper that runs can test, and the verdict of a table's runs on each.

For each column of the table, over seeds:

- At each encoder, the joint loss's gradient is smaller than the unimodal loss's: ratio of the mean norms over the
  recorded steps of uniform's runs (gradients.npz), or else over all steps of MMPareto's (metrics.jsonl).
- The two gradients conflict: share of these steps in which their cosine over the whole encoder is negative.
- The noise of the joint loss's mini-batch gradient is smaller: ratio of the traces of the covariance (covariance.json).
- MMPareto ends in a flatter minimum than uniform: ratio of the largest eigenvalues of the joint loss's Hessian
  (sharpness.json).
- Conventional Pareto is less accurate than uniform, and MMPareto is more accurate.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.analysis.report.results import CellResults, Results
from mmpareto.analysis.report.sheet import Claim
from mmpareto.analysis.report.statistics import Comparison, compare, signed
from mmpareto.errors import InputError
from mmpareto.training.run_folder import GRADIENTS, METRICS

HOLDS, DOES_NOT_HOLD, UNDECIDED, NOT_MEASURED = "holds", "does not hold", "undecided", "not measured"
CLAIMS_TEXT = (
    "Claims of the MMPareto paper that these runs can test. A claim holds if the whole confidence interval over seeds "
    "(paired t) is on its side, and does not hold if the whole interval is on the other side; otherwise, and with "
    "fewer than 5 seeds, it is undecided. Claims about accuracy use the intervals of the table, which are corrected by "
    "Holm's procedure over its rows. All other claims about one column are corrected together in the same way. The two "
    "groups are not corrected for each other, and columns are not corrected for one another. Gradients and sharpness "
    "are compared as ratios (t intervals of logarithms)."
)
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The measurements behind a claim.

    Attributes:
        claim: the claim, a sentence without its full stop.
        side: +1 if it claims that the values are above zero, −1 if below.
        values: seed → difference, logarithm of a ratio, or share.
        show, unit: formats a value, and the words that follow it.
        source: the file and the values in it.
        how_to_measure: what to do if there are no values.
    """

    claim: str
    side: int
    values: Mapping[int, float]
    show: Callable[[float], str]
    unit: str
    source: str
    how_to_measure: str


def check_claims(results: Results, comparisons: Mapping[tuple[str, str], Comparison]) -> list[Claim]:
    """The verdict on every claim that the rows can test, for each column that has a row of uniform.

    Arguments:
        comparisons: (row, column) → the table's own comparison with its baseline.

    Raises:
        InputError: a measurement is damaged.
    """
    claims = []
    for column in dict.fromkeys(cell.column for cell in results.values()):
        cells = [cell for cell in results.values() if cell.column == column]
        uniform = next((cell for cell in cells if cell.settings.method == "uniform"), None)
        if uniform is None:
            continue
        mmpareto = [cell for cell in cells if cell.settings.method == "mmpareto"]
        evidence = [*_of_gradients(uniform, mmpareto), *_of_noise(uniform), *_of_minima(uniform, mmpareto)]
        compared = compare({one.claim: [*one.values.values()] for one in evidence})
        claims += [_judge(one, compared[one.claim], column) for one in evidence]
        if (uniform.row, column) not in comparisons:  # uniform is the baseline, so comparisons are with it
            claims += _of_accuracy(cells, comparisons, column, uniform.row)
    return claims


def verdict(comparison: Comparison, side: int) -> str:
    """The verdict on the claim that the values are on this side of zero, by their interval."""
    if comparison.n == 0:
        return NOT_MEASURED
    if comparison.low is None or comparison.high is None or not comparison.excludes_zero:
        return UNDECIDED
    return HOLDS if (comparison.low > 0) == (side > 0) else DOES_NOT_HOLD


def _judge(evidence: Evidence, comparison: Comparison, column: str) -> Claim:
    result = verdict(comparison, evidence.side)
    text = evidence.how_to_measure if result == NOT_MEASURED else _interval_text(comparison, evidence)
    return Claim(evidence.claim, result, text, column, comparison.n, evidence.source)


def _interval_text(comparison: Comparison, evidence: Evidence) -> str:
    mean = evidence.show(comparison.mean or 0.0)
    if comparison.low is None or comparison.high is None or comparison.alpha is None:
        return f"{mean} {evidence.unit}; {comparison.reason}"
    level = f"{100 * (1 - comparison.alpha):.3g}% interval"
    return f"{mean} {evidence.unit}, {level} [{evidence.show(comparison.low)}, {evidence.show(comparison.high)}]"


# Accuracy


def _of_accuracy(
    cells: Iterable[CellResults], comparisons: Mapping[tuple[str, str], Comparison], column: str, baseline: str
) -> list[Claim]:
    claims = []
    for cell in cells:
        side = {"pareto": -1, "mmpareto": 1}.get(cell.settings.method)
        comparison = comparisons.get((cell.row, column))
        if side is None or comparison is None:
            continue
        evidence = Evidence(
            f"{cell.row} is {'more' if side > 0 else 'less'} accurate than {baseline}",
            side,
            {},
            lambda value: signed(100 * value),
            "points",
            "acc in summary.json, at the epoch that the protocol chooses",
            "to measure it, train the runs with python code/tables.py",
        )
        claims.append(_judge(evidence, comparison, column))
    return claims


# Norms and conflicts


def _of_gradients(uniform: CellResults, mmpareto: Sequence[CellResults]) -> list[Evidence]:
    """The ratio of the two gradients' norms at every encoder, then how often they conflict at every encoder."""
    sources = [(uniform, _recorded, f"{GRADIENTS} of {uniform.row}, recorded steps")]
    sources += [(cell, _logged, f"{METRICS} of {cell.row}, all steps") for cell in mmpareto]
    values: dict[int, dict[str, tuple[float, float]]] = {}
    source = sources[0][2]
    for cell, read, name in sources:
        values = {seed: one for seed, result in cell.results.items() if (one := read(result.run))}
        if values:
            source = name
            break
    modalities = list(dict.fromkeys(name for one in values.values() for name in one)) or uniform.modalities
    advice = "to measure it, train uniform with --record_gradients 10"
    norms, conflicts = [], []
    for name in modalities:
        ratios = {seed: one[name][0] for seed, one in values.items() if name in one}
        shares = {seed: one[name][1] for seed, one in values.items() if name in one}
        claim = f"The joint gradient at the {name} encoder is smaller than the unimodal gradient"
        norms.append(Evidence(claim, -1, ratios, _ratio, "times the unimodal norm", f"{source}: norms", advice))
        claim = f"The joint and the unimodal gradient conflict at the {name} encoder"
        conflicts.append(Evidence(claim, 1, shares, _share, "of steps in conflict", f"{source}: conflicts", advice))
    return [*norms, *conflicts]


def _recorded(run: FinishedRun) -> dict[str, tuple[float, float]]:
    """Modality → log of the ratio of mean norms, joint / unimodal, and share of recorded steps in conflict."""
    values: dict[str, tuple[float, float]] = {}
    for modality, encoder in run.gradients.encoders.items() if run.gradients else ():
        if encoder.cosine is None:
            continue
        joint, unimodal = (float(np.nanmean(encoder.whole_norm(name))) for name in ("joint", "unimodal"))
        cosine = encoder.whole_cosine()
        if joint > 0 and unimodal > 0:
            values[modality] = (math.log(joint / unimodal), float((cosine[~np.isnan(cosine)] < 0).mean()))
    return values


def _logged(run: FinishedRun) -> dict[str, tuple[float, float]]:
    """The same for all steps, by the means of each epoch; the conflicts are those of the method's own groups."""
    values = {}
    for modality in [key.removeprefix("norm_joint_") for key in run.history[0] if key.startswith("norm_joint_")]:
        keys = (f"norm_joint_{modality}", f"norm_unimodal_{modality}", f"conflict_rate_{modality}")
        joint, unimodal, rate = (float(np.nanmean(run.series(key))) for key in keys)
        if joint > 0 and unimodal > 0:
            values[modality] = (math.log(joint / unimodal), rate)
    return values


# Covariance and sharpness


def _of_noise(uniform: CellResults) -> list[Evidence]:
    """The noise of the two losses' mini-batch gradients at every encoder."""
    values: dict[str, dict[int, float]] = {name: {} for name in uniform.modalities}
    for seed, traces in _measured(uniform, "covariance", _traces).items():
        for modality, (joint, unimodal) in traces.items():
            if min(joint, unimodal) > 0:
                values.setdefault(modality, {})[seed] = math.log(joint / unimodal)
    return [
        Evidence(
            f"The noise of the joint gradient at the {name} encoder is smaller than that of the unimodal gradient",
            -1,
            ratios,
            _ratio,
            "times the unimodal trace",
            f"covariance.json of {uniform.row}: trace",
            f"to measure it, run python code/figures.py covariance --run FOLDER for {uniform.row}'s runs",
        )
        for name, ratios in values.items()
    ]


def _of_minima(uniform: CellResults, mmpareto: Sequence[CellResults]) -> list[Evidence]:
    """The sharpness of the minima of each row of MMPareto, divided by uniform's."""
    base = _measured(uniform, "sharpness", _eigenvalue)
    evidence = []
    for cell in mmpareto:
        ratios = {
            seed: math.log(value / base[seed][1])
            for seed, (how, value) in _measured(cell, "sharpness", _eigenvalue).items()
            # Only values measured in the same way can be compared, and only positive ones have a ratio.
            if seed in base and base[seed][0] == how and min(value, base[seed][1]) > 0
        }
        evidence.append(
            Evidence(
                f"{cell.row} ends in a flatter minimum than {uniform.row}",
                -1,
                ratios,
                _ratio,
                f"times the largest eigenvalue of {uniform.row}",
                "sharpness.json of both: losses.joint.largest_eigenvalue",
                "to measure it, run python code/figures.py sharpness --run FOLDER for both rows' runs, with the same "
                "options",
            )
        )
    return evidence


def _eigenvalue(content: dict[str, Any]) -> tuple[tuple[Any, Any], float]:
    """Checkpoint and samples, and the largest eigenvalue of the joint loss's Hessian."""
    value = float(content["losses"]["joint"]["largest_eigenvalue"])
    return (content.get("checkpoint"), content.get("samples")), value


def _traces(content: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Modality → trace of the covariance of the joint and of the unimodal loss's gradient."""
    return {
        modality: (float(losses["joint"]["trace"]), float(losses["unimodal"]["trace"]))
        for modality, losses in content["encoders"].items()
        if "unimodal" in losses
    }


def _measured(cell: CellResults, name: str, read: Callable[[dict[str, Any]], T]) -> dict[int, T]:
    """Seed → what `read` returns for a measurement of its run, where there is one; ascending.

    Raises:
        InputError: a measurement is damaged.
    """
    values = {}
    for seed, result in cell.results.items():
        content = result.run.measurement(name)
        try:
            if content is not None:
                values[seed] = read(content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            path = result.run.folder / f"{name}.json"
            raise InputError(f"{path} is damaged ({error!r}): remove it, and measure it again.") from error
    return values


def _share(value: float) -> str:
    """A share in percent, cut off at 0% and 100%, beyond which t intervals may reach."""
    return f"{min(max(value, 0.0), 1.0):.1%}"


def _ratio(logarithm: float) -> str:
    return f"{math.exp(logarithm):.3g}"
