"""Train step by step with a released code and with this one, and compare: `python code/replay.py --against DIR`."""

from pathlib import Path

from mmpareto.cli import ArgumentParser, at_least, run


def parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(
        prog="replay.py",
        description="Train the same network from the same weights on the same random batches, in float64 on the CPU, "
        "by the training loop of a released code and by this one, and compare all parameters and decisions after every "
        "step. The checkout's code is executed: give one that you trust. Exit status: 0 if the two agree, 1 if not, 2 "
        "for bad input.",
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="DIR",
        required=True,
        help="a checkout of GeWu-Lab/MMPareto_ICML2024 or of shicaiwei123/ICCV2025-GDL",
    )
    parser.add_argument(
        "--fusion",
        choices=("concat", "sum", "gated", "film"),
        default="concat",
        help="the DGL code's --fusion_method (default: concat, the only one of the MMPareto code)",
    )
    parser.add_argument("--steps", type=at_least(1), default=100, help="default: 100")
    parser.add_argument("--batch_size", type=at_least(2), default=4, help="samples per step (default: 4)")
    parser.add_argument(
        "--image_size",
        type=at_least(32),
        default=48,
        help="height and width in pixels, and time steps of the audio feature (default: 48)",
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="of weights and batches (default: 0)")
    parser.add_argument(
        "--tolerance", type=float, default=1e-6, help="largest relative difference that agrees (default: 1e-6)"
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Replay, and print the result; return the exit status."""
    given = vars(parser().parse_args(arguments))
    from mmpareto.analysis.replay.lockstep import ReplayConditions, replay
    from mmpareto.analysis.replay.result import result_text

    result = replay(given.pop("against"), ReplayConditions(**given))
    print(result_text(result))
    return 0 if result.agrees else 1


if __name__ == "__main__":
    run(main)
