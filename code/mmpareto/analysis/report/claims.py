"""The claims of the MMPareto paper that runs can test, and what a table's runs say of each.

Per data set, over seeds:

- the joint loss's gradient at an encoder is smaller than the unimodal loss's (gradients.npz of uniform's runs, norms
  averaged over the recorded steps; else the norms that MMPareto's metrics.jsonl has of every step);
- the noise of the joint loss's mini-batch gradient is smaller (the trace of its covariance in covariance.json);
- the two gradients conflict: the share of steps in which their cosine over the whole encoder is negative;
- conventional Pareto falls below uniform, and MMPareto comes out above it (accuracy on the test set);
- MMPareto ends in a flatter minimum than uniform (largest eigenvalue of the joint loss's Hessian in sharpness.json).
"""

from collections.abc import Iterable, Mapping

from mmpareto.analysis.report.evidence import Evidence, of_gradients, of_minima, of_noise
from mmpareto.analysis.report.gather import Measured
from mmpareto.analysis.report.layout import Claim
from mmpareto.analysis.report.statistics import Comparison, compare, signed

HOLDS, DOES_NOT_HOLD, UNDECIDED, NOT_MEASURED = "holds", "does not hold", "undecided", "not measured"
CLAIMS_TEXT = (
    "Claims of the MMPareto paper that these runs can test. A claim holds where the whole interval over seeds "
    "(paired t) lies on its side, does not hold where it lies on the other, and is undecided otherwise, or below "
    "5 seeds. What is corrected: claims on accuracy use the very intervals of the table, which Holm's procedure "
    "corrects over its rows; all other claims on one data set are corrected together, in the same way. What is "
    "not: these two families are not corrected for each other, nor data sets for one another. Gradients and "
    "sharpness are compared as ratios (t intervals of logarithms)."
)


def check_claims(
    found: Mapping[tuple[str, str], Measured], comparisons: Mapping[tuple[str, str], Comparison]
) -> list[Claim]:
    """Every claim that the table's rows can speak of, on every column that has uniform's runs.

    Arguments:
        found: (row, column) → its runs.
        comparisons: (row, column) → the table's own comparison with its baseline.
    """
    claims = []
    for column in dict.fromkeys(place[1] for place in found):
        here = [cell for place, cell in found.items() if place[1] == column]
        uniform = next((cell for cell in here if cell.settings.method == "uniform"), None)
        if uniform is None:
            continue
        mmpareto = [cell for cell in here if cell.settings.method == "mmpareto"]
        evidence = [*of_gradients(uniform, mmpareto), *of_noise(uniform), *of_minima(uniform, mmpareto)]
        judged = compare({one.claim: [*one.figures.values()] for one in evidence})
        claims += [_judge(one, judged[one.claim], column) for one in evidence]
        if not comparisons.get((uniform.row, column)):  # it is the baseline: differences are to it
            claims += _of_accuracy(here, comparisons, column, uniform.row)
    return claims


def verdict(found: Comparison, side: int) -> str:
    """What an interval says of a claim that the figures lie on this side of zero."""
    if found.n == 0:
        return NOT_MEASURED
    if found.low is None or found.high is None or found.low <= 0 <= found.high:
        return UNDECIDED
    return HOLDS if (found.low > 0) == (side > 0) else DOES_NOT_HOLD


def _judge(one: Evidence, found: Comparison, data: str) -> Claim:
    said = verdict(found, one.side)
    text = one.measure if said == NOT_MEASURED else _interval(found, one)
    return Claim(one.claim, said, text, data, found.n, one.rests_on)


def _interval(found: Comparison, one: Evidence) -> str:
    mean = one.shape(found.mean or 0.0)
    if found.low is None or found.high is None or found.alpha is None:
        return f"{mean} {one.unit}; {found.reason}"
    level = f"{100 * (1 - found.alpha):.3g}% interval"
    return f"{mean} {one.unit}, {level} [{one.shape(found.low)}, {one.shape(found.high)}]"


def _of_accuracy(
    here: Iterable[Measured], comparisons: Mapping[tuple[str, str], Comparison], column: str, baseline: str
) -> list[Claim]:
    claims = []
    for cell in here:
        side = {"pareto": -1, "mmpareto": 1}.get(cell.settings.method)
        found = comparisons.get((cell.row, column))
        if side is None or found is None:
            continue
        relation = "above" if side > 0 else "below"
        one = Evidence(
            f"{cell.row} comes out {relation} {baseline}",
            side,
            {},
            lambda value: signed(100 * value),
            "points",
            "summary.json, acc at the epoch that the protocol chooses",
            "to measure it: python code/tables.py trains the runs",
        )
        claims.append(_judge(one, found, column))
    return claims
