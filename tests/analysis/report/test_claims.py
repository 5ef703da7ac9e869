"""The verdicts on the papers' claims and on our controls."""

import math
from pathlib import Path

import numpy as np
import pytest
from fake_runs import (
    CREMAD,
    JOINT,
    MMPARETO,
    PARETO,
    SYNTHETIC,
    UNIFORM,
    finished,
    table_of,
    write_gradients,
    write_json,
)
from mmpareto.analysis.report.claims import (
    DGL_PAPER,
    DOES_NOT_HOLD,
    HOLDS,
    MMPARETO_PAPER,
    NOT_MEASURED,
    OURS,
    UNDECIDED,
    verdict,
)
from mmpareto.analysis.report.run_sheet import make_run_sheet
from mmpareto.analysis.report.sheet import Claim
from mmpareto.analysis.report.statistics import Comparison
from mmpareto.analysis.report.writers import markdown, page
from mmpareto.analysis.tables.cells import Outcome
from mmpareto.analysis.tables.definitions import Column, Row, method_row
from mmpareto.errors import InputError
from scipy import stats

SEEDS = range(6)
WOBBLE = [0.0, 0.01, -0.01, 0.02, -0.02, 0.005]
BOTH = {"acc": 0.7, "acc_audio": 0.6}


def folder_of(outcome: Outcome) -> Path:
    assert outcome.folder is not None
    return outcome.folder


def uniform_runs(runs: Path, column: Column = CREMAD, seeds: range = SEEDS) -> list[Outcome]:
    return [finished(runs, UNIFORM, column, seed, BOTH | {"acc": 0.7 + WOBBLE[seed]}) for seed in seeds]


def claims_of(outcomes: list[Outcome], *rows: Row, column: Column = CREMAD) -> dict[str, Claim]:
    claims = make_run_sheet(table_of(*rows, columns=[column]), outcomes, "validation", plots=False).claims
    assert len({claim.claim for claim in claims}) == len(claims)
    return {claim.claim: claim for claim in claims}


@pytest.mark.parametrize(
    ("interval", "side", "expected"),
    [
        ((0.1, 0.2), 1, HOLDS),
        ((0.1, 0.2), -1, DOES_NOT_HOLD),
        ((-0.2, -0.1), -1, HOLDS),
        ((-0.2, -0.1), 1, DOES_NOT_HOLD),
        ((-0.1, 0.2), 1, UNDECIDED),
        ((-0.1, 0.2), -1, UNDECIDED),
        ((0.0, 0.2), 1, UNDECIDED),
        ((None, None), 1, UNDECIDED),
    ],
)
def test_the_verdict_follows_from_the_interval(interval: tuple[float, float], side: int, expected: str) -> None:
    assert verdict(Comparison(6, 0.1, 0.01, 0.05, *interval), side) == expected
    assert verdict(Comparison(0, None), side) == NOT_MEASURED


@pytest.mark.parametrize(("joint", "expected"), [(1.0, HOLDS), (4.0, DOES_NOT_HOLD), (2.0, UNDECIDED)])
def test_gradients_are_compared_if_they_were_recorded(tmp_path: Path, joint: float, expected: str) -> None:
    outcomes = uniform_runs(tmp_path)
    for seed, outcome in enumerate(outcomes):
        write_gradients(folder_of(outcome), joint * (1 + WOBBLE[seed]), 2.0, cosine=-0.5)
    result = claims_of(outcomes)["The joint gradient at the audio encoder is smaller than the unimodal gradient"]
    assert (result.verdict, result.seeds, result.column) == (expected, 6, "CREMA-D")
    logs = np.log([joint * (1 + wobble) / 2 for wobble in WOBBLE])
    assert result.evidence.startswith(f"{math.exp(logs.mean()):.3g} times the unimodal norm")
    assert "gradients.npz of Uniform" in result.source
    if expected != UNDECIDED:  # the first of four claims, of which three are not measured or have no spread
        ends = stats.ttest_1samp(logs, 0).confidence_interval(1 - 0.05 / 3)
        assert f"[{math.exp(ends.low):.3g}, {math.exp(ends.high):.3g}]" in result.evidence


