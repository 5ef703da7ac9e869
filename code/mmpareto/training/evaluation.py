"""Figures of a model on a data set."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor, nn

from mmpareto.data.batches import Batch, to_device
from mmpareto.models.network import Outputs
from mmpareto.training.devices import Precision
from mmpareto.training.meters import NonFiniteError
from mmpareto.training.metrics import classification_metrics


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model returned for N samples, float32 on the CPU, in the order of the data set.

    Attributes:
        outputs: logits (N, C) and features (N, F).
        labels: (N,) int64.
    """

    outputs: Outputs
    labels: Tensor

    @property
    def logits(self) -> dict[str, Tensor]:
        """Head → logits (N, C); "" is the joint head, the others are named by modality."""
        return {"": self.outputs.joint, **self.outputs.unimodal}

    def metrics(self) -> dict[str, dict[str, Any]]:
        """Head → accuracy, per-class accuracy, macro-F1, mAP and confusion matrix."""
        return {head: classification_metrics(logits, self.labels) for head, logits in self.logits.items()}

    def with_heads(self, heads: Mapping[str, Mapping[str, Tensor]]) -> "Predictions":
        """The same, with the logits that other linear unimodal heads (modality → weight, bias) give."""
        features = self.outputs.features
        logits = {name: F.linear(features[name], head["weight"], head["bias"]) for name, head in heads.items()}
        return Predictions(self.outputs._replace(unimodal=logits), self.labels)


@torch.no_grad()
def predict(
    model: nn.Module,
    batches: Iterable[Batch],
    device: torch.device,
    normalisation: Any,
    precision: Precision,
    between: Callable[[], None] = lambda: None,
) -> Predictions:
    """Run the model, in evaluation mode, over all batches; every sample once.

    Arguments:
        between: called after every batch; what it raises ends the evaluation.
    """
    was_training = model.training
    model.eval()
    parts: list[Outputs] = []
    labels: list[Tensor] = []
    try:
        for batch in batches:
            batch = to_device(batch, device, normalisation)
            with precision.autocast():
                parts.append(model(batch.inputs))
            labels.append(batch.labels)
            between()
    finally:
        model.train(was_training)
    names = list(parts[0].unimodal)
    outputs = Outputs(
        _gathered(part.joint for part in parts),
        {name: _gathered(part.unimodal[name] for part in parts) for name in names},
        {name: _gathered(part.features[name] for part in parts) for name in names},
        {},
    )
    return Predictions(outputs, torch.cat(labels).cpu())


def _gathered(parts: Iterable[Tensor]) -> Tensor:
    return torch.cat([part.float() for part in parts]).cpu()


def figures(predictions: Predictions, prefix: str = "") -> dict[str, Any]:
    """The figures of metrics.jsonl: loss, acc, macro_f1, map and per_class_accuracy, with _<modality> for its head.

    Raises:
        NonFiniteError: a loss is NaN or infinite.
    """
    losses = {h: F.cross_entropy(logits, predictions.labels).item() for h, logits in predictions.logits.items()}
    odd = [head or "joint" for head, loss in losses.items() if not math.isfinite(loss)]
    if odd:
        raise NonFiniteError(f"the {' and '.join(odd)} loss in evaluation is NaN or infinite")
    found: dict[str, Any] = {}
    for head, metrics in predictions.metrics().items():
        suffix = f"_{head}" if head else ""
        found |= {
            f"{prefix}loss{suffix}": losses[head],
            f"{prefix}acc{suffix}": metrics["accuracy"],
            f"{prefix}macro_f1{suffix}": metrics["macro_f1"],
            f"{prefix}map{suffix}": metrics["mAP"],
            f"{prefix}per_class_accuracy{suffix}": metrics["per_class_accuracy"],
        }
    return found
