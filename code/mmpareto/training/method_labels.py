"""Names of methods in a run's first line, tables, plots and legends: one method, one name everywhere."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from mmpareto.integration import METHODS, TORCHJD

# As papers write them; a method that is not listed goes by its registered name.
NAMES = {
    "joint": "Joint loss",
    "uniform": "Uniform",
    "pareto": "Conventional Pareto",
    "gblending": "G-Blending",
    "ogm": "OGM",
    "ogm_ge": "OGM-GE",
    "opm": "OPM",
    "greedy": "Greedy",
    "pmr": "PMR",
    "agm": "AGM",
    "cml": "CML",
    "lfm": "LFM",
    "mmpareto": "MMPareto",
    "dgl": "DGL",
    "inforeg": "InfoReg",
    "relearning": "Diagnosing & Re-learning",
    "unimodal": "Unimodal",
    "ensemble": "Ensemble of unimodal models",
    "pretrain_finetune": "Pretrain, then fine-tune",
    "umt": "UMT",
    "smv": "SMV",
    "gradnorm": "GradNorm",
    "pcgrad": "PCGrad",
    "metabalance": "MetaBalance",
    "cggm": "CGGM",
    "mcr": "MCR",
    "mla": "MLA",
    "reconboost": "ReconBoost",
}


def name_of(method: str) -> str:
    """The method's name without variant and options, such as "MMPareto" or "TorchJD UPGrad"; needs no torch."""
    if method.startswith(TORCHJD):
        return f"TorchJD {method.removeprefix(TORCHJD)}"
    return NAMES.get(method, method)


def objective_details(objective: str) -> list[str]:
    """Parts of a label about `--objective`: its name, unless it is supervised."""
    return [] if objective == "supervised" else [objective]


def label(
    method: str,
    variant: str | None = None,
    options: Mapping[str, Any] | None = None,
    further: Sequence[str] = (),
    *,
    default_variant: bool = False,
) -> str:
    """The method with everything that is not its default: "MMPareto", "MMPareto (paper, refresh 10, fusion film)".

    Imports the method's class, and so torch.

    Arguments:
        variant: the method's first variant, its default, is mentioned only if `default_variant` is true.
        options: of the method, as config.json has them; those that the variant implies, or that name files, are not
            mentioned.
        further: what else distinguishes the run from others beside it, such as "fusion film".
    """
    kind = method_class(method)
    variants = dict(kind.variants) if kind else {}
    default = next(iter(variants), None)
    usual = _defaults(kind) | variants.get(variant or default, {})
    parts = [variant] if variant is not None and (default_variant or variant != default) else []
    files = kind.files if kind else ()
    changed = {name: value for name, value in (options or {}).items() if value != usual.get(name) and name not in files}
    parts += [f"{name} {value_text(value)}" for name, value in changed.items()]
    parts += further
    return f"{name_of(method)} ({', '.join(parts)})" if parts else name_of(method)


def _defaults(kind: Any) -> dict[str, Any]:
    """The options' defaults; --refresh is an option that is not an argument of the class."""
    if kind is None:
        return {}
    defaults = {name: argument.default for name, argument in inspect.signature(kind).parameters.items()}
    return defaults | ({"refresh": 1} if kind.refreshable else {})


def value_text(value: Any) -> str:
    """The value of an option or setting in a label."""
    if isinstance(value, list | tuple):
        return " ".join(map(value_text, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def method_class(method: str) -> Any:
    """The method's class; None where it is unknown here: another version's, or its library is not installed."""
    try:
        return METHODS[method]
    except (KeyError, ValueError):
        return None