def test_conflicts_are_the_share_of_recorded_steps(tmp_path: Path) -> None:
    outcomes = uniform_runs(tmp_path)
    for outcome in outcomes:
        write_gradients(folder_of(outcome), 1.0, 2.0, cosine=-0.5)
    result = claims_of(outcomes)["The joint and the unimodal gradient conflict at the audio encoder"]
    assert result.verdict == UNDECIDED  # a share that is the same for every seed has no interval
    assert result.evidence.startswith("100.0% of steps in conflict; the same for every seed")


def test_small_gradients_are_compared(tmp_path: Path) -> None:
    outcomes = uniform_runs(tmp_path)
    for seed, outcome in enumerate(outcomes):
        write_gradients(folder_of(outcome), 0.01 * (1 + WOBBLE[seed]), 0.02, cosine=0.5)
    result = claims_of(outcomes)["The joint gradient at the audio encoder is smaller than the unimodal gradient"]
    assert (result.verdict, result.seeds) == (HOLDS, 6)


def test_orthogonal_gradients_do_not_conflict(tmp_path: Path) -> None:
    outcomes = uniform_runs(tmp_path)
    for outcome in outcomes:
        write_gradients(folder_of(outcome), 1.0, 2.0, cosine=0.0)
    result = claims_of(outcomes)["The joint and the unimodal gradient conflict at the audio encoder"]
    assert result.evidence.startswith("0.0% of steps in conflict")


def test_the_interval_of_a_share_is_clipped_to_0_and_1(tmp_path: Path) -> None:
    outcomes = uniform_runs(tmp_path)
    for outcome, cosine in zip(outcomes, (-0.5, 0.5, 0.5, 0.5, 0.5, 0.5), strict=True):
        write_gradients(folder_of(outcome), 1.0, 2.0, cosine=cosine)
    result = claims_of(outcomes)["The joint and the unimodal gradient conflict at the audio encoder"]
    assert result.verdict == UNDECIDED
    ends = stats.ttest_1samp([1, 0, 0, 0, 0, 0], 0).confidence_interval(0.95)
    assert ends.low < 0 and result.evidence.startswith("16.7% of steps in conflict, ")
    assert "[0.0%, " in result.evidence


def test_without_records_the_epoch_means_of_mmpareto_are_used(tmp_path: Path) -> None:
    outcomes = uniform_runs(tmp_path)
    for seed in SEEDS:
        lines = [
            {
                "norm_joint_audio": joint,
                "norm_unimodal_audio": 2.0 + WOBBLE[seed],
                "conflict_rate_audio": rate + WOBBLE[seed],
            }
            for joint, rate in ((0.5, 0.2), (1.5, 0.4))
        ]
        outcomes.append(finished(tmp_path, MMPARETO, CREMAD, seed, BOTH, history=lines))
    claims = claims_of(outcomes, MMPARETO)
    norms = claims["The joint gradient at the audio encoder is smaller than the unimodal gradient"]
    conflicts = claims["The joint and the unimodal gradient conflict at the audio encoder"]
    assert norms.verdict == conflicts.verdict == HOLDS
    assert norms.evidence.startswith("0.5 times") and conflicts.evidence.startswith("30.1% of steps in conflict")
    assert "metrics.jsonl of MMPareto" in norms.source


@pytest.mark.parametrize(("trace", "expected"), [(0.5, HOLDS), (2.0, DOES_NOT_HOLD)])
def test_noise_is_read_from_covariance(tmp_path: Path, trace: float, expected: str) -> None:
    outcomes = uniform_runs(tmp_path)
    for seed, outcome in enumerate(outcomes):
        losses = {"joint": {"trace": trace * (1 + WOBBLE[seed])}, "unimodal": {"trace": 1.0}}
        write_json(folder_of(outcome) / "covariance.json", {"encoders": {"audio": losses}})
    result = claims_of(outcomes)[
        "The noise of the joint gradient at the audio encoder is smaller than that of the unimodal gradient"
    ]
    assert (result.verdict, result.seeds) == (expected, 6)
    assert "covariance.json" in result.source


