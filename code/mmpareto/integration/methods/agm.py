"""AGM, adaptive gradient modulation (Li et al., ICCV 2023, arXiv 2308.07686)."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.modulation import Modulation
from mmpareto.integration.objectives import Objectives

LARGEST_EXPONENT = 700.0  # exp of it is finite in float64, so that the difference of two ratios is


class AGM(Modulation):
    """Keep each modality's strength relative to the others near its running average, by Shapley values of the logits.

    With f(S) the joint logits where the inputs of the modalities outside S are zeros, f(∅) = 0, φ_k the Shapley value
    of modality k (two modalities: φ_a = ½(f(a, v) − f(0, v) + f(a, 0))), and ŝ_k the mean of s_k over the steps before
    this one (0 at the first):

        s_k = mean −log softmax(φ_k)[y]     r_k = exp(mean over j ≠ k of (s_k − s_j))     r*_k = the same of ŝ
        κ_k = exp(α·min(r*_k − r_k, limit))

    κ_k multiplies the joint loss's gradients of encoder k that are not 1-D. A step whose s_k are not finite has κ = 1.
    One modality: κ = 1. 2ⁿ − 1 forward passes in evaluation mode beside the usual one, and one backward pass.

    In a loop of your own, call `observe` before every `backward`.

    The released code (lihong2303/AGM_ICCV2023) takes s_j − s_k in r_k, so that a modality that gets ahead is slowed;
    its author says that the paper means the same, with s of the other sign (issue 11 there). As printed, with s_k a
    cross-entropy, it is the one that falls behind: `ratio` chooses. There κ_k also acts elsewhere, on what flows back
    into φ_k, and so reaches the joint head and 1-D gradients too; that is not offered here.

    Arguments:
        alpha: α > 0 [0.1 to 3, 1.5 on CREMA-D].
        limit: the largest r*_k − r_k, > 0 [7 for three modalities; 10 in the released audio-visual runs].
        ratio: "paper": r_k from s_k − s_j, as printed; "released": from s_j − s_k.

    Raises:
        ValueError: an option has another value; `backward`: there is no joint loss, or `observe` was not called, or not
            with a modality's inputs.
    """

    source = "Li et al., AGM, ICCV 2023 (arXiv 2308.07686)"
    title = "AGM"
    needs_classes = True
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"ratio": "paper"},
        "released": {"ratio": "released"},
    }
    memory = ("averages", "steps")

    def __init__(self, alpha: float = 1.0, limit: float = 7.0, ratio: str = "paper") -> None:
        super().__init__()
        if not (math.isfinite(alpha) and alpha > 0):
            raise ValueError(f"alpha must be a positive number, not {alpha}")
        if not limit > 0:
            raise ValueError(f"limit must be a positive number, not {limit}")
        if ratio not in ("paper", "released"):
            raise ValueError(f"ratio must be 'paper' or 'released', not {ratio!r}")
        self.alpha, self.limit, self.ratio = alpha, limit, ratio
        self.averages: dict[str, Tensor] = {}
        self.steps = torch.zeros((), dtype=torch.float64)
        self._observed: dict[str, Tensor] | None = None

    def observe(
        self, eval_forward: Callable[[Mapping[str, Tensor]], Any], inputs: Mapping[str, Tensor], labels: Tensor
    ) -> None:
        """Find every modality's response on a batch, for the `backward` that follows; call it for each micro-batch.

        Arguments:
            eval_forward: {modality: input} → outputs with the attribute `joint`, logits (B, C); the model in evaluation
                mode, so that BatchNorm's averages stay as they are.
            inputs: modality → input, the batch first.
            labels: (B,) class indices.
        """
        with torch.no_grad():
            responses = shapley_values(lambda given: eval_forward(given).joint, inputs)
            losses = {
                name: cross_entropy(phi, labels.to(phi.device), reduction="sum") for name, phi in responses.items()
            }
            samples = {name: torch.full_like(loss, len(labels)) for name, loss in losses.items()}
        self._observed = {name: torch.stack([losses[name], samples[name]]) for name in losses}

    def before_forward(self, loop: TrainingContext, inputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Any]:
        """Observe the batch."""
        self.observe(loop.eval_forward, inputs, labels)
        return {}

    def statistics(self, outputs: Any, labels: Tensor | None, objectives: Objectives) -> dict[str, Tensor]:
        """Modality → (2,) float64: the sum of −log softmax(φ_k)[y], and the number of samples."""
        observed, self._observed = self._observed, None
        if observed is None:
            raise ValueError("AGM needs the modalities' responses: call observe() before every backward()")
        for name in objectives.encoders:
            if name not in observed:
                raise ValueError(f"AGM did not observe modality {name!r}, only {[*observed]}: pass its inputs, too")
        return observed

    def coefficients(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """κ of every modality; then the averages take up the step, if all of it is finite."""
        names = list(gradients.statistics)
        sums = torch.stack([gradients.statistics[name] for name in names])
        s = sums[:, 0] / sums[:, 1]
        zero = torch.zeros_like(s[0])
        averages = torch.stack([self.averages.get(name, zero).to(zero, non_blocking=True) for name in names])
        steps = self.steps.to(zero, non_blocking=True)

        kappa = torch.exp(self.alpha * (self._ratios(averages) - self._ratios(s)).clamp(max=self.limit))

        sound = s.isfinite().all()
        finite = sound & gradients.finite.all().to(sound.device)
        updated = torch.where(finite, averages + (s - averages) / (steps + 1), averages)
        self.averages = dict(zip(names, updated.unbind(), strict=True))
        self.steps = torch.where(finite, steps + 1, steps)
        return dict(zip(names, torch.where(sound, kappa, torch.ones_like(s)), strict=True))

    def modulate(self, gradient: Tensor, coefficient: Tensor) -> Tensor:
        """κ times the gradient of a weight; that of a bias or BatchNorm's (1-D) as it is."""
        return gradient.clone() if gradient.ndim == 1 else gradient * coefficient

    def _ratios(self, s: Tensor) -> Tensor:
        """r (n,) of scores (n,); 1 for one modality."""
        difference = (len(s) * s - s.sum()) / max(len(s) - 1, 1)
        return torch.exp((difference if self.ratio == "paper" else -difference).clamp(max=LARGEST_EXPONENT))


def shapley_values(
    eval_forward: Callable[[Mapping[str, Tensor]], Tensor], inputs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Modality → its Shapley value (B, C) float64 for the logits, where an absent modality's input is zeros, f(∅) = 0.

    φ_k = Σ over S ∌ k of |S|! (n − |S| − 1)!/n! · (f(S ∪ {k}) − f(S)): the mean, over the orders in which modalities
    may come, of what k adds (Shapley 1953). `eval_forward` gives logits (B, C), once for each of the 2ⁿ − 1 coalitions.
    """
    n = len(inputs)
    values: dict[str, Tensor] = {}
    for size in range(1, n + 1):
        joined = 1 / (size * math.comb(n, size))  # (size − 1)! (n − size)!/n!, the weight of f(S) for k in S
        absent = 1 / ((n - size) * math.comb(n, size)) if size < n else 0.0  # size! (n − size − 1)!/n!, for k outside
        for coalition in itertools.combinations(inputs, size):
            logits = eval_forward({name: x if name in coalition else torch.zeros_like(x) for name, x in inputs.items()})
            for name in inputs:
                term = logits.detach().double() * (joined if name in coalition else -absent)
                values[name] = values[name] + term if name in values else term
    return values
