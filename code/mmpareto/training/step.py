"""The parts of a batch that a step goes through, and what it tells of each."""

from torch import Tensor

from mmpareto.data.loading.batches import Batch
from mmpareto.models.network import Outputs
from mmpareto.training.losses import Losses, right


def part_count(samples: int, batch_size: int, accumulate: int) -> int:
    """In how many micro-batches a batch is gone through.

    A full batch has `accumulate` of them, a smaller one as many as keep each no larger than those of a full one.
    """
    return -(-samples * accumulate // batch_size)


def micro_batches(batch: Batch, count: int) -> list[Batch]:
    """A batch on the device in parts that share its memory, and whose sizes differ by one at most."""
    inputs = {name: values.tensor_split(count) for name, values in batch.inputs.items()}
    rest = zip(batch.labels.tensor_split(count), batch.indices.tensor_split(count), strict=True)
    return [Batch({name: inputs[name][number] for name in inputs}, *own) for number, own in enumerate(rest)]


def figures_of(outputs: Outputs, found: Losses, labels: Tensor, share: float, *, heads: bool) -> dict[str, Tensor]:
    """train_loss and train_acc, and with `heads` those of each unimodal head; () each. Those of a step's parts add up.

    Arguments:
        found: the losses, multiplied by the share.
        share: of the step's samples that these are.
    """
    pairs = {"": (found.joint, outputs.joint)}
    if heads:
        pairs |= {f"_{name}": (found.unimodal[name], outputs.unimodal[name]) for name in found.unimodal}
    weight = share / max(len(labels), 1)
    seen = {f"train_loss{head}": loss.detach() for head, (loss, _) in pairs.items()}
    return seen | {f"train_acc{head}": right(z, labels).double().sum() * weight for head, (_, z) in pairs.items()}
