"""Measure what a training step costs by each method: `python code/benchmark.py`; see `--help`."""

import argparse
from pathlib import Path

from mmpareto.cli import at_least, run


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="benchmark.py",
        description="Seconds a training step by each method, interleaved, on random inputs: CPU seconds on the CPU, "
        "elapsed seconds on a GPU. Ratios are to uniform, of steps taken right after each other.",
        allow_abbrev=False,
    )
    made.add_argument("--methods", nargs="+", metavar="NAME", help="default: all, each with its default options")
    made.add_argument("--rounds", type=at_least(1), default=15, help="measured steps of each method (default: 15)")
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

    from mmpareto.analysis import cost
    from mmpareto.training.devices import choose_devices

    device, _ = choose_devices(given.gpu_ids)
    sizes = cost.Sizes(given.batch_size, given.image_size, given.audio_frames)
    figures = cost.measure(cost.chosen(given.methods), sizes, given.rounds, device)
    print(cost.table(figures))
    if given.out:
        cost.write(given.out, figures)
        print(given.out)
    return 0


if __name__ == "__main__":
    run(main)
