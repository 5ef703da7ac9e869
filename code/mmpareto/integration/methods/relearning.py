"""Diagnosing & Re-learning (Wei et al., ECCV 2024, arXiv 2407.09705)."""

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.methods.plain_sum import JointLoss
from mmpareto.integration.objectives import Encoders, Objectives, UnimodalLosses
from mmpareto.integration.options import check_at_least, check_choice, check_positive


class Relearning(JointLoss):
    """Diagnosing & Re-learning: from time to time, move encoders that overfit back towards their initial weights.

    Between two epochs, with C the number of classes, for every modality k:

        P_k = purity of C k-means clusters of its features, each feature scaled to [−1, 1]; of training samples, and
              of validation samples
        a_k = tanh(λ·|P_k of training − P_k of validation|)        θ_k ← a_k θ_k of before training + (1 − a_k) θ_k

    The purity is the share of samples whose class is the most frequent one of their cluster. Otherwise the joint loss
    is descended alone: one backward pass. As in the released code (GeWu-Lab/Diagnosing_Relearning_ECCV2024 at 025085e),
    θ_k is all parameters of the encoder, BatchNorm's weights and biases included; BatchNorm's running statistics and
    the optimizer's momentum stay as they are; epochs count from 0, so that `reinit_epoch` 20 acts after the 21st, the
    41st and the 61st. There, encoders are re-initialised after the last epoch as well, which nothing evaluates. The
    number of restarts of k-means is that of the scikit-learn version there, and one here. Its training images are not
    augmented: the loader augments for the mode "train", and is given "my_train". That the code is the paper's method is
    unchecked but for the equations, of which a summary gives the same.

    The state holds a copy of the encoders' initial weights, in CPU memory, and a run needs a validation set. Features
    of all samples are computed in evaluation mode, which takes about a third of an epoch's time. The reported metric
    `relearning_<modality>` is a_k of the last re-initialisation; 0 before the first.

    In your own loop, call `begin_training(…)` once, after a state has been loaded, and `begin_epoch(…)` before every
    epoch, with an object that has `network.encoders`, `epoch`, `epochs`, `features` and `cluster` of `TrainingContext`.

    Arguments:
        move_lambda: λ > 0, how strongly a depends on the gap [3].
        reinit_epoch: number of epochs between two re-initialisations, ≥ 1 [20].
        reinit_num: the largest number of re-initialisations, ≥ 1 [3].
        samples: of the training set: "augmented", as it is trained on [so]; "training", without augmentation.

    Raises:
        ValueError: an option is out of range; `begin_training`: there are no validation samples; `backward`: there is
            no joint loss, or `begin_training` was never called.
    """

    source = "Wei et al., Diagnosing & Re-learning, ECCV 2024 (arXiv 2407.09705)"
    title = "Diagnosing & Re-learning"
    needs_classes = True
    memory = ("initial", "count", "moved")

    def __init__(
        self, move_lambda: float = 3.0, reinit_epoch: int = 20, reinit_num: int = 3, samples: str = "augmented"
    ) -> None:
        super().__init__()
        check_positive("move_lambda", move_lambda)
        check_at_least("reinit_epoch", reinit_epoch, 1)
        check_at_least("reinit_num", reinit_num, 1)
        check_choice("samples", samples, ("augmented", "training"))
        self.move_lambda, self.reinit_epoch, self.reinit_num = move_lambda, reinit_epoch, reinit_num
        self.samples = samples
        self.initial: dict[str, list[Tensor]] = {}  # modality → its encoder's parameters before training
        self.count = 0  # of re-initialisations
        self.moved: dict[str, float] = {}  # modality → a of the last one

    def objectives(
        self, joint: Tensor | None, unimodal: UnimodalLosses, encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Return the joint loss, after checking that there are initial weights to go back to."""
        if not self.initial:
            raise ValueError(
                f"{self.title} acts between epochs: call begin_training() once, and begin_epoch() before every epoch"
            )
        return super().objectives(joint, unimodal, encoders, outputs, labels)

    def begin_training(self, context: TrainingContext) -> None:
        """Keep the initial weights; reject a run without validation samples, and warn of one that ends too early."""
        context.features(1.0, "validation")
        if not self.initial:
            self.initial = {
                name: [p.detach().to("cpu", copy=True) for p in encoder.parameters()]
                for name, encoder in context.network.encoders.items()
            }
        if context.epochs < self.reinit_epoch + 2:
            warnings.warn(
                f"{self.title} re-initialises encoders for the first time after epoch {self.reinit_epoch + 1}: in"
                f" {context.epochs} epochs it is joint training; set reinit_epoch (--reinit_epoch) lower",
                stacklevel=2,
            )

    def begin_epoch(self, context: TrainingContext) -> None:
        """Diagnose and re-initialise the encoders, if it is time.

        Not at the end of an epoch: the checkpoints written there are of the weights that were evaluated.
        """
        finished = context.epoch - 2  # the last epoch, from 0; the context counts from 1
        if finished > 0 and finished % self.reinit_epoch == 0 and self.count < self.reinit_num:
            self._reinitialise(context, self._diagnose(context))

    def _diagnose(self, context: TrainingContext) -> dict[str, float]:
        """Return a of every modality; 0 where a feature is not finite."""
        training, labels = _collected(context.features(1.0, self.samples))
        validation, validation_labels = _collected(context.features(1.0, "validation"))
        classes = len(labels.unique())
        strengths = {}
        for name, x in training.items():
            sets = [(x, labels), (validation[name], validation_labels)]
            if not all(bool(features.isfinite().all()) for features, _ in sets):
                strengths[name] = 0.0
                continue
            train, val = (
                purity(context.cluster(scaled(features), min(classes, len(features))), true) for features, true in sets
            )
            strengths[name] = math.tanh(self.move_lambda * abs(train - val))
        return strengths

    @torch.no_grad()
    def _reinitialise(self, context: TrainingContext, strengths: Mapping[str, float]) -> None:
        """Move the parameters of every encoder, in place, and then the state."""
        for name, encoder in context.network.encoders.items():
            for p, initial in zip(encoder.parameters(), self.initial[name], strict=True):
                p.lerp_(initial.to(p), strengths[name])
        self.count, self.moved = self.count + 1, dict(strengths)

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Return a of the last re-initialisation as metrics."""
        return {
            f"relearning_{name}": torch.full_like(gradients.scale, self.moved.get(name, 0.0), dtype=torch.float64)
            for name in objectives.encoders
        }


def _collected(batches: Iterable[tuple[Mapping[str, Tensor], Tensor]]) -> tuple[dict[str, Tensor], Tensor]:
    """Return {modality: features (N, F) float64}, and labels (N,), of all batches, on the CPU."""
    features: dict[str, list[Tensor]] = {}
    labels: list[Tensor] = []
    for batch, batch_labels in batches:
        for name, x in batch.items():
            features.setdefault(name, []).append(x.flatten(1).double().cpu())
        labels.append(batch_labels.cpu())
    return {name: torch.cat(parts) for name, parts in features.items()}, torch.cat(labels)


def scaled(features: Tensor) -> Tensor:
    """Return features (N, F) with every column scaled to [−1, 1]; a constant one becomes −1."""
    low, high = features.aminmax(dim=0)
    span = torch.where(high > low, high - low, 1.0)
    return (features - low) / span * 2 - 1


def purity(clusters: Tensor, labels: Tensor) -> float:
    """Return the share of samples whose class is the most frequent one of their cluster; (N,) each, from 0."""
    classes = int(labels.max()) + 1
    table = torch.bincount(clusters * classes + labels, minlength=(int(clusters.max()) + 1) * classes)
    return table.view(-1, classes).amax(1).sum().item() / len(labels)
