"""Figures of a model on a data set."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor, nn

from mmpareto.data.loading.batches import Batch, to_device
from mmpareto.models.network import Outputs
from mmpareto.training.devices import Precision
from mmpareto.training.distributed import Processes
from mmpareto.training.losses import loss_of
from mmpareto.training.meters import NonFiniteError
from mmpareto.training.metrics import classification_metrics, regression_metrics

KEYS = {"accuracy": "acc", "mAP": "map"}  # in metrics.jsonl


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model returned for N samples, float32 on the CPU, in the order of the data set.

    Attributes:
        outputs: logits (N, C) and features (N, F).
        labels: (N,) int64 classes, or scores in floating point.
    """

    outputs: Outputs
    labels: Tensor

    @property
    def logits(self) -> dict[str, Tensor]:
        """Head → logits (N, C); "" is the joint head, the others are named by modality."""
        return {"": self.outputs.joint, **self.outputs.unimodal}

    def metrics(self) -> dict[str, dict[str, Any]]:
        """Head → accuracy, per-class accuracy, macro-F1, mAP and confusion matrix; see `metrics` for scores."""
        judge = regression_metrics if self.labels.is_floating_point() else classification_metrics
        return {head: judge(logits, self.labels) for head, logits in self.logits.items()}

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


def of_all(own: Predictions, processes: Processes, samples: int) -> Predictions:
    """The predictions for all samples of a data set, on every process, from those for each process's share."""
    count = len(processes.share.indices(samples))  # a process without a share has looked at one sample all the same

    def gathered(values: Tensor) -> Tensor:
        return processes.gathered(values[:count], samples)

    joint, unimodal, features, _ = own.outputs
    outputs = Outputs(
        gathered(joint),
        {name: gathered(values) for name, values in unimodal.items()},
        {name: gathered(values) for name, values in features.items()},
        {},
    )
    return Predictions(outputs, gathered(own.labels))


def _gathered(parts: Iterable[Tensor]) -> Tensor:
    return torch.cat([part.float() for part in parts]).cpu()


def figures(predictions: Predictions, prefix: str = "") -> dict[str, Any]:
    """The figures of metrics.jsonl: loss, acc, macro_f1, map and per_class_accuracy, with _<modality> for its head.

    Of scores: loss, acc (of the sign), mae and correlation.

    Raises:
        NonFiniteError: a loss is NaN or infinite.
    """
    losses = {h: loss_of(logits, predictions.labels).item() for h, logits in predictions.logits.items()}
    odd = [head or "joint" for head, loss in losses.items() if not math.isfinite(loss)]
    if odd:
        raise NonFiniteError(f"the {' and '.join(odd)} loss in evaluation is NaN or infinite")
    found: dict[str, Any] = {}
    for head, metrics in predictions.metrics().items():
        suffix = f"_{head}" if head else ""
        found[f"{prefix}loss{suffix}"] = losses[head]
        found |= {f"{prefix}{KEYS.get(name, name)}{suffix}": v for name, v in metrics.items() if name != "confusion"}
    return found


def extra_metrics(
    predictions: Predictions, judge: Callable[[Any, Any, int], Mapping[str, Any]], scores: Any, prefix: str = ""
) -> dict[str, Any]:
    """What the data set's own literature reports: sentiment_<figure>, with _<modality> for its head.

    Arguments:
        judge: `DatasetBuilder.extra_metrics`.
        scores: the samples' (`PreparedDataset.scores`).
    """
    found: dict[str, Any] = {}
    for head, logits in predictions.logits.items():
        values = logits.squeeze(1) if predictions.labels.is_floating_point() else logits.argmax(1)
        suffix = f"_{head}" if head else ""
        literature = judge(values.numpy(), scores, logits.shape[1])
        found |= {f"{prefix}sentiment_{name}{suffix}": value for name, value in literature.items()}
    return found
