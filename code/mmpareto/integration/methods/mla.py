"""MLA, multimodal learning with alternating unimodal adaptation (Zhang et al., CVPR 2024, arXiv 2311.10707)."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.features import read_output
from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.methods.plain_sum import PlainSum
from mmpareto.integration.objectives import Encoders, Objectives, UnimodalLosses, collect
from mmpareto.integration.options import check_choice

FUSIONS = {"sample": "entropy", "batch": "entropy_over_batch", "equal": "average_logits"}


class MLA(PlainSum):
    """MLA: one optimiser step per modality and batch, through a linear head that all modalities share.

    A batch takes n steps, one after another. Step k descends L_u of modality k, of the logits z_k = W x_k + b, and
    moves encoder k, W and b, as the step before has left them. There is no joint loss. So that W keeps what it learned
    from other modalities, its gradient g (C, d) is corrected by recursive least squares. With r (d,) the mean of x_k
    over the batch, j of J batches in the epoch (from 0), and the identity as the first P (d, d):

        P ← P − q qᵀ / (α_j + rᵀ q)        q = P r        α_j = 0.1^(1 + j/J)        g ← g Pᵀ

    P is the inverse of I + Σ r rᵀ/α over all steps so far: W hardly moves along mean features, and ever less in any
    direction. A prediction is Σ λ_k z_k with λ_k ∝ exp(max_j H_j − H_k), where H_k is the entropy of softmax(z_k).

    The correction is that of orthogonal weights modification (Zeng et al., Nature Machine Intelligence 2019), from
    which MLA's code takes it. MLA's paper could not be read here: `variants["paper"]` is unchecked.
    `variants["released"]` is the code (Cecile-hi/Multimodal-Learning-with-Alternating-Unimodal-Adaptation at 4735bbc,
    with --gs_flag --dynamic), where

    - rᵀq is the matrix q rᵀ instead, by which qqᵀ is divided element by element, and P is divided by its Frobenius norm
      after every update; the first step of all neither updates P nor corrects g;
    - H_k is of a softmax over the samples of a batch, summed over them, so that a prediction depends on its batch.

    At another commit, 11ae1ee, it looks for a parameter "module.weight", where that of the head is "weight": nothing is
    corrected, as with `correction` "none". Without --dynamic, λ is 0.55 for audio and 0.45 for visual (0.35, 0.25 and
    0.4 for audio, visual and text), which is left out. It computes all x_k before the first step, which changes
    nothing: no step before k moves encoder k. `variants["balancebenchmark"]` (GeWu-Lab/BalanceBenchmark,
    MLA_trainer.py) has the same P, adds g Pᵀ to g, and weighs each sample; as stored, its loop stops at an attribute
    that is never set.

    A forward and a backward pass of each encoder per batch. In your own loop, take a step per modality: the forward
    pass, `backward` with its loss alone, the optimizer's step and `zero_grad()`; call `set_epoch(…)` when an epoch
    begins, or else α stays 0.1. `backward` needs `outputs` with `features`, modality → x_k (B, d). The head's weight is
    what is (C, d) outside the encoders. Compute the prediction yourself.

    Arguments:
        projection: "least_squares": P as above; "released": as in the released code.
        correction: "product": g Pᵀ; "sum": g + g Pᵀ; "none": g, to see what the correction does.
        test_weights: λ of a prediction: "sample": of each sample; "batch": of all samples of a batch; "equal": 1/n.

    Raises:
        ValueError: an option is none of these; `backward`: losses of several modalities are given, or no features, or
            the loss reaches no weight (C, d).
    """

    source = "Zhang et al., MLA, CVPR 2024 (arXiv 2311.10707)"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"projection": "least_squares", "correction": "product", "test_weights": "sample"},
        "released": {"projection": "released", "correction": "product", "test_weights": "batch"},
        "balancebenchmark": {"projection": "released", "correction": "sum", "test_weights": "sample"},
    }
    without_effect = MappingProxyType({"projection": {"correction": "none"}})
    memory = ("matrix", "turn", "turns_per_batch", "batches")
    descends_joint = False
    needs_classes = True
    needs_fusion = True
    no_interaction = "trains one encoder per step, without the inputs of the others"

    def __init__(
        self, projection: str = "least_squares", correction: str = "product", test_weights: str = "sample"
    ) -> None:
        super().__init__()
        check_choice("projection", projection, ("least_squares", "released"))
        check_choice("correction", correction, ("product", "sum", "none"))
        check_choice("test_weights", test_weights, tuple(FUSIONS))
        self.projection, self.correction, self.test_weights = projection, correction, test_weights
        self.network = {"fusion": FUSIONS[test_weights], "heads": "shared"}
        self.matrix: Tensor | None = None  # P, float64
        self.turn, self.turns_per_batch, self.batches = 0, 1, 0  # the step in the epoch, and how many there are

    def turns(self, modalities: Sequence[str]) -> list[list[str]]:
        """Return one step per modality."""
        return [[name] for name in modalities]

    def set_epoch(self, batches: int, modalities: int) -> None:
        """Begin an epoch of so many batches, with so many steps each."""
        self.turn, self.turns_per_batch, self.batches = 0, modalities, batches

    def begin_epoch(self, context: TrainingContext) -> None:
        """Begin the epoch."""
        self.set_epoch(context.steps, len(context.network.modalities))

    def objectives(
        self, joint: Tensor | None, unimodal: UnimodalLosses, encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Return the loss of the step's modality, for its encoder."""
        given = {name: loss for name, loss in unimodal.items() if loss is not None}
        if len(given) > 1:
            raise ValueError(f"MLA takes a step per modality: pass the loss of one, not of {', '.join(given)}")
        return collect(None, given, {name: encoders[name] for name in given if name in encoders})

    def statistics(self, outputs: Any, labels: Tensor | None, objectives: Objectives) -> dict[str, Tensor]:
        """Return the sum (d,) of the features, and the number () of samples, float64."""
        (name,) = objectives.losses
        features = read_output(outputs, "features")
        if features is None or features.get(name) is None:
            raise ValueError(f"MLA needs the features of {name!r}: pass outputs=… with `features`, modality → (B, d)")
        x = features[name].detach().flatten(1).double()
        return {"features": x.sum(0), "samples": torch.full_like(x[:1].sum(), len(x))}

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Update P, and correct the gradient of the head's weight."""
        mean = gradients.statistics["features"] / gradients.statistics["samples"]
        weights = [p for p in gradients.others if p.dim() == 2 and p.shape[1] == len(mean)]
        if not weights:
            raise ValueError(
                f"MLA corrects the gradient of a linear head with a weight (classes, {len(mean)}), and the loss of "
                f"{', '.join(objectives.losses)} reaches none: give all modalities one such head"
            )
        batch, self.turn = self.turn // self.turns_per_batch, self.turn + 1
        is_first = self.matrix is None
        before = torch.eye(len(mean)).to(mean) if self.matrix is None else self.matrix.to(mean)
        self.matrix = before
        if self.correction == "none" or (is_first and self.projection == "released"):
            return {}
        alpha = 0.1 ** (1 + batch / self.batches) if self.batches else 0.1
        updated = self._updated(before, mean, alpha)
        counts = gradients.finite.all().to(mean.device) & updated.isfinite().all()
        self.matrix = torch.where(counts, updated, before)
        for weight in weights:
            gradient = gradients.others[weight]
            corrected = (gradient.to(self.matrix) @ self.matrix.T).to(gradient)
            gradients.others[weight] = corrected if self.correction == "product" else gradient + corrected
        return {}

    def _updated(self, matrix: Tensor, mean: Tensor, alpha: float) -> Tensor:
        """Return P after a step whose mean feature is r."""
        q = matrix @ mean
        if self.projection == "least_squares":
            return matrix - q.outer(q) / (alpha + mean @ q)
        updated = matrix - q.outer(q) / (alpha + q.outer(mean))
        return updated / updated.norm()
