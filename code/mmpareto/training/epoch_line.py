"""An epoch's line of metrics.jsonl, as text for the terminal and as tagged numbers for loggers."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mmpareto.training.metrics import is_contrastive, main_metric, selection_metric

NOTABLE_WAIT = 0.05  # fraction of an epoch's time
OF_THE_RUN = ("seconds", "samples_per_second", "data_wait", "learning_rate", "encoder_learning_rate")
QUANTITIES = {"acc": "accuracy"}


def epoch_text(line: dict[str, Any], epochs: int, modalities: list[str]) -> str:
    """Summarise an epoch in one line of text."""
    metric = selection_metric(line)

    def text(key: str, label: str = "") -> str:
        value = line.get(key)
        return "" if value is None else f"{label}{value:.4f}"

    unimodal = "".join(text(f"{metric.key}_{name}", f", {name} ") for name in modalities)
    if is_contrastive(line):
        probed = main_metric(line).key
        unimodal = text(probed, ", linear probe ") + "".join(
            text(f"{probed}_{name}", f", {name} ") for name in modalities
        )
    val = text(f"val_{metric.key}", ", validation ")
    wait = f", {line['data_wait']:.0%} of it waiting for data" if line["data_wait"] > NOTABLE_WAIT else ""
    return (
        f"epoch {line['epoch']}/{epochs}: loss {line['train_loss']:.4f}; "
        f"test {metric.title} {text(metric.key)}{unimodal}{val}; "
        f"{line['seconds']:.0f} s{wait}, {line['samples_per_second']:.1f} samples/s"
    )


def tagged(line: Mapping[str, Any], modalities: Sequence[str], of_steps: Collection[str]) -> dict[str, float]:
    """Return the numbers in a line of metrics.jsonl by tags that group them, such as accuracy/test/audio.

    Arguments:
        modalities: names of the modalities.
        of_steps: keys of means over the epoch's steps (`Meter.names`).
    """
    return {
        tag(key, modalities, of_steps): float(value)
        for key, value in line.items()
        if isinstance(value, int | float) and key != "epoch"
    }


def tag(key: str, modalities: Sequence[str], of_steps: Collection[str]) -> str:
    """Return the tag of a metric: <quantity>/<part>/<head>, gradient/<quantity>/<modality>, or run/<quantity>."""
    if key in OF_THE_RUN:
        return f"run/{key}"
    part, rest = "test", key
    for prefix, name in (("train_", "train"), ("val_", "validation")):
        if key.startswith(prefix):
            part, rest = name, key.removeprefix(prefix)
    heads = [head for head in ("joint", *modalities) if rest.endswith(f"_{head}")]
    head = max(heads, key=len, default="joint")  # a modality's name may end with another's
    quantity = rest.removesuffix(f"_{head}")
    if key in of_steps and part == "test":
        return f"gradient/{quantity}/{head}" if heads else f"gradient/{quantity}"
    return f"{QUANTITIES.get(quantity, quantity)}/{part}/{head}"
