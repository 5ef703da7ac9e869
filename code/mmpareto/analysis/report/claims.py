"""The claims of the MMPareto and DGL papers that runs can test, our controls, and a table's verdict on each.

For each column of the table, over seeds:

- MMPareto, figures 1 (d) and 4 (b): at each encoder, the joint loss's gradient is smaller than the unimodal loss's:
  ratio of the mean norms over the recorded steps of uniform's runs (gradients.npz), or else over all steps of
  MMPareto's (metrics.jsonl).
- MMPareto, figures 1 (a) and 4 (a): the two gradients conflict: share of these steps in which their cosine over the
  whole encoder is negative.
- MMPareto, the same figures: the noise of the joint loss's mini-batch gradient is smaller: ratio of the traces of the
  covariance (covariance.json).
- MMPareto, figure 5: MMPareto ends in a flatter minimum than uniform, and conventional Pareto in a sharper one: ratio
  of the largest eigenvalues of the joint loss's Hessian (sharpness.json).
- DGL, figure 1 (c): an encoder receives a smaller gradient in a multimodal model than in a unimodal one: ratio of the
  mean norms over the recorded steps of the runs of joint and of `unimodal`.
- Both: which row is more accurate than which; see `_between_rows`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.analysis.report.results import CellResults, Results
from mmpareto.analysis.report.sheet import VERDICTS, Claim
from mmpareto.analysis.report.statistics import Comparison, compare, signed
from mmpareto.errors import InputError
from mmpareto.training.run_folder import GRADIENTS, METRICS

HOLDS, DOES_NOT_HOLD, UNDECIDED, NOT_MEASURED = VERDICTS
MMPARETO_PAPER, DGL_PAPER, OURS = "MMPareto paper", "DGL paper", "our control"
CLAIMS_TEXT = (
    "Claims of the MMPareto paper (ICML 2024) and of the DGL paper (ICCV 2025) that these runs can test, and controls "
    "of ours, which no paper claims. A claim holds if the whole confidence interval over seeds (paired t) is on its "
    "side, and does not hold if the whole interval is on the other side; otherwise, and with fewer than 5 seeds, it is "
    "undecided. Claims about accuracy beside the table's baseline use the intervals of the table, which are corrected "
    "by Holm's procedure over its rows. Of the other claims about one column, those about accuracy are corrected "
    "together in the same way, and so are those about gradients and minima. These groups are not corrected for each "
    "other, and columns are not corrected for one another. Gradients and sharpness are compared as ratios (t intervals "
    "of logarithms)."
)
ACCURACY = "acc in summary.json, at the epoch that the protocol chooses"
TRAIN = "to measure it, train the runs with python code/tables.py"
# The methods in both papers' first tables, and those in table 3 of the MMPareto paper.
RIVALS = ("joint", "gblending", "ogm", "ogm_ge", "pmr", "agm")
MORE_RIVALS_OF_MMPARETO = ("greedy", "pretrain_finetune", "gradnorm", "pcgrad", "metabalance")
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The measurements behind a claim.

    Attributes:
        claim, origin: as in `Claim`.
        side: +1 if it claims that the values are above zero, −1 if below.
        values: seed → difference, logarithm of a ratio, or share.
        show, unit: formats a value, and the words that follow it.
        source: the file and the values in it.
        how_to_measure: what to do if there are no values.
    """

    claim: str
    origin: str
    side: int
    values: Mapping[int, float]
    show: Callable[[float], str]
    unit: str
    source: str
    how_to_measure: str


def check_claims(results: Results, comparisons: Mapping[tuple[str, str], Comparison]) -> list[Claim]:
    """The verdict on every claim that the rows can test, for each column that has a row of uniform.

    The claims are about supervised training.

    Arguments:
        comparisons: (row, column) → the table's own comparison with its baseline.

    Raises:
        InputError: a measurement is damaged.
    """
    claims = []
    for column in dict.fromkeys(cell.column for cell in results.values()):
        cells = [c for c in results.values() if c.column == column and c.settings.objective == "supervised"]
        uniform = next(_of_method(cells, "uniform"), None)
        if uniform is None:
            continue
        mmpareto = [*_of_method(cells, "mmpareto")]
        if not uniform.tasks:  # which have no joint loss
            measured = [*_of_gradients(uniform, mmpareto), *_of_noise(uniform), *_of_minima(uniform, cells)]
            measured += _of_fusion(cells)
            claims += _judged(measured, column)
        if (uniform.row, column) not in comparisons:  # uniform is the baseline, so comparisons are with it
            claims += _beside_baseline(cells, comparisons, column, uniform.row)
        claims += _judged([*_between_rows(cells)], column)
    return claims


