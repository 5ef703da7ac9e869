"""Measure what the work costs: `python code/benchmark.py [step|loading|preparation]`; see `--help`."""

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from mmpareto.cli import at_least, run
from mmpareto.files import write_text

WHAT = ("step", "loading", "preparation")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="benchmark.py",
        description="step: seconds and peak memory of a training step by each method, interleaved, on random inputs, "
        "beside the released algorithm: CPU seconds on the CPU, elapsed seconds on a GPU; ratios are to uniform's step "
        "of the same round. loading: samples for training beside the released loader. preparation: raw clips beside a "
        "script of OpenCV and torchaudio.",
        allow_abbrev=False,
    )
    made.add_argument("what", nargs="?", choices=WHAT, default="step", help="default: step")
    made.add_argument("--rounds", type=at_least(1), default=15, help="measured rounds (default: 15)")
    made.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON")
    made.add_argument("--clips", type=at_least(1), default=48, help="of loading and preparation (default: 48)")

    step = made.add_argument_group("step")
    step.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME",
        help="with their default options; NAME:VARIANT for a variant, released_code, torchjd:NAME (default: all, the "
        "released code, and torchjd:MGDA if installed)",
    )
    step.add_argument("--integration", action="store_true", help="the share of the step that its arithmetic takes, too")
    step.add_argument("--batch_size", type=at_least(1), default=16, help="default: 16")
    step.add_argument("--image_size", type=at_least(1), default=96, help="pixels a side (default: 96)")
    step.add_argument("--frames", type=at_least(1), default=2, help="images a sample (default: 2)")
    step.add_argument("--audio_frames", type=at_least(1), default=256, help="of the filterbank (default: 256)")
    step.add_argument("--gpu_ids", default="auto", help="such as 0, or 0,1 (DataParallel); cpu; default: a GPU, if any")
    step.add_argument("--amp", choices=("bf16", "fp16"), help="mixed precision; fp16 on a GPU only")
    step.add_argument("--tf32", action="store_true", help="TF32 in float32 products, on a GPU")
    step.add_argument("--channels_last", action="store_true", help="maps with their channels last in memory")
    step.add_argument("--fused", action="store_true", help="the optimiser's step in one kernel, as with fp16")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write the figures; the exit status."""
    given = parser().parse_args(arguments)
    measure = {"step": _step, "loading": _loading, "preparation": _preparation}[given.what]
    figures, text = measure(given)
    print(text)
    if given.out:
        write_text(given.out, json.dumps(figures, indent=1) + "\n")
        print(given.out)
    return 0


def _step(given: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from mmpareto.analysis.speed import cost

    conditions = cost.Conditions(**{field.name: getattr(given, field.name) for field in fields(cost.Conditions)})
    figures = cost.measure(cost.chosen(given.methods), conditions, given.rounds, given.integration)
    return figures, cost.table(figures)


def _loading(given: argparse.Namespace) -> tuple[dict[str, Any], str]:
    import torch
    from mmpareto.analysis.speed import loading

    torch.set_num_threads(1)  # as in a loader's process
    figures = loading.compare(given.clips, given.rounds)
    return figures, loading.table(figures)


def _preparation(given: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from mmpareto.analysis.speed import preparation

    figures = preparation.compare(given.clips)
    return figures, preparation.table(figures)


if __name__ == "__main__":
    run(main)
