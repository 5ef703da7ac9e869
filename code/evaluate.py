"""Evaluate a run or a checkpoint: `python code/evaluate.py runs/<run>`; see `--help`."""

import argparse
from pathlib import Path

from mmpareto import plugins
from mmpareto.cli import ArgumentParser, at_least, run


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = ArgumentParser(
        prog="evaluate.py",
        description="Evaluate a run (metrics, confusion matrices, a table of all clips), or classify one clip with it.",
    )
    made.add_argument(
        "checkpoint", type=Path, nargs="?", metavar="RUN",
        help="folder of a run, for its best.pt; or a checkpoint (best.pt, last.pt, or a .pth of the released code)",
    )  # fmt: skip
    made.add_argument("--split", choices=("test", "train"), default="test", help="default: test")
    made.add_argument("--data", type=Path, metavar="DIR", help="prepared data set (default: that of the training)")
    made.add_argument("--dataset", help="for a .pth of the released code, which lacks it (default: cremad)")
    made.add_argument(
        "--clip", type=Path, nargs="+", metavar="FILE",
        help="classify a raw clip, which need not be prepared: one file with sound and video, or a WAV and a video",
    )  # fmt: skip
    made.add_argument("--fps", type=at_least(1), help="with --clip: frames per second, where the checkpoint lacks them")
    made.add_argument(
        "--out", type=Path, metavar="DIR", help="default: evaluation-<split>-<name> beside the checkpoint"
    )
    made.add_argument("--gpu_ids", default="auto", help="a GPU's id, or cpu (default: a GPU if there is one)")
    made.add_argument("--batch_size", type=at_least(1), default=64, help="default: 64")
    made.add_argument("--workers", type=at_least(0), default=0, help="loader processes (default: none)")
    made.add_argument("--plugin", action="append", metavar="MODULE", help=f"{plugins.HELP}; a run's own are known")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Evaluate, print, and write the results; the exit status."""
    given = _parsed(arguments)

    from mmpareto.analysis import checkpoint_evaluation as evaluation
    from mmpareto.analysis.trained import open_trained
    from mmpareto.training.devices import allow_tf32, choose_devices

    device, _ = choose_devices(given.gpu_ids)
    allow_tf32(False)
    trained = open_trained(given.checkpoint, given.dataset)
    print("\n".join(trained.notes))
    if given.clip is not None:
        audio, video = given.clip[0], given.clip[-1]
        probabilities = evaluation.predict_clip(trained, audio, video, device, given.fps)
        print(evaluation.probability_table(probabilities, trained.description["classes"]))
    else:
        out = given.out or trained.path.parent / f"evaluation-{given.split}-{trained.path.stem}"
        dataset = evaluation.open_split(trained, given.split, given.data)
        evaluation.make_folder(out)
        predictions = evaluation.predict_split(trained, dataset, device, given.batch_size, given.workers)
        evaluation.write_results(out, trained, dataset, predictions)
        print(evaluation.metrics_table(predictions))
        print(f"metrics.json, per_clip.csv and confusion.png of {len(dataset)} clips: {out}")
    if trained.banner:
        print(trained.banner)
    return 0


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    _, words = plugins.take_plugins(arguments)
    made = parser()
    given = made.parse_args(words)
    if given.checkpoint is None and len(given.clip or ()) > 1:  # --clip takes all words that follow it
        given.checkpoint = given.clip.pop()
    if given.checkpoint is None:
        made.error("the following arguments are required: RUN")
    if len(given.clip or ()) > 2:
        made.error("argument --clip: expected one or two files")
    return given


if __name__ == "__main__":
    run(main)
