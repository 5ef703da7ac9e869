"""Approximation of MMPareto with one backward pass at most steps: decisions are refreshed every K-th step."""

import math

import torch
from torch import Tensor

from mmpareto.integration.differentiation import Gradients, PassHook, differentiate_per_encoder
from mmpareto.integration.features import find_cut
from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.linear_algebra import combine_and_release
from mmpareto.integration.method import Method
from mmpareto.integration.methods.mmpareto import MMPareto
from mmpareto.integration.objectives import Objectives
from mmpareto.integration.options import check_at_least
from mmpareto.integration.report import EncoderReport


class Refresh(Method):
    """MMPareto whose conflicts, weights and magnitudes are decided every K-th step: `Refresh(MMPareto.paper(), 10)`.

    With the factors of a whole encoder, its step is h = β Σ 2αᵢ gᵢ, where β is the magnitude. α and β are decided at
    every K-th step, from the gradients gᵢ at the encoder's parameters θ, and reused at the K − 1 steps after it. There,
    with x the encoder's output, gᵢ = (∂x/∂θ)ᵀ ∂Lᵢ/∂x, so that

        h = β (∂x/∂θ)ᵀ (2α₁ ∂L₁/∂x + 2α₂ ∂L₂/∂x)

    takes one backward pass through the encoders, of gradients that are mixed at their outputs; ∂Lᵢ/∂x needs fusion and
    heads alone. Parameters outside the encoders receive the plain sum at every step. Since a backward pass costs about
    two forward passes, K steps cost 3K + 2 where the plain sum costs 3K: 1 + 0.67/K times as much.

    A step that is not finite, or in which an encoder's loss is absent, decides nothing: the last decision stays, or the
    plain sum if there is none. The report of a step between two decisions has the weights, conflict and rescaling in
    use; cosine and norms, which are unknown, are NaN.

    `backward` needs `outputs` with `features`: modality → the encoder's output, through which alone the losses reach
    the encoder, and which depends on no other trainable tensor. Each encoder has two objectives.

    Arguments:
        method: the method that decides, with weights per encoder, and λ per encoder or none.
        every: K ≥ 1.

    Raises:
        ValueError: `every` is below 1, or the method's factors are per tensor, which cannot be applied at an encoder's
            output; `backward`: the outputs or the model do not fulfil the above.
    """

    source = MMPareto.source
    memory = ("age", "decided")
    no_interaction = "mixes gradients at the encoders' outputs, with --refresh above 1"

    def __init__(self, method: MMPareto, every: int) -> None:
        super().__init__()
        check_at_least("refresh", every, 1)
        if "parameter" in (method.weights, method.rescale):
            raise ValueError(
                f"refresh={every} goes with weights='encoder' and rescale='encoder' (the variant 'paper') or 'none', "
                f"not with {method.weights!r} and {method.rescale!r}: an encoder's output has no factors per tensor"
            )
        self.method, self.every = method, every
        self.age = 0  # number of steps since and including the last one that decided
        self.decided: dict[str, dict[str, Tensor]] = {}
        self._reuses = False
        self._is_finite = torch.tensor(True)

    def begin_training(self, context: TrainingContext) -> None:
        """Reject a network with more than two tasks on its encoder."""
        tasks = getattr(context.network, "tasks", [])
        if len(tasks) > 2:
            raise ValueError(f"refresh needs two objectives per encoder, not the tasks {', '.join(tasks)}")

    def differentiate(
        self, objectives: Objectives, scale: float | Tensor | None, after_pass: PassHook | None = None
    ) -> Gradients:
        """Both gradients of every encoder at a step that decides; at the others, the gradient of the mixture alone."""
        for modality, encoder in objectives.encoders.items():
            if len(encoder.objectives) != 2:
                raise ValueError(
                    f"refresh needs two objectives per encoder; {modality!r} has {len(encoder.objectives)}"
                )
        cut = find_cut(objectives)
        if cut.features is None:
            raise ValueError(f"refresh needs {cut.needed}")
        self._reuses = 0 < self.age < self.every and set(objectives.encoders) <= set(self.decided)
        if not self._reuses and after_pass is not None:
            return super().differentiate(objectives, scale, after_pass)
        mix = self._mix if self._reuses else None
        return differentiate_per_encoder(objectives, cut.features, self.passes(objectives), scale, mix)

    def _mix(self, modality: str, at_output: list[Tensor | None]) -> list[Tensor | None]:
        """2α₁ ∂L₁/∂x + 2α₂ ∂L₂/∂x, as the only gradient at the encoder's output x; the plain sum if one is absent."""
        weights, magnitude = (self.decided[modality][name] for name in ("weights", "magnitude"))
        if any(gradient is None for gradient in at_output):
            weights = torch.full_like(weights, 0.5) / torch.where(magnitude == 0, 1.0, magnitude)  # `integrate` has it
        return combine_and_release([[gradient] for gradient in at_output], weights)

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Count the step, once for all of its micro-batches."""
        self.age = self.age + 1 if self._reuses else 1
        self._is_finite = gradients.finite.all()
        own = [name for encoder in objectives.encoders.values() for name in encoder.objectives]
        if own and (present := gradients.are_present(own)) is not None:
            self._is_finite = self._is_finite & present.all()
        return {}

    def integrate(
        self, modality: str, gradients: list[list[Tensor | None]], scale: Tensor
    ) -> tuple[list[Tensor | None], EncoderReport | None]:
        """Decide by the method and keep its decision, or apply the kept magnitude to the mixture's gradient."""
        if not self._reuses:
            combined, report = self.method.integrate(modality, gradients, scale)
            assert report is not None
            self._keep(modality, report)
            return combined, report
        kept = {name: factor.to(scale.device) for name, factor in self.decided[modality].items()}
        combined = combine_and_release(gradients, kept["magnitude"].expand(len(gradients[0]), 1))
        unknown = torch.full_like(kept["weights"][0], math.nan)
        return combined, EncoderReport(unknown[0], unknown, kept["weights"], kept["conflict"], kept["rescale"])

    def _keep(self, modality: str, report: EncoderReport) -> None:
        """Keep the decision of a step, unless the step is non-finite."""
        new = {
            "weights": report.weights,  # (1, 2)
            "conflict": report.conflict,  # (1,) bool
            "rescale": report.rescale,  # (1,)
            "magnitude": self.method.magnitude(report.conflict, report.rescale),  # (1,)
        }
        plain_sum = {"weights": 0.5, "conflict": False, "rescale": 1.0, "magnitude": 1.0}
        before = self.decided.get(modality) or {name: torch.full_like(t, plain_sum[name]) for name, t in new.items()}
        is_finite = torch.stack([factor.isfinite().all() for factor in new.values()]).all()
        is_finite = is_finite & self._is_finite.to(is_finite.device)
        kept = {name: torch.where(is_finite, new[name], before[name].to(is_finite.device)) for name in new}
        self.decided = self.decided | {modality: kept}
