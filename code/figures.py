"""Draw a figure: `python code/figures.py integration`; see `--help`."""

import argparse
from pathlib import Path

from mmpareto.cli import run
from mmpareto.registry import Registry

FIGURES = Registry("figure", {"integration": "mmpareto.analysis.integration_picture:draw_integration"})


def main(arguments: list[str] | None = None) -> int:
    """Draw the figure that the command line names; the exit status."""
    parser = argparse.ArgumentParser(prog="figures.py", description="Draw a figure of the README.")
    parser.add_argument("name", help=f"one of: {', '.join(FIGURES)}")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: pics/<name>.png")
    given = parser.parse_args(arguments)
    name = FIGURES.name(given.name)
    path = given.out or Path("pics") / f"{name}.png"
    FIGURES[name](path)
    print(path)
    return 0


if __name__ == "__main__":
    run(main)
