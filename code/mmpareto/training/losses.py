"""Losses of a batch or a micro-batch, and the training metrics that follow from them.

The labels decide (`data.loading.labels`): cross-entropy of classes, binary cross-entropy of several labels per sample,
or mean absolute error of scores. With several tasks, every head has the classes of its own task.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor

from mmpareto.data.loading.batches import Batch
from mmpareto.data.loading.labels import task_of_batch
from mmpareto.errors import InputError
from mmpareto.integration.objectives import JOINT
from mmpareto.models.network import Outputs

UNIMODAL = "unimodal"


class Losses(NamedTuple):
    """Losses of a batch, () each: None for the joint one of several tasks, and task → loss for the others."""

    joint: Tensor | None
    unimodal: Mapping[str, Tensor]


def losses(outputs: Outputs, labels: Tensor, share: float = 1.0) -> Losses:
    """Joint loss L_m of the fused prediction, and unimodal loss L_uᵏ of every modality's own prediction.

    Arguments:
        share: this micro-batch's share of the step's samples. The losses are multiplied by it, so that those of a
            step's micro-batches add up to the losses of the whole batch.
    """
    by_head = head_labels(outputs, labels)
    unimodal = {name: loss_of(logits, by_head[name]) * share for name, logits in outputs.unimodal.items()}
    return Losses(None if outputs.joint is None else loss_of(outputs.joint, labels) * share, unimodal)


def head_labels(outputs: Outputs, labels: Tensor) -> dict[str, Tensor]:
    """Head → its labels: those of the batch, or of several tasks int64 (B,), the column of the task.

    Heads are the modalities and "", the joint head; or the tasks, in the order of the columns.

    Raises:
        InputError: a task has no head, or a head no task.
    """
    heads = [*outputs.unimodal]
    if (task_of_batch(labels) == "multitask") != (outputs.joint is None):
        raise InputError("labels of several tasks need a head per task, and other labels a joint head.")
    if outputs.joint is not None:
        return dict.fromkeys(["", *heads], labels)
    if labels.shape[1] != len(heads):
        raise InputError(
            f"the labels are of {labels.shape[1]} tasks, but the network has the heads {', '.join(heads)}."
        )
    return dict(zip(heads, labels.long().unbind(1), strict=True))


def objective_names(modality: str, own_losses: Sequence[str]) -> list[str]:
    """Names of an encoder's objectives in metrics.jsonl and gradients.npz: joint and unimodal, or the tasks.

    Arguments:
        own_losses: of `MultimodalNetwork.own_losses`.
    """
    return [JOINT, UNIMODAL] if [*own_losses] == [modality] else [*own_losses]


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean loss () over the batch; 0 for an empty batch.

    Arguments:
        logits: (B, C).
        labels: (B,) class indices, for cross-entropy; (B, C) zeros and ones, for binary cross-entropy, the mean over
            labels, too; or (B,) scores in floating point, for the mean absolute error (as in MMSA), where C is 1.
    """
    reduction = "mean" if len(labels) else "sum"
    task = task_of_batch(labels)
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction=reduction)
    if task == "regression":
        return F.l1_loss(logits.squeeze(1), labels.to(logits.dtype), reduction=reduction)
    return F.cross_entropy(logits, labels, reduction=reduction)


def correctness(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) float64: 1 if the predicted class is the label, else 0.

    With several labels per sample, the fraction of its labels whose logit has the correct sign; for scores, 1 if the
    sign is correct (0 is negative).
    """
    task = task_of_batch(labels)
    if task == "multilabel":
        return ((logits > 0) == (labels > 0)).double().mean(1)
    if task == "regression":
        return ((logits.squeeze(1) > 0) == (labels > 0)).double()
    return (logits.argmax(1) == labels).double()


def training_metrics(
    outputs: Outputs, batch_losses: Losses, labels: Tensor, share: float, *, unimodal: bool
) -> dict[str, Tensor]:
    """train_loss and train_acc, () each; with `unimodal`, also train_loss_<modality> and train_acc_<modality>.

    The metrics of a step's micro-batches add up to the step's. Of several tasks, the first two are means over tasks.

    Arguments:
        batch_losses: `losses` of this micro-batch.
        share: this micro-batch's share of the step's samples.
    """
    by_head = head_labels(outputs, labels)
    heads: dict[str, tuple[Tensor, Tensor]] = {}
    if batch_losses.joint is not None and outputs.joint is not None:
        heads[""] = batch_losses.joint, outputs.joint
    if unimodal:
        heads |= {f"_{name}": (loss, outputs.unimodal[name]) for name, loss in batch_losses.unimodal.items()}
    weight = share / max(len(labels), 1)
    metrics = {f"train_loss{head}": loss.detach() for head, (loss, _) in heads.items()}
    for head, (_, logits) in heads.items():
        metrics[f"train_acc{head}"] = correctness(logits, by_head[head.removeprefix("_")]).sum() * weight
    if batch_losses.joint is None:
        for key in ("train_loss", "train_acc"):
            metrics[key] = torch.stack([metrics[f"{key}{head}"] for head in heads]).mean()
    return metrics


def micro_batch_count(samples: int, batch_size: int, accumulate: int) -> int:
    """Number of micro-batches that a batch is split into.

    `accumulate` for a full batch; fewer for a smaller one, as long as its micro-batches are no larger than those of a
    full batch.
    """
    return math.ceil(samples * accumulate / batch_size)


def split_batch(batch: Batch, count: int) -> list[Batch]:
    """A batch as `count` micro-batches, which share its memory and differ in size by at most one sample."""
    inputs = {name: values.tensor_split(count) for name, values in batch.inputs.items()}
    labels, indices = batch.labels.tensor_split(count), batch.indices.tensor_split(count)
    alone = [None] * count if batch.alone is None else batch.alone.tensor_split(count)
    return [
        Batch(
            {name: parts[number] for name, parts in inputs.items()}, labels[number], indices[number], {}, alone[number]
        )
        for number in range(count)
    ]
