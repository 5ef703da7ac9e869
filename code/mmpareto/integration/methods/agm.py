"""AGM, adaptive gradient modulation (Li et al., ICCV 2023, arXiv 2308.07686)."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.features import read_output
from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.methods.modulation import Modulation
from mmpareto.integration.objectives import Objectives
from mmpareto.integration.options import check_choice, check_positive

LARGEST_EXPONENT = 700.0  # its exp is finite in float64, and so is the difference of two such ratios


class AGM(Modulation):
    """AGM, adaptive gradient modulation: keep each modality's relative strength near its running average.

    Let f(S) be the joint logits with zeros as the inputs of all modalities outside S, f(∅) = 0, φ_k the Shapley value
    of modality k (for two modalities, φ_a = ½(f(a, v) − f(0, v) + f(a, 0))), and ŝ_k the mean of s_k over all previous
    steps (0 at the first step):

        s_k = mean −log softmax(φ_k)[y]     r_k = exp(mean over j ≠ k of (s_k − s_j))     r*_k = the same of ŝ
        κ_k = exp(α·min(r*_k − r_k, limit))

    κ_k multiplies the joint loss's gradients of encoder k, except 1-D ones. A step whose s_k are not finite has κ = 1.
    With one modality, κ = 1. In addition to the usual forward pass, 2ⁿ − 1 forward passes in evaluation mode; one
    backward pass.

    In your own loop, call `observe` before every `backward`.

    The released code (lihong2303/AGM_ICCV2023) uses s_j − s_k in r_k, so that it slows down a modality that gets ahead;
    its author states that the paper means the same, with the opposite sign of s (issue 11 there). As printed, with s_k
    a cross-entropy, the modality that falls behind is slowed down. `ratio` selects one of the two. In the released code
    κ_k also multiplies the gradients that flow back into φ_k, and thus reaches the joint head and 1-D gradients too;
    this is not implemented here.

    Arguments:
        alpha: α > 0 [0.1 to 3, 1.5 on CREMA-D].
        limit: the largest r*_k − r_k, > 0 [7 for three modalities; 10 in the released audio-visual runs].
        ratio: "paper": r_k from s_k − s_j, as printed; "released": from s_j − s_k.

    Raises:
        ValueError: an option has another value; `backward`: there is no joint loss, `observe` was not called, or it was
            called without a modality's inputs.
    """

    source = "Li et al., AGM, ICCV 2023 (arXiv 2308.07686)"
    title = "AGM"
    absent = "input"  # zeros, as in f(S)
    needs_classes = True
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"ratio": "paper"},
        "released": {"ratio": "released"},
    }
    memory = ("averages", "steps")

    def __init__(self, alpha: float = 1.0, limit: float = 7.0, ratio: str = "paper") -> None:
        super().__init__()
        check_positive("alpha", alpha)
        if not limit > 0:  # may be infinite
            raise ValueError(f"limit must be a positive number, not {limit}")
        check_choice("ratio", ratio, ("paper", "released"))
        self.alpha, self.limit, self.ratio = alpha, limit, ratio
        self.averages: dict[str, Tensor] = {}
        self.steps = torch.zeros((), dtype=torch.float64)
        self._observed: dict[str, Tensor] | None = None

    def observe(
        self, eval_forward: Callable[[Mapping[str, Tensor]], Any], inputs: Mapping[str, Tensor], labels: Tensor
    ) -> None:
        """Compute every modality's Shapley value on a batch for the next `backward`; call it for each micro-batch.

        Arguments:
            eval_forward: {modality: input} → outputs with the attribute `joint`, logits (B, C); the model in evaluation
                mode, so that BatchNorm's running averages do not change.
            inputs: modality → input, with the batch as its first dimension.
            labels: (B,) class indices.
        """
        with torch.no_grad():
            values = shapley_values(lambda masked: read_output(eval_forward(masked), "joint"), inputs)
            losses = {name: cross_entropy(phi, labels.to(phi.device), reduction="sum") for name, phi in values.items()}
            samples = {name: torch.full_like(loss, len(labels)) for name, loss in losses.items()}
        self._observed = {name: torch.stack([losses[name], samples[name]]) for name in losses}

    def before_forward(self, context: TrainingContext, inputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Any]:
        """Observe the batch."""
        self.observe(context.eval_forward, inputs, labels)
        return {}

    def statistics(self, outputs: Any, labels: Tensor | None, objectives: Objectives) -> dict[str, Tensor]:
        """Return modality → (2,) float64: the sum of −log softmax(φ_k)[y], and the number of samples."""
        observed, self._observed = self._observed, None
        if observed is None:
            raise ValueError("AGM needs the modalities' responses: call observe() before every backward()")
        for name in objectives.encoders:
            if name not in observed:
                raise ValueError(f"AGM observed only {[*observed]}, not {name!r}: pass its inputs to observe()")
        return observed

    def coefficients(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Return κ of every modality, then add the step to the averages if all of it is finite."""
        names = list(gradients.statistics)
        sums = torch.stack([gradients.statistics[name] for name in names])
        s = sums[:, 0] / sums[:, 1]
        zero = torch.zeros_like(s[0])
        averages = torch.stack([self.averages.get(name, zero).to(zero, non_blocking=True) for name in names])
        steps = self.steps.to(zero, non_blocking=True)

        kappa = torch.exp(self.alpha * (self._ratios(averages) - self._ratios(s)).clamp(max=self.limit))

        scores_finite = s.isfinite().all()
        step_finite = scores_finite & gradients.finite.all().to(scores_finite.device)
        updated = torch.where(step_finite, averages + (s - averages) / (steps + 1), averages)
        self.averages = dict(zip(names, updated.unbind(), strict=True))
        self.steps = torch.where(step_finite, steps + 1, steps)
        return dict(zip(names, torch.where(scores_finite, kappa, torch.ones_like(s)), strict=True))

    def modulate(self, gradient: Tensor, coefficient: Tensor) -> Tensor:
        """Return κ times the gradient of a weight, and a copy of a 1-D gradient (of a bias or of BatchNorm)."""
        return gradient.clone() if gradient.ndim == 1 else gradient * coefficient

    def _ratios(self, s: Tensor) -> Tensor:
        """Return r (n,) of scores (n,); 1 for one modality."""
        difference = (len(s) * s - s.sum()) / max(len(s) - 1, 1)
        return torch.exp((difference if self.ratio == "paper" else -difference).clamp(max=LARGEST_EXPONENT))


def shapley_values(
    eval_forward: Callable[[Mapping[str, Tensor]], Tensor], inputs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return modality → its Shapley value (B, C) float64 for the logits, with absent inputs zeroed and f(∅) = 0.

    φ_k = Σ over S ∌ k of |S|! (n − |S| − 1)!/n! · (f(S ∪ {k}) − f(S)): the mean, over all orders in which the
    modalities can be added, of the change that adding k makes (Shapley 1953). `eval_forward` returns logits (B, C) and
    is called once for each of the 2ⁿ − 1 coalitions S.
    """
    n = len(inputs)
    values: dict[str, Tensor] = {}
    for size in range(1, n + 1):
        inside = 1 / (size * math.comb(n, size))  # (size − 1)! (n − size)!/n!, the weight of f(S) for k in S
        outside = 1 / ((n - size) * math.comb(n, size)) if size < n else 0.0  # size! (n − size − 1)!/n!, for k not in S
        for coalition in itertools.combinations(inputs, size):
            masked = {name: x if name in coalition else torch.zeros_like(x) for name, x in inputs.items()}
            logits = eval_forward(masked).detach().double()
            for name in inputs:
                term = logits * (inside if name in coalition else -outside)
                values[name] = values[name] + term if name in values else term
    return values
