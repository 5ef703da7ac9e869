"""From the settings to a finished run."""

import copy
import sys
from pathlib import Path
from typing import Any

import torch

from mmpareto.data import DATASETS
from mmpareto.data.prepared.batches import make_loader, to_device
from mmpareto.errors import InputError
from mmpareto.files import file_lock
from mmpareto.models.network import MultimodalNetwork, build_network
from mmpareto.training import devices
from mmpareto.training.checkpoints import load_checkpoint, load_weights
from mmpareto.training.data import Data, open_data
from mmpareto.training.distributed import SINGLE_PROCESS, Processes, process_group
from mmpareto.training.loop import Trainer
from mmpareto.training.losses import micro_batch_count
from mmpareto.training.meters import NonFiniteError
from mmpareto.training.method_options import make_method
from mmpareto.training.run_folder import BEST, LAST, SUMMARY, new_folder, read_config, write_config, write_metrics
from mmpareto.training.settings import Request, Settings, to_config
from mmpareto.training.stop import Stopped
from mmpareto.training.summary import summary_text, write_summary


def train(request: Request) -> int:
    """Do what the command line asks for, alone or as one of the processes that torchrun started; the exit status.

    Raises:
        InputError: the data, a GPU or the folder is not there, or the checkpoint does not fit, and nothing was written;
            or a file of the data turned out to be damaged on the way.
    """
    with process_group() as processes:
        return _train(request, processes)


def _train(request: Request, processes: Processes) -> int:
    settings = request.settings
    banner = DATASETS[settings.dataset].banner
    if banner:
        print(banner, flush=True)
    processes.devices(settings.gpu_ids)  # refuses a GPU that is not there before anything is made
    if request.stand_in:
        print(f"{request.stand_in} is not there: the synthetic stand-in takes its place", flush=True)
        processes.run_on_rank0(lambda: make_stand_in(settings))
    trainer = make_trainer(settings, request.resume, processes)
    where = f"{trainer.device}, {processes.share.count} processes" if processes.is_distributed else trainer.device
    print(f"{settings.name}: {trainer.data.record['clips']} on {where}, into {trainer.folder}", flush=True)
    try:
        trainer.fit()
        summary = write_summary(trainer, banner)
    except Stopped as stop:
        where = f"in epoch {trainer.epoch} after step {trainer.steps}" if trainer.steps else "between epochs"
        print(f"stopped by {stop} {where}, and saved; go on with: {_python()} code/train.py --resume {trainer.folder}")
        return stop.status
    except NonFiniteError as error:
        saved = f"{trainer.folder / LAST} is from before" if (trainer.folder / LAST).exists() else "nothing was saved"
        if processes.is_rank0:
            print(f"error: {error}; the run stops here, {saved}. A smaller --learning_rate may help.", file=sys.stderr)
        return 1
    finally:
        trainer.loaders.stop()
    print(summary_text(summary, trainer.network.modalities))
    if banner:
        print(banner)
    print(
        f"results: {trainer.folder / SUMMARY}, metrics.jsonl, best.pt, last.pt; "
        f"curves: tensorboard --logdir {settings.tensorboard_path or trainer.folder}\n"
        f"more figures: {_python()} code/evaluate.py {trainer.folder / BEST}"
    )
    return 0


def make_stand_in(settings: Settings) -> None:
    """Make and prepare the synthetic stand-in, unless that has been done, or wait until another process has."""
    folder = Path(settings.data)
    if (folder / "prepared.json").exists():
        return
    with file_lock(f"{folder}.lock"):  # tables.py takes the same one
        if not (folder / "prepared.json").exists():
            print(DATASETS[settings.dataset].prepare(out=folder).text(), flush=True)


