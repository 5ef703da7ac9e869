"""The summary of a finished run."""

import json
from typing import Any

from torch import Tensor

from mmpareto.files import write_text
from mmpareto.training.checkpoints import load_checkpoint, load_weights, save_checkpoint
from mmpareto.training.evaluation import head_metrics
from mmpareto.training.loop import Trainer
from mmpareto.training.probe import linear_probe
from mmpareto.training.run_folder import BEST, LAST, SUMMARY


def write_summary(trainer: Trainer, warning: str | None) -> dict[str, Any]:
    """Write summary.json of a finished run, on rank 0, and return its content.

    Arguments:
        warning: about results on this data, recorded with them.
    """
    settings = trainer.settings
    summary = summarise(trainer.history, settings.protocol, settings.best_from_epoch)
    if not trainer.heads_trained:
        probe_unimodal(trainer, summary)
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
        summary["best_val"] = max(candidates, key=lambda line: line["val_acc"])
    else:
        summary["best_val"] = None
        summary["best_val_reason"] = "no validation set: --protocol paper trains on everything"
    summary["best_test"] = max(candidates, key=lambda line: line["acc"])
    summary["best_test_note"] = "chosen on the test set: the papers' protocol, optimistic"
    if best_from_epoch > 1:
        summary["best_from_epoch"] = best_from_epoch
    return summary


def probe_unimodal(trainer: Trainer, summary: dict[str, Any]) -> None:
    """Measure the unimodal metrics of a run that does not train the unimodal heads, by linear probes.

    The probes are added to the checkpoints last.pt and best.pt ("probe"), and their metrics to the checkpoints' epochs
    in `summary`.
    """
    probed: dict[int, dict[str, dict[str, Tensor]]] = {}
    for name in (LAST, BEST):
        checkpoint = load_checkpoint(trainer.folder / name)
        epoch = checkpoint["epoch"] - 1 if name == LAST else checkpoint["epoch"]
        if epoch not in probed:
            load_weights(trainer.network, checkpoint["model"], name)
            heads = probed[epoch] = linear_probe(trainer.predict(trainer.data.train_fixed))
            metrics = head_metrics(trainer.predict(trainer.data.test).with_heads(heads))
            unimodal = {key: value for key, value in metrics.items() if key.endswith(tuple(f"_{m}" for m in heads))}
            for kept in ("last", "best_val", "best_test"):
                if summary[kept] is not None and summary[kept]["epoch"] == epoch:
                    summary[kept] = summary[kept] | unimodal
        if trainer.processes.is_rank0:
            save_checkpoint(trainer.folder / name, {**checkpoint, "probe": probed[epoch]})
    summary["unimodal_note"] = "the unimodal heads are untrained: acc_<modality> is a linear probe's, or not measured"


def summary_text(summary: dict[str, Any], modalities: list[str]) -> str:
    """Format the summary as a table of accuracies on the test set, in percent."""
    used, available = summary["data"]["clips"]["test"], summary["data"].get("available", {}).get("test")
    clips = "" if available in (None, used) else f" ({used:,} of its {available:,} clips)"
    lines = [f"{summary['name']}: accuracy on the test set{clips}, %", f"{'':34}epoch  joint" + _cells(modalities)]
    names = {"last": "last epoch", "best_val": "best on validation", "best_test": "best on test (papers' protocol)"}
    for key, title in names.items():
        line = summary[key]
        if line is None:
            lines.append(f"  {title:32}    –  ({summary[key + '_reason']})")
        else:
            accuracies = [line["acc"], *(line[f"acc_{name}"] for name in modalities)]
            cells = _cells(["–" if value is None else f"{100 * value:.2f}" for value in accuracies])
            lines.append(f"  {title:32}{line['epoch']:5}" + cells)
    if "best_from_epoch" in summary:
        lines.append(f"  (the best epoch is chosen from epoch {summary['best_from_epoch']} on: --best_from_epoch)")
    if "unimodal_note" in summary:
        lines.append(f"  ({summary['unimodal_note']})")
    return "\n".join(lines)


def _cells(values: list[str]) -> str:
    return "".join(f"{value:>9}" for value in values)