@pytest.mark.parametrize(("eigenvalue", "expected"), [(5.0, HOLDS), (20.0, DOES_NOT_HOLD)])
@pytest.mark.parametrize("row", [MMPARETO, PARETO])
def test_minima_are_compared_by_sharpness(tmp_path: Path, row: Row, eigenvalue: float, expected: str) -> None:
    outcomes = uniform_runs(tmp_path)
    outcomes += [finished(tmp_path, row, CREMAD, seed, BOTH) for seed in SEEDS]
    for number, outcome in enumerate(outcomes):
        value = (10.0 if number < 6 else eigenvalue) * (1 + WOBBLE[(number + number // 6) % 6])
        write_json(folder_of(outcome) / "sharpness.json", {"losses": {"joint": {"largest_eigenvalue": value}}})
    claims = claims_of(outcomes, row)
    if row is PARETO:  # of which the paper claims the opposite
        opposite = HOLDS if expected == DOES_NOT_HOLD else DOES_NOT_HOLD
        assert claims["Conventional Pareto ends in a sharper minimum than Uniform"].verdict == opposite
    else:
        assert claims["MMPareto ends in a flatter minimum than Uniform"].verdict == expected


def test_a_claim_about_accuracy_has_the_interval_of_the_table(tmp_path: Path) -> None:
    outcomes = uniform_runs(tmp_path)
    for row, shift in ((MMPARETO, 0.05), (PARETO, -0.03)):
        for seed in SEEDS:
            accuracy = 0.7 + shift + WOBBLE[seed] + WOBBLE[5 - seed] / 5
            outcomes.append(finished(tmp_path, row, CREMAD, seed, BOTH | {"acc": accuracy}))
    sheet = make_run_sheet(table_of(MMPARETO, PARETO), outcomes, "validation", plots=False)
    for label, claim in (
        ("MMPareto", "MMPareto is more accurate than Uniform"),
        ("Conventional Pareto", "Conventional Pareto is less accurate than Uniform"),
    ):
        result = next(one for one in sheet.claims if one.claim == claim)
        shown = next(row for row in sheet.rows if row.label == label).cells[1]
        assert result.verdict == HOLDS
        assert shown.text.split(" ", 1)[1] in result.evidence  # the same interval, digit by digit
        assert f"{100 * shown.numbers['level']:.3g}% interval" in result.evidence


def runs_of(runs: Path, row: Row, **accuracies: float) -> list[Outcome]:
    """A run per seed whose accuracies vary with the seed, in a way that depends on their mean."""
    return [
        finished(runs, row, CREMAD, seed, {key: value + value * WOBBLE[5 - seed] for key, value in accuracies.items()})
        for seed in SEEDS
    ]


AUDIO, DGL = method_row("unimodal", modality="audio"), method_row("dgl")


@pytest.mark.parametrize(("probed", "expected"), [(0.5, HOLDS), (0.7, DOES_NOT_HOLD), (0.6, UNDECIDED)])
def test_encoders_are_compared_with_unimodal_models(tmp_path: Path, probed: float, expected: str) -> None:
    outcomes = [*uniform_runs(tmp_path), *runs_of(tmp_path, AUDIO, acc=0.6)]
    outcomes += runs_of(tmp_path, JOINT, acc=0.65, acc_audio=probed)
    for row in (MMPARETO, DGL):
        outcomes += runs_of(tmp_path, row, acc=0.72, acc_audio=1.2 - probed)
    claims = claims_of(outcomes, AUDIO, JOINT, MMPARETO, DGL)
    dgl = claims["Unimodal (modality audio) is more accurate than the audio encoder of Joint loss"]
    mmpareto = claims["The audio encoder of MMPareto is more accurate than Unimodal (modality audio)"]
    assert (dgl.origin, mmpareto.origin) == (DGL_PAPER, MMPARETO_PAPER)
    assert (dgl.verdict, mmpareto.verdict) == (expected, expected)
    own = claims["The audio encoder of DGL is more accurate than Unimodal (modality audio)"]
    assert (own.origin, own.verdict) == (DGL_PAPER, expected)
    differences = [(0.6 - probed) * (1 + wobble) for wobble in reversed(WOBBLE)]
    assert dgl.evidence.startswith(f"{100 * np.mean(differences):+.2f} points".replace("-", "−"))


def test_the_parts_of_dgl_are_compared_with_the_whole(tmp_path: Path) -> None:
    without, tuned = method_row("dgl", truncate_joint=False), method_row("dgl", alpha=2)
    worse = method_row("dgl", unimodal_loss=False)
    outcomes = [*uniform_runs(tmp_path), *runs_of(tmp_path, DGL, acc=0.75), *runs_of(tmp_path, tuned, acc=0.9)]
    outcomes += [*runs_of(tmp_path, without, acc=0.7), *runs_of(tmp_path, worse, acc=0.8)]
    outcomes += runs_of(tmp_path, JOINT, acc=0.6)
    claims = claims_of(outcomes, JOINT, DGL, tuned, without, worse)
    about = {claim: (one.origin, one.verdict) for claim, one in claims.items() if claim.startswith("DGL")}
    assert about == {
        "DGL is more accurate than Uniform": (OURS, HOLDS),
        "DGL is more accurate than Joint loss": (DGL_PAPER, HOLDS),
        "DGL is more accurate than DGL (truncate_joint false)": (DGL_PAPER, HOLDS),
        "DGL is more accurate than DGL (unimodal_loss false)": (OURS, DOES_NOT_HOLD),
    }
    assert claims["Joint loss is less accurate than Uniform"].origin == MMPARETO_PAPER


def test_both_papers_compare_themselves_with_the_other_methods(tmp_path: Path) -> None:
    agm, gradnorm = method_row("agm"), method_row("gradnorm")
    tuned, frozen = (method_row("pretrain_finetune", **more) for more in ({}, {"freeze_encoders": True}))
    released = method_row("mmpareto", "released")
    rows = (MMPARETO, released, DGL, agm, gradnorm, tuned, frozen)
    outcomes = uniform_runs(tmp_path)
    for row, accuracy in zip(rows, (0.6, 0.75, 0.74, 0.7, 0.8, 0.7, 0.7), strict=True):
        outcomes += runs_of(tmp_path, row, acc=accuracy)
    claims = claims_of(outcomes, *rows)
    pairs = {claim: one.verdict for claim, one in claims.items() if "more accurate" in claim and "Uniform" not in claim}
    assert pairs == {
        "MMPareto (released) is more accurate than AGM": HOLDS,
        "MMPareto (released) is more accurate than GradNorm": DOES_NOT_HOLD,
        "MMPareto (released) is more accurate than Pretrain, then fine-tune": HOLDS,
        "DGL is more accurate than AGM": HOLDS,
        "DGL is more accurate than MMPareto (released)": DOES_NOT_HOLD,
    }


def test_a_boost_is_compared_with_steps_of_the_same_factor(tmp_path: Path) -> None:
    released, larger = method_row("mmpareto", "released"), method_row("mmpareto", "released", gamma=2)
    scaled = {scale: method_row("uniform", encoder_scale=scale) for scale in (1.5, 2, 3)}
    outcomes = [*uniform_runs(tmp_path), *runs_of(tmp_path, MMPARETO, acc=0.7), *runs_of(tmp_path, released, acc=0.8)]
    outcomes += runs_of(tmp_path, larger, acc=0.6)
    for row in scaled.values():
        outcomes += runs_of(tmp_path, row, acc=0.75)
    claims = claims_of(outcomes, MMPARETO, released, larger, *scaled.values())
    controls = {claim: one.verdict for claim, one in claims.items() if one.origin == OURS}
    assert controls == {
        "MMPareto is more accurate than Uniform (encoder_scale 1.5)": DOES_NOT_HOLD,
        "MMPareto (released) is more accurate than Uniform (encoder_scale 1.5)": HOLDS,
        "MMPareto (released, gamma 2) is more accurate than Uniform (encoder_scale 2)": DOES_NOT_HOLD,
    }


@pytest.mark.parametrize(("fused", "expected"), [(1.0, HOLDS), (4.0, DOES_NOT_HOLD)])
def test_the_gradient_of_a_fused_encoder_is_compared_with_a_unimodal_model(
    tmp_path: Path, fused: float, expected: str
) -> None:
    outcomes = uniform_runs(tmp_path)
    for row, joint, unimodal in ((JOINT, fused, 9.0), (AUDIO, 9.0, 2.0)):
        for seed, outcome in enumerate(runs_of(tmp_path, row, acc=0.6)):
            write_gradients(folder_of(outcome), joint * (1 + WOBBLE[seed]), unimodal * (1 - WOBBLE[seed]), cosine=0.5)
            outcomes.append(outcome)
    claim = claims_of(outcomes, JOINT, AUDIO)[
        "The gradient at the audio encoder is smaller in Joint loss than in Unimodal (modality audio)"
    ]
    ratio = math.exp(np.mean([math.log(fused * (1 + wobble) / (2 * (1 - wobble))) for wobble in WOBBLE]))
    assert (claim.origin, claim.verdict, claim.seeds) == (DGL_PAPER, expected, 6)
    assert claim.evidence.startswith(f"{ratio:.3g} times the norm in Unimodal (modality audio)")


def test_a_claim_says_who_makes_it(tmp_path: Path) -> None:
    outcomes = [*uniform_runs(tmp_path), *runs_of(tmp_path, DGL, acc=0.75), *runs_of(tmp_path, MMPARETO, acc=0.7)]
    sheet = make_run_sheet(table_of(DGL, MMPARETO), outcomes, "validation", plots=False)
    assert "MMPareto paper" in sheet.claims_text and "DGL paper" in sheet.claims_text
    (line,) = [text for text in markdown(sheet).splitlines() if text.startswith("| DGL is more accurate than MMPareto")]
    assert f"| {DGL_PAPER} |" in line
    html = page(sheet)
    assert f"{MMPARETO_PAPER};" in html and f"{OURS};" in html


def test_all_claims_except_accuracy_are_one_family(tmp_path: Path) -> None:
    outcomes = uniform_runs(tmp_path)
    for seed, outcome in enumerate(outcomes):
        losses = {"joint": {"trace": 0.5 * (1 + WOBBLE[seed])}, "unimodal": {"trace": 1.0}}
        write_json(folder_of(outcome) / "covariance.json", {"encoders": {"audio": losses, "visual": losses}})
    claims = claims_of(outcomes)
    evidence = [claim.evidence for claim in claims.values()]
    assert ["98.8% interval" in text for text in evidence].count(True) == 1  # 1 − 0.05 / 4
    assert ["98.3% interval" in text for text in evidence].count(True) == 1  # 1 − 0.05 / 3


def test_a_claim_without_measurements_names_the_command(tmp_path: Path) -> None:
    outcomes = uniform_runs(tmp_path)
    outcomes += [finished(tmp_path, MMPARETO, CREMAD, seed, BOTH) for seed in SEEDS]
    claims = claims_of(outcomes, MMPARETO)
    for claim, words in (
        ("The joint gradient at the audio encoder is smaller than the unimodal gradient", "--record_gradients"),
        (
            "The noise of the joint gradient at the audio encoder is smaller than that of the unimodal gradient",
            "figures.py covariance",
        ),
        ("MMPareto ends in a flatter minimum than Uniform", "figures.py sharpness"),
    ):
        assert (claims[claim].verdict, claims[claim].seeds) == (NOT_MEASURED, 0)
        assert words in claims[claim].evidence


def test_below_five_seeds_a_claim_is_undecided(tmp_path: Path) -> None:
    outcomes = uniform_runs(tmp_path, seeds=range(4))
    for seed, outcome in enumerate(outcomes):
        write_gradients(folder_of(outcome), 1.0 + WOBBLE[seed], 2.0, cosine=0.5)
    result = claims_of(outcomes)["The joint gradient at the audio encoder is smaller than the unimodal gradient"]
    assert (result.verdict, result.seeds) == (UNDECIDED, 4)
    assert "no interval with fewer than 5" in result.evidence


def test_only_paired_seeds_count(tmp_path: Path) -> None:
    outcomes = uniform_runs(tmp_path)
    outcomes += [finished(tmp_path, MMPARETO, CREMAD, seed, BOTH) for seed in SEEDS]
    for number, outcome in enumerate(outcomes):
        if number != 8:
            content = {"losses": {"joint": {"largest_eigenvalue": 10.0 + number * (number % 3)}}}
            write_json(folder_of(outcome) / "sharpness.json", content)
    assert claims_of(outcomes, MMPARETO)["MMPareto ends in a flatter minimum than Uniform"].seeds == 5


def test_measurements_with_other_settings_are_not_compared(tmp_path: Path) -> None:
    outcomes = uniform_runs(tmp_path)
    outcomes += [finished(tmp_path, MMPARETO, CREMAD, seed, BOTH) for seed in SEEDS]
    for number, outcome in enumerate(outcomes):
        content = {"losses": {"joint": {"largest_eigenvalue": 10.0 + number}}, "samples": 64 if number < 9 else 128}
        write_json(folder_of(outcome) / "sharpness.json", content)
    assert claims_of(outcomes, MMPARETO)["MMPareto ends in a flatter minimum than Uniform"].seeds == 3


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_values_without_a_ratio_are_left_out(tmp_path: Path, value: float) -> None:
    outcomes = uniform_runs(tmp_path)
    outcomes += [finished(tmp_path, MMPARETO, CREMAD, seed, BOTH) for seed in SEEDS]
    for outcome in outcomes:
        content = {"losses": {"joint": {"largest_eigenvalue": value}}}
        write_json(folder_of(outcome) / "sharpness.json", content)
    result = claims_of(outcomes, MMPARETO)["MMPareto ends in a flatter minimum than Uniform"]
    assert result.verdict == NOT_MEASURED


def test_a_damaged_measurement_is_an_input_error(tmp_path: Path) -> None:
    outcomes = uniform_runs(tmp_path)
    write_json(folder_of(outcomes[0]) / "covariance.json", {"encoders": {"audio": {"joint": 3, "unimodal": 4}}})
    with pytest.raises(InputError, match=r"covariance\.json is damaged .* measure it again"):
        claims_of(outcomes)


def test_a_table_without_uniform_has_no_claims(tmp_path: Path) -> None:
    plain = Row("Uniform", "--method joint")
    outcomes = [finished(tmp_path, plain, CREMAD, seed, BOTH) for seed in SEEDS]
    assert make_run_sheet(table_of(), outcomes, "validation", plots=False).claims == []


def test_claims_on_synthetic_data_have_its_warning(tmp_path: Path) -> None:
    sheet = make_run_sheet(table_of(columns=[SYNTHETIC]), uniform_runs(tmp_path, SYNTHETIC), "validation", plots=False)
    assert sheet.banner is not None and sheet.claims
    html = page(sheet)
    headline = html[html.index('<section id="claims">') :][:600]
    assert "on data that cannot confirm or refute them" in headline
    assert "## Claims, on data that cannot confirm or refute them" in markdown(sheet)
