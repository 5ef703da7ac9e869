"""A model's predictions on a data set, and their metrics in metrics.jsonl."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor, nn

from mmpareto.data.loading.batches import Batch, to_device
from mmpareto.data.loading.labels import UNSCALED, LabelScale, task_of_batch
from mmpareto.integration.objectives import JOINT
from mmpareto.models.network import Outputs
from mmpareto.training.devices import Precision
from mmpareto.training.distributed import Processes
from mmpareto.training.losses import head_labels, loss_of
from mmpareto.training.meters import NonFiniteError
from mmpareto.training.metrics import classification_metrics, multilabel_metrics, regression_metrics

KEYS = {"accuracy": "acc", "mAP": "map"}  # names in metrics.jsonl, where they differ


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A model's outputs for N samples in the order of the data set, float32 on the CPU.

    Attributes:
        outputs: logits (N, C), or projections, and features (N, F).
        labels: as in a batch (`data.loading.labels`).
        label_scale: by which the scores of a regression are standardised, both true and predicted ones.
    """

    outputs: Outputs
    labels: Tensor
    label_scale: LabelScale = UNSCALED

    @property
    def logits(self) -> dict[str, Tensor]:
        """Head → logits (N, C); "" is the joint head, the others are named by modality. Of several tasks: by task."""
        joint = {} if self.outputs.joint is None else {"": self.outputs.joint}
        return joint | self.outputs.unimodal

    @property
    def head_labels(self) -> dict[str, Tensor]:
        """Head → its labels: those of all heads, or the classes of a task."""
        return head_labels(self.outputs, self.labels)

    def nonfinite_rows(self, limit: int = 100) -> list[int]:
        """The first rows of which a feature is NaN or infinite."""
        finite = [x.flatten(1).isfinite().all(1) for x in self.outputs.features.values()]
        return (~torch.stack(finite).all(0)).nonzero().flatten()[:limit].tolist()

    def metrics(self) -> dict[str, dict[str, Any]]:
        """Head → the metrics of the labels' task."""
        task = task_of_batch(self.labels)
        if task == "regression":
            return {head: regression_metrics(z, self.labels, self.label_scale) for head, z in self.logits.items()}
        compute, labels = multilabel_metrics if task == "multilabel" else classification_metrics, self.head_labels
        return {head: compute(logits, labels[head]) for head, logits in self.logits.items()}

    def in_unit(self, scores: Tensor) -> Tensor:
        """Standardised scores in the unit of the data."""
        return scores * self.label_scale.std + self.label_scale.mean

    def with_heads(self, heads: Mapping[str, Mapping[str, Tensor]]) -> "Predictions":
        """The same predictions, with the logits of other linear heads.

        Arguments:
            heads: modality → weight and bias for its feature; "joint" → those for the concatenated features, if the
                joint logits are to be replaced, too.
        """
        features = dict(self.outputs.features)
        if JOINT in heads:
            features[JOINT] = torch.cat([*features.values()], dim=1)
        logits = {name: F.linear(features[name], head["weight"], head["bias"]) for name, head in heads.items()}
        joint = logits.pop(JOINT, self.outputs.joint)
        return dataclasses.replace(self, outputs=self.outputs._replace(joint=joint, unimodal=logits))


@torch.no_grad()
def predict(
    model: nn.Module,
    batches: Iterable[Batch],
    device: torch.device,
    normalisation: Any,
    precision: Precision,
    after_batch: Callable[[], None] = lambda: None,
) -> Predictions:
    """Predictions of the model, in evaluation mode, for all batches.

    Arguments:
        normalisation: of the data set, as in `to_device`.
        after_batch: called after every batch; an exception from it ends the evaluation.
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
            after_batch()
    finally:
        model.train(was_training)

    def concatenated(tensors: Iterable[Tensor]) -> Tensor:
        return torch.cat([tensor.float() for tensor in tensors]).cpu()

    joint = [part.joint for part in parts if part.joint is not None]
    outputs = Outputs(
        concatenated(joint) if joint else None,
        {name: concatenated(part.unimodal[name] for part in parts) for name in parts[0].unimodal},
        {name: concatenated(part.features[name] for part in parts) for name in parts[0].features},
        {},
    )
    return Predictions(outputs, torch.cat(labels).cpu())


def gather_predictions(predictions: Predictions, processes: Processes, samples: int) -> Predictions:
    """The predictions for all samples of a data set, on every process, from those for each process's share."""
    count = len(processes.share.indices(samples))  # a process with an empty share has predicted one sample all the same

    def gathered(values: Tensor) -> Tensor:
        return processes.all_gather(values[:count], samples)

    joint, unimodal, features, _ = predictions.outputs
    outputs = Outputs(
        None if joint is None else gathered(joint),
        {name: gathered(values) for name, values in unimodal.items()},
        {name: gathered(values) for name, values in features.items()},
        {},
    )
    return dataclasses.replace(predictions, outputs=outputs, labels=gathered(predictions.labels))


def head_metrics(predictions: Predictions, prefix: str = "") -> dict[str, Any]:
    """The metrics of every head by their names in metrics.jsonl, with the suffix _<modality> for a unimodal head.

    For classes: loss, acc, macro_f1, map, auroc and per_class_accuracy. For several labels per sample: loss, acc,
    exact_match, macro_f1, map, auroc, per_label_precision and per_label_auroc. For scores: loss, acc (of the sign),
    mae, rmse, r2 and correlation. For several tasks: the metrics of classes with the suffix _<task>, and loss and acc,
    their means over the tasks.

    Raises:
        NonFiniteError: a loss is NaN or infinite.
    """
    labels = predictions.head_labels
    losses = {head: loss_of(logits, labels[head]).item() for head, logits in predictions.logits.items()}
    nonfinite = [head or "joint" for head, loss in losses.items() if not math.isfinite(loss)]
    if nonfinite:
        raise NonFiniteError(f"the {' and '.join(nonfinite)} loss in evaluation is NaN or infinite")
    result: dict[str, Any] = {}
    for head, metrics in predictions.metrics().items():
        suffix = f"_{head}" if head else ""
        result[f"{prefix}loss{suffix}"] = losses[head]
        result |= {f"{prefix}{KEYS.get(name, name)}{suffix}": v for name, v in metrics.items() if name != "confusion"}
    if predictions.outputs.joint is None:
        keys = (f"{prefix}loss", f"{prefix}acc")
        result = {key: sum(result[f"{key}_{head}"] for head in losses) / len(losses) for key in keys} | result
    return result


def extra_metrics(
    predictions: Predictions, compute: Callable[[Any, Any, int], Mapping[str, Any]], scores: Any, prefix: str = ""
) -> dict[str, Any]:
    """Metrics of the data set's own literature: sentiment_<metric>, with the suffix _<modality> for a unimodal head.

    Arguments:
        compute: `DatasetBuilder.extra_metrics`.
        scores: true scores of the samples (`PreparedDataset.scores`).
    """
    result: dict[str, Any] = {}
    for head, logits in predictions.logits.items():
        is_regression = task_of_batch(predictions.labels) == "regression"
        values = predictions.in_unit(logits.squeeze(1)) if is_regression else logits.argmax(1)
        suffix = f"_{head}" if head else ""
        metrics = compute(values.numpy(), scores, logits.shape[1])
        result |= {f"{prefix}sentiment_{name}{suffix}": value for name, value in metrics.items()}
    return result
