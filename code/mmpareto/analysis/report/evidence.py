"""What runs say of the paper's claims, file by file; claims.py judges it."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.analysis.report.gather import Measured
from mmpareto.errors import InputError
from mmpareto.training.run_folder import GRADIENTS, METRICS

COVARIANCE, SHARPNESS = "covariance.json", "sharpness.json"
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What a claim is judged by.

    Attributes:
        claim: the sentence.
        side: +1 where it says that the figures are above zero, −1 where below.
        figures: seed → difference, logarithm of a ratio, or share; a claim says zero or less of none.
        shape, unit: how a figure is shown, and what stands behind it.
        rests_on: the file, and what in it.
        measure: what to do where no figure is there.
    """

    claim: str
    side: int
    figures: Mapping[int, float]
    shape: Callable[[float], str]
    unit: str
    rests_on: str
    measure: str


def of_gradients(uniform: Measured, mmpareto: Sequence[Measured]) -> list[Evidence]:
    """Of every encoder, the length of the two gradients, and how often they conflict."""
    measure = "to measure it: train uniform with --record-gradients 10"
    own = {seed: _recorded(result.folder) for seed, result in uniform.results.items()}
    figures, rests_on = {seed: one for seed, one in own.items() if one}, f"{GRADIENTS} of {uniform.row}, recorded steps"
    if not figures:
        for cell in mmpareto:
            logged = {seed: _logged(result.folder) for seed, result in cell.results.items()}
            figures, rests_on = (
                {seed: one for seed, one in logged.items() if one},
                f"{METRICS} of {cell.row}, all steps",
            )
            if figures:
                break
    modalities = list(dict.fromkeys(name for one in figures.values() for name in one)) or uniform.modalities
    evidence = []
    for name in modalities:
        ratios = {seed: one[name][0] for seed, one in figures.items() if name in one}
        claim = f"The joint gradient at the {name} encoder is smaller than the unimodal one"
        evidence.append(Evidence(claim, -1, ratios, _ratio, "times the unimodal norm", f"{rests_on}: norms", measure))
    for name in modalities:
        shares = {seed: one[name][1] for seed, one in figures.items() if name in one}
        claim = f"Joint and unimodal gradient conflict at the {name} encoder"
        evidence.append(Evidence(claim, 1, shares, _share, "in conflict", f"{rests_on}: conflicts", measure))
    return evidence


def _recorded(folder: Path) -> dict[str, tuple[float, float]]:
    """Modality → log of the ratio of mean norms, joint / unimodal, and share of recorded steps in conflict."""
    if not (folder / GRADIENTS).is_file():
        return {}
    found = {}
    for modality, encoder in FinishedRun(folder).recorded_gradients().encoders.items():
        if encoder.cosine is None:
            continue
        joint, unimodal = (float(np.nanmean(encoder.whole_norm(name))) for name in ("joint", "unimodal"))
        cosine = encoder.whole_cosine()
        if joint > 0 and unimodal > 0:
            found[modality] = (math.log(joint / unimodal), float((cosine[~np.isnan(cosine)] < 0).mean()))
    return found


def _logged(folder: Path) -> dict[str, tuple[float, float]]:
    """The same of every step, by the means that an epoch's line has; conflicts as the method's own groups see them."""
    path = folder / METRICS
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}): train the run anew.") from error
    found = {}
    for modality in [key.removeprefix("norm_joint_") for key in lines[0] if key.startswith("norm_joint_")]:
        keys = (f"norm_joint_{modality}", f"norm_unimodal_{modality}", f"conflict_rate_{modality}")
        joint, unimodal, rate = (float(np.mean([line[key] for line in lines if key in line])) for key in keys)
        if joint > 0 and unimodal > 0:
            found[modality] = (math.log(joint / unimodal), rate)
    return found


def of_noise(uniform: Measured) -> list[Evidence]:
    """Of every encoder, the noise of the two losses' mini-batch gradients."""
    found: dict[str, dict[int, float]] = {name: {} for name in uniform.modalities}
    for seed, traces in _read(uniform, COVARIANCE, _traces).items():
        for modality, (joint, unimodal) in traces.items():
            if min(joint, unimodal) > 0:
                found.setdefault(modality, {})[seed] = math.log(joint / unimodal)
    return [
        Evidence(
            f"The joint loss's gradient noise at the {name} encoder is smaller",
            -1,
            ratios,
            _ratio,
            "times the unimodal trace",
            f"{COVARIANCE} of {uniform.row}: trace",
            f"to measure it: python code/figures.py covariance --run FOLDER, of {uniform.row}'s runs",
        )
        for name, ratios in found.items()
    ]


def of_minima(uniform: Measured, mmpareto: Sequence[Measured]) -> list[Evidence]:
    """The curvature of the minima of every row of MMPareto, beside uniform's."""
    base = _eigenvalues(uniform)
    evidence = []
    for cell in mmpareto:
        own = _eigenvalues(cell)
        evidence.append(
            Evidence(
                f"{cell.row} ends in a flatter minimum than {uniform.row}",
                -1,
                {
                    seed: math.log(value / base[seed][1])
                    for seed, (how, value) in own.items()
                    if seed in base and base[seed][0] == how  # else the two are not to be compared
                },
                _ratio,
                f"times the largest eigenvalue of {uniform.row}",
                f"{SHARPNESS} of both: losses.joint.largest_eigenvalue",
                "to measure it: python code/figures.py sharpness --run FOLDER, of both rows' runs in the same way",
            )
        )
    return evidence


def _eigenvalues(cell: Measured) -> dict[int, tuple[tuple[Any, Any], float]]:
    """Seed → how it was measured (checkpoint, samples), and the largest Hessian eigenvalue of the joint loss.

    Those that are not above zero have no ratio, and are left out.
    """

    def take(content: dict[str, Any]) -> tuple[tuple[Any, Any], float]:
        value = float(content["losses"]["joint"]["largest_eigenvalue"])
        return (content.get("checkpoint"), content.get("samples")), value

    return {seed: found for seed, found in _read(cell, SHARPNESS, take).items() if found[1] > 0}


def _traces(content: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Modality → trace of the covariance of the joint and of the unimodal loss's gradient."""
    return {
        modality: (float(losses["joint"]["trace"]), float(losses["unimodal"]["trace"]))
        for modality, losses in content["encoders"].items()
        if "unimodal" in losses
    }


def _read(cell: Measured, name: str, take: Callable[[dict[str, Any]], T]) -> dict[int, T]:
    """Seed → what `take` finds in a file of its run folder, where it is there; ascending.

    Raises:
        InputError: one is damaged.
    """
    found = {}
    for seed, result in cell.results.items():
        path = result.folder / name
        if path.is_file():
            try:
                found[seed] = take(json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(f"{path} is damaged ({error!r}): remove it, and measure anew.") from error
    return found


def _share(value: float) -> str:
    """From none to all: a t interval, which knows no such ends, is cut there, and covers as often as before."""
    return f"{min(max(value, 0.0), 1.0):.1%}"


def _ratio(logarithm: float) -> str:
    return f"{math.exp(logarithm):.3g}"
