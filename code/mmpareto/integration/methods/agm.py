"""AGM, adaptive gradient modulation (Li et al., ICCV 2023, arXiv 2308.07686)."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.features import read_output
from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.methods.modulation import Modulation
from mmpareto.integration.objectives import JOINT, Encoders, Objectives, UnimodalLosses
from mmpareto.integration.options import check_at_least, check_choice, check_decay, check_positive
from mmpareto.integration.report import EncoderReport

Forward: TypeAlias = Callable[[Mapping[str, Tensor]], Any]

LARGEST_EXPONENT = 700.0  # its exp is finite in float64, and so is the difference of two such ratios
NOT_OBSERVED = "AGM needs the modalities' responses: call observe() before every backward()"


class AGM(Modulation):
    """AGM, adaptive gradient modulation: keep each modality's relative strength near its running average.

    Let f(S) be the joint logits with zeros as the inputs of all modalities outside S, f(∅) = 0, φ_k the Shapley value
    of modality k (for two modalities, φ_a = ½(f(a, v) − f(0, v) + f(a, 0))), and ŝ_k the mean of s_k over all previous
    steps (0 at the first step):

        s_k = mean −log softmax(φ_k)[y]     r_k = exp(mean over j ≠ k of (s_j − s_k))     r*_k = the same of ŝ
        κ_k = exp(α·min(r*_k − r_k, limit))

    A modality that gets ahead of its running average has a small s_k and is slowed down. The paper prints s_k − s_j, by
    which the modality that falls behind is slowed; its code (lihong2303/AGM_ICCV2023) computes the above, and its
    author states that the paper means the same (issue 11 there). κ_k multiplies the joint loss's gradients of encoder
    k, except 1-D ones. A step whose s_k are not finite has κ = 1. With one modality, κ = 1. In addition to the usual
    forward pass, 2ⁿ − 1 forward passes in evaluation mode; one backward pass.

    `variants`: "corrected" is the above, "paper" has the printed sign, and "released" follows the code of CREMA-D:

    - f of all modalities is the output that is descended, of the forward pass in training mode; the others follow it in
      evaluation mode, 2ⁿ − 2 of them.
    - κ_k multiplies the gradient of the loss at φ_k (the loss is of Σ φ_k, which is f of all modalities). From there it
      reaches everything: the joint head, 1-D parameters, and encoders by the passes in evaluation mode, too.
    - A sample's score is at most −log 1e-8. `limit` is 10.
    - κ is that of the step in the first 20 epochs (flags 0 to 20, and epochs from 1), and the last of these later on.
      By its author, the published runs were modulated in all epochs (issues 3 and 10 there).
    - All gradients are clipped to norm 1 where an element of the joint head's weight gradient is beyond ±1.

    A step then costs 2ⁿ − 1 forward and backward passes, and needs the whole batch: gradient accumulation and several
    processes are refused. Left out are the differences of its other data sets: no limit on AV-MNIST, AVE and MOSEI; on
    UR-Funny limit 7, clipping at 5, and no cap of a score; on MOSEI a loss that is summed over the batch, and clipping
    where the largest element is above 1 and the smallest below 1.

    In your own loop, call `observe` before every `backward`, and with `modulation_ends`, `set_epoch` when an epoch
    begins.

    Arguments:
        alpha: α > 0 [1.5 on CREMA-D, 2.5 on AV-MNIST, 4 on UR-Funny].
        limit: the largest r*_k − r_k, > 0 [7 on UR-Funny, 10 on CREMA-D].
        ratio: "released": r_k from s_j − s_k; "paper": from s_k − s_j, as printed.
        floor: least probability of the true class in s_k, in [0, 1) [1e-8; the paper has none].
        modulation_ends: the last epoch, from 0, in which κ is that of the step; None for all.
        response: "observed": φ of passes without a graph, before the step; "descended": φ of the output that is
            descended, with κ_k on its gradient.
        clip_above: c > 0: where an element of the gradient of a weight outside the encoders (not 1-D) is beyond ±c, all
            gradients are clipped to the norm c; None for no such clipping.

    Raises:
        ValueError: an option has another value; `backward`: there is no joint loss, `observe` was not called, or it was
            called without a modality's inputs; with `response` "descended", there is no `outputs.joint` on which the
            loss depends, or the batch is not whole.
    """

    source = "Li et al., AGM, ICCV 2023 (arXiv 2308.07686)"
    title = "AGM"
    absent = "input"  # zeros, as in f(S)
    needs_classes = True
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "corrected": {"ratio": "released"},
        "paper": {"ratio": "paper"},
        "released": {
            "ratio": "released",
            "limit": 10.0,
            "floor": 1e-8,
            "modulation_ends": 19,
            "response": "descended",
            "clip_above": 1.0,
        },
    }
    memory = ("averages", "steps", "active", "kept")

    def __init__(
        self,
        alpha: float = 1.0,
        limit: float = 7.0,
        ratio: str = "released",
        floor: float = 0.0,
        modulation_ends: int | None = None,
        response: str = "observed",
        clip_above: float | None = None,
    ) -> None:
        super().__init__()
        check_positive("alpha", alpha)
        if not limit > 0:  # may be infinite
            raise ValueError(f"limit must be a positive number, not {limit}")
        check_choice("ratio", ratio, ("paper", "released"))
        check_decay("floor", floor)
        if modulation_ends is not None:
            check_at_least("modulation_ends", modulation_ends, 0)
        check_choice("response", response, ("observed", "descended"))
        if clip_above is not None:
            check_positive("clip_above", clip_above)
        self.alpha, self.limit, self.ratio, self.floor = alpha, limit, ratio, floor
        self.modulation_ends, self.response, self.clip_above = modulation_ends, response, clip_above
        self.averages: dict[str, Tensor] = {}
        self.steps = torch.zeros((), dtype=torch.float64)
        self.active = True  # whether κ is that of the step
        self.kept: dict[str, Tensor] = {}  # modality → κ of the last step that was finite while active
        self._to_observe: tuple[Forward, Mapping[str, Tensor], Tensor] | None = None
        self._observed: dict[str, Tensor] | None = None
        self._clipping: Tensor | None = None

    @property
    def needs_whole_batch(self) -> bool:
        """True if κ must be known before the backward pass."""
        return self.response == "descended"

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Restore the state; older checkpoints are of methods that modulate in every epoch."""
        if set(state_dict) == {"averages", "steps"}:
            state_dict = {**state_dict, "active": True, "kept": {}}
        return super().load_state_dict(state_dict, strict, assign)

    def set_epoch(self, epoch: int) -> None:
        """Set the current epoch, from 0."""
        self.active = self.modulation_ends is None or epoch <= self.modulation_ends

    def begin_epoch(self, context: TrainingContext) -> None:
        """Set the epoch."""
        self.set_epoch(context.epoch - 1)  # the context counts from 1

    # --- responses ---

    def observe(self, eval_forward: Forward, inputs: Mapping[str, Tensor], labels: Tensor) -> None:
        """Compute every modality's Shapley value on a batch for the next `backward`; call it for each micro-batch.

        With `response` "descended", `eval_forward` is called by `backward`, and with gradients enabled.

        Arguments:
            eval_forward: {modality: input} → outputs with the attribute `joint`, logits (B, C); the model in evaluation
                mode, so that BatchNorm's running averages do not change.
            inputs: modality → input, with the batch as its first dimension.
            labels: (B,) class indices.
        """
        if self.response == "descended":
            self._to_observe = eval_forward, inputs, labels
            return
        with torch.no_grad():
            self._observed = self._sums(shapley_values(_joint_of(eval_forward), inputs), labels)

    def before_forward(self, context: TrainingContext, inputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Any]:
        """Observe the batch."""
        descended = self.response == "descended"
        self.observe(partial(context.eval_forward, graph=True) if descended else context.eval_forward, inputs, labels)
        return {}

    def objectives(
        self, joint: Tensor | None, unimodal: UnimodalLosses, encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Return the joint loss or, for `response` "descended", a loss with its gradients after modulation."""
        objectives = super().objectives(joint, unimodal, encoders, outputs, labels)
        if self.response == "descended":
            objectives.losses[JOINT] = self._modulated_loss(objectives.losses[JOINT], read_output(outputs, "joint"))
        return objectives

    def _modulated_loss(self, joint: Tensor, logits: Tensor | None) -> Tensor:
        """Return Σ_k κ_k·⟨∂L_m/∂f, φ_k⟩, (): its gradient is that of L_m with κ_k on its way through φ_k."""
        self.check_whole_batch("AGM with response 'descended' (variant released)", ", or set response to 'observed'")
        to_observe, self._to_observe = self._to_observe, None
        if to_observe is None:
            raise ValueError(NOT_OBSERVED)
        if logits is None or not logits.requires_grad:
            raise ValueError("AGM with response 'descended' needs outputs.joint, the logits (B, C) of the joint loss")
        (at_logits,) = torch.autograd.grad(joint, logits, retain_graph=True, allow_unused=True)
        if at_logits is None:
            raise ValueError("the joint loss does not depend on outputs.joint: compute it from these logits")
        eval_forward, inputs, labels = to_observe
        with torch.enable_grad():
            responses = shapley_values(_joint_of(eval_forward), inputs, logits)
        with torch.no_grad():
            self._observed = self._sums(responses, labels)
            names, scores = _means(self._observed)
            kappa = self._kappa(names, scores).unbind()
        terms = [k * (at_logits.double() * responses[name]).sum() for name, k in zip(names, kappa, strict=True)]
        return torch.stack(terms).sum()

    def _sums(self, responses: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Return modality → (2,) float64: the sum of the scores −log softmax(φ_k)[y], and the number of samples."""
        largest = -math.log(self.floor) if self.floor else math.inf
        sums = {}
        for name, phi in responses.items():
            scores = cross_entropy(phi, labels.to(phi.device), reduction="none").clamp(max=largest)
            sums[name] = torch.stack([scores.sum(), torch.full_like(scores.sum(), len(labels))])
        return sums

    def statistics(self, outputs: Any, labels: Tensor | None, objectives: Objectives) -> dict[str, Tensor]:
        """Return modality → (2,) float64: the sum of −log softmax(φ_k)[y], and the number of samples."""
        observed, self._observed = self._observed, None
        if observed is None:
            raise ValueError(NOT_OBSERVED)
        for name in objectives.encoders:
            if name not in observed:
                raise ValueError(f"AGM observed only {[*observed]}, not {name!r}: pass its inputs to observe()")
        return observed

    # --- coefficients ---

    def coefficients(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Return κ of every modality, then add the step to the averages if all of it is finite."""
        names, s = _means(gradients.statistics)
        kappa = self._kappa(names, s)
        averages, steps = self._averages(names, s), self.steps.to(s, non_blocking=True)
        step_finite = s.isfinite().all() & gradients.finite.all().to(s.device)
        updated = torch.where(step_finite, averages + (s - averages) / (steps + 1), averages)
        self.averages = dict(zip(names, updated.unbind(), strict=True))
        self.steps = torch.where(step_finite, steps + 1, steps)
        if self.active and self.modulation_ends is not None:
            self.kept = dict(zip(names, torch.where(step_finite, kappa, self._kept(names, s)).unbind(), strict=True))
        return dict(zip(names, kappa.unbind(), strict=True))

    def _kappa(self, names: Sequence[str], s: Tensor) -> Tensor:
        """Return κ (n,) of scores (n,); 1 where a score is not finite, and the kept ones after the last epoch."""
        if not self.active:
            return self._kept(names, s)
        exponents = self.alpha * (self._ratios(self._averages(names, s)) - self._ratios(s)).clamp(max=self.limit)
        return torch.where(s.isfinite().all(), torch.exp(exponents), torch.ones_like(s))

    def _ratios(self, s: Tensor) -> Tensor:
        """Return r (n,) of scores (n,); 1 for one modality."""
        difference = (len(s) * s - s.sum()) / max(len(s) - 1, 1)
        return torch.exp((difference if self.ratio == "paper" else -difference).clamp(max=LARGEST_EXPONENT))

    def _averages(self, names: Sequence[str], like: Tensor) -> Tensor:
        zero = torch.zeros_like(like[0])
        return torch.stack([self.averages.get(name, zero).to(zero, non_blocking=True) for name in names])

    def _kept(self, names: Sequence[str], like: Tensor) -> Tensor:
        one = torch.ones_like(like[0])
        return torch.stack([self.kept.get(name, one).to(one, non_blocking=True) for name in names])

    # --- gradients ---

    def acts_on(self, parameter: Tensor) -> bool:
        """Return whether it is not 1-D (a bias, or of BatchNorm); with `response` "descended", True."""
        return self.response == "descended" or parameter.ndim != 1

    def modulate(self, gradient: Tensor, coefficient: Tensor) -> Tensor:
        """Return κ·g; with `response` "descended", a copy of g, in which κ is already."""
        return gradient.clone() if self.response == "descended" else gradient * coefficient

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Compute the coefficients and, with `clip_above`, how much all gradients are shortened."""
        metrics = super().prepare(objectives, gradients)
        self._clipping = None if self.clip_above is None else self._clip(objectives, gradients, self.clip_above)
        if self._clipping is not None:
            factor = self._clipping
            gradients.others = {p: g * factor.to(g.device, g.dtype) for p, g in gradients.others.items()}
        return metrics

    def integrate(
        self, modality: str, gradients: list[list[Tensor | None]], scale: Tensor
    ) -> tuple[list[Tensor | None], EncoderReport | None]:
        """Return the modulated gradient of the joint loss, clipped."""
        integrated, report = super().integrate(modality, gradients, scale)
        if self._clipping is not None:
            for g in integrated:
                if g is not None:
                    g.mul_(self._clipping.to(g.device, g.dtype))
        return integrated, report

    def _clip(self, objectives: Objectives, gradients: Gradients, largest: float) -> Tensor | None:
        """Return the factor () of all gradients; None without a weight outside the encoders."""
        heads = [g for p, g in gradients.others.items() if p.ndim > 1]
        if not heads:
            return None
        like = gradients.scale.double()
        multiplied = self.response == "observed"
        norms = [torch.linalg.vector_norm(g, dtype=like.dtype).to(like.device) for g in gradients.others.values()]
        for name in objectives.encoders:
            for g in gradients.encoders[name][0]:
                if g is not None:
                    norm = torch.linalg.vector_norm(g, dtype=like.dtype).to(like.device)
                    norms.append(norm * self._coefficients[name].to(norm) if multiplied and self.acts_on(g) else norm)
        norm = torch.stack(norms).norm() / like
        element = torch.stack([g.abs().amax().to(like) for g in heads]).amax() / like
        factor = (largest / (norm + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
        return torch.where(element > largest, factor, torch.ones_like(factor))


def _joint_of(eval_forward: Forward) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """Return a function that returns the joint logits of `eval_forward`."""
    return lambda inputs: read_output(eval_forward(inputs), "joint")


def _means(sums: Mapping[str, Tensor]) -> tuple[list[str], Tensor]:
    """Return the modalities and their scores s (n,), float64, from the sums of the scores and numbers of samples."""
    stacked = torch.stack([*sums.values()])
    return list(sums), stacked[:, 0] / stacked[:, 1]


def shapley_values(
    eval_forward: Callable[[Mapping[str, Tensor]], Tensor], inputs: Mapping[str, Tensor], whole: Tensor | None = None
) -> dict[str, Tensor]:
    """Return modality → its Shapley value (B, C) float64 for the logits, with absent inputs zeroed and f(∅) = 0.

    φ_k = Σ over S ∌ k of |S|! (n − |S| − 1)!/n! · (f(S ∪ {k}) − f(S)): the mean, over all orders in which the
    modalities can be added, of the change that adding k makes (Shapley 1953). `eval_forward` returns logits (B, C) and
    is called once for each of the 2ⁿ − 1 coalitions S. The values have a graph where the logits have one.

    Arguments:
        whole: the logits of all modalities, if they are known; then there is one call less.
    """
    n = len(inputs)
    values: dict[str, Tensor] = {}
    for size in range(1, n + 1):
        inside = 1 / (size * math.comb(n, size))  # (size − 1)! (n − size)!/n!, the weight of f(S) for k in S
        outside = 1 / ((n - size) * math.comb(n, size)) if size < n else 0.0  # size! (n − size − 1)!/n!, for k not in S
        for coalition in itertools.combinations(inputs, size):
            masked = {name: x if name in coalition else torch.zeros_like(x) for name, x in inputs.items()}
            logits = (eval_forward(masked) if size < n or whole is None else whole).double()
            for name in inputs:
                term = logits * (inside if name in coalition else -outside)
                values[name] = values[name] + term if name in values else term
    return values
