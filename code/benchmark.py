"""Measure what the work costs: `python code/benchmark.py [step|loading|preparation]`; see `--help`."""

import argparse
import json
from pathlib import Path
from typing import Any

from mmpareto.cli import at_least, run
from mmpareto.files import write_text

WHAT = ("step", "loading", "preparation")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="benchmark.py",
        description="step: seconds a training step by each method, interleaved, on random inputs: CPU seconds on the "
        "CPU, elapsed seconds on a GPU; ratios are to uniform, of steps taken right after each other. loading: samples "
        "for training beside the released loader. preparation: raw clips beside a script of OpenCV and torchaudio.",
        allow_abbrev=False,
    )
    made.add_argument("what", nargs="?", choices=WHAT, default="step", help="default: step")
    made.add_argument("--methods", nargs="+", metavar="NAME", help="default: all, each with its default options")
    made.add_argument("--rounds", type=at_least(1), default=15, help="measured rounds (default: 15)")
    made.add_argument("--clips", type=at_least(1), default=48, help="of loading and preparation (default: 48)")
    made.add_argument("--batch_size", type=at_least(1), default=16, help="default: 16")
    made.add_argument("--image_size", type=at_least(1), default=96, help="pixels a side, two frames (default: 96)")
    made.add_argument(
        "--audio_frames", type=at_least(1), default=256, help="steps of time of the filterbank (default: 256)"
    )
    made.add_argument("--gpu_ids", default="auto", help="a GPU's id; cpu; default: a GPU where there is one")
    made.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON")
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
    from mmpareto.analysis import cost
    from mmpareto.training.devices import choose_devices

    device, _ = choose_devices(given.gpu_ids)
    sizes = cost.Sizes(given.batch_size, given.image_size, given.audio_frames)
    figures = cost.measure(cost.chosen(given.methods), sizes, given.rounds, device)
    return figures, cost.table(figures)


def _loading(given: argparse.Namespace) -> tuple[dict[str, Any], str]:
    import torch
    from mmpareto.analysis import loading_speed

    torch.set_num_threads(1)  # as in a loader's process
    figures = loading_speed.compare(given.clips, given.rounds)
    return figures, loading_speed.table(figures)


def _preparation(given: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from mmpareto.analysis import preparation_speed

    figures = preparation_speed.compare(given.clips)
    return figures, preparation_speed.table(figures)


if __name__ == "__main__":
    run(main)
