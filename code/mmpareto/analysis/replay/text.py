"""A replay as text."""

from mmpareto.analysis.replay.lockstep import Comparison, StepComparison

SHOWN = {1, 2, 5, 10, 20, 50}


def comparison_text(comparison: Comparison) -> str:
    """Settings, differences after some of the steps, decisions, and the verdict."""
    repository, steps = comparison.repository, comparison.steps
    lines = [
        f"theirs: {repository.title}, {repository.path.name} {' '.join(repository.words)}",
        f"ours: train.py {' '.join(repository.our_words)}",
        f"hyper-parameters ({', '.join(comparison.settings)}) that differ, theirs / ours: "
        f"{_listed(comparison.different_settings)}",
        f"epochs with another learning rate, theirs / ours, of {len(comparison.rates)}: "
        f"{_listed(comparison.different_rates)}",
    ]
    if repository.note:
        lines.append(f"known difference: {repository.note}")
    lines.append(f"{'step':>6}  {'absolute':>8}  {'relative':>8}  tensor of the largest relative difference")
    lines += [_line(step) for step in steps if step.step in SHOWN or step is steps[-1] or step.step % 100 == 0]
    lines += [_decision(name, comparison) for name in steps[0].theirs]
    first = comparison.first_decision
    lines.append(f"first step at which a decision differs: {'none' if first is None else f'{first[0]}, {first[1]}'}")
    lines.append(_verdict(comparison))
    return "\n".join(lines)


def _line(step: StepComparison) -> str:
    return f"{step.step:6}  {step.absolute.size:8.1e}  {step.relative.size:8.1e}  {step.relative.where}"


def _decision(name: str, comparison: Comparison) -> str:
    steps = comparison.steps
    count = sum(step.theirs[name] for step in steps)
    ours = sum(step.ours.get(name, False) for step in steps)
    warning = "" if 0 < count < len(steps) else "; WARNING: only one of the two cases was compared"
    return f"{name}: in {count} of {len(steps)} steps, ours in {ours}{warning}"


def _verdict(comparison: Comparison) -> str:
    largest = max((step.absolute for step in comparison.steps), key=lambda difference: difference.size)
    where = f"largest difference of all steps {largest.size:.1e} in {largest.where}"
    if comparison.agrees:
        return f"agree within a relative {comparison.tolerance:g} after every step; {where}"
    first = comparison.first_above
    when = f", first above {comparison.tolerance:g} after step {first.step}" if first else ""
    return f"DIFFER; {where}{when}"


def _listed(items: list[str]) -> str:
    shown = ", ".join(items[:4])
    return (shown + (f" and {len(items) - 4} more" if len(items) > 4 else "")) or "none"
