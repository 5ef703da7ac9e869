"""The sheet of a table of runs: accuracies, differences, bold and missing cells, notes and commands."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fake_runs import CREMAD, JOINT, MMPARETO, PARETO, SYNTHETIC, UNIFORM, finished, missing, table_of
from mmpareto.analysis.finished_run import FinishedRun
from mmpareto.analysis.plots.groups import SeedGroup
from mmpareto.analysis.plots.training_curves import Curves
from mmpareto.analysis.report import embedded_plots
from mmpareto.analysis.report.published import published_tables
from mmpareto.analysis.report.run_sheet import make_run_sheet
from mmpareto.analysis.report.sheet import Sheet, SheetCell, SheetColumn, SheetPart, SheetRow
from mmpareto.analysis.tables.cells import Outcome
from mmpareto.analysis.tables.definitions import Column, Row
from mmpareto.data import DATASETS
from mmpareto.integration import METHODS
from scipy import stats

BASE = [0.70, 0.72, 0.69, 0.71, 0.70, 0.73]
BETTER = [0.75, 0.76, 0.75, 0.76, 0.74, 0.79]
ABOUT_AS_GOOD = [0.74, 0.69, 0.72, 0.69, 0.74, 0.71]


def runs_of(runs: Path, row: Row, values: list[float], column: Column = CREMAD, **given: object) -> list[Outcome]:
    return [finished(runs, row, column, seed, value, **given) for seed, value in enumerate(values)]  # type: ignore[arg-type]


def sheet_of(table: object, outcomes: list[Outcome], protocol: str = "validation") -> Sheet:
    return make_run_sheet(table, outcomes, protocol, plots=False)  # type: ignore[arg-type]


def cell(sheet: Sheet, row: str, title: str, group: str | None = None) -> SheetCell:
    index = next(n for n, column in enumerate(sheet.columns) if title in column.title and group in (None, column.group))
    return next(one for one in sheet.rows if one.label == row).cells[index]


def test_mean_deviation_and_seeds(tmp_path: Path) -> None:
    sheet = sheet_of(table_of(), runs_of(tmp_path, UNIFORM, BASE))
    result = cell(sheet, "Uniform", "accuracy")
    assert result.text == f"{100 * np.mean(BASE):.2f} ± {100 * np.std(BASE, ddof=1):.2f}"
    assert result.note == "6 seeds" and not result.incomplete
    assert result.numbers["standard deviation"] == pytest.approx(np.std(BASE, ddof=1))
    assert result.seeds == dict(enumerate(BASE))
    assert "Seeds: 0–5" in " ".join(sheet.notes)


def test_one_seed_has_no_deviation(tmp_path: Path) -> None:
    sheet = sheet_of(table_of(MMPARETO), [*runs_of(tmp_path, UNIFORM, [0.7]), *runs_of(tmp_path, MMPARETO, [0.75])])
    assert cell(sheet, "MMPareto", "accuracy").text == "75.00"
    result = cell(sheet, "MMPareto", "difference")
    assert result.text == "+5.00" and "no interval with fewer than 5" in result.note


def test_the_best_is_bold_if_its_interval_excludes_zero(tmp_path: Path) -> None:
    outcomes = runs_of(tmp_path, UNIFORM, BASE) + runs_of(tmp_path, MMPARETO, BETTER)
    outcomes += runs_of(tmp_path, PARETO, ABOUT_AS_GOOD)
    sheet = sheet_of(table_of(MMPARETO, PARETO), outcomes)
    assert [row.label for row in sheet.rows if row.cells[0].bold] == ["MMPareto"]
    result = cell(sheet, "MMPareto", "difference")
    low, high = stats.ttest_rel(BETTER, BASE).confidence_interval(1 - 0.05 / 2)  # the smaller p of two
    assert result.text == f"+{100 * np.mean(np.subtract(BETTER, BASE)):.2f} [+{100 * low:.2f}, +{100 * high:.2f}]"
    assert (result.numbers["low"], result.numbers["level"]) == (pytest.approx(low), pytest.approx(0.975))
    assert cell(sheet, "Uniform", "difference").text == "baseline"
    drawn = {one.label: one for one in sheet.intervals}
    assert drawn["MMPareto"].low == pytest.approx(100 * low) and drawn["MMPareto"].excludes_zero
    assert not drawn["Conventional Pareto"].excludes_zero


def test_nothing_is_bold_if_the_best_may_be_chance(tmp_path: Path) -> None:
    better_by_luck = [value + 0.05 for value in ABOUT_AS_GOOD[:4]]  # four seeds
    outcomes = runs_of(tmp_path, UNIFORM, BASE[:4]) + runs_of(tmp_path, MMPARETO, better_by_luck)
    sheet = sheet_of(table_of(MMPARETO), outcomes)
    assert not any(one.bold for row in sheet.rows for one in row.cells)
    outcomes = runs_of(tmp_path / "b", UNIFORM, BASE) + runs_of(tmp_path / "b", PARETO, ABOUT_AS_GOOD)
    assert not any(one.bold for row in sheet_of(table_of(PARETO), outcomes).rows for one in row.cells)


def test_the_baseline_is_never_bold_and_worse_is_not_best(tmp_path: Path) -> None:
    outcomes = runs_of(tmp_path, UNIFORM, BETTER) + runs_of(tmp_path, MMPARETO, BASE)
    sheet = sheet_of(table_of(MMPARETO), outcomes)
    assert next(one for one in sheet.intervals if one.label == "MMPareto").excludes_zero
    assert not any(one.bold for row in sheet.rows for one in row.cells)


def test_a_row_that_is_worse_seed_by_seed_is_not_best(tmp_path: Path) -> None:
    base = [0.70, 0.72, 0.69, 0.71, 0.70, 0.10]  # its last seed is a failure that was not reported as one
    worse = [value - 0.02 - seed / 1000 for seed, value in enumerate(base[:5])]
    outcomes = runs_of(tmp_path, UNIFORM, base) + runs_of(tmp_path, MMPARETO, worse) + [missing(MMPARETO, CREMAD, 5)]
    sheet = sheet_of(table_of(MMPARETO), outcomes)
    assert sheet.intervals[0].excludes_zero and not any(one.bold for row in sheet.rows for one in row.cells)


def test_nothing_is_bold_if_a_row_with_too_few_seeds_is_better(tmp_path: Path) -> None:
    outcomes = runs_of(tmp_path, UNIFORM, BASE) + runs_of(tmp_path, MMPARETO, BETTER)
    outcomes += runs_of(tmp_path, PARETO, [0.99]) + [missing(PARETO, CREMAD, seed) for seed in range(1, 6)]
    sheet = sheet_of(table_of(MMPARETO, PARETO), outcomes)
    assert not any(one.bold for row in sheet.rows for one in row.cells)


def test_a_missing_run_leaves_an_incomplete_cell_and_its_reason(tmp_path: Path) -> None:
    reason = "failed: the joint loss is NaN"
    outcomes = runs_of(tmp_path, UNIFORM, BASE) + runs_of(tmp_path, MMPARETO, BETTER)
    outcomes[8] = missing(MMPARETO, CREMAD, 2, reason)
    outcomes += [missing(JOINT, CREMAD, seed, "not run") for seed in range(6)]
    sheet = sheet_of(table_of(MMPARETO, JOINT), outcomes)
    seeds = [0, 1, 3, 4, 5]
    result = cell(sheet, "MMPareto", "accuracy")
    assert result.incomplete and result.note == "5 of 6 seeds" and sorted(result.seeds) == seeds
    difference = cell(sheet, "MMPareto", "difference")
    truth = stats.ttest_rel([BETTER[n] for n in seeds], [BASE[n] for n in seeds])
    assert difference.numbers["p"] == pytest.approx(truth.pvalue)  # paired by seed, not by position
    assert cell(sheet, "Joint loss", "accuracy") == SheetCell("no run", note="not run", incomplete=True)
    assert cell(sheet, "Joint loss", "difference").incomplete
    assert list(sheet.missing) == [f"MMPareto, CREMA-D, seed 2: {reason}", "Joint loss, CREMA-D, seeds 0–5: not run"]


def test_four_of_six_seeds_have_neither_interval_nor_bold(tmp_path: Path) -> None:
    outcomes = runs_of(tmp_path, UNIFORM, BASE) + runs_of(tmp_path, MMPARETO, BETTER)
    outcomes[8:10] = [missing(MMPARETO, CREMAD, 2), missing(MMPARETO, CREMAD, 3)]
    sheet = sheet_of(table_of(MMPARETO), outcomes)
    assert not cell(sheet, "MMPareto", "accuracy").bold
    assert "[" not in cell(sheet, "MMPareto", "difference").text
    assert cell(sheet, "MMPareto", "difference").note.startswith("4 seeds: ")


def test_an_unreadable_run_leaves_an_incomplete_cell(tmp_path: Path) -> None:
    outcomes = runs_of(tmp_path, UNIFORM, BASE)
    assert outcomes[0].folder is not None
    (outcomes[0].folder / "summary.json").write_text("{")
    sheet = sheet_of(table_of(), outcomes)
    assert cell(sheet, "Uniform", "accuracy").incomplete and "damaged" in sheet.missing[0]


def test_without_the_baseline_there_are_no_differences(tmp_path: Path) -> None:
    outcomes = [missing(UNIFORM, CREMAD, seed) for seed in range(6)] + runs_of(tmp_path, MMPARETO, BETTER)
    result = cell(sheet_of(table_of(MMPARETO), outcomes), "MMPareto", "difference")
    assert (result.text, result.incomplete, result.note) == ("–", True, "no seed that both have")


def test_every_modality_has_a_column_with_measured_values_only(tmp_path: Path) -> None:
    both = {"acc": 0.7, "acc_audio": 0.6, "acc_visual": 0.5}
    outcomes = [finished(tmp_path, UNIFORM, CREMAD, seed, both) for seed in (0, 1)]
    alone = Row("Audio alone", "--method unimodal --modality audio")
    outcomes += [finished(tmp_path, alone, CREMAD, seed, {"acc": 0.6, "acc_audio": 0.6}) for seed in (0, 1)]
    probed = {"acc": 0.65, "acc_audio": 0.5, "acc_visual": None}
    note = "the unimodal heads are untrained: acc_<modality> is a linear probe's, or not measured"
    outcomes += [finished(tmp_path, JOINT, CREMAD, seed, probed, note=note) for seed in (0, 1)]
    sheet = sheet_of(table_of(alone, JOINT), outcomes)
    assert [c.title for c in sheet.columns if "alone" in c.title] == ["audio alone, %", "visual alone, %"]
    assert cell(sheet, "Uniform", "audio").text == "60.00 ± 0.00"
    assert cell(sheet, "Audio alone", "visual") == SheetCell("–", note="not measured")
    assert any(text.startswith("Joint loss: ") and "linear probe" in text for text in sheet.notes)


RELEASED = Row("MMPareto (released)", "--method mmpareto --variant released")


def part_of(sheet: Sheet, title: str) -> SheetPart:
    return next(part for part in sheet.parts if part.title == title)


def test_published_accuracies_stand_beside_the_runs_that_they_agree_with(tmp_path: Path) -> None:
    outcomes = runs_of(tmp_path, UNIFORM, BASE) + runs_of(tmp_path, MMPARETO, BASE)
    sheet = sheet_of(table_of(MMPARETO, RELEASED), outcomes + runs_of(tmp_path, RELEASED, BETTER))
    assert cell(sheet, "MMPareto (released)", "published").text == "75.13 [1]"
    assert cell(sheet, "Uniform", "published").text == "71.10 [1]"
    assert cell(sheet, "MMPareto", "published").text == "–"  # another algorithm
    assert "Innocent Unimodal Assistance" in sheet.footnotes[0] and "arxiv.org/abs/2405.17730" in sheet.footnotes[0]
    assert "best epoch on the test set" in sheet.footnotes[0] and len(sheet.footnotes) == 1
    shown = {row.label: row.cells for row in part_of(sheet, "Published accuracies").rows}
    assert shown.keys() == {"Uniform", "MMPareto (released)"}
    _, accuracy, ours, alone, clips, selection, source = shown["MMPareto (released)"]
    assert accuracy.text == "75.13" and accuracy.value == pytest.approx(0.7513)  # sorted by shares, as ours are
    assert ours.text == f"{100 * np.mean(BETTER):.2f}" and alone.text == "audio 65.46, visual 55.24"
    assert (clips.text, selection.text) == ("559 of 744", "best epoch on the test set") and "[1]" in source.text


def test_every_other_accuracy_is_reported_elsewhere(tmp_path: Path) -> None:
    outcomes = runs_of(tmp_path, UNIFORM, BASE) + runs_of(tmp_path, RELEASED, BETTER)
    part = part_of(sheet_of(table_of(RELEASED), outcomes), "Reported elsewhere")
    shown = [[row.label, *(one.text for one in row.cells)] for row in part.rows]
    (resnet,) = (row for row in shown if "MMPareto 69.0 ± 2.5" in row[2])
    assert resnet[0] == "MCR, NeurIPS 2025, table 1" and "Uniform 69.2 ± 1.8" in resnet[2]
    assert "audio feature" in resnet[3] and "encoder: ResNet" in resnet[4] and "arxiv.org/abs/2411.07335" in resnet[5]
    (wizwand,) = (row for row in shown if "43.98" in row[2])
    for fact in ("fusion", "encoder", "initial weights", "audio feature", "options of MMPareto"):
        assert fact in wizwand[3]
    accuracies = " ".join(row[2] for row in shown)
    assert "75.13" not in accuracies and "73.08" in accuracies and "about 69" in accuracies
    numbers = next(row.cells[1].numbers for row in part.rows if "69.0 ± 2.5" in row.cells[1].text)
    assert numbers["MMPareto"] == pytest.approx(0.69)
    assert numbers["MMPareto, standard deviation"] == pytest.approx(0.025)


def test_published_accuracies_are_beside_a_run_or_elsewhere_and_never_both(tmp_path: Path) -> None:
    outcomes = runs_of(tmp_path, UNIFORM, BASE) + runs_of(tmp_path, RELEASED, BETTER)
    sheet = sheet_of(table_of(RELEASED), outcomes)
    beside = [row.cells[1].text for row in part_of(sheet, "Published accuracies").rows]
    elsewhere = [text for row in part_of(sheet, "Reported elsewhere").rows for text in row.cells[1].text.split("; ")]
    all_figures = [one for table in published_tables() for one in table.figures]
    known = [one for one in all_figures if one.dataset == "cremad" and one.method in METHODS]
    assert len(beside) + len(elsewhere) == len(known) and beside == ["71.10", "75.13"]


def test_other_class_sets_and_options_are_named(tmp_path: Path) -> None:
    sounds = Column("Kinetics-Sounds", "--dataset kinetics_sounds")
    dgl = Row("DGL", "--method dgl --alpha 4")
    outcomes = runs_of(tmp_path, UNIFORM, BASE, sounds) + runs_of(tmp_path, dgl, BASE, sounds)
    part = part_of(sheet_of(table_of(dgl, columns=[sounds]), outcomes), "Reported elsewhere")
    (row,) = (row for row in part.rows if "76.28" in row.cells[1].text)
    data, accuracies, _, differs, source = row.cells
    assert data.text == "Kinetics-Sounds, 33 classes"
    assert accuracies.text == "DGL (alpha 2) 74.78; DGL (alpha 3) 75.10 and 76.28 by one command"
    assert accuracies.numbers["DGL (alpha 3), run 2"] == pytest.approx(0.7628)
    assert differs.text == "33 classes; audio feature: log-STFT of DGL; options: DGL (alpha 2), DGL (alpha 3)"
    assert "one command gave both 75.10 and 76.28" in source.note


@pytest.mark.parametrize(("classes", "text"), [(31, "68.31 [1]"), (33, None)])
def test_the_class_set_is_that_of_the_runs(tmp_path: Path, classes: int, text: str | None) -> None:
    """The command line does not say with how many classes Kinetics-Sounds was prepared."""
    sounds, lines = Column("Kinetics-Sounds", "--dataset kinetics_sounds"), [{"per_class_accuracy": [0.5] * classes}]
    outcomes = runs_of(tmp_path, UNIFORM, BASE, sounds, history=lines * 2)
    sheet = sheet_of(table_of(columns=[sounds]), outcomes)
    if text:
        assert cell(sheet, "Uniform", "published").text == text
    else:
        assert [part.title for part in sheet.parts] == ["Reported elsewhere"]


def test_an_accuracy_published_for_several_rows_is_listed_once(tmp_path: Path) -> None:
    again = Row("MMPareto, 3 frames", "--method mmpareto --variant released --frames 3")
    outcomes = runs_of(tmp_path, UNIFORM, BASE) + runs_of(tmp_path, RELEASED, BETTER) + runs_of(tmp_path, again, BASE)
    sheet = sheet_of(table_of(RELEASED, again), outcomes)
    assert cell(sheet, "MMPareto, 3 frames", "published").text == "as MMPareto (released)"
    ours = [row.cells[2].text for row in part_of(sheet, "Published accuracies").rows if row.cells[1].text == "75.13"]
    assert len(ours) == 1 and "MMPareto (released) 75.83; MMPareto, 3 frames 70.83" in ours[0]


def test_without_published_accuracies_there_is_no_column(tmp_path: Path) -> None:
    sheet = sheet_of(table_of(columns=[SYNTHETIC]), runs_of(tmp_path, UNIFORM, BASE, SYNTHETIC))
    assert not [column for column in sheet.columns if "published" in column.title]
    assert not sheet.parts and not sheet.footnotes


def test_synthetic_data_are_in_the_headline(tmp_path: Path) -> None:
    both = table_of(columns=[CREMAD, SYNTHETIC])
    outcomes = runs_of(tmp_path, UNIFORM, BASE) + runs_of(tmp_path, UNIFORM, BASE, SYNTHETIC)
    assert sheet_of(both, outcomes).banner == DATASETS["synthetic"].banner
    assert sheet_of(table_of(), outcomes[:6]).banner is None
    nothing_ran = [missing(UNIFORM, SYNTHETIC, 0)]
    assert sheet_of(table_of(columns=[SYNTHETIC]), nothing_ran).banner == DATASETS["synthetic"].banner


@pytest.mark.parametrize(
    ("protocol", "words"),
    [("last", "last epoch"), ("validation", "10% of the training set held out"), ("paper", "OPTIMISTIC")],
)
def test_the_protocol_is_described(tmp_path: Path, protocol: str, words: str) -> None:
    made = "paper" if protocol == "paper" else "validation"
    sheet = sheet_of(table_of(), runs_of(tmp_path, UNIFORM, BASE, protocol=made), protocol)
    assert words in sheet.protocol and sheet.optimistic == (protocol == "paper")


def test_a_row_may_be_reported_by_a_protocol_of_its_own(tmp_path: Path) -> None:
    """Of a bridge's two rows with the same runs, one is the epoch that was best on the test set."""
    on_test, last = (dataclasses.replace(MMPARETO, label=name, protocol=name) for name in ("paper", "last"))
    history = [{"acc": 0.8}, {"acc": 0.6}]  # the fake summary's best epochs are the first
    outcomes = [finished(tmp_path, row, CREMAD, 0, 0.5, history=history) for row in (UNIFORM, on_test, last)]
    sheet = sheet_of(table_of(on_test, last), outcomes)
    assert [row.cells[0].text for row in sheet.rows] == ["80.00", "80.00", "60.00"]
    assert (
        sheet.optimistic and "each row chooses as its label says" in sheet.protocol and "OPTIMISTIC" in sheet.protocol
    )
    assert not sheet_of(table_of(last), [outcomes[0], outcomes[2]]).optimistic


