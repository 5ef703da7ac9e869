"""PMR, prototypical modal rebalance (Fan et al., CVPR 2023, arXiv 2211.07089)."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor

from mmpareto.integration.differentiation import Gradients, Pass
from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.linear_algebra import combine_and_release
from mmpareto.integration.method import Method
from mmpareto.integration.modulation import check_epochs
from mmpareto.integration.objectives import JOINT, Encoders, Objectives, collect, collect_joint
from mmpareto.integration.report import EncoderReport

SHARE = 0.1  # of the training set, for the prototypes
NO_CLASS = -100  # the label that F.cross_entropy leaves out
# The prototypes' losses are means over the step's samples, whose number is known in `prepare` only. Until then this one
# stands for it, everywhere: dividing keeps the gradients of a scaled half-precision loss in range.
UNIT = 64


class PMR(Method):
    """Pull the weaker modality's features towards their class prototypes, beside the joint loss.

    A modality's prototype of a class c is the mean feature p_k,c of a tenth of the training set, found before every
    epoch, the first included: p ← (1 − ε)·new + ε·old. With the Euclidean distances d_k,c = −‖x_k − p_k,c‖ as logits,

        s_k = Σᵢ softmax(d_k)[i, yᵢ]        ρ_k = (mean of the other modalities' s) / s_k
        h_k = ∂/∂θᵏ (L_m + α·clip(ρ_k − 1, 0, 1)·CE(d_k, y) − μ·clip(1/ρ_k − 1, 0, 1)·H(softmax(d_k)))

    CE is the prototypical cross-entropy, which speeds up a weaker modality; H the mean entropy, which slows down a
    stronger one in the first `entropy_epochs` epochs (equations 6 to 13 for two modalities; for more, each is compared
    with the mean of the others). Both reach the modality's own encoder only; all else takes the gradient of L_m, and
    the unimodal losses are not looked at. One modality: L_m alone. One backward pass for L_m, one for all CE and, while
    there is one, one for all H: whom they are for is known only when the whole batch has been seen.

    `variants["released"]`, the released code (fanyunfeng-bit/Modal-Imbalance-PMR), has 1 for the clipped factor of a
    weaker modality, no entropy, and drops the prototypes of the untrained model at the first renewal. It also ends PMR
    at an epoch, which the paper does not say.

    In a loop of your own, say `set_epoch(…)` and call `update_prototypes(…)` before every epoch. `backward` needs
    the labels and `outputs` with `features`, modality → x_k (B, …). A class without a prototype, because it was not
    among the samples, takes no part: it is left out of softmax, and its samples of s and CE.

    Arguments:
        alpha: α > 0 [1 or 2].
        momentum_coef: ε of the old prototypes, in [0, 1) [0.2].
        momentum_starts: the first renewal that takes up old prototypes, the one before the first epoch being 0
            [1; released code: 2].
        factor: "clipped": clip(ρ − 1, 0, 1); "one": 1 where ρ > 1, else 0.
        mu: μ ≥ 0 of the entropy [0.01 or 0.001]; 0 for none.
        entropy_epochs: in how many epochs there is an entropy [not published: "the first few"].
        modulation_starts: the first epoch with prototypes, from 0 [0].
        modulation_ends: the last epoch with prototypes [100].

    Raises:
        ValueError: an option is out of range; `backward`: there is no joint loss, labels, features of a modality or
            prototypes for them, or `features` are detached.
    """

    source = "Fan et al., PMR, CVPR 2023 (arXiv 2211.07089)"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"factor": "clipped", "mu": 0.01, "momentum_starts": 1},
        "released": {"factor": "one", "mu": 0.0, "momentum_starts": 2},
    }
    memory = ("prototypes", "renewals", "epoch")
    descends_unimodal = False
    needs_classes = True

    def __init__(
        self,
        alpha: float = 1.0,
        momentum_coef: float = 0.2,
        momentum_starts: int = 1,
        factor: str = "clipped",
        mu: float = 0.01,
        entropy_epochs: int = 10,
        modulation_starts: int = 0,
        modulation_ends: int = 100,
    ) -> None:
        super().__init__()
        if not (math.isfinite(alpha) and alpha > 0):
            raise ValueError(f"alpha must be a positive number, not {alpha}")
        if not 0 <= momentum_coef < 1:
            raise ValueError(f"momentum_coef must be at least 0 and below 1, not {momentum_coef}")
        if momentum_starts < 1:
            raise ValueError(f"momentum_starts must be at least 1, not {momentum_starts}: before, nothing is old")
        if factor not in ("clipped", "one"):
            raise ValueError(f"factor must be 'clipped' or 'one', not {factor!r}")
        if not (math.isfinite(mu) and mu >= 0):
            raise ValueError(f"mu must be a number of at least 0, not {mu}")
        if entropy_epochs < 0:
            raise ValueError(f"entropy_epochs must be at least 0, not {entropy_epochs}")
        check_epochs(modulation_starts, modulation_ends)
        self.alpha, self.factor, self.mu, self.entropy_epochs = alpha, factor, mu, entropy_epochs
        self.momentum_coef, self.momentum_starts = momentum_coef, momentum_starts
        self.modulation_starts, self.modulation_ends = modulation_starts, modulation_ends
        self.prototypes: dict[str, Tensor] = {}
        self.renewals = 0
        self.epoch = 0
        self._coefficients: dict[str, Tensor] = {}

    # --- between epochs ---

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, from 0."""
        self.epoch = epoch

    def begin_epoch(self, loop: TrainingContext) -> None:
        """Renew the prototypes from a tenth of the training set, while they are of use, and note the epoch."""
        epoch = loop.epoch - 1  # the loop counts from 1
        if epoch <= self.modulation_ends:
            self.update_prototypes(loop.features(SHARE))
        self.set_epoch(epoch)

    @torch.no_grad()
    def update_prototypes(self, batches: Iterable[tuple[Mapping[str, Tensor], Tensor]]) -> None:
        """Renew the prototypes. A class without a sample keeps its old one, if any.

        So do all classes of a modality where one of its features is not finite.

        Arguments:
            batches: ({modality: features (B, …)}, labels (B,)), of the model in evaluation mode.

        Raises:
            ValueError: there is no batch.
        """
        features: dict[str, list[Tensor]] = {}
        labels: list[Tensor] = []
        for found, classes in batches:
            for name, x in found.items():
                features.setdefault(name, []).append(x.flatten(1).double())
            labels.append(classes)
        if not labels:
            raise ValueError("PMR's prototypes are means of features: pass at least one batch of them")
        members = F.one_hot(torch.cat(labels)).double().T
        blend = self.momentum_coef if self.renewals >= self.momentum_starts else 0.0
        renewed = {}
        for name, parts in features.items():
            x = torch.cat(parts)
            means = members.to(x.device) @ x / members.to(x.device).sum(1, keepdim=True)
            renewed[name] = _blended(means, self.prototypes.get(name), blend)
        self.prototypes, self.renewals = renewed, self.renewals + 1

    # --- a step ---

    def objectives(
        self, joint: Tensor | None, unimodal: Mapping[str, Tensor], encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """The joint loss and, while PMR acts, every modality's CE and −H, which its own encoder alone learns from."""
        objectives = collect_joint(joint, encoders, "PMR")
        if labels is None:
            raise ValueError("PMR needs the labels: pass labels=…, the class indices (B,)")
        if not self._acts(objectives):
            return objectives
        losses: dict[str, Tensor] = {}
        own: dict[str, tuple[list[Tensor], list[str]]] = {}
        for name, encoder in objectives.encoders.items():
            logits, targets = self._compare(name, outputs, labels)
            terms = {f"prototypes of {name}": F.cross_entropy(logits, targets, reduction="sum")}
            if self._slows():
                terms[f"entropy of {name}"] = -_entropy(logits)
            losses |= {term: value / UNIT for term, value in terms.items()}
            own[name] = (encoder.parameters, list(terms))
        return collect(joint, losses, own)

    def statistics(self, outputs: Any, labels: Tensor | None, objectives: Objectives) -> dict[str, Tensor]:
        """Modality → (2,) float64: s_k, and the number of samples."""
        if labels is None or not self._acts(objectives):
            return {}
        found = {}
        for name in objectives.encoders:
            logits, targets = self._compare(name, outputs, labels)
            chosen = logits.double().softmax(1).gather(1, targets.clamp(min=0).unsqueeze(1)).squeeze(1)
            score = torch.where(targets == NO_CLASS, 0.0, chosen).sum()
            found[name] = torch.stack([score, torch.full_like(score, len(labels))])
        return found

    def passes(self, objectives: Objectives) -> list[Pass]:
        """One for the joint loss; one or two for the prototypes, inside the encoders."""
        return [Pass(run.losses, run.encoders, outside=JOINT in run.losses) for run in super().passes(objectives)]

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """How strongly each modality is sped up and slowed down."""
        one = torch.ones((), dtype=torch.float64, device=gradients.scale.device)
        figures = {f"coefficient_{name}": torch.zeros_like(one) for name in objectives.encoders}
        self._coefficients = {name: one.reshape(1) for name in objectives.encoders}
        if not gradients.statistics:
            return figures
        sums = torch.stack([gradients.statistics[name].to(one) for name in objectives.encoders])
        s, mean = sums[:, 0], UNIT / sums[:, 1]
        others = (s.sum() - s) / (len(s) - 1)
        faster, slower = self.alpha * self._strength(others, s), self.mu * self._strength(s, others)
        for index, (name, encoder) in enumerate(objectives.encoders.items()):
            own = torch.stack([one, (faster * mean)[index], (slower * mean)[index]])
            self._coefficients[name] = own[: len(encoder.objectives)]
            figures[f"coefficient_{name}"] = faster[index]
        return figures

    def integrate(
        self, modality: str, gradients: list[list[Tensor | None]], scale: Tensor
    ) -> tuple[list[Tensor | None], EncoderReport | None]:
        """The weighted sum of the gradients of L_m, CE and −H."""
        coefficients = self._coefficients[modality]
        alpha = (coefficients / len(coefficients)).expand(len(gradients[0]), -1)
        return combine_and_release(gradients, alpha), None

    def _strength(self, better: Tensor, worse: Tensor) -> Tensor:
        """(n,) the factor for ρ = better/worse; 0 where there is nothing to compare."""
        ratio = torch.where(better > worse, better / worse, 1.0)
        return (ratio - 1).clamp(0, 1) if self.factor == "clipped" else (ratio > 1).double()

    def _acts(self, objectives: Objectives) -> bool:
        return len(objectives.encoders) > 1 and self.modulation_starts <= self.epoch <= self.modulation_ends

    def _slows(self) -> bool:
        return self.mu > 0 and self.epoch < self.entropy_epochs

    def _compare(self, name: str, outputs: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
        """A modality's d (B, C), float32 at least, −∞ for a class without a prototype; and the labels, likewise."""
        features = getattr(outputs, "features", None)
        if not features or name not in features:
            raise ValueError(f"PMR needs the features of {name!r}: pass outputs=… with `features`, modality → (B, …)")
        if name not in self.prototypes:
            raise ValueError(f"PMR has no prototypes of {name!r}: call update_prototypes() before the first epoch")
        x = features[name].flatten(1)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.prototypes[name].device != x.device:  # just loaded: moved once, since this waits for the device
            self.prototypes = self.prototypes | {name: self.prototypes[name].to(x.device)}
        prototypes = self.prototypes[name]
        if x.shape[1] != prototypes.shape[1]:
            raise ValueError(
                f"the features of {name!r} have {x.shape[1]} numbers a sample, but its prototypes {prototypes.shape[1]}"
            )
        there = prototypes.isfinite().all(1)
        filled = torch.where(there.unsqueeze(1), prototypes, 0.0).to(x.dtype)
        # Differences, not a matrix product, which cancels where features are near; the gradient at distance 0 is 0.
        distances = torch.cdist(x, filled, compute_mode="donot_use_mm_for_euclid_dist")
        labels = labels.to(x.device)
        known = (labels < len(there)) & there[labels.clamp(max=len(there) - 1)]
        return torch.where(there, -distances, -math.inf), torch.where(known, labels, NO_CLASS)


def _entropy(logits: Tensor) -> Tensor:
    """() the sum over samples of the entropy of softmax(logits), where a logit may be −∞."""
    logs = logits.log_softmax(1)
    return -(logs.exp() * logs.masked_fill(logits == -math.inf, 0.0)).sum()


def _blended(new: Tensor, old: Tensor | None, blend: float) -> Tensor:
    """(1 − blend)·new + blend·old, row by row, for tables (C, F) of perhaps different C; what only one has as it is."""
    old = new[:0] if old is None else old
    classes = max(len(new), len(old))
    old, new = (F.pad(t.to(new), (0, 0, 0, classes - len(t)), value=math.nan) for t in (old, new))
    has_old, has_new = (t.isfinite().all(1, keepdim=True) for t in (old, new))
    mixed = torch.where(has_old, (1 - blend) * new + blend * old, new)
    return torch.where(has_new, mixed, old)
