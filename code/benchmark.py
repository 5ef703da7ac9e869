"""Measure speed and memory: `python code/benchmark.py [step|loading|preparation|gpu]`; see `--help`."""

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from mmpareto.analysis.speed import WITHOUT_EFFECT
from mmpareto.cli import ArgumentParser, at_least, run
from mmpareto.files import write_text


def parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(
        prog="benchmark.py",
        description="step: time and peak memory of a training step with each method and with the released code, "
        "interleaved, on random inputs: CPU seconds on a CPU, elapsed seconds on a GPU; ratios are to uniform's step "
        "of the same round. loading: loading of training samples, compared with the released loader. preparation: "
        "preparation of raw clips, compared with a script of OpenCV and torchaudio. gpu: all that needs a GPU, in "
        "sections, into the folder --out; script/gpu_check.sh calls it with CREMA-D's shapes.",
    )
    parser.add_argument("what", nargs="?", choices=(*MEASUREMENTS, "gpu"), default="step", help="default: step")
    parser.add_argument("--rounds", type=at_least(1), default=15, help="measured rounds (default: 15)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the measurements to FILE, as JSON")
    parser.add_argument("--clips", type=at_least(1), default=48, help="for loading and preparation (default: 48)")
    parser.add_argument("--workers", type=at_least(0), default=0, help="loading: also with so many processes")

    step = parser.add_argument_group("step")
    step.add_argument("--methods", nargs="+", help="METHOD, METHOD:VARIANT, released_code, torchjd:NAME (default: all)")
    step.add_argument("--integration", action="store_true", help="also measure the share of the step for integration")
    step.add_argument("--batch_size", type=at_least(1), default=16, help="default: 16")
    step.add_argument("--image_size", type=at_least(1), default=96, help="height and width in pixels (default: 96)")
    step.add_argument("--frames", type=at_least(1), default=2, help="images per sample (default: 2)")
    step.add_argument("--audio_frames", type=at_least(1), default=256, help="of the filterbank (default: 256)")
    step.add_argument("--modalities", type=at_least(1), metavar="N", help="N vectors, for MLPs, in place of clips")
    step.add_argument("--gpu_ids", default="auto", help="0, or 0,1 (DataParallel), or cpu; default: a GPU, if any")
    step.add_argument("--amp", choices=("bf16", "fp16"), help="mixed precision; fp16 on a GPU only")
    step.add_argument("--tf32", action="store_true", help="TF32 in float32 products, on a GPU")
    step.add_argument("--channels_last", action="store_true", help="images and feature maps with channels last")
    step.add_argument("--fused", action="store_true", help="the optimizer's step in one kernel, as with fp16")
    step.add_argument("--compile", action="store_true", help="compile the network; the first step takes minutes")
    step.add_argument("--blocks", choices=("mmtm",), help="blocks between the encoders, as in train.py")
    step.add_argument("--cross_terms", choices=("included",), help="included in all methods, as in train.py")

    gpu = parser.add_argument_group("gpu")
    gpu.add_argument("--sections", nargs="+", metavar="NAME", help="of tests, step, loading, two_gpus, cgmnist")
    gpu.add_argument("--minutes", type=float, default=7.5, help="for all sections together (default: 7.5)")
    gpu.add_argument("--slots", type=at_least(1), default=8, help="cgmnist: runs at a time on a GPU (default: 8)")
    gpu.add_argument("--commit", help="of the code, where it is not in git")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write the measurements; return the exit status."""
    made = parser()
    given = made.parse_args(arguments)
    measurement = "step on vectors" if given.what == "step" and given.modalities else given.what
    made.refuse(arguments, WITHOUT_EFFECT[measurement], f"on the measurement {measurement!r}")
    if given.what == "gpu":
        from mmpareto.analysis.speed import gpu_check

        return gpu_check.check(given)
    measured, text = MEASUREMENTS[given.what](given)
    print(text)
    if given.out:
        write_text(given.out, json.dumps(measured, indent=1) + "\n")
        print(given.out)
    return 0


def _step(given: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from mmpareto.analysis.speed import cost

    conditions = cost.Conditions(**{field.name: getattr(given, field.name) for field in fields(cost.Conditions)})
    costs = cost.measure(cost.contender_names(given.methods, conditions), conditions, given.rounds, given.integration)
    return costs, cost.table(costs)


def _loading(given: argparse.Namespace) -> tuple[dict[str, Any], str]:
    import torch
    from mmpareto.analysis.speed import loading

    torch.set_num_threads(1)  # as in a worker process of a loader
    measured = loading.compare(given.clips, given.rounds, given.workers)
    return measured, loading.table(measured)


def _preparation(given: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from mmpareto.analysis.speed import preparation

    measured = preparation.compare(given.clips)
    return measured, preparation.table(measured)


MEASUREMENTS = {"step": _step, "loading": _loading, "preparation": _preparation}

if __name__ == "__main__":
    run(main)