def test_different_commits_and_data_are_noted(tmp_path: Path) -> None:
    outcomes = runs_of(tmp_path, UNIFORM, BASE)
    assert f"Code of all runs: commit {'c' * 10}." in sheet_of(table_of(), outcomes).notes
    other = finished(tmp_path / "other", MMPARETO, CREMAD, 0, 0.7, commit="d" * 40 + "+", fingerprint="e" * 64)
    notes = " ".join(sheet_of(table_of(MMPARETO), [*outcomes, other]).notes)
    assert "cccccccccc (6 runs), commit dddddddddd with later changes (1 run)" in notes
    assert "ffffffffff…, but eeeeeeeeee…: MMPareto seed 0" in notes


def test_rows_of_the_same_runs_are_noted_and_drawn_once(tmp_path: Path) -> None:
    """For example a variant that is the method's default, or a schedule that has no effect in a quick run."""
    again = Row("Uniform for longer", UNIFORM.flags)
    history = [{"acc_audio": 0.4, "train_acc_audio": 0.5}] * 2
    outcomes = runs_of(tmp_path, UNIFORM, BASE, history=history)
    outcomes += runs_of(tmp_path, MMPARETO, BETTER, history=history)
    outcomes += [dataclasses.replace(o, cell=dataclasses.replace(o.cell, row=again)) for o in outcomes[: len(BASE)]]
    sheet = make_run_sheet(table_of(again, MMPARETO), outcomes, "validation")
    assert cell(sheet, again.label, "difference").text.startswith("+0.00")
    assert [note for note in sheet.notes if "same runs" in note.lower()] == [
        "The same runs, because their settings are the same here: Uniform = Uniform for longer."
    ]
    drawn = next(plot for plot in sheet.plots if plot.title == "Accuracy over training")
    assert drawn.svg


