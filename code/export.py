"""Export a trained network: `python code/export.py runs/<run> --to onnx`; see `--help`."""

import argparse
from pathlib import Path

from mmpareto.cli import ArgumentParser, run

FORMATS = ("onnx", "torch_export", "safetensors")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = ArgumentParser(
        prog="export.py",
        description="Export a trained network, with its preprocessing and class names as metadata, to one file.",
    )
    made.add_argument(
        "checkpoint", type=Path, metavar="RUN",
        help="folder of a run, for its best.pt; or a checkpoint, as for evaluate.py",
    )  # fmt: skip
    made.add_argument(
        "--to", choices=FORMATS, required=True,
        help="onnx; a program of torch.export; or the weights alone, for mmpareto.load",
    )  # fmt: skip
    made.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="default: best.onnx (or .pt2, .safetensors; best-without-audio.onnx, …) beside best.pt",
    )
    made.add_argument(
        "--without", nargs="+", default=[], metavar="MODALITY", help="export the prediction without these modalities"
    )
    made.add_argument("--data", type=Path, metavar="DIR", help="prepared data set, for checkpoints of older versions")
    made.add_argument("--dataset", help="for a .pth of the released code, which lacks it (default: cremad)")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Export, and print where to; the exit status."""
    given = parser().parse_args(arguments)

    from mmpareto.analysis.checkpoint_evaluation import input_shapes, remaining
    from mmpareto.analysis.export import SUFFIXES, export
    from mmpareto.analysis.trained import load
    from mmpareto.training.model_card import add_model_card

    trained = load(given.checkpoint, given.dataset)
    add_model_card(trained.path.parent)
    print("\n".join(trained.notes))
    shapes = input_shapes(trained, given.data)
    shapes = {name: shapes[name] for name in remaining(trained, given.without)}
    absent = f"-without-{'-'.join(given.without)}" if given.without else ""
    out = given.out or trained.path.with_name(trained.path.stem + absent + SUFFIXES[given.to])
    difference = export(trained, given.to, out, shapes)
    if difference is None:
        print("not checked: onnxruntime is not installed")
    else:
        print(f"checked with random inputs: the logits differ by at most {difference:.1e} of the largest one")
    print(f"{', '.join(shapes)} → {out}")
    if trained.banner:
        print(trained.banner)
    return 0


if __name__ == "__main__":
    run(main)
