"""Labels of methods, which are the same in tables, plots and legends."""

import pytest
from mmpareto.integration import METHODS
from mmpareto.training.method_labels import NAMES, label, name_of
from mmpareto.training.method_options import read_options


@pytest.mark.parametrize(
    ("method", "variant", "flags", "expected"),
    [
        ("uniform", None, "", "Uniform"),
        ("pareto", None, "", "Conventional Pareto"),
        ("mmpareto", None, "", "MMPareto"),
        ("mmpareto", "per_tensor", "--gamma 2", "MMPareto (gamma 2)"),
        ("mmpareto", "paper", "", "MMPareto (paper)"),
        ("mmpareto", "paper", "--refresh 10", "MMPareto (paper, refresh 10)"),
        ("mmpareto", "released", "--boost conflict", "MMPareto (released, boost conflict)"),
        ("pmr", "released", "", "PMR (released)"),
        ("ogm_ge", None, "--alpha 0.1", "OGM-GE (alpha 0.1)"),
        ("unimodal", None, "--modality audio", "Unimodal (modality audio)"),
        ("torchjd:UPGrad", None, "", "TorchJD UPGrad"),
    ],
)
def test_a_label_names_options_that_differ_from_the_defaults(
    method: str, variant: str | None, flags: str, expected: str
) -> None:
    if method.startswith("torchjd:"):
        pytest.importorskip("torchjd")
    chosen, options = read_options(method, variant, flags.split(), [])  # as config.json has them
    assert label(method, chosen, options) == expected
    assert label(method, chosen, options).startswith(name_of(method))


def test_missing_options_have_their_defaults() -> None:
    assert label("mmpareto") == "MMPareto"
    assert label("mmpareto", None, {"gamma": 1.25, "weights": "parameter"}) == "MMPareto (gamma 1.25)"
    assert label("mmpareto", "paper", {"refresh": 10}, ["fusion film"]) == "MMPareto (paper, refresh 10, fusion film)"


def test_the_default_variant_is_mentioned_on_request() -> None:
    assert label("mmpareto", "per_tensor", default_variant=True) == "MMPareto (per_tensor)"
    assert label("mmpareto", "released", {"gamma": 2.0}, default_variant=True) == "MMPareto (released, gamma 2)"
    assert label("uniform", None, {}, default_variant=True) == "Uniform"


def test_an_unknown_method_has_a_label_too() -> None:
    assert label("lost", None, {"rate": 2, "mode": None, "on": True}) == "lost (rate 2, on true)"
    assert label("torchjd:Lost") == "TorchJD Lost"


def test_every_method_has_a_unique_name() -> None:
    assert set(NAMES) == set(METHODS) and len(set(NAMES.values())) == len(NAMES)
