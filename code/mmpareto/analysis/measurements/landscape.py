"""The loss around a minimum, along filter-normalised random directions.

Li, Xu, Taylor, Studer & Goldstein, "Visualizing the loss landscape of neural nets", NeurIPS 2018: L(θ + a δ) along a
line, L(θ + a δ + b η) on a plane. Directions δ and η are Gaussian, and each of their filters (what makes one output of
a layer: the slice of the weight along its first axis) is scaled to the norm of the network's filter. As their released
code (tomgoldstein/loss-landscape) does by its flags `--xnorm filter --xignore biasbn`, which its examples use,
directions are zero at all tensors of one dimension: biases, and BatchNorm's weights and biases.

BatchNorm is as that code has it with `--dir_type weights`, its default: in evaluation mode, with the running mean and
variance that training left at the minimum, at every point; they are neither moved along nor computed anew.

A direction follows from its seed and the tensors' names alone, so that the runs of all methods are looked at along the
same draws, each scaled to its own filters. The loss is the joint one, a mean over the same samples of the training set
for every point, read without augmentation.
"""

import contextlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmpareto.analysis.measurements.runs import Subject
from mmpareto.data.prepared.batches import Batch
from mmpareto.progress import progress
from mmpareto.training.evaluation import predict
from mmpareto.training.losses import is_correct, loss_of

POINTS = 41
SAMPLES = 128
BATCH_SIZE = 64
REACH = 1.0  # of the line and the plane, to both sides: there, a direction is as long as the weights
BATCH_NORM = "running statistics of the checkpoint, at every point"


def measure(
    subject: Subject, samples: int = SAMPLES, points: int = POINTS, plane: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Joint loss and accuracy along a line and, if asked for, on a plane of `plane` by `plane` points.

    The weights are put back bit by bit. Costs a forward pass over the samples a point; memory: three copies of the
    weights, and the samples.

    Arguments:
        points: odd, so that the minimum is one of them; so is `plane`.

    Returns:
        {"distances", "line": {"loss", "acc"}, "plane_points", "plane_distances", "plane": {"loss", "acc"} or None,
        "batch_norm"}; a row of the plane is a step along the second direction, a column one along the first. Accuracies
        are fractions.

    Raises:
        InputError: the training set is smaller.
    """
    batches = subject.drawn(samples, BATCH_SIZE)
    first, second = (direction(subject.network, number, seed) for number in (0, 1))
    along = np.linspace(-REACH, REACH, points)
    across = None if plane is None else np.linspace(-REACH, REACH, plane)
    steps = [(a, 0.0) for a in along] + ([] if across is None else [(a, b) for b in across for a in across])
    found = []
    bar = progress(steps, desc=f"landscape of {subject.folder.name}", unit=" points", leave=False)
    for a, b in bar:
        with moved(subject.network, [(a, first), (b, second)]):
            found.append(loss_and_accuracy(subject, batches))
    line, rest = found[:points], np.array(found[points:])
    return {
        "distances": along.tolist(),
        "line": {"loss": [loss for loss, _ in line], "acc": [acc for _, acc in line]},
        "plane_points": plane,
        "plane_distances": None if across is None else across.tolist(),
        "plane": None
        if plane is None
        else {name: rest[:, place].reshape(plane, plane).tolist() for place, name in enumerate(("loss", "acc"))},
        "batch_norm": BATCH_NORM,
    }


def direction(network: nn.Module, number: int, seed: int) -> dict[str, Tensor]:
    """A random direction: parameter's name → its part, filter by filter as long as the network's; () and (n,) are zero.

    Arguments:
        number: 0 is the first direction of the seed, 1 the second.
    """
    found = {}
    for name, parameter in network.named_parameters():
        weights = parameter.detach()
        if weights.dim() <= 1:
            found[name] = torch.zeros_like(weights)
            continue
        generator = np.random.default_rng((seed, number, zlib.crc32(name.encode())))
        drawn = torch.from_numpy(generator.standard_normal(tuple(weights.shape))).to(weights)
        shape = [-1] + [1] * (weights.dim() - 1)
        lengths, drawn_lengths = (torch.linalg.vector_norm(x.flatten(1), dim=1).view(shape) for x in (weights, drawn))
        found[name] = drawn * (lengths / drawn_lengths)
    return found


@contextlib.contextmanager
def moved(network: nn.Module, steps: Sequence[tuple[float, dict[str, Tensor]]]) -> Iterator[None]:
    """Inside, the parameters are moved along the directions; after it, they are what they were, bit by bit."""
    parameters = dict(network.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        with torch.no_grad():
            for name, parameter in parameters.items():
                for length, towards in steps:
                    if length:  # the minimum itself is not even rounded
                        parameter.add_(towards[name], alpha=length)
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(before[name])


def loss_and_accuracy(subject: Subject, batches: Sequence[Batch]) -> tuple[float, float]:
    """Mean joint loss over all samples of the batches, and the share of those that it gets right."""
    precision = subject.trained.precision(subject.device)
    found = predict(subject.network, batches, subject.device, subject.samples.normalisation, precision)
    logits = found.outputs.joint.double()
    return loss_of(logits, found.labels).item(), is_correct(logits, found.labels).double().mean().item()
