"""Evaluate a checkpoint: `python code/evaluate.py runs/<run>/best.pt`; see `--help`."""

import argparse
from pathlib import Path

from mmpareto.cli import ArgumentParser, at_least, run


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = ArgumentParser(
        prog="evaluate.py",
        description="Evaluate a checkpoint (metrics, confusion matrices, a table of all clips), or classify one clip.",
    )
    made.add_argument("checkpoint", type=Path, help="best.pt or last.pt of a run, or a .pth of the released code")
    made.add_argument("--split", choices=("test", "train"), default="test", help="default: test")
    made.add_argument("--data", type=Path, metavar="DIR", help="prepared data set (default: that of the training)")
    made.add_argument("--dataset", help="for a .pth of the released code, which lacks it (default: cremad)")
    made.add_argument(
        "--clip", type=Path, nargs=2, metavar=("WAV", "VIDEO"), help="classify a raw clip, which need not be prepared"
    )
    made.add_argument("--fps", type=at_least(1), help="with --clip: frames per second, where the checkpoint lacks them")
    made.add_argument(
        "--out", type=Path, metavar="DIR", help="default: evaluation-<split>-<name> beside the checkpoint"
    )
    made.add_argument("--gpu_ids", default="auto", help="a GPU's id, or cpu (default: a GPU if there is one)")
    made.add_argument("--batch_size", type=at_least(1), default=64, help="default: 64")
    made.add_argument("--workers", type=at_least(0), default=0, help="loader processes (default: none)")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Evaluate, print, and write the results; the exit status."""
    given = parser().parse_args(arguments)

    from mmpareto.analysis import checkpoint_evaluation as evaluation
    from mmpareto.analysis.trained import open_trained
    from mmpareto.training.devices import allow_tf32, choose_devices

    device, _ = choose_devices(given.gpu_ids)
    allow_tf32(False)
    trained = open_trained(given.checkpoint, given.dataset)
    print("\n".join(trained.notes))
    if given.clip is not None:
        audio, video = given.clip
        probabilities = evaluation.predict_clip(trained, audio, video, device, given.fps)
        print(evaluation.probability_table(probabilities, trained.description["classes"]))
    else:
        out = given.out or given.checkpoint.parent / f"evaluation-{given.split}-{given.checkpoint.stem}"
        dataset = evaluation.open_split(trained, given.split, given.data)
        evaluation.make_folder(out)
        predictions = evaluation.predict_split(trained, dataset, device, given.batch_size, given.workers)
        evaluation.write_results(out, trained, dataset, predictions)
        print(evaluation.metrics_table(predictions))
        print(f"metrics.json, per_clip.csv and confusion.png of {len(dataset)} clips: {out}")
    if trained.banner:
        print(trained.banner)
    return 0


if __name__ == "__main__":
    run(main)
