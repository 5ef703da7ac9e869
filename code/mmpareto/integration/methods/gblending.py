"""G-Blending, gradient blending (Wang, Tran & Feiszli, CVPR 2020, arXiv 1905.12681)."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.hooks import TrainingContext, Trial
from mmpareto.integration.methods.plain_sum import PlainSum
from mmpareto.integration.objectives import JOINT, Encoders, Objectives, UnimodalLosses, collect
from mmpareto.integration.options import check_at_least, check_choice


class GBlending(PlainSum):
    """G-Blending: descend a weighted sum of the losses; weights measure how each loss generalises and overfits.

    For the joint loss and every unimodal loss, a copy of the model is trained on that loss alone for an interval. With
    G the decrease of its validation loss over the interval, O = validation loss − training loss, and ΔO the growth of
    O over the interval:

        wᵢ = |ΔGᵢ| / ΔOᵢ² / Σⱼ |ΔGⱼ| / ΔOⱼ²        L = w_m·L_m + Σₖ w_k·L_uᵏ

    Offline, the weights are measured once, over as many epochs as the run has; online, they are measured every `every`
    epochs, over as many epochs. As published, the weights sum to 1, whereas those of the plain sum (all 1) sum to their
    number; steps are smaller by that factor. One backward pass over the sum per step; measuring adds n + 1 trainings to
    the run's own, for n modalities.

    In your own loop, call `set_weights(blending_weights(…))` whenever the weights should change. The released code
    (facebookresearch/VMZ) also takes the weights as arguments and leaves measuring them to the user; the weights
    published there for Kinetics and R3D are audio 0.014, visual 0.630, joint 0.356. Offline, weights that were set are
    not measured again.

    Arguments:
        mode: "offline" or "online".
        every: epochs of an online interval, ≥ 1 [10].
        trial_epochs: number of epochs for which each copy is trained; 0 for the paper's: all epochs of the run
            (offline), or `every` epochs, but not beyond the end of the run (online).

    Raises:
        ValueError: an option is out of range; `backward`: there are no weights yet, or they are for other losses.
    """

    source = "Wang, Tran & Feiszli, What makes training multi-modal classification networks hard?, CVPR 2020"
    needs_fusion = True
    without_effect = MappingProxyType({"every": {"mode": "offline"}})
    memory = ("weights",)
    trains_copies = True

    def __init__(self, mode: str = "offline", every: int = 10, trial_epochs: int = 0) -> None:
        super().__init__()
        check_choice("mode", mode, ("offline", "online"))
        check_at_least("every", every, 1)
        check_at_least("trial_epochs", trial_epochs, 0)
        self.mode, self.every, self.trial_epochs = mode, every, trial_epochs
        self.weights: dict[str, float] = {}

    def set_weights(self, weights: Mapping[str, float]) -> None:
        """Use these weights from now on, without normalising them.

        Arguments:
            weights: "joint" and every modality → a number of at least 0.

        Raises:
            ValueError: there are none, one is negative or not finite, or all are 0.
        """
        for name, weight in weights.items():
            check_at_least(f"the weight of {name!r}", weight, 0)
        if not any(weights.values()):
            raise ValueError("at least one loss must have a weight above 0, or nothing is learned")
        self.weights = {name: float(weight) for name, weight in weights.items()}

    def begin_epoch(self, context: TrainingContext) -> None:
        """Measure the weights if they are due."""
        if self.weights and (self.mode == "offline" or (context.epoch - 1) % self.every):
            return
        interval = context.epochs if self.mode == "offline" else min(self.every, context.epochs - context.epoch + 1)
        epochs = self.trial_epochs or interval
        trials = {name: context.trial(name, epochs) for name in [JOINT, *context.network.modalities]}
        self.set_weights(blending_weights(trials))

    def objectives(
        self, joint: Tensor | None, unimodal: UnimodalLosses, encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Return every loss times its weight."""
        objectives = collect(joint, unimodal, encoders)
        if not self.weights:
            raise ValueError("G-Blending has no weights yet: call set_weights() with those of blending_weights()")
        if set(self.weights) != set(objectives.names):
            raise ValueError(
                f"G-Blending has weights for {sorted(self.weights)}, but the losses are {sorted(objectives.names)}:"
                " pass the former losses, or call set_weights() for the latter"
            )
        objectives.losses = {name: loss * self.weights[name] for name, loss in objectives.losses.items()}
        return objectives

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Return the weights as metrics."""
        device = gradients.scale.device
        return {
            f"weight_{name}": torch.full((), self.weights[name], dtype=torch.float64, device=device)
            for name in objectives.names
        }


def blending_weights(trials: Mapping[str, Trial]) -> dict[str, float]:
    """Return w ∝ |ΔG| / ΔO² of every trial's loss, summing to 1 (paper, section 3).

    As published, an increase of the validation loss counts like a decrease of the same size, and a shrinking gap like a
    growing one. Following the formula's limits, a loss that did not overfit at all (ΔO = 0) outweighs all that did; if
    there are several, they share the weight in proportion to |ΔG|. A loss that learned nothing (ΔG = 0) or diverged has
    weight 0; if this holds for all losses, all have the same weight.

    Raises:
        ValueError: there are no trials.
    """
    if not trials:
        raise ValueError("no trials were given: pass one for the joint loss and one for every modality")
    measured: dict[str, tuple[float, float]] = {}
    for name, trial in trials.items():
        decrease = trial.validation_before - trial.validation_after
        growth = (trial.validation_after - trial.train_after) - (trial.validation_before - trial.train_before)
        if decrease and math.isfinite(decrease) and math.isfinite(growth):
            measured[name] = abs(decrease), abs(growth)
    if not measured:
        return dict.fromkeys(trials, 1 / len(trials))
    smallest = min(growth for _, growth in measured.values())
    # Relative to the smallest ΔO, no quotient overflows; if that is 0, only the losses that share it count.
    raw = {
        name: decrease * (smallest / growth) ** 2 if growth else decrease
        for name, (decrease, growth) in measured.items()
    }
    total = sum(raw.values())
    return {name: raw.get(name, 0.0) / total for name in trials}