def test_each_column_is_a_separate_family_of_comparisons(tmp_path: Path) -> None:
    ks = Column("Kinetics-Sounds", "--dataset kinetics_sounds")
    outcomes = runs_of(tmp_path, UNIFORM, BASE) + runs_of(tmp_path, MMPARETO, BETTER)
    outcomes += runs_of(tmp_path, UNIFORM, BASE, ks) + runs_of(tmp_path, MMPARETO, ABOUT_AS_GOOD, ks)
    sheet = sheet_of(table_of(MMPARETO, columns=[CREMAD, ks]), outcomes)
    assert cell(sheet, "MMPareto", "difference", "CREMA-D").numbers["level"] == 0.95
    assert cell(sheet, "MMPareto", "difference", "Kinetics-Sounds").numbers["level"] == 0.95
    assert cell(sheet, "MMPareto", "accuracy", "CREMA-D").bold
    assert not cell(sheet, "MMPareto", "accuracy", "Kinetics-Sounds").bold


def test_the_noise_of_the_test_set_is_a_separate_part(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    outcomes = []
    for row, share in ((UNIFORM, 0.6), (MMPARETO, 0.7)):
        for seed in range(2):
            correct = random.random(80) < share
            outcomes.append(finished(tmp_path, row, CREMAD, seed, float(correct.mean()), correct=[*correct]))
    sheet = sheet_of(table_of(MMPARETO), outcomes)
    part = sheet.parts[0]
    assert part.title == "Noise of the test set" and "not a test of a method" in part.text
    accuracy, difference = part.rows[1].cells
    assert accuracy.numbers["low"] < accuracy.numbers["mean"] < accuracy.numbers["high"]
    assert accuracy.note == "80 clips, 2 seeds"
    mean, low, high = (f"{100 * accuracy.numbers[name]:.2f}" for name in ("mean", "low", "high"))
    assert accuracy.text == f"{mean} [{low}, {high}]"
    assert accuracy.value == pytest.approx(cell(sheet, "MMPareto", "accuracy").value)
    assert difference.value == pytest.approx(cell(sheet, "MMPareto", "difference").value)
    assert part.rows[0].cells[1].text == "baseline"


def test_runs_on_different_clips_are_not_compared(tmp_path: Path) -> None:
    outcomes = [
        finished(tmp_path, UNIFORM, CREMAD, 0, 0.5, correct=[True, False] * 10),
        finished(tmp_path, MMPARETO, CREMAD, 0, 0.5, correct=[True, False] * 11),
    ]
    part = sheet_of(table_of(MMPARETO), outcomes).parts[0]
    assert part.rows[1].cells[1].incomplete and "different clips" in part.rows[1].cells[1].note


def test_missing_evaluations_are_noted(tmp_path: Path) -> None:
    sheet = sheet_of(table_of(), runs_of(tmp_path, UNIFORM, BASE))
    assert "evaluate.py" in sheet.notes[-1]
    assert [part.title for part in sheet.parts] == ["Published accuracies", "Reported elsewhere"]


def test_every_cell_has_the_command_that_reproduces_it(tmp_path: Path) -> None:
    outcomes = runs_of(tmp_path, UNIFORM, BASE[:2]) + [missing(MMPARETO, CREMAD, seed) for seed in (0, 1)]
    made = list(sheet_of(table_of(MMPARETO), outcomes).commands)
    assert made[1] == (
        "for seed in 0 1; do python code/train.py --dataset cremad --method mmpareto --protocol validation "
        "--random_seed $seed; done"
    )
    assert len(made) == 2


def test_without_outcomes_all_cells_are_empty() -> None:
    sheet = sheet_of(table_of(MMPARETO), [])
    assert [row.cells[0].text for row in sheet.rows] == ["–", "–"]


def test_the_number_of_cells_must_match_the_columns() -> None:
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        Sheet("t", "q", [SheetColumn("a"), SheetColumn("b")], [SheetRow("r", [SheetCell("1")])])


def test_curves_are_labelled_as_the_rows_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the rows are of one method and their labels are sentences, as in the bridges."""
    rows = [
        Row(f"Change number {n}, which is described at great length", f"--method uniform --epochs {n}") for n in (3, 4)
    ]
    outcomes = [one for row in (UNIFORM, *rows) for one in runs_of(tmp_path, row, [0.7, 0.8])]
    again = Row("The same runs", "--method uniform --epochs 3")
    outcomes += [
        dataclasses.replace(one, cell=dataclasses.replace(one.cell, row=again))
        for one in outcomes
        if one.cell.row == rows[0]
    ]
    drawn: list[list[str]] = []
    draw = embedded_plots.accuracy_plot

    def spy(groups: Sequence[SeedGroup]) -> Curves:
        drawn.append([group.label for group in groups])
        return draw(groups)

    monkeypatch.setattr(embedded_plots, "PLOTS", {"Accuracy over training": spy})
    (plot,) = make_run_sheet(table_of(*rows, again), outcomes, "validation", plots=True).plots
    assert drawn == [["Uniform", *(row.label for row in rows)]]
    assert plot.svg.startswith("<?xml") and "Seeds 0, 1." in plot.caption


def test_plots_of_a_page_do_not_repeat_its_banner(tmp_path: Path) -> None:
    outcomes = [finished(tmp_path, row, SYNTHETIC, 0, {"acc": 0.7, "acc_audio": 0.6}) for row in (UNIFORM, MMPARETO)]
    sheet = make_run_sheet(table_of(MMPARETO, columns=[SYNTHETIC]), outcomes, "validation", plots=True)
    assert sheet.banner and any(plot.svg for plot in sheet.plots)
    assert not any("SYNTHETIC" in plot.caption for plot in sheet.plots)
    drawn = embedded_plots.accuracy_plot([SeedGroup("Uniform", [FinishedRun(Path(str(outcomes[0].folder)))])])
    assert not drawn.figure.texts and drawn.banner == sheet.banner
