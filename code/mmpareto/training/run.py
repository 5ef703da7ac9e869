"""From the settings to a finished run."""

import json
import sys
from pathlib import Path
from typing import Any

from mmpareto.data import DATASETS
from mmpareto.errors import InputError
from mmpareto.files import write_text
from mmpareto.integration import METHODS
from mmpareto.integration.method import Method
from mmpareto.models.network import build_network
from mmpareto.training import devices
from mmpareto.training.checkpoints import load_checkpoint, load_weights, save_checkpoint
from mmpareto.training.data import Data, open_data
from mmpareto.training.evaluation import figures
from mmpareto.training.loop import Trainer
from mmpareto.training.meters import NonFiniteError
from mmpareto.training.probe import linear_probe
from mmpareto.training.run_folder import BEST, LAST, SUMMARY, new_folder, read_config, summarise, write_config
from mmpareto.training.settings import METHOD_OPTIONS, Request, Settings, to_config
from mmpareto.training.stop import Stopped


def train(request: Request) -> int:
    """Do what the command line asks for; the exit status.

    Raises:
        InputError: the data, a GPU or the folder is not there, or the checkpoint does not fit. Nothing was written.
    """
    settings = request.settings
    banner = DATASETS[settings.dataset].banner
    if banner:
        print(banner, flush=True)
    if request.stand_in:
        make_stand_in(settings)
    trainer = resumed(settings, request.resume) if request.resume else started(settings)
    print(f"{settings.name}: {trainer.data.record['clips']} on {trainer.device}, into {trainer.folder}", flush=True)
    try:
        trainer.fit()
        finish(trainer, banner)
    except Stopped as stop:
        print(
            f"stopped by {stop} in epoch {trainer.epoch} after step {trainer.steps}, and saved; "
            f"go on with: {_python()} code/train.py --resume {trainer.folder}"
        )
        return stop.status
    except NonFiniteError as error:
        saved = f"{trainer.folder / LAST} is from before" if (trainer.folder / LAST).exists() else "nothing was saved"
        print(f"error: {error}; the run stops here, {saved}. A smaller --learning_rate may help.", file=sys.stderr)
        return 1
    return 0


def make_stand_in(settings: Settings) -> None:
    """Make and prepare the synthetic stand-in, unless that has been done."""
    folder = Path(settings.data)
    print("no prepared data set was found: the synthetic stand-in takes its place", flush=True)
    if not (folder / "prepared.json").exists():
        print(DATASETS[settings.dataset].prepare(out=folder).text(), flush=True)


def started(settings: Settings) -> Trainer:
    """A new run: its data opened, its network made, and only then its folder."""
    devices.seed_everything(settings.random_seed)
    return _trainer(settings, None)


def resumed(settings: Settings, folder: Path) -> Trainer:
    """A run as its last.pt holds it."""
    devices.seed_everything(settings.random_seed)
    return _trainer(settings, folder)


def _trainer(settings: Settings, resume: Path | None) -> Trainer:
    checkpoint = load_checkpoint(resume / LAST) if resume else None
    device, gpu_ids = devices.choose_devices(settings.gpu_ids)
    devices.Precision(settings.amp, device)  # refuses what the device cannot do before anything is read
    data = open_data(settings)
    if resume and checkpoint:
        check_resumable(settings, data, resume, checkpoint)
    method = make_method(settings)
    shape: dict[str, Any] = {
        "channels": dict(data.train.channels),
        "n_classes": len(data.train.classes),
        "encoder": settings.encoder,
        "fusion": settings.fusion,
    }
    pretrained = None if checkpoint or not settings.pretrained else Path(settings.pretrained)
    network = build_network(**shape, pretrained=pretrained)
    if checkpoint:
        load_weights(network, checkpoint["model"], resume)
    folder = resume or new_folder(settings.name, settings.ckpt_path)
    write_config(folder, to_config(settings), data.record)
    identity = {
        "network": shape,
        "data": data.train.description,
        "dataset": settings.dataset,
        "data_folder": settings.data,
        "method": settings.method,
        "heads_trained": method.needs_unimodal,
        "amp": settings.amp,
    }
    trainer = Trainer(settings, data, network.to(device), method, device, gpu_ids, folder, identity)
    if checkpoint:
        trainer.restore(checkpoint)
    return trainer


