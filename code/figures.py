"""Draw a figure: `python code/figures.py integration`, `… gradients --run FOLDER`; see `--help`."""

import argparse
from pathlib import Path

from mmpareto.cli import run
from mmpareto.errors import InputError
from mmpareto.registry import Registry

FIGURES = Registry(
    "figure",
    {
        "integration": "mmpareto.analysis.integration_picture:draw_integration",
        "cgmnist": "mmpareto.analysis.cgmnist_picture:draw_cgmnist",
        "gradients": "mmpareto.analysis.gradients_picture:draw_gradients",
        "refresh": "mmpareto.analysis.refresh_agreement:draw_refresh",
    },
)
OF_A_RUN = ("gradients", "refresh")


def main(arguments: list[str] | None = None) -> int:
    """Draw the figure that the command line names; the exit status."""
    parser = argparse.ArgumentParser(prog="figures.py", description="Draw a figure of the README, or of a run.")
    parser.add_argument("name", help=f"one of: {', '.join(FIGURES)}")
    parser.add_argument(
        "--run", type=Path, metavar="FOLDER", help=f"the run that is drawn, for: {', '.join(OF_A_RUN)} (else: none)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="default: pics/<name>.png; of a run, <name>.png in its folder"
    )
    given = parser.parse_args(arguments)
    name = FIGURES.name(given.name)
    of_a_run = name in OF_A_RUN
    if of_a_run and given.run is None:
        raise InputError(f"figure {name!r} is of a run: give its folder by --run.")
    if not of_a_run and given.run is not None:
        raise InputError(f"figure {name!r} is of no run: leave --run out.")
    path = given.out or (given.run if of_a_run else Path("pics")) / f"{name}.png"
    text = FIGURES[name](path, *([given.run] if of_a_run else []))
    print(*([text] if text else []), path, sep="\n")
    return 0


if __name__ == "__main__":
    run(main)
