"""The summary of a finished run."""

import json
from collections.abc import Sequence
from typing import Any

from mmpareto.files import write_text
from mmpareto.training.checkpoints import load_checkpoint, load_weights, save_checkpoint
from mmpareto.training.epoch_line import QUANTITIES
from mmpareto.training.loop import Trainer
from mmpareto.training.metrics import best_line, is_contrastive, main_metric
from mmpareto.training.probe import probe_samples
from mmpareto.training.run_folder import BEST, LAST, SUMMARY

EPOCHS = ("last", "best_val", "best_test")
PROBED_NOTE = "the unimodal heads are untrained: acc_<modality> is a linear probe's, or not measured"
UNPROBED_NOTE = (
    "the unimodal heads are untrained, and acc_<modality> was not measured (--no_probe; it is measured when the run is "
    "resumed with --no_probe false)"
)
CONTRASTIVE_NOTE = (
    "pre-trained without labels: accuracies are those of linear probes on the frozen encoders, the joint one on their "
    "concatenated features"
)
CONTRASTIVE_UNPROBED = ", and were not measured (--no_probe; measured when resumed with --no_probe false)"


def write_summary(trainer: Trainer, warning: str | None) -> dict[str, Any]:
    """Write summary.json of a finished run, on rank 0, and return its content.

    Arguments:
        warning: about results on this data, recorded with them.
    """
    settings = trainer.settings
    summary = summarise(trainer.history, settings.protocol, settings.best_from_epoch)
    if not trainer.heads_trained:
        probe_unimodal(trainer, summary)
    if trainer.out_of_patience and trainer.epoch <= settings.epochs:
        summary["stopped_early"] = {"patience": settings.patience}
    summary = {"name": settings.name, "data": trainer.data.record} | summary
    if warning:
        summary["warning"] = warning
    if trainer.processes.is_rank0:
        write_text(trainer.folder / SUMMARY, json.dumps(summary, indent=1) + "\n")
    return summary


def summarise(history: list[dict[str, Any]], protocol: str, best_from_epoch: int = 1) -> dict[str, Any]:
    """Return the metrics of three epochs: the last, the best on the validation set, and the best on the test set.

    The best ones are chosen among the epochs from `best_from_epoch` on; of a shorter run, they are the last. A tie goes
    to the earlier epoch. Choosing the epoch on the test set is the papers' protocol, and is labelled so.
    """
    candidates = history[best_from_epoch - 1 :] or history[-1:]
    summary: dict[str, Any] = {"protocol": protocol, "last": history[-1]}
    if protocol == "validation":
        summary["best_val"] = best_line(candidates, "val_")
    else:
        summary["best_val"] = None
        summary["best_val_reason"] = "no validation set: --protocol paper trains on everything"
    summary["best_test"] = best_line(candidates)
    summary["best_test_note"] = "chosen on the test set: the papers' protocol, optimistic"
    if best_from_epoch > 1:
        summary["best_from_epoch"] = best_from_epoch
    return summary


def final_metrics(summary: dict[str, Any]) -> dict[str, float]:
    """The main metric on the test set, such as the accuracy, of the epochs that a summary has, by tag."""
    key = main_metric(summary["last"]).key
    lines = {kept: summary[kept] for kept in EPOCHS if summary[kept] is not None}
    values = {f"final/{QUANTITIES.get(key, key)}/{kept}": line.get(key) for kept, line in lines.items()}
    return {tag: value for tag, value in values.items() if value is not None}  # an epoch may lack probes