def check_resumable(settings: Settings, data: Data, folder: Path, checkpoint: dict[str, Any]) -> None:
    """Raise InputError where the data are not those of the run, or the run is in a later epoch than its last."""
    reached = checkpoint["epoch"] - (checkpoint["steps"] == 0)
    if settings.epochs < reached:
        raise InputError(f"--epochs is {settings.epochs}, but the run in {folder} is in epoch {reached} already.")
    if data.record["fingerprint"] != read_config(folder)["data"]["fingerprint"]:
        raise InputError(
            f"--data {settings.data} is not what the run in {folder} was trained on; give that, or start anew."
        )


def make_method(settings: Settings) -> Method:
    """The method with the variant's options, and over them those of the command line.

    Raises:
        InputError: the options do not go together.
    """
    kind = METHODS[settings.method]
    given = {name: getattr(settings, name) for name in METHOD_OPTIONS if getattr(settings, name) is not None}
    try:
        return kind(**{**kind.variants.get(settings.variant, {}), **given})
    except ValueError as error:
        raise InputError(f"--variant {settings.variant} with the options given: {error}.") from error


def finish(trainer: Trainer, banner: str) -> None:
    """Write summary.json and print it, with where everything lies."""
    summary = summarise(trainer.history, trainer.settings.protocol)
    if not trainer.method.needs_unimodal:
        probe_unimodal(trainer, summary)
    summary = {"name": trainer.settings.name, "data": trainer.data.record} | summary
    if banner:
        summary["warning"] = banner
    write_text(trainer.folder / SUMMARY, json.dumps(summary, indent=1) + "\n")
    print(summary_text(summary, trainer.network.modalities))
    if banner:
        print(banner)
    print(
        f"results: {trainer.folder / SUMMARY}, metrics.jsonl, best.pt, last.pt; "
        f"curves: tensorboard --logdir {trainer.settings.tensorboard_path or trainer.folder}\n"
        f"more figures: {_python()} code/evaluate.py {trainer.folder / BEST}"
    )


def probe_unimodal(trainer: Trainer, summary: dict[str, Any]) -> None:
    """Measure the unimodal accuracy of a model whose unimodal heads are untrained, by a linear probe.

    The heads go into the checkpoint beside its weights ("probe"), the figures into the epochs of the summary of
    which there is a checkpoint.
    """
    for name in (LAST, BEST):
        checkpoint = load_checkpoint(trainer.folder / name)
        load_weights(trainer.network, checkpoint["model"], name)
        heads = linear_probe(trainer.predict(trainer.data.train_fixed))
        save_checkpoint(trainer.folder / name, {**checkpoint, "probe": heads})
        found = figures(trainer.predict(trainer.data.test).with_heads(heads))
        own = {key: value for key, value in found.items() if any(key.endswith(f"_{m}") for m in heads)}
        epoch = checkpoint["epoch"] - 1 if name == LAST else checkpoint["epoch"]
        for kept in ("last", "best_val", "best_test"):
            if summary[kept] is not None and summary[kept]["epoch"] == epoch:
                summary[kept] = summary[kept] | own
    summary["unimodal_note"] = "the unimodal heads are untrained: acc_<modality> is a linear probe's, or not measured"


def summary_text(summary: dict[str, Any], modalities: list[str]) -> str:
    """The summary as a table; accuracies on the test set in percent."""
    lines = [f"{summary['name']}: accuracy on the test set, %", f"{'':34}epoch  joint" + _cells(modalities)]
    names = {"last": "last epoch", "best_val": "best on validation", "best_test": "best on test (papers' protocol)"}
    for key, title in names.items():
        line = summary[key]
        if line is None:
            lines.append(f"  {title:32}    –  ({summary[key + '_reason']})")
        else:
            accuracies = [line["acc"], *(line[f"acc_{name}"] for name in modalities)]
            cells = _cells(["–" if value is None else f"{100 * value:.2f}" for value in accuracies])
            lines.append(f"  {title:32}{line['epoch']:5}" + cells)
    if "unimodal_note" in summary:
        lines.append(f"  ({summary['unimodal_note']})")
    return "\n".join(lines)


def _python() -> str:
    """What to call this Python by in a command that a person types."""
    here = Path.cwd() / ".venv" / "bin" / "python"
    return ".venv/bin/python" if Path(sys.executable) == here else "python"


def _cells(values: list[str]) -> str:
    return "".join(f"{value:>9}" for value in values)
