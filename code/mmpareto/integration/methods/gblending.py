"""G-Blending, gradient blending (Wang, Tran & Feiszli, CVPR 2020, arXiv 1905.12681)."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.hooks import TrainingContext, Trial
from mmpareto.integration.methods.plain_sum import PlainSum
from mmpareto.integration.objectives import JOINT, Encoders, Objectives, collect


class GBlending(PlainSum):
    """Descend the losses' weighted sum, with weights by how much each loss, alone, generalises and overfits.

    For the joint loss and every unimodal one, a copy of the model is trained on that loss alone for an interval. With G
    the fall of its validation loss over the interval, O = validation loss − training loss and ΔO the growth of O:

        wᵢ = |ΔGᵢ| / ΔOᵢ² / Σⱼ |ΔGⱼ| / ΔOⱼ²        L = w_m·L_m + Σₖ w_k·L_uᵏ

    Offline, this is measured once, over as many epochs as the run has; online, every `every` epochs, over as many. The
    weights add up to 1, as published, where those of the plain sum add up to their number: the step is smaller by that.
    A step is one backward pass over the sum; the measuring makes the n + 2 trainings of a run out of one.

    In a loop of your own, `set_weights(blending_weights(…))` where they are to change. The released code
    (facebookresearch/VMZ) takes weights as arguments, too, and leaves the measuring to its user; its published ones for
    Kinetics and R3D are audio 0.014, visual 0.630, joint 0.356. Offline, weights that are set are not measured again.

    Arguments:
        mode: "offline" or "online".
        every: epochs of an online interval, ≥ 1 [10].
        trial_epochs: for how many epochs each copy is trained; 0 for the paper's: the run's (offline), or `every`, but
            not beyond the run's end (online).

    Raises:
        ValueError: an option is out of range; `backward`: there are no weights, or those of other losses.
    """

    source = "Wang, Tran & Feiszli, What makes training multi-modal classification networks hard?, CVPR 2020"
    memory = ("weights",)

    def __init__(self, mode: str = "offline", every: int = 10, trial_epochs: int = 0) -> None:
        super().__init__()
        if mode not in ("offline", "online"):
            raise ValueError(f"mode must be 'offline' or 'online', not {mode!r}")
        if every < 1:
            raise ValueError(f"every must be at least 1 epoch, not {every}")
        if trial_epochs < 0:
            raise ValueError(f"trial_epochs must be at least 0, not {trial_epochs}")
        self.mode, self.every, self.trial_epochs = mode, every, trial_epochs
        self.weights: dict[str, float] = {}

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Take these weights from now on, as they are.

        Arguments:
            weights: "joint" and every modality → a number of at least 0.

        Raises:
            ValueError: there is none, one is negative or not finite, or all are 0.
        """
        for name, weight in weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"the weight of {name!r} must be a number of at least 0, not {weight}")
        if not any(weights.values()):
            raise ValueError("at least one loss must have a weight above 0, or nothing is learnt")
        self.weights = {name: float(weight) for name, weight in weights.items()}

    def begin_epoch(self, loop: TrainingContext) -> None:
        """Measure, where it is time to."""
        if self.weights and (self.mode == "offline" or (loop.epoch - 1) % self.every):
            return
        epochs = loop.epochs if self.mode == "offline" else min(self.every, loop.epochs - loop.epoch + 1)
        epochs = self.trial_epochs or epochs
        self.set_weights(
            blending_weights({name: loop.trial(name, epochs) for name in [JOINT, *loop.network.modalities]})
        )

    def objectives(
        self, joint: Tensor | None, unimodal: Mapping[str, Tensor], encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Every loss times its weight."""
        objectives = collect(joint, unimodal, encoders)
        if not self.weights:
            raise ValueError("G-Blending has no weights yet: call set_weights(), with those of blending_weights()")
        if set(self.weights) != set(objectives.losses):
            raise ValueError(
                f"G-Blending has weights of {sorted(self.weights)}, but the losses are {sorted(objectives.losses)}:"
                " pass those losses, or set_weights() of these"
            )
        objectives.losses = {name: loss * self.weights[name] for name, loss in objectives.losses.items()}
        return objectives

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """The weights, as figures."""
        device = gradients.scale.device
        return {
            f"weight_{name}": torch.full((), self.weights[name], dtype=torch.float64, device=device)
            for name in objectives.losses
        }


def blending_weights(trials: Mapping[str, Trial]) -> dict[str, float]:
    """Loss → w ∝ |ΔG| / ΔO², adding up to 1, of what training on that loss alone did (paper, section 3).

    A rise of the validation loss counts as a fall of that size, and a shrinking gap as a growing one: as published. By
    the formula's limits, a loss that did not overfit at all (ΔO = 0) outweighs all that did; several share by |ΔG|.
    One that learnt nothing (ΔG = 0) or diverged has weight 0; if this holds for all, all weigh the same.

    Raises:
        ValueError: there is no trial.
    """
    if not trials:
        raise ValueError("no trial was given: pass one of the joint loss and of every modality")
    measured: dict[str, tuple[float, float]] = {}
    for name, trial in trials.items():
        fall = trial.validation_before - trial.validation_after
        growth = (trial.validation_after - trial.train_after) - (trial.validation_before - trial.train_before)
        if fall and math.isfinite(fall) and math.isfinite(growth):
            measured[name] = abs(fall), abs(growth)
    if not measured:
        return dict.fromkeys(trials, 1 / len(trials))
    least = min(growth for _, growth in measured.values())
    # Relative to the least ΔO, no quotient overflows; with a least of 0, only those that have it count.
    raw = {name: fall * (least / growth) ** 2 if growth else fall for name, (fall, growth) in measured.items()}
    total = sum(raw.values())
    return {name: raw.get(name, 0.0) / total for name in trials}
