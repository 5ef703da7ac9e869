"""PMR, prototypical modal rebalance (Fan et al., CVPR 2023, arXiv 2211.07089)."""

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor

from mmpareto.integration.differentiation import Gradients, Pass
from mmpareto.integration.features import given_labels, read_output
from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.linear_algebra import at_least_float32, combine_and_release
from mmpareto.integration.method import Method
from mmpareto.integration.methods.modulation import COMPARISONS, slowed, with_noise
from mmpareto.integration.objectives import JOINT, Encoders, Objectives, UnimodalLosses, collect, collect_joint
from mmpareto.integration.options import check_at_least, check_choice, check_decay, check_epoch_range, check_positive
from mmpareto.integration.report import EncoderReport

SHARE = 0.1  # of the training set, used for the prototypes; of a validation set, all
NO_CLASS = -100  # the label that F.cross_entropy ignores
# The prototypes' losses are means over the step's samples, whose number is known only in `prepare`. Until then they are
# sums divided by this constant, so that the gradients of a scaled half-precision loss stay in range.
UNIT = 64


class PMR(Method):
    """PMR, prototypical modal rebalance: pull the weaker modality's features towards their class prototypes.

    The prototype p_k,c of modality k and class c is the mean feature over a tenth of the training set (`samples`). It
    is updated before every epoch, including the first: p ← (1 − ε)·new + ε·old. With the negative Euclidean distances
    d_k,c = −‖x_k − p_k,c‖ as logits,

        s_k = Σᵢ softmax(d_k)[i, yᵢ]        ρ_k = (mean of the other modalities' s) / s_k
        h_k = ∂/∂θᵏ (L_m + α·clip(ρ_k − 1, 0, 1)·CE(d_k, y) − μ·clip(1/ρ_k − 1, 0, 1)·H(softmax(d_k)))

    CE is the prototypical cross-entropy, which speeds up a weaker modality; H is the mean entropy, which slows down a
    stronger one in the first `entropy_epochs` epochs (equations 6 to 13 for two modalities; with more, each is compared
    with the mean of the others). Both reach the modality's own encoder only. Everything else receives the gradient of
    L_m, and the unimodal losses are ignored. With one modality, L_m alone is descended. One backward pass for L_m, one
    for all CE and, while it is used, one for all H: which modalities need them is known only after the whole batch.

    `variants["released"]`, the released code (fanyunfeng-bit/Modal-Imbalance-PMR), uses 1 in place of the clipped
    factor of a weaker modality, has no entropy term, and discards the untrained model's prototypes at the first update.
    It also stops PMR after a given epoch, which the paper does not mention. The samples of its prototypes depend on the
    data set, and recipe pmr sets `samples` accordingly: on CREMA-D, Kinetics-Sounds and VGGSound, a tenth of the
    training batches with the training transforms ("augmented"); on AVE, the whole validation set ("validation"); on
    CG-MNIST, a tenth of the test set with its labels, which is not offered here.

    `variants["balancebenchmark"]` is the computation of GeWu-Lab/BalanceBenchmark (trainer/PMR_trainer.py), with the
    values of its configuration. With two modalities, it is that of the released code, but for the prototypes of the
    untrained model, which it keeps. With three, prototypes are used for s alone, and no loss of theirs is descended: as
    in OGM-GE, the gradients g of L_m of all weights of encoder k that are not 1-D become κ_k·g − N(0, std(g)²), where
    κ_k = 1 − tanh(η·s_k/min s) for all but the weakest modality, whose κ is 1. Noise that is subtracted has the
    distribution of noise that is added.

    In your own loop, call `set_epoch(…)` and `update_prototypes(…)` before every epoch. `backward` needs the labels,
    and `outputs` with `features`, modality → x_k (B, …). A class that was not among the samples has no prototype and is
    left out of softmax; its samples are left out of s and CE.

    Arguments:
        alpha: α > 0 [1 or 2].
        momentum_coef: weight ε of the old prototypes, in [0, 1) [0.2].
        momentum_starts: the first update that uses old prototypes, ≥ 1; the one before the first epoch is number 0
            [1; released code: 2].
        factor: "clipped": clip(ρ − 1, 0, 1); "one": 1 where ρ > 1, else 0.
        mu: weight μ ≥ 0 of the entropy [0.01 or 0.001]; 0 for none.
        entropy_epochs: number of epochs with the entropy term [not published: "the first few"].
        modulation_starts: the first epoch with prototypes, from 0 [0].
        modulation_ends: the last epoch with prototypes [100].
        comparison: of three and more modalities: "mean", with the mean of the others, as above; "balancebenchmark".
        eta: η > 0 of BalanceBenchmark [0.01].
        samples: "training": a tenth of the training set, without augmentation; "augmented": the same with the
            augmentation of training; "validation": the validation set.

    Raises:
        ValueError: an option is out of range; `backward`: the joint loss, the labels, or a modality's features or
            prototypes are missing, or the features are detached.
    """

    source = "Fan et al., PMR, CVPR 2023 (arXiv 2211.07089)"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"factor": "clipped", "mu": 0.01, "momentum_starts": 1},
        "released": {"factor": "one", "mu": 0.0, "momentum_starts": 2},
        "balancebenchmark": {
            "alpha": 0.6,
            "factor": "one",
            "mu": 0.0,
            "momentum_coef": 0.5,
            "momentum_starts": 1,
            "modulation_ends": 80,
            "samples": "augmented",
            "comparison": "balancebenchmark",
        },
    }
    without_effect = MappingProxyType(
        {"momentum_starts": {"momentum_coef": 0}, "entropy_epochs": {"mu": 0}, "eta": {"comparison": "mean"}}
    )
    memory = ("prototypes", "renewals", "epoch")
    descends_unimodal = False
    needs_classes = True
    needs_fusion = True

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
        samples: str = "training",
        comparison: str = "mean",
        eta: float = 0.01,
    ) -> None:
        super().__init__()
        check_positive("alpha", alpha)
        check_decay("momentum_coef", momentum_coef)
        check_at_least("momentum_starts", momentum_starts, 1)
        check_choice("factor", factor, ("clipped", "one"))
        check_at_least("mu", mu, 0)
        check_at_least("entropy_epochs", entropy_epochs, 0)
        check_epoch_range(modulation_starts, modulation_ends)
        check_choice("samples", samples, ("training", "augmented", "validation"))
        check_choice("comparison", comparison, COMPARISONS)
        check_positive("eta", eta)
        self.alpha, self.factor, self.mu, self.entropy_epochs = alpha, factor, mu, entropy_epochs
        self.momentum_coef, self.momentum_starts = momentum_coef, momentum_starts
        self.modulation_starts, self.modulation_ends = modulation_starts, modulation_ends
        self.samples, self.comparison, self.eta = samples, comparison, eta
        self.prototypes: dict[str, Tensor] = {}  # modality → (C, F); NaN in the rows of classes without a prototype
        self.renewals = 0
        self.epoch = 0
        self._coefficients: dict[str, Tensor] = {}
        self._adds_noise = False

    # --- between epochs ---

    def set_epoch(self, epoch: int) -> None:
        """Set the current epoch, from 0."""
        self.epoch = epoch

    def begin_epoch(self, context: TrainingContext) -> None:
        """Update the prototypes, as long as they are used, and the epoch."""
        epoch = context.epoch - 1  # the context counts from 1
        if epoch <= self.modulation_ends:
            self.update_prototypes(self._features(context))
        self.set_epoch(epoch)

    def begin_training(self, context: TrainingContext) -> None:
        """Reject a run without the samples that prototypes are computed from."""
        if self.samples != "training":
            self._features(context)

    def _features(self, context: TrainingContext) -> Iterable[tuple[Mapping[str, Tensor], Tensor]]:
        """Return batches of the features and labels that prototypes are computed from, on demand."""
        if self.samples == "training":
            return context.features(SHARE)
        return context.features(1.0 if self.samples == "validation" else SHARE, self.samples)

    @torch.no_grad()
    def update_prototypes(self, batches: Iterable[tuple[Mapping[str, Tensor], Tensor]]) -> None:
        """Update the prototypes. A class without samples keeps its old prototype, if there is one.

        If one of a modality's features is not finite, all classes of that modality keep their old prototypes.

        Arguments:
            batches: ({modality: features (B, …)}, labels (B,)) of the model in evaluation mode.

        Raises:
            ValueError: there are no batches.
        """
        features: dict[str, list[Tensor]] = {}
        labels: list[Tensor] = []
        for batch_features, batch_labels in batches:
            for name, x in batch_features.items():
                features.setdefault(name, []).append(x.flatten(1).double())
            labels.append(batch_labels)
        if not labels:
            raise ValueError("PMR's prototypes are means of features: pass at least one batch of them")
        members = F.one_hot(torch.cat(labels)).double().T
        blend = self.momentum_coef if self.renewals >= self.momentum_starts else 0.0
        prototypes = {}
        for name, parts in features.items():
            x = torch.cat(parts)
            means = members.to(x.device) @ x / members.to(x.device).sum(1, keepdim=True)
            prototypes[name] = _blended(means, self.prototypes.get(name), blend)
        self.prototypes, self.renewals = prototypes, self.renewals + 1

    # --- a step ---

    def objectives(
        self, joint: Tensor | None, unimodal: UnimodalLosses, encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Return the joint loss and, while PMR is active, CE and −H of every modality for its own encoder alone."""
        objectives = collect_joint(joint, encoders, "PMR")
        labels = given_labels(labels, "PMR")
        if not self._is_active(objectives) or self._as_benchmark(objectives):
            return objectives
        losses: dict[str, Tensor] = {}
        named_encoders: dict[str, tuple[list[Tensor], list[str]]] = {}
        for name, encoder in objectives.encoders.items():
            logits, targets = self._compare(name, outputs, labels)
            terms = {f"prototypes of {name}": F.cross_entropy(logits, targets, reduction="sum")}
            if self._uses_entropy():
                terms[f"entropy of {name}"] = -_entropy(logits)
            losses |= {term: value / UNIT for term, value in terms.items()}
            named_encoders[name] = (encoder.parameters, list(terms))
        return collect(joint, losses, named_encoders)

    def statistics(self, outputs: Any, labels: Tensor | None, objectives: Objectives) -> dict[str, Tensor]:
        """Return modality → (2,) float64: s_k, and the number of samples."""
        if labels is None or not self._is_active(objectives):
            return {}
        statistics = {}
        for name in objectives.encoders:
            logits, targets = self._compare(name, outputs, labels)
            probabilities = logits.double().softmax(1).gather(1, targets.clamp(min=0).unsqueeze(1)).squeeze(1)
            score = torch.where(targets == NO_CLASS, 0.0, probabilities).sum()
            statistics[name] = torch.stack([score, torch.full_like(score, len(labels))])
        return statistics

    def passes(self, objectives: Objectives) -> list[Pass]:
        """Return one pass for the joint loss, and one or two for the prototypes, inside the encoders."""
        return [Pass(run.losses, run.encoders, outside=JOINT in run.losses) for run in super().passes(objectives)]

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Compute how strongly each modality is sped up and slowed down; return the former as metrics.

        With `comparison` "balancebenchmark" and more than two modalities: κ.
        """
        one = torch.ones((), dtype=torch.float64, device=gradients.scale.device)
        benchmark, active = self._as_benchmark(objectives), bool(gradients.statistics)
        metrics = {f"coefficient_{name}": one if benchmark else torch.zeros_like(one) for name in objectives.encoders}
        self._coefficients = {name: one.reshape(1) for name in objectives.encoders}
        self._adds_noise = benchmark and active
        if not active:
            return metrics
        sums = torch.stack([gradients.statistics[name].to(one) for name in objectives.encoders])
        if benchmark:
            kappa = slowed(sums[:, 0] / sums[:, 0].min(), self.eta)
            self._coefficients = dict(zip(objectives.encoders, kappa.unsqueeze(1), strict=True))
            return dict(zip(metrics, kappa, strict=True))
        s, mean = sums[:, 0], UNIT / sums[:, 1]
        others = (s.sum() - s) / (len(s) - 1)
        faster, slower = self.alpha * self._strength(others, s), self.mu * self._strength(s, others)
        for index, (name, encoder) in enumerate(objectives.encoders.items()):
            coefficients = torch.stack([one, (faster * mean)[index], (slower * mean)[index]])
            self._coefficients[name] = coefficients[: len(encoder.objectives)]
            metrics[f"coefficient_{name}"] = faster[index]
        return metrics

    def integrate(
        self, modality: str, gradients: list[list[Tensor | None]], scale: Tensor
    ) -> tuple[list[Tensor | None], EncoderReport | None]:
        """Return the weighted sum of the gradients of L_m, CE and −H; or, as BalanceBenchmark, κ·g and noise."""
        coefficients = self._coefficients[modality]
        if self._adds_noise:
            kappa = coefficients.squeeze(0)
            return [
                None if g is None else with_noise(g * kappa.to(g.device), g) if g.ndim != 1 else g.clone()
                for g in gradients[0]
            ], None
        alpha = (coefficients / len(coefficients)).expand(len(gradients[0]), -1)
        return combine_and_release(gradients, alpha), None

    def _strength(self, better: Tensor, worse: Tensor) -> Tensor:
        """Return the factors (n,) for ρ = better/worse; 0 if there is nothing to compare."""
        ratio = torch.where(better > worse, better / worse, 1.0)
        return (ratio - 1).clamp(0, 1) if self.factor == "clipped" else (ratio > 1).double()

    def _is_active(self, objectives: Objectives) -> bool:
        return len(objectives.encoders) > 1 and self.modulation_starts <= self.epoch <= self.modulation_ends

    def _as_benchmark(self, objectives: Objectives) -> bool:
        return self.comparison == "balancebenchmark" and len(objectives.encoders) > 2

    def _uses_entropy(self) -> bool:
        return self.mu > 0 and self.epoch < self.entropy_epochs

    def _compare(self, name: str, outputs: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return a modality's d (B, C), float32 at least, and the labels (B,).

        A class without a prototype has d = −∞, and its samples have the label NO_CLASS.
        """
        features = read_output(outputs, "features")
        if features is None or features.get(name) is None:
            raise ValueError(f"PMR needs the features of {name!r}: pass outputs=… with `features`, modality → (B, …)")
        if name not in self.prototypes:
            raise ValueError(f"PMR has no prototypes of {name!r}: call update_prototypes() before the first epoch")
        x = at_least_float32(features[name].flatten(1))
        if self.prototypes[name].device != x.device:  # just loaded; moved only once, because this waits for the device
            self.prototypes = self.prototypes | {name: self.prototypes[name].to(x.device)}
        prototypes = self.prototypes[name]
        if x.shape[1] != prototypes.shape[1]:
            raise ValueError(
                f"the features of {name!r} have {x.shape[1]} numbers per sample, but its prototypes have"
                f" {prototypes.shape[1]}"
            )
        known = prototypes.isfinite().all(1)
        filled = torch.where(known.unsqueeze(1), prototypes, 0.0).to(x.dtype)
        # Not by a matrix product, which cancels where features are close. The gradient at distance 0 is 0.
        distances = torch.cdist(x, filled, compute_mode="donot_use_mm_for_euclid_dist")
        labels = labels.to(x.device)
        labelled = (labels < len(known)) & known[labels.clamp(max=len(known) - 1)]
        return torch.where(known, -distances, -math.inf), torch.where(labelled, labels, NO_CLASS)


def _entropy(logits: Tensor) -> Tensor:
    """Return the sum over samples of the entropy of softmax(logits), (); logits may be −∞."""
    logs = logits.log_softmax(1)
    return -(logs.exp() * logs.masked_fill(logits == -math.inf, 0.0)).sum()


def _blended(new: Tensor, old: Tensor | None, blend: float) -> Tensor:
    """Return (1 − blend)·new + blend·old per row of tables (C, F); a row that only one table has is not changed.

    C may differ between the tables. A row that is not finite counts as missing.
    """
    old = new[:0] if old is None else old
    classes = max(len(new), len(old))
    old, new = (F.pad(t.to(new), (0, 0, 0, classes - len(t)), value=math.nan) for t in (old, new))
    has_old, has_new = (t.isfinite().all(1, keepdim=True) for t in (old, new))
    mixed = torch.where(has_old, (1 - blend) * new + blend * old, new)
    return torch.where(has_new, mixed, old)