def verdict(comparison: Comparison, side: int) -> str:
    """The verdict on the claim that the values are on this side of zero, by their interval."""
    if comparison.n == 0:
        return NOT_MEASURED
    if comparison.low is None or comparison.high is None or not comparison.excludes_zero:
        return UNDECIDED
    return HOLDS if (comparison.low > 0) == (side > 0) else DOES_NOT_HOLD


def _judged(family: Sequence[Evidence], column: str) -> list[Claim]:
    """The verdicts on claims that are corrected together."""
    compared = compare({one.claim: [*one.values.values()] for one in family})
    return [_judge(one, compared[one.claim], column) for one in family]


def _judge(evidence: Evidence, comparison: Comparison, column: str) -> Claim:
    result = verdict(comparison, evidence.side)
    text = evidence.how_to_measure if result == NOT_MEASURED else _interval_text(comparison, evidence)
    return Claim(evidence.claim, evidence.origin, result, text, column, comparison.n, evidence.source)


def _of_method(cells: Iterable[CellResults], *methods: str) -> Iterator[CellResults]:
    return (cell for cell in cells if cell.settings.method in methods)


def _interval_text(comparison: Comparison, evidence: Evidence) -> str:
    mean = evidence.show(comparison.mean or 0.0)
    if comparison.low is None or comparison.high is None or comparison.alpha is None:
        return f"{mean} {evidence.unit}; {comparison.reason}"
    level = f"{100 * (1 - comparison.alpha):.3g}% interval"
    return f"{mean} {evidence.unit}, {level} [{evidence.show(comparison.low)}, {evidence.show(comparison.high)}]"


# Accuracy


def _beside_baseline(
    cells: Sequence[CellResults], comparisons: Mapping[tuple[str, str], Comparison], column: str, baseline: str
) -> list[Claim]:
    """Claims about rows beside uniform, by the table's own comparisons."""
    dgl = next(_whole_dgl(cells), None)
    claims = []
    for cell in cells:
        method, comparison = cell.settings.method, comparisons.get((cell.row, column))
        if comparison is None or not (method in ("joint", "pareto", "mmpareto") or cell is dgl):
            continue
        side = 1 if method in ("mmpareto", "dgl") else -1
        origin = OURS if cell is dgl else MMPARETO_PAPER
        claims.append(_judge(_more_accurate(cell.row, baseline, origin, {}, side), comparison, column))
    return claims


def _between_rows(cells: Sequence[CellResults]) -> Iterator[Evidence]:
    """Claims about the accuracy of two rows of a column.

    - MMPareto paper: MMPareto is more accurate than joint and the other methods, and its encoders are more accurate
      than unimodal models (tables 1 and 3; there, all but the video encoder on CREMA-D are).
    - DGL paper: DGL is more accurate than joint, MMPareto and other methods, and its encoders are more accurate than
      unimodal models (table 1); an encoder trained by joint is less accurate than a unimodal model (figure 1); and
      without either truncation DGL is less accurate (table 3).
    - Controls: without its unimodal losses DGL is less accurate; MMPareto is more accurate than uniform with encoder
      gradients times γ.

    Of several rows of MMPareto, that of the released code counts, or else that of the paper's text, or else the first.
    """
    mmpareto = min(_of_method(cells, "mmpareto"), key=_distance_from_released, default=None)
    dgl, joint = next(_whole_dgl(cells), None), next(_of_method(cells, "joint"), None)
    if mmpareto:
        for worse in _of_method(cells, *RIVALS, *MORE_RIVALS_OF_MMPARETO):
            if not worse.settings.options.get("freeze_encoders", False):
                yield _pair(mmpareto, worse, MMPARETO_PAPER)
    if dgl:
        for worse in (*_of_method(cells, *RIVALS), *([mmpareto] if mmpareto else [])):
            yield _pair(dgl, worse, DGL_PAPER)
        for part in (cell for cell in _of_method(cells, "dgl") if not _is_whole(cell)):
            yield _pair(dgl, part, DGL_PAPER if part.settings.options["unimodal_loss"] else OURS)
    for alone in _of_method(cells, "unimodal"):
        modality = alone.task or str(alone.settings.options["modality"])
        if joint:
            yield _pair(alone, joint, DGL_PAPER, of_worse=modality)
        for better, origin in ((mmpareto, MMPARETO_PAPER), (dgl, DGL_PAPER)):
            if better:
                yield _pair(better, alone, origin, of_better=modality)
    for cell in _of_method(cells, "mmpareto"):
        for control in _of_method(cells, "uniform"):
            scale = control.settings.options.get("encoder_scale", 1)
            if scale != 1 and scale == cell.settings.options["gamma"]:
                yield _pair(cell, control, OURS)


