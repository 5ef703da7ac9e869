"""Train a multimodal network: `python code/train.py --dataset cremad --method mmpareto`; see `--help`."""

from mmpareto.cli import run


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, train, and return the exit status."""
    from mmpareto.training.settings import parse

    request = parse(arguments)
    from mmpareto.training.run import train

    return train(request)


if __name__ == "__main__":
    run(main)