def probe_unimodal(trainer: Trainer, summary: dict[str, Any]) -> None:
    """Measure the unimodal metrics of a run that does not train the unimodal heads, by linear probes.

    The heads ("probe") and their metrics ("probe_result") are added to the checkpoints last.pt and best.pt, and the
    metrics to the checkpoints' epochs in `summary`. A checkpoint that has a result keeps it. With --no_probe, no other
    is measured.

    Raises:
        Stopped: on a signal; what has been measured is saved.
    """
    checkpoints = {name: load_checkpoint(trainer.folder / name) for name in (LAST, BEST)}
    epochs = {LAST: checkpoints[LAST]["epoch"] - 1, BEST: checkpoints[BEST]["epoch"]}
    probes: dict[int, dict[str, Any]] = {}  # both checkpoints may be of the same epoch
    for name, checkpoint in checkpoints.items():
        probes[epochs[name]] = probes.get(epochs[name]) or _probe_entries(checkpoint)
    missing = [epoch for epoch, entries in probes.items() if not entries]
    if missing and not trainer.settings.no_probe:
        samples = probe_samples(trainer.data.train_fixed, trainer.settings.random_seed)
        count, available = f"{len(samples):,}", f"{len(trainer.data.train_fixed):,}"
        size = count if count == available else f"{count} of {available}"
        names = " and ".join(map(str, sorted(missing)))
        print(f"linear probes on {size} training samples, after epoch{'s' * (len(missing) > 1)} {names}", flush=True)
    for name, checkpoint in checkpoints.items():
        epoch = epochs[name]
        if not probes[epoch]:
            if trainer.settings.no_probe:
                continue
            load_weights(trainer.network, checkpoint["model"], name)
            with trainer.signals:
                probes[epoch] = trainer.fit_probes(f"probes of epoch {epoch}")
        if trainer.processes.is_rank0 and not _probe_entries(checkpoint):
            save_checkpoint(trainer.folder / name, checkpoint | probes[epoch])
    for kept in EPOCHS:
        if summary[kept] is not None and probes.get(summary[kept]["epoch"]):
            summary[kept] = summary[kept] | probes[summary[kept]["epoch"]]["probe_result"]["metrics"]
    results = [entries["probe_result"] for entries in probes.values() if entries]
    if results:
        summary["probe"] = {key: results[0][key] for key in ("samples", "available")}
    summary["unimodal_note"] = PROBED_NOTE if results else UNPROBED_NOTE
    if not trainer.objective.uses_labels:
        summary["unimodal_note"] = CONTRASTIVE_NOTE + ("" if results else CONTRASTIVE_UNPROBED)


def _probe_entries(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The probes in a checkpoint and their result; {} if it has no result, as before results were saved."""
    if "probe_result" not in checkpoint:
        return {}
    return {name: checkpoint[name] for name in ("probe", "probe_result")}


def summary_text(summary: dict[str, Any], heads: list[str], tasks: Sequence[str] = ()) -> str:
    """Format the summary as a table of the main metric on the test set, such as the accuracy in percent.

    Arguments:
        heads: names of the heads beside the joint one.
        tasks: of several tasks, whose mean is in the place of the joint head.
    """
    metric = main_metric(summary["last"])
    used, available = summary["data"]["clips"]["test"], summary["data"].get("available", {}).get("test")
    clips = "" if available in (None, used) else f" ({used:,} of its {available:,} clips)"
    unit = ", %" if metric.percent else ""
    probed = " of linear probes" if is_contrastive(summary["last"]) else ""
    lines = [
        f"{summary['name']}: {metric.title}{probed} on the test set{clips}{unit}",
        f"{'':34}epoch  {'mean' if tasks else 'joint':>5}" + _cells(heads, heads),
    ]
    names = {"last": "last epoch", "best_val": "best on validation", "best_test": "best on test (papers' protocol)"}
    for key, title in names.items():
        line = summary[key]
        if line is None:
            lines.append(f"  {title:32}    –  ({summary[key + '_reason']})")
        else:
            values = [line.get(metric.key), *(line.get(f"{metric.key}_{name}") for name in heads)]
            cells = _cells(["–" if value is None else metric.text(value) for value in values], ["", *heads])
            lines.append(f"  {title:32}{line['epoch']:5}" + cells)
    if "best_from_epoch" in summary:
        lines.append(f"  (the best epoch is chosen from epoch {summary['best_from_epoch']} on: --best_from_epoch)")
    if "stopped_early" in summary:
        lines.append(f"  (stopped early: --patience {summary['stopped_early']['patience']})")
    if "unimodal_note" in summary:
        lines.append(f"  ({summary['unimodal_note']})")
    return "\n".join(lines)


def _cells(values: Sequence[str], heads: Sequence[str]) -> str:
    """Right-aligned cells, in columns that are wide enough for their headings."""
    return "".join(f"{value:>{max(9, len(head) + 2)}}" for value, head in zip(values, heads, strict=True))