def _pair(
    better: CellResults, worse: CellResults, origin: str, *, of_better: str | None = None, of_worse: str | None = None
) -> Evidence:
    """The claim that one row is more accurate, with the differences by seed.

    Arguments:
        of_better, of_worse: the modality whose accuracy alone is compared; None for the joint prediction.
    """
    names, accuracies = [], []
    for cell, modality in ((better, of_better), (worse, of_worse)):
        part = "task" if cell.tasks else "encoder"
        names.append(f"the {modality} {part} of {cell.row}" if modality else cell.row)
        accuracies.append(cell.accuracies(f"acc_{modality}" if modality else "acc"))
    differences = {seed: accuracies[0][seed] - accuracies[1][seed] for seed in accuracies[0] if seed in accuracies[1]}
    return _more_accurate(names[0][0].upper() + names[0][1:], names[1], origin, differences)


def _more_accurate(first: str, second: str, origin: str, values: Mapping[int, float], side: int = 1) -> Evidence:
    claim = f"{first} is {'more' if side > 0 else 'less'} accurate than {second}"
    return Evidence(claim, origin, side, values, lambda value: signed(100 * value), "points", ACCURACY, TRAIN)


def _distance_from_released(mmpareto: CellResults) -> int:
    return {"released": 0, "paper": 1}.get(str(mmpareto.settings.variant), 2)


def _whole_dgl(cells: Iterable[CellResults]) -> Iterator[CellResults]:
    return (cell for cell in _of_method(cells, "dgl") if _is_whole(cell))


def _is_whole(dgl: CellResults) -> bool:
    """True if none of DGL's parts is switched off."""
    return not any(value is False for value in dgl.settings.options.values())


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
        norms.append(
            Evidence(claim, MMPARETO_PAPER, -1, ratios, _ratio, "times the unimodal norm", f"{source}: norms", advice)
        )
        claim = f"The joint and the unimodal gradient conflict at the {name} encoder"
        unit = "of steps in conflict"
        conflicts.append(Evidence(claim, MMPARETO_PAPER, 1, shares, _share, unit, f"{source}: conflicts", advice))
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


def _of_fusion(cells: Sequence[CellResults]) -> Iterator[Evidence]:
    """For each modality trained alone, the gradient that its encoder receives in joint's runs and alone."""
    joint = next(_of_method(cells, "joint"), None)
    if joint is None:
        return
    for alone in _of_method(cells, "unimodal"):
        modality = str(alone.settings.options["modality"])
        jointly = {seed: _norm(result.run, modality, "joint") for seed, result in joint.results.items()}
        ratios = {
            seed: math.log(fused / norm)
            for seed, result in alone.results.items()
            if (norm := _norm(result.run, modality, "unimodal")) and (fused := jointly.get(seed))
        }
        yield Evidence(
            f"The gradient at the {modality} encoder is smaller in {joint.row} than in {alone.row}",
            DGL_PAPER,
            -1,
            ratios,
            _ratio,
            f"times the norm in {alone.row}",
            f"{GRADIENTS} of both, recorded steps: norms",
            "to measure it, train both with --record_gradients 10",
        )


def _norm(run: FinishedRun, modality: str, objective: str) -> float:
    """Mean norm of an objective's gradient at an encoder over the recorded steps; 0 if none is recorded."""
    encoder = run.gradients.encoders.get(modality) if run.gradients else None
    return float(np.nanmean(encoder.whole_norm(objective))) if encoder and objective in encoder.norms else 0.0


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
            MMPARETO_PAPER,
            -1,
            ratios,
            _ratio,
            "times the unimodal trace",
            f"covariance.json of {uniform.row}: trace",
            f"to measure it, run python code/figures.py covariance --run FOLDER for {uniform.row}'s runs",
        )
        for name, ratios in values.items()
    ]


def _of_minima(uniform: CellResults, cells: Sequence[CellResults]) -> list[Evidence]:
    """The sharpness of the minima of each row of MMPareto and conventional Pareto, divided by uniform's."""
    base = _measured(uniform, "sharpness", _eigenvalue)
    evidence = []
    for cell in _of_method(cells, "mmpareto", "pareto"):
        ratios = {
            seed: math.log(value / base[seed][1])
            for seed, (how, value) in _measured(cell, "sharpness", _eigenvalue).items()
            # Only values measured in the same way can be compared, and only positive ones have a ratio.
            if seed in base and base[seed][0] == how and min(value, base[seed][1]) > 0
        }
        side = -1 if cell.settings.method == "mmpareto" else 1
        evidence.append(
            Evidence(
                f"{cell.row} ends in a {'flatter' if side < 0 else 'sharper'} minimum than {uniform.row}",
                MMPARETO_PAPER,
                side,
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
