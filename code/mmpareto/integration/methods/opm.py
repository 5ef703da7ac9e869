"""OPM, on-the-fly prediction modulation (Wei et al., TPAMI 2024, arXiv 2410.11582)."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.features import given_labels
from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.linear_algebra import at_least_float32
from mmpareto.integration.methods.plain_sum import JointLoss
from mmpareto.integration.methods.scoring import ScoringMethod, check_score
from mmpareto.integration.objectives import Encoders, Objectives, UnimodalLosses, collect_joint
from mmpareto.integration.options import check_at_least, check_choice, check_epoch_range, check_share

SMALLEST = 1e-300  # a score of 0 has this value in a ratio


class OPM(JointLoss, ScoringMethod):
    """OPM, on-the-fly prediction modulation: drop features of the modality that is more confident in the true class.

    With s_k of OGM, for a batch, and n modalities:

        ρ_k = mean over j ≠ k of s_k/s_j
        q_k = min(q_base·(1 + λ·tanh(ρ_k − 1)), 1) if ρ_k > 1, else 0
        L_m = CE of the fusion of m_k·x_k, with m_k ~ Bernoulli(1 − q_k) for each sample and modality

    q of a step comes from the scores of the step before (`probability` "previous"), as the authors' figure has it
    (OPM.jpg in GeWu-Lab/BML_TPAMI2024); nothing is dropped in the first step. The weakest modality is never dropped, so
    that every sample keeps a feature; the released code removes samples that have lost all of theirs, of which there
    are none. The paper's text is unchecked: the formula of q is that of the code, and ρ of three and more modalities
    that of method OGM_GE3 in GeWu-Lab/BalanceBenchmark, as meant. Scores are those of the features before they are
    dropped, as are the losses and accuracies that train.py reports. With one modality, L_m is the joint loss. One
    backward pass; the fusion is applied twice.

    `variants["released"]` is the released code (models/Classifier.py), where it differs:

    - q of a step comes from its own scores, so that a step needs its whole batch: gradient accumulation and several
      processes are refused.
    - In a step, features are dropped with probability `p_exe` 0.7, and otherwise none.
    - Where they are dropped, all features are divided by 1 − θ, θ = Σ d_k q_k/Σ d_k with d_k their lengths.
    - Epochs 0 to 5 are without OPM (`epoch <= 5`); `modulation_ends` concerns its OGM alone.

    The stored code does not run, because of a stray bracket in `execute_drop`.

    In your own loop, call `use_fusion(…)` once, and `set_epoch(…)` when an epoch begins; otherwise OPM is always
    active. `backward` needs the labels, and `outputs` with `features`, modality → x_k (B, …), and with the logits that
    OGM needs. Every step draws from a generator on the CPU that PyTorch's generator of the CPU seeds: the same numbers
    for micro-batches as for the whole batch, and different ones in every process.

    Arguments:
        q_base: the probability of dropping at ρ = 1, above 0 and at most 1 [0.5 in train_opm.sh].
        lam: λ ≥ 0 [0.5].
        probability: "previous": q_k from the step before; "current": from the same batch.
        p_exe: the probability that a step drops features, above 0 and at most 1.
        rescale: whether features are divided by 1 − θ.
        modulation_starts: the first epoch with OPM, from 0.
        modulation_ends: the last epoch with OPM; None for no end.
        score: "contribution" or "zeroed", as in OGM.

    Raises:
        ValueError: an option is out of range; `backward`: the joint loss, the labels, the fusion, a modality's features
            or logits are missing, the joint logits are not a sum over modalities, or the batch is not whole.
    """

    source = "Wei et al., On-the-fly modulation, TPAMI 2024 (arXiv 2410.11582)"
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"probability": "previous", "p_exe": 1.0, "rescale": False, "modulation_starts": 0},
        "released": {"probability": "current", "p_exe": 0.7, "rescale": True, "modulation_starts": 6},
    }
    title = "OPM"
    absent = "feature"  # zeros, in training
    memory = ("active", "probabilities")

    def __init__(
        self,
        q_base: float = 0.5,
        lam: float = 0.5,
        probability: str = "previous",
        p_exe: float = 1.0,
        rescale: bool = False,
        modulation_starts: int = 0,
        modulation_ends: int | None = None,
        score: str = "contribution",
    ) -> None:
        super().__init__()
        check_share("q_base", q_base)
        check_at_least("lam", lam, 0)
        check_choice("probability", probability, ("previous", "current"))
        check_share("p_exe", p_exe)
        check_epoch_range(modulation_starts, modulation_starts if modulation_ends is None else modulation_ends)
        check_score(score)
        self.q_base, self.lam, self.probability, self.p_exe, self.rescale = q_base, lam, probability, p_exe, rescale
        self.modulation_starts, self.modulation_ends, self.score = modulation_starts, modulation_ends, score
        self.active = True
        self.probabilities: dict[str, Tensor] = {}  # modality → q_k () of the next step; {} before the first one
        self._used: dict[str, Tensor] = {}
        self._executes = True
        self._generator: torch.Generator | None = None  # of a step

    @property
    def needs_whole_batch(self) -> bool:
        """True if q depends on all samples of the step."""
        return self.probability == "current"

    def set_epoch(self, epoch: int) -> None:
        """Set the current epoch, from 0."""
        ended = self.modulation_ends is not None and epoch > self.modulation_ends
        self.active = epoch >= self.modulation_starts and not ended

    def begin_training(self, context: TrainingContext) -> None:
        """Take the network's fusion, and reject one that has no score."""
        super().begin_training(context)
        self.use_fusion(context.network.fusion)

    def begin_epoch(self, context: TrainingContext) -> None:
        """Switch OPM on or off for the epoch."""
        self.set_epoch(context.epoch - 1)  # the context counts from 1

    def objectives(
        self, joint: Tensor | None, unimodal: UnimodalLosses, encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Return the joint loss of features of which some are dropped, as the only objective of every encoder."""
        self._used = {}
        if joint is not None and self.active and len(encoders) > 1:
            if self.needs_whole_batch:
                who, instead = "OPM with probability 'current' (variant released)", "set probability to 'previous'"
                self.check_whole_batch(who, f", or {instead}")
            features = self.features_in(outputs)
            labels = given_labels(labels, self.title)
            self._used = self._probabilities(features, outputs, labels)
            logits = self.fuse(self._drop(features, self._used))
            # A process without samples has the same graph, as some reducers require, and the loss 0.
            joint = (self.loss(logits, labels) if len(labels) else logits.sum()) * self.share
        return collect_joint(joint, encoders, self.title)

    def statistics(self, outputs: Any, labels: Tensor | None, objectives: Objectives) -> dict[str, Tensor]:
        """Return modality → s_k, () float64, where the next step needs it."""
        if self.probability == "current" or not self._used:
            return {}
        return self.scores(outputs, labels, self._used)

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Compute q of the next step, unless this one is not finite; return q of this one as metrics."""
        self._generator = None
        zero = torch.zeros((), dtype=torch.float64, device=gradients.scale.device)
        if gradients.statistics:
            finite = gradients.finite.all()
            updated = self._from_scores(gradients.statistics)
            old = {name: self.probabilities.get(name, zero).to(q) for name, q in updated.items()}
            self.probabilities = {name: torch.where(finite.to(q.device), q, old[name]) for name, q in updated.items()}
        return {f"drop_probability_{name}": self._used.get(name, zero) for name in objectives.encoders}

    def _probabilities(self, features: Mapping[str, Tensor], outputs: Any, labels: Tensor | None) -> dict[str, Tensor]:
        """Return modality → q_k of this step, () float64 on the features' device."""
        if self.probability == "current":
            with torch.no_grad():
                return self._from_scores(self.scores(outputs, labels, features))
        zero = torch.zeros((), dtype=torch.float64)
        return {
            name: self.probabilities.get(name, zero).to(x.device, non_blocking=True) for name, x in features.items()
        }

    def _from_scores(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return modality → q_k, () float64."""
        s = torch.stack([*scores.values()]).clamp(min=SMALLEST)
        rho = ((s.unsqueeze(1) / s).sum(1) - 1) / (len(s) - 1)
        q = (self.q_base * (1 + self.lam * torch.tanh(rho - 1))).clamp(max=1)
        return dict(zip(scores, torch.where(rho > 1, q, 0.0), strict=True))

    def _drop(self, features: Mapping[str, Tensor], probabilities: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return m_k·x_k, divided by 1 − θ with `rescale`, in float32 at least."""
        q = torch.stack([probabilities[name] for name in features])
        factors = self._draw(len(next(iter(features.values()))), q)
        if self.rescale and self._executes:
            lengths = [math.prod(x.shape[1:]) for x in features.values()]
            theta = sum(length / sum(lengths) * p for length, p in zip(lengths, q.unbind(), strict=True))
            factors = factors / (1 - theta)
        dropped = {}
        for (name, x), factor in zip(features.items(), factors.unbind(1), strict=True):
            wide = at_least_float32(x)
            dropped[name] = wide * factor.to(wide.dtype).reshape(-1, *[1] * (x.dim() - 1))
        return dropped

    def _draw(self, samples: int, q: Tensor) -> Tensor:
        """Return m (B, n), 0 where the step drops a feature and else 1."""
        if self._generator is None:  # the first micro-batch of a step
            self._executes = bool(torch.rand(()) < self.p_exe)
            seed = int(torch.randint(2**62, ())) + (dist.get_rank() if self.active_reducer else 0)
            self._generator = torch.Generator().manual_seed(seed)
        if not self._executes:
            return torch.ones(samples, len(q), dtype=q.dtype, device=q.device)
        drawn = torch.rand(samples, len(q), generator=self._generator, dtype=q.dtype)
        return (drawn.to(q.device, non_blocking=True) >= q).to(q.dtype)
