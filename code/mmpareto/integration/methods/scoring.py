"""Methods that compare how confident each modality is in the true class."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from mmpareto.integration.features import given_labels, read_output
from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.methods.fusing import FusingMethod
from mmpareto.integration.options import check_choice

NOT_ADDITIVE = (
    "compares what each modality contributes to the joint logits, but this fusion computes no sum over modalities: use "
    "one that does (--fusion concat, sum or cosine), or set score to 'zeroed' (--score zeroed)"
)


def true_class_score(logits: Tensor, labels: Tensor) -> Tensor:
    """Return Σᵢ softmax(logits)[i, yᵢ], (), for logits (B, C) and labels (B,)."""
    return logits.softmax(1).gather(1, labels.unsqueeze(1)).sum()


def check_score(score: str) -> None:
    """Require a kind of score: "contribution" or "zeroed"."""
    check_choice("score", score, ("contribution", "zeroed"))


class ScoringMethod(FusingMethod):
    """Base class of methods that score modalities by their logits z_k (B, C), as OGM does.

    `score` "contribution": z_k is the part of the joint logits that modality k contributes, from
    `outputs.contributions` or, if the outputs have no such attribute, from `outputs.unimodal`. "zeroed": z_k is the
    joint logits with zeros as the features of all other modalities.
    """

    absent = "contribution"  # z_k
    needs_classes = True
    score: str

    def begin_training(self, context: TrainingContext) -> None:
        """Take the network's fusion, or reject one that has no score."""
        if self.score == "zeroed":
            super().begin_training(context)
        elif not getattr(context.network, "additive", True):
            raise ValueError(f"{self.title} {NOT_ADDITIVE}")

    def scores(
        self,
        outputs: Any,
        labels: Tensor | None,
        names: Iterable[str],
        score: Callable[[Tensor, Tensor], Tensor] = true_class_score,
    ) -> dict[str, Tensor]:
        """Return modality → s_k, () float64 without a graph: by default, Σᵢ softmax(z_k)[i, yᵢ].

        Arguments:
            names: modalities that must have logits.
            score: function of z_k (B, C) and the labels (B,).

        Raises:
            ValueError: the labels or a modality's logits are missing, or there are none, because the joint logits are
                not a sum over modalities.
        """
        labels = given_labels(labels, self.title)
        logits = self._logits(outputs)
        for name in names:
            if name not in logits:
                raise ValueError(f"{self.title} needs logits of {name!r}, but outputs has only those of {[*logits]}")
        return {name: score(z.detach().double(), labels.to(z.device)) for name, z in logits.items()}

    def _logits(self, outputs: Any) -> Mapping[str, Tensor]:
        """Return modality → z_k (B, C); of outputs without contributions, the unimodal logits."""
        if self.score == "zeroed":
            features = self.features_in(outputs)
            detached = {name: x.detach() for name, x in features.items()}
            return {name: self.fuse_only(detached, [name]) for name in detached}
        contributions = read_output(outputs, "contributions")
        if contributions:
            return contributions
        if contributions is not None:
            raise ValueError(f"{self.title} {NOT_ADDITIVE}")
        unimodal = read_output(outputs, "unimodal")
        if not unimodal:
            raise ValueError(
                f"{self.title} needs the model's outputs: pass outputs=… with `contributions` or `unimodal`, modality →"
                " logits (B, C)"
            )
        return unimodal
