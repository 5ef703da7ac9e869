"""The runs of a plot in groups that differ in their seeds alone, and the notes about them below the plot."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmpareto.analysis.finished_run import Array, FinishedRun
from mmpareto.errors import InputError
from mmpareto.training.method_labels import label, value_text
from mmpareto.training.settings import Role, settings_with

IN_LABEL = ("dataset", "method", "variant", "options")


@dataclasses.dataclass(frozen=True)
class SeedGroup:
    """Runs that share a line: they differ in their seeds alone, in ascending order."""

    label: str
    runs: list[FinishedRun]

    @property
    def seeds(self) -> list[int]:
        """In ascending order."""
        return [run.seed for run in self.runs]

    @property
    def epochs(self) -> int:
        """Number of epochs that all runs have finished."""
        return min(len(run.history) for run in self.runs)

    def stacked(self, series: Callable[[FinishedRun], Array]) -> Array:
        """(S, E): a series of every run, cut to the common epochs."""
        return np.stack([series(run)[: self.epochs] for run in self.runs])


def group_runs(runs: Iterable[FinishedRun]) -> list[SeedGroup]:
    """The runs by label, in the order in which labels first occur.

    Runs of one method and options share a line unless they differ in a setting that decides what a run computes (role
    IDENTITY) or in their data; the label then contains that setting.

    Raises:
        InputError: there is no run, one has no finished epoch or is damaged, two have the same label and seed, or they
            are of different data sets.
    """
    runs = list(runs)
    if not runs:
        raise InputError("there is no run to plot: give folders by --run.")
    for run in runs:
        _ = run.history  # raises before anything is measured or drawn
        if run.dataset != runs[0].dataset:
            raise InputError(
                f"{runs[0].folder} is of data set {runs[0].dataset} and {run.folder} of {run.dataset}: draw one plot "
                "per data set."
            )
    alike: dict[str, list[FinishedRun]] = {}
    for run in runs:
        alike.setdefault(run.label, []).append(run)
    varied = {name: varied_settings(members) for name, members in alike.items()}
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        further = [*run.details, *(_setting_text(run, key) for key in varied[run.label])]
        name = label(run.method, run.variant, run.options, further)
        members = groups.setdefault(name, [])
        for other in members:
            if other.seed == run.seed:
                raise InputError(f"{other.folder} and {run.folder} are both {name} with seed {run.seed}: omit one.")
        members.append(run)
    return [SeedGroup(name, sorted(members, key=lambda run: run.seed)) for name, members in groups.items()]


def distinguishing(run: FinishedRun) -> dict[str, Any]:
    """All of the run's identity that its label lacks, but for seed and length."""
    aside = (*IN_LABEL, *settings_with(Role.SEED, Role.LENGTH))
    return {name: value for name, value in run.identity.items() if name not in aside}


def varied_settings(runs: Sequence[FinishedRun]) -> list[str]:
    """The fewest settings, in their order, by whose values the runs fall into groups."""
    all_settings = [distinguishing(run) for run in runs]
    chosen: list[str] = []
    for name in all_settings[0]:
        before, after = (
            {tuple(str(settings.get(key)) for key in keys) for settings in all_settings}
            for keys in (chosen, [*chosen, name])
        )
        chosen += [name] if len(after) > len(before) else []
    return chosen


def _setting_text(run: FinishedRun, name: str) -> str:
    if name == "fingerprint":
        return f"data {Path(run.arguments['data']).name} {run.fingerprint[:6]}".strip()
    return f"{name} {value_text(run.arguments.get(name))}"


def mean_and_deviation(values: Array) -> tuple[Array, Array]:
    """Mean and sample standard deviation over the first axis, the seeds.

    Both are NaN where a seed lacks a value: the mean over the others would be that of other runs. The deviation of one
    seed is NaN.
    """
    mean = values.mean(axis=0)
    return mean, values.std(axis=0, ddof=1) if len(values) > 1 else np.full_like(mean, np.nan)


# Notes


def title_of(groups: Sequence[SeedGroup]) -> str:
    """The data set as papers write it."""
    return groups[0].runs[0].title


def banner_of(groups: Sequence[SeedGroup]) -> str | None:
    """Warning that accompanies all results on the data set, if it has one."""
    return groups[0].runs[0].banner


def notes_on(groups: Sequence[SeedGroup]) -> list[str]:
    """Paragraphs about the runs of a plot: data set, seeds, protocol, and in what else they differ."""
    notes = [f"Data set: {title_of(groups)}. {_seeds_note(groups)} {_protocol_note(groups)}"]
    for group in groups:
        if len({len(run.history) for run in group.runs}) > 1:
            longest = max(group.runs, key=lambda run: len(run.history))
            notes.append(
                f"{group.label}: epochs 1 to {group.epochs}, which all its seeds have finished (seed {longest.seed}: "
                f"{len(longest.history)})."
            )
    settings = [distinguishing(run) for group in groups for run in group.runs]
    names = [name for name in settings[0] if len({str(one.get(name)) for one in settings}) > 1 and name != "protocol"]
    if names:
        notes.append(f"The runs also differ in {', '.join(names).replace('fingerprint', 'data')}.")
    return notes


def deviation_note(
    groups: Sequence[SeedGroup], middle: str = "mean", deviation: str = "± one sample standard deviation"
) -> str:
    """Meaning of line and band."""
    if all(len(group.runs) == 1 for group in groups):
        return "One seed: no band."
    return f"Line: {middle} over seeds; band: {deviation}."


def _seeds_note(groups: Sequence[SeedGroup]) -> str:
    seeds = groups[0].seeds
    if all(group.seeds == seeds for group in groups):
        return f"Seed{'s' if len(seeds) > 1 else ''} {ranges(seeds)}."
    return "Seeds: " + "; ".join(f"{group.label} {ranges(group.seeds)}" for group in groups) + "."


def _protocol_note(groups: Sequence[SeedGroup]) -> str:
    labels: dict[str, list[str]] = {}
    for group in groups:
        for text in dict.fromkeys(_protocol_text(run) for run in group.runs):
            labels.setdefault(text, []).append(group.label)
    if len(labels) == 1:
        return f"Protocol {next(iter(labels))}."
    return "Protocols: " + "; ".join(f"{text}: {', '.join(names)}" for text, names in labels.items()) + "."


def _protocol_text(run: FinishedRun) -> str:
    if run.protocol != "validation":
        return f"{run.protocol} (trained on the whole training set)"
    fraction = run.arguments.get("val_fraction")
    held_out = f"{100 * fraction:g}%" if isinstance(fraction, int | float) else "a part"
    return f"validation ({held_out} of the training set held out)"


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers, abbreviated: "0–4", "0, 2, 5–7"."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    return ", ".join(
        f"{span[0]}–{span[-1]}" if len(span) > 2 else ", ".join(str(number) for number in span) for span in spans
    )
