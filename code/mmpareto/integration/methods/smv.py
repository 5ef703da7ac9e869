"""SMV, sample-level modality valuation and resampling (Wei et al., CVPR 2024, arXiv 2309.06255)."""

import itertools
import math
import warnings
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.methods.fusing import FusingMethod
from mmpareto.integration.methods.plain_sum import JointLoss
from mmpareto.integration.objectives import Encoders, Objectives, UnimodalLosses
from mmpareto.integration.options import check_at_least, check_choice, check_positive, check_share

# A sample's value is below this → its number of copies; the bounds of the released code.
COPIES = ((-0.1, 3), (0.4, 2), (1.0, 1))


class SMV(JointLoss, FusingMethod):
    """SMV, modality valuation: train longer on what a modality contributes little to, with that modality alone.

    A set S of modalities is worth v(S) = |S| for a sample whose joint prediction is right with zeros as the features of
    all other modalities, else 0. The contribution of modality k is its Shapley value

        φ_k = Σ over S without k of |S|!(n − 1 − |S|)!/n! · (v(S + k) − v(S))

    which is −½, 0, ½, 1 or 1½ with two modalities. It is computed in evaluation mode before every epoch after the first
    `warmup` epochs, and gives the epoch further samples: copies in which modality k is alone, that is, with zeros as
    the features of all others. L_m of all samples is descended in one backward pass; the unimodal losses are ignored.

    With `level` "sample", every sample has for every modality k one copy if φ_k < 1, two if φ_k < 0.4, and three if
    φ_k < −0.1: 2(1 − φ_k) with two modalities. With `level` "modality", the mean φ̄_k is estimated on a share of the
    samples; the modality that contributes least has int(⅔·α·(mean φ̄ of the others − its φ̄)·N) copies of samples drawn
    from all N with replacement. With one modality there is no copy.

    Definitions are those of the authors' code (GeWu-Lab/Valuate-and-Enhance-Multimodal-Cooperation at 7ed12b0:
    code/sample_level.py, modality_level.py, datasets/dataloader.py), which has two modalities; the paper's text is
    unchecked. There, too, features are zeroed, not inputs, both in the valuation and in training, so that BatchNorm
    sees the inputs of a copy; the valued samples are augmented (`samples`). It draws the share with replacement and
    values all samples all the same; here the share is drawn without, and nothing else is valued. As stored, it does not
    run: its data sets do not take an argument that they are given. BalanceBenchmark (evaluation/modalitys.py,
    datasets/__init__.py) takes v(S) = 1 for |S|, so that φ ≤ 1, zeroes inputs, and at modality level appends each
    choice once for every modality, whole for the stronger one; this is not offered.

    An epoch with copies has more steps. Schedules are in epochs, so that they end with the run all the same. A
    valuation takes one forward pass over the samples, and 2ⁿ − 1 fusions.

    In your own loop, call `use_fusion(…)` once, `resample(…)` before every epoch after the warm-up, and add the samples
    that `copies()` returns to the epoch, with zeros for the features of all modalities but one.

    Arguments:
        level: "sample" or "modality".
        warmup: number of epochs without copies, ≥ 0 [5].
        part_ratio: share of the samples that is valued at level "modality", in (0, 1] [0.2].
        alpha: α > 0 at level "modality" [1].
        samples: the samples that are valued: "augmented": as they are trained on [so]; "training": without
            augmentation.

    Raises:
        ValueError: an option is out of range; `resample`, `backward`: there is no fusion, or no joint loss.
    """

    source = "Wei et al., modality valuation, CVPR 2024 (arXiv 2309.06255)"
    without_effect = MappingProxyType({"part_ratio": {"level": "sample"}, "alpha": {"level": "sample"}})
    memory = ("_copies",)
    title = "SMV"
    needs_classes = True
    resamples = True

    def __init__(
        self,
        level: str = "sample",
        warmup: int = 5,
        part_ratio: float = 0.2,
        alpha: float = 1.0,
        samples: str = "augmented",
    ) -> None:
        super().__init__()
        check_choice("level", level, ("sample", "modality"))
        check_at_least("warmup", warmup, 0)
        check_share("part_ratio", part_ratio)
        check_positive("alpha", alpha)
        check_choice("samples", samples, ("augmented", "training"))
        self.level, self.warmup, self.part_ratio, self.alpha, self.samples = level, warmup, part_ratio, alpha, samples
        self._copies: dict[str, Tensor] = {}

    def objectives(
        self, joint: Tensor | None, unimodal: UnimodalLosses, encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Return the joint loss, after checking that samples can be valued."""
        if self.fusion is None:
            raise ValueError("SMV adds copies of samples: call use_fusion() once, and resample() before every epoch")
        return super().objectives(joint, unimodal, encoders, outputs, labels)

    def begin_training(self, context: TrainingContext) -> None:
        """Take the network's fusion, and warn of a run that ends before the first copies."""
        super().begin_training(context)
        if context.epochs <= self.warmup:
            warnings.warn(
                f"SMV copies samples from epoch {self.warmup + 1} on: in {context.epochs} epochs it is joint training; "
                "set warmup (--warmup) lower",
                stacklevel=2,
            )

    def begin_epoch(self, context: TrainingContext) -> None:
        """Value the samples, after the warm-up."""
        if context.epoch > self.warmup:
            share = 1.0 if self.level == "sample" else self.part_ratio
            self.resample(context.features(share, self.samples), context.indices(1.0))

    def copies(self) -> Mapping[str, Tensor]:
        """Return modality → indices of the samples of which the epoch has a copy with that modality alone."""
        return self._copies

    def resample(self, batches: Iterable[tuple[Mapping[str, Tensor], Tensor]], indices: Tensor) -> None:
        """Choose the copies of the next epoch.

        Arguments:
            batches: ({modality: features (B, F)}, labels (B,)) in evaluation mode: of all samples or, at level
                "modality", of a share of them.
            indices: (N,) int64, the indices of all samples; at level "sample" in the order of the batches.
        """
        parts = [self.values(features, labels) for features, labels in batches]
        values = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
        if len(values) < 2:
            self._copies = {}
        elif self.level == "sample":
            self._copies = {name: indices.repeat_interleave(copies_of(phi)) for name, phi in values.items()}
        else:
            self._copies = self._copies_of_weakest({name: float(phi.mean()) for name, phi in values.items()}, indices)

    @torch.no_grad()
    def values(self, features: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Return modality → φ_k (B,) float64.

        Arguments:
            features: modality → (B, F).
            labels: (B,) class indices.
        """
        names, count = list(features), len(features)
        worth: dict[tuple[str, ...], Tensor] = {(): torch.zeros(len(labels), dtype=torch.float64, device=labels.device)}
        for size in range(1, count + 1):
            for chosen in itertools.combinations(names, size):
                logits = self.fuse_only(features, chosen)
                worth[chosen] = size * (logits.argmax(1) == labels).double()
        shapley = {name: torch.zeros_like(worth[()]) for name in names}
        for chosen, value in worth.items():
            for name in chosen:
                rest = tuple(other for other in chosen if other != name)
                weight = 1 / (count * math.comb(count - 1, len(rest)))
                shapley[name] += weight * (value - worth[rest])
        return {name: phi.round(decimals=9) for name, phi in shapley.items()}  # 1, not 1 − 1e-16

    def _copies_of_weakest(self, means: Mapping[str, float], indices: Tensor) -> dict[str, Tensor]:
        """Copies of samples drawn from all, of the modality that contributes least on average."""
        weakest = min(means, key=lambda name: means[name])
        others = [mean for name, mean in means.items() if name != weakest]
        gap = sum(others) / len(others) - means[weakest]
        count = int(gap / 3 * 2 * self.alpha * len(indices))
        return {weakest: indices[torch.randint(len(indices), (count,))]}


def copies_of(values: Tensor) -> Tensor:
    """Return the number of copies (B,) int64 of samples with the values φ_k (B,)."""
    numbers = torch.zeros(len(values), dtype=torch.int64)
    for bound, number in reversed(COPIES):
        numbers[values < bound] = number
    return numbers
