"""The noise of mini-batch gradients at a fixed checkpoint: how far they scatter, for the joint and the unimodal loss.

Stochastic gradient descent follows g^S = g + ε: the gradient over a batch S in place of that over the training set.
The paper (Wei & Hu, ICML 2024) takes ε for Gaussian with the covariance of g^S over the choice of S, and observes that
the joint loss's is smaller than the unimodal one's in the encoders. Here that covariance is estimated in every encoder,
from N batches of the run's own batch size:

- A batch is drawn without replacement from the samples that the run was trained on, as a step's batch is, and
  independently of the others: batches of one epoch's partition would not be (their sum is fixed), and an estimate that
  divides by N − 1 is unbiased for independent ones only.
- The samples are read without augmentation: the noise is that of the choice of samples alone, which is the one that the
  paper speaks of. Random crops and flips would add theirs.
- BatchNorm is frozen: it normalises by its running statistics, so that a sample's gradient does not depend on its
  batch.
- The losses are those of `training.losses`, differentiated as a training step differentiates them, in the precision of
  the training. They are the plain losses: what a method makes of them (weights, integration) is not looked at.

Weight decay adds the same to every gradient, and so nothing to their covariance. The trace is estimated without bias;
the largest eigenvalue of so few vectors lies above the true one: compare figures of the same N only.
"""

import dataclasses
from typing import Any

import numpy as np
import torch

from mmpareto.analysis.measurements.gradient_spread import Spread, flat
from mmpareto.analysis.measurements.runs import Subject
from mmpareto.data.loading.batches import Batch, make_loader, to_device
from mmpareto.errors import InputError
from mmpareto.integration.gradients import differentiate, separate_passes
from mmpareto.integration.objectives import JOINT, collect
from mmpareto.progress import progress
from mmpareto.training.losses import losses

UNIMODAL = "unimodal"
SEED = 0  # of the batches


def measure(subject: Subject, batches: int = 64, batch_size: int | None = None) -> dict[str, Any]:
    """Measure the covariance of N batches' gradients in every encoder; N forward and two backward passes.

    On disk (TMPDIR), the gradients take N · P numbers for each loss of an encoder of P parameters: 2.9 GB for ResNet-18
    and N = 64. In memory, three vectors of each.

    Arguments:
        batches: N ≥ 2.
        batch_size: that of the training where None.

    Returns:
        {"encoders": {modality: {"joint" and "unimodal": {"trace", "largest_eigenvalue", "mean_norm"}}}};
        no "unimodal" where the heads are untrained. mean_norm is the mean of the gradients' norms.

    Raises:
        InputError: the training set is smaller than two batches, or the disk is full.
    """
    size = batch_size or subject.settings.batch_size
    samples = len(subject.samples)
    if size >= samples:
        raise InputError(
            f"a batch of {size} is all that {subject.folder} was trained on ({samples} samples) and has no noise: give "
            "a smaller --batch_size."
        )
    names = [JOINT, UNIMODAL] if len(subject.losses) > 1 else [JOINT]
    spreads = {modality: {name: Spread() for name in names} for modality in subject.network.modalities}
    try:
        generator = np.random.default_rng(SEED)
        places = [generator.choice(samples, size, replace=False).tolist() for _ in range(batches)]
        chosen = torch.utils.data.Subset(subject.samples, [place for batch in places for place in batch])
        loader = make_loader(chosen, batch_size=size)
        for batch in progress(loader, desc=f"covariance of {subject.folder.name}", unit=" batches", leave=False):
            for modality, gradients in gradients_of(subject, batch).items():
                for name, vector in zip(names, gradients, strict=True):
                    spreads[modality][name].add(vector)
        return {"encoders": {m: {name: _figures(one) for name, one in of.items()} for m, of in spreads.items()}}
    finally:
        for of in spreads.values():
            for spread in of.values():
                spread.close()


def gradients_of(subject: Subject, batch: Batch) -> dict[str, list[torch.Tensor]]:
    """Modality → the gradients of a batch's joint loss and, unless its head is untrained, unimodal loss, (P,) each."""
    network = subject.network
    batch = to_device(batch, subject.device, subject.samples.normalisation)
    with subject.trained.precision(subject.device).autocast():
        found = losses(network(batch.inputs), batch.labels)
    own = len(subject.losses) > 1
    encoders = {name: (encoder, [name] if own else []) for name, encoder in network.encoders.items()}
    objectives = collect(found.joint, found.unimodal if own else {}, encoders)
    objectives.interaction = network.interaction
    passes = [dataclasses.replace(run, outside=False) for run in separate_passes(objectives)]
    gradients = differentiate(objectives, passes)
    return {
        name: [flat(one, objectives.encoders[name].parameters) for one in gradients.encoders[name]]
        for name in network.modalities
    }


def _figures(spread: Spread) -> dict[str, float]:
    return {
        "trace": spread.trace,
        "largest_eigenvalue": spread.largest_eigenvalue(),
        "mean_norm": spread.mean_norm,
    }
