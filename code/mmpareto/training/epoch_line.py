"""An epoch's line of metrics.jsonl, as text for the terminal and as scalars for TensorBoard."""

from typing import Any

from torch.utils.tensorboard import SummaryWriter

from mmpareto.training.metrics import main_metric

NOTABLE_WAIT = 0.05  # fraction of an epoch's time


def epoch_text(line: dict[str, Any], epochs: int, modalities: list[str]) -> str:
    """Summarise an epoch in one line of text."""
    metric = main_metric(line)

    def text(key: str, label: str = "") -> str:
        value = line.get(key)
        return "" if value is None else f"{label}{value:.4f}"

    unimodal = "".join(text(f"{metric.key}_{name}", f", {name} ") for name in modalities)
    val = text(f"val_{metric.key}", ", validation ")
    wait = f", {line['data_wait']:.0%} of it waiting for data" if line["data_wait"] > NOTABLE_WAIT else ""
    return (
        f"epoch {line['epoch']}/{epochs}: loss {line['train_loss']:.4f}; "
        f"test {metric.title} {text(metric.key)}{unimodal}{val}; "
        f"{line['seconds']:.0f} s{wait}, {line['samples_per_second']:.1f} samples/s"
    )


def write_scalars(board: SummaryWriter, line: dict[str, Any]) -> None:
    """Write the numbers in a line of metrics.jsonl to TensorBoard, under the same names."""
    for key, value in line.items():
        if isinstance(value, int | float) and key != "epoch":
            board.add_scalar(key, value, line["epoch"])
    board.flush()
