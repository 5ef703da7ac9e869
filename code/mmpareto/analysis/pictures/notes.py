"""What a figure must say of the runs behind it: data set, seeds, protocol, and in what else they differ."""

from collections.abc import Sequence
from typing import Any

from mmpareto.analysis.pictures.groups import Group
from mmpareto.analysis.pictures.runs import OF_ONE_LINE, Run


def title_of(groups: Sequence[Group]) -> str:
    """The data set as papers write it."""
    return groups[0].runs[0].title


def banner_of(groups: Sequence[Group]) -> str | None:
    """What must be said wherever results on the data set are shown, if anything."""
    return groups[0].runs[0].banner


def about(groups: Sequence[Group]) -> list[str]:
    """What a figure must say of its runs: data set, seeds, protocol, and in what else they differ."""
    return [
        f"Data set: {title_of(groups)}. {seeds_text(groups)} {protocol_text(groups)}",
        *differences(groups),
    ]


def seeds_text(groups: Sequence[Group]) -> str:
    """The seeds of all groups, or of each where they differ."""
    if all(group.seeds == groups[0].seeds for group in groups):
        return f"{_seeds(groups[0].seeds).capitalize()}."
    return "Seeds: " + "; ".join(f"{group.label} {ranges(group.seeds)}" for group in groups) + "."


def protocol_text(groups: Sequence[Group]) -> str:
    """What the runs were trained on."""
    found: dict[str, list[str]] = {}
    for group in groups:
        for run in group.runs:
            members = found.setdefault(_protocol(run), [])
            members += [group.label] if group.label not in members else []
    if len(found) == 1:
        return f"Protocol {next(iter(found))}."
    return "Protocols: " + "; ".join(f"{text}: {', '.join(labels)}" for text, labels in found.items()) + "."


def differences(groups: Sequence[Group]) -> list[str]:
    """A sentence on lengths that differ, and one on settings that differ between the labels."""
    notes = []
    for group in groups:
        if len({len(run.history) for run in group.runs}) > 1:
            longest = max(group.runs, key=lambda run: len(run.history))
            notes.append(
                f"{group.label}: epochs 1 to {group.epochs}, which all its seeds have finished (seed {longest.seed}: "
                f"{len(longest.history)})."
            )
    runs = [run for group in groups for run in group.runs]
    names = [name for name in runs[0].settings if name not in (*OF_ONE_LINE, "protocol")]
    varied = [name for name in names if len({str(run.settings.get(name)) for run in runs}) > 1]
    varied += ["data"] if len({run.fingerprint for run in runs}) > 1 else []
    if varied:
        notes.append(f"The runs differ in {', '.join(varied)}, too.")
    return notes


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers in short: "0–4", "0, 2, 5–7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(
        f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(str(number) for number in run) for run in runs
    )


def spread_text(groups: Sequence[Group], middle: str = "mean", spread: str = "± one sample standard deviation") -> str:
    """What line and band are."""
    if all(len(group.runs) == 1 for group in groups):
        return "One seed: no band."
    return f"Line: {middle} over seeds; band: {spread}."


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {ranges(seeds)}"


def _protocol(run: Run) -> str:
    if run.protocol != "validation":
        return f"{run.protocol} (trained on the whole training set)"
    fraction: Any = run.settings.get("val_fraction")
    held = f"{100 * fraction:g}%" if isinstance(fraction, int | float) else "a part"
    return f"validation ({held} of the training set held out)"
