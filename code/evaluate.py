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
        help="folder of a run, for its best.pt; or a checkpoint (best.pt, last.pt, .safetensors of export.py, or a "
        ".pth of the released code)",
    )  # fmt: skip
    made.add_argument("--split", choices=("test", "train"), default="test", help="default: test")
    made.add_argument("--data", type=Path, metavar="DIR", help="prepared data set (default: that of the training)")
    made.add_argument("--dataset", help="for a .pth of the released code, which lacks it (default: cremad)")
    made.add_argument(
        "--clip", type=Path, nargs="+", metavar="FILE",
        help="classify a raw clip, which need not be prepared: one file with sound and video, or a WAV and a video",
    )  # fmt: skip
    made.add_argument("--fps", type=at_least(1), help="with --clip: frames per second, where the checkpoint lacks them")
    made.add_argument("--without", nargs="+", default=[], metavar="MODALITY", help="modalities to do without")
    made.add_argument(
        "--temperature", action="store_true", help="calibrate by temperatures fitted to the run's validation set"
    )
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
    from mmpareto.analysis.trained import load
    from mmpareto.training.devices import allow_tf32, choose_devices
    from mmpareto.training.model_card import add_model_card

    device, _ = choose_devices(given.gpu_ids)
    allow_tf32(False)
    trained = load(given.checkpoint, given.dataset)
    add_model_card(trained.path.parent)
    print("\n".join(trained.notes))
    names = evaluation.remaining(trained, given.without)
    how = device, given.batch_size, given.workers
    calibration = evaluation.fit_calibration(trained, names, given.data, *how) if given.temperature else None
    if given.clip is not None:
        print(evaluation.classify(trained, given.clip, names, device, given.fps, calibration))
    else:
        out = given.out or evaluation.default_folder(trained, given.split, names)
        dataset = evaluation.open_split(trained, given.split, given.data, names)
        evaluation.make_folder(out)
        predictions = evaluation.predict_split(trained, dataset, *how)
        evaluation.write_results(out, trained, dataset, predictions, calibration)
        print(evaluation.metrics_table(trained, predictions, calibration))
        plot = " and confusion.png" if trained.task in ("classification", "multitask") else ""
        print(f"metrics.json, per_clip.csv{plot} of {len(dataset)} clips: {out}")
    if trained.banner:
        print(trained.banner)
    return 0


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    _, words = plugins.take_plugins(arguments)
    made = parser()
    given = made.parse_args(words)
    for several in (given.clip, given.without):  # both take all words that follow them
        if given.checkpoint is None and len(several or ()) > 1:
            given.checkpoint = Path(several.pop())
    if given.checkpoint is None:
        made.error("the following arguments are required: RUN")
    if len(given.clip or ()) > 2:
        made.error("argument --clip: expected one or two files")
    return given


if __name__ == "__main__":
    run(main)
