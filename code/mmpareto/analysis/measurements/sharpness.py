"""The sharpness of a minimum: the largest eigenvalue of the Hessian of a loss at a checkpoint.

Of the joint loss and of every unimodal loss, each a mean over the same samples of the training set (read without
augmentation), with respect to all trainable parameters that the loss reaches. The eigenvalue is the largest algebraic
one: at a minimum none is negative; elsewhere one may be that is larger in magnitude, a direction in which the loss
falls, and it is not what is reported. BatchNorm normalises by its running statistics; the arithmetic is float32,
whatever the training's was, with inner products in float64.

The value depends on the samples: over fewer of them it is larger (the largest eigenvalue of a mean is at most the mean
of the largest). Compare figures over the same number only. Nor does it stay the same when a layer of ReLUs is scaled up
and the next one down, which changes no output (Dinh et al., "Sharp minima can generalize for deep nets", ICML 2017).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmpareto.analysis.measurements.hessian import Hessian, largest_eigenvalue, saved_bytes
from mmpareto.analysis.measurements.runs import Subject
from mmpareto.data.loading.batches import Batch, to_device
from mmpareto.errors import InputError
from mmpareto.integration.objectives import JOINT, leaves
from mmpareto.progress import progress
from mmpareto.training.losses import losses

SAMPLES = 64
GRAPH_BYTES = 2 << 30  # of a gradient's graph in memory at once; a product takes as much again


def measure(subject: Subject, samples: int = SAMPLES) -> dict[str, Any]:
    """Measure the sharpness of every loss that means something; see the module.

    Memory: the graph of the gradient of as many samples as 2 GiB hold, as much for a product, and a vector of
    float64 a product. Where all samples fit, the graph is kept, and a product is the cheaper for it.

    Returns:
        {"losses": {"joint" and every modality: {"largest_eigenvalue", "residual", "iterations"}}}; the residual is
        ‖H v − λ v‖ for the unit vector v that was found, an iteration a product with H.

    Raises:
        InputError: the training set is smaller, or the eigenvalue was not found.
    """
    size = _batch_size(subject, samples)
    batches = [to_device(one, subject.device, subject.samples.normalisation) for one in subject.drawn(samples, size)]
    found = {}
    for name in subject.losses:
        parts = [_part(subject, name, batch, len(batch.labels) / samples) for batch in batches]
        hessian = Hessian(parts, reached(subject, parts[0]))
        with progress(desc=f"sharpness of {subject.folder.name}, {name}", unit=" products", leave=False) as bar:
            try:
                best = largest_eigenvalue(_counted(hessian.product, bar), hessian.size)
            except ValueError as error:
                raise InputError(f"{subject.folder}, {name} loss: {error}; try other --samples.") from error
        found[name] = {
            "largest_eigenvalue": best.value,
            "residual": best.residual,
            "iterations": best.products,
        }
    return {"losses": found}


def reached(subject: Subject, loss: Callable[[], Tensor]) -> list[Tensor]:
    """The trainable parameters that a loss reaches, in the network's order."""
    ends = {id(leaf) for leaf in leaves([loss()])}
    return [p for p in subject.network.parameters() if id(p) in ends]


def _part(subject: Subject, name: str, batch: Batch, share: float) -> Callable[[], Tensor]:
    """The loss of a batch times its share of the samples, when it is asked for."""

    def compute() -> Tensor:
        joint, unimodal = losses(subject.network(batch.inputs), batch.labels, share)
        return joint if name == JOINT else unimodal[name]

    return compute


def _batch_size(subject: Subject, samples: int) -> int:
    """How many samples' graph `GRAPH_BYTES` hold; from what two samples take."""
    (two,) = subject.drawn(min(2, samples), 2)
    part = _part(subject, JOINT, to_device(two, subject.device, subject.samples.normalisation), 1.0)
    parameters = reached(subject, part)

    def gradient() -> Sequence[Tensor]:
        return torch.autograd.grad(part(), parameters, create_graph=True)

    each = saved_bytes(gradient, list(subject.network.parameters())) / len(two.labels)
    return max(1, min(samples, int(GRAPH_BYTES / max(each, 1))))


def _counted(product: Callable[[Any], Any], bar: Any) -> Callable[[Any], Any]:
    def counted(vector: Any) -> Any:
        bar.update()
        return product(vector)

    return counted
