"""An epoch's line of metrics.jsonl, as text for the terminal and as scalars for TensorBoard."""

from typing import Any

from torch.utils.tensorboard import SummaryWriter

NOTABLE_WAIT = 0.05  # fraction of an epoch's time


def epoch_text(line: dict[str, Any], epochs: int, modalities: list[str]) -> str:
    """Summarise an epoch in one line of text."""
    unimodal = "".join(f", {name} {value:.4f}" for name in modalities if (value := line[f"acc_{name}"]) is not None)
    val = f", validation {line['val_acc']:.4f}" if "val_acc" in line else ""
    wait = f", {line['data_wait']:.0%} of it waiting for data" if line["data_wait"] > NOTABLE_WAIT else ""
    return (
        f"epoch {line['epoch']}/{epochs}: loss {line['train_loss']:.4f}; "
        f"test accuracy {line['acc']:.4f}{unimodal}{val}; "
        f"{line['seconds']:.0f} s{wait}, {line['samples_per_second']:.1f} samples/s"
    )


def write_scalars(board: SummaryWriter, line: dict[str, Any]) -> None:
    """Write the numbers in a line of metrics.jsonl to TensorBoard, under the same names."""
    for key, value in line.items():
        if isinstance(value, int | float) and key != "epoch":
            board.add_scalar(key, value, line["epoch"])
    board.flush()