def make_trainer(settings: Settings, resume: Path | None = None, processes: Processes = SINGLE_PROCESS) -> Trainer:
    """A new run, or one as its last.pt holds it: data opened, network made, and only then the folder.

    Raises:
        InputError: anything is not as it must be; nothing was written then.
    """
    devices.seed_everything(settings.random_seed)
    checkpoint = load_checkpoint(resume / LAST) if resume else None
    device, gpu_ids = processes.devices(settings.gpu_ids)
    devices.Precision(settings.amp, device)  # refuses what the device cannot do before anything is read
    method = make_method(settings.method, settings.options)
    data = processes.rank0_first(lambda: open_data(settings, method.modalities))  # it may have to write a cache
    if method.needs_classes and len(data.train.classes) == 1:
        raise InputError(f"--method {settings.method} compares classes, and a regression (--n_classes 1) has none.")
    if resume and checkpoint:
        check_resumable(settings, data, resume, checkpoint)
    shape: dict[str, Any] = {
        "channels": dict(data.train.channels),
        "n_classes": len(data.train.classes),
        "encoder": settings.encoder,
        "fusion": settings.fusion,
        **method.network,
    }
    pretrained = None if checkpoint or not settings.pretrained else Path(settings.pretrained)
    network = build_network(**shape, pretrained=pretrained)
    if checkpoint:
        load_weights(network, checkpoint["model"], resume)
    check_fits(network, data, settings)
    devices.allow_tf32(settings.tf32)
    network.recompute = settings.checkpoint_activations
    if settings.channels_last:
        network.to_channels_last()
    if settings.tensorboard_path and Path(settings.tensorboard_path).is_file():
        raise InputError(f"--tensorboard_path {settings.tensorboard_path} is a file; give a folder.")
    identity = {
        "network": shape,
        "data": data.train.description,
        "dataset": settings.dataset,
        "data_folder": settings.data,
        "method": settings.method,
        "amp": settings.amp,
    }
    network = processes.synchronise(network.to(device), device)
    trainer = Trainer(settings, data, network, method, device, gpu_ids, identity, processes)
    if resume and checkpoint:
        trainer.load_state_dict(checkpoint)
        trainer.recorder.restore(resume, trainer.epoch, trainer.steps)
    try:
        method.begin_training(trainer.method_context)
    except ValueError as error:
        raise InputError(f"--method {settings.method}: {error}.") from error
    trainer.folder = resume or processes.run_on_rank0(lambda: new_folder(settings.name, settings.ckpt_path))
    resumed_when_finished = checkpoint and checkpoint["epoch"] > settings.epochs  # changes nothing
    if processes.is_rank0 and not resumed_when_finished:
        write_config(trainer.folder, to_config(settings), data.record)
    if processes.is_rank0 and checkpoint:
        write_metrics(trainer.folder, trainer.history)  # without what came after last.pt
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


def check_fits(network: MultimodalNetwork, data: Data, settings: Settings) -> None:
    """Raise InputError where the network cannot train on the smallest part of a batch, such as a last one of one.

    BatchNorm needs more than one value a channel, and every convolution a picture that it fits into.
    """
    full, samples = settings.batch_size, len(data.train)
    batches = {min(full, samples), samples % full or full}
    parts = [size // micro_batch_count(size, full, settings.accumulate) for size in batches]
    smallest = min(*parts, 2)
    batch = next(iter(make_loader(data.train_fixed, batch_size=smallest)))
    try:
        with torch.no_grad():
            copy.deepcopy(network).train()(to_device(batch, "cpu", data.train.normalisation).inputs)
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"the network cannot take a batch of {smallest} at --image_size {settings.image_size}, --audio_frames "
            f"{settings.audio_frames}, --audio_pool {settings.audio_pool} ({str(error).splitlines()[0]}); enlarge them "
            "or change --batch_size or --accumulate."
        ) from error


def _python() -> str:
    """What to call this Python by in a command that a person types."""
    here = Path.cwd() / ".venv" / "bin" / "python"
    return ".venv/bin/python" if Path(sys.executable) == here else "python"
