"""A training run, from its settings to its results."""

import contextlib
import copy
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmpareto.data import DATASETS
from mmpareto.data.loading.batches import make_loader, to_device
from mmpareto.data.loading.labels import task_of_labels
from mmpareto.data.loading.options import InputOptions
from mmpareto.errors import InputError
from mmpareto.files import NO_ROOM, file_lock
from mmpareto.integration.method import Method
from mmpareto.models import ENCODERS
from mmpareto.models.building import build_network, required_fusion
from mmpareto.models.network import MultimodalNetwork
from mmpareto.models.per_modality import choose_encoders, choose_files, is_pretrained, names_of_files
from mmpareto.models.pretrained import load_pretrained
from mmpareto.training import devices
from mmpareto.training.checkpoints import check_training_state, load_checkpoint, load_weights
from mmpareto.training.data import Data, open_data
from mmpareto.training.data_warnings import data_warnings
from mmpareto.training.distributed import SINGLE_PROCESS, Processes, process_group
from mmpareto.training.effects import Facts
from mmpareto.training.loggers import Loggers, check_logger, open_loggers
from mmpareto.training.loop import NO_LOGGER, Trainer
from mmpareto.training.losses import micro_batch_count
from mmpareto.training.meters import NonFiniteError
from mmpareto.training.method_labels import label, objective_details, value_text
from mmpareto.training.method_options import make_method
from mmpareto.training.model_card import write_model_card
from mmpareto.training.objective import OBJECTIVES
from mmpareto.training.run_folder import (
    BEST,
    CONFIG,
    LAST,
    SUMMARY,
    discard,
    has_progress,
    new_folder,
    read_config,
    run_lock,
    write_config,
    write_metrics,
)
from mmpareto.training.settings import NO_BLOCKS, Request, Settings, portable_settings, to_config
from mmpareto.training.stop import Stopped
from mmpareto.training.summary import final_metrics, summary_text, write_summary

# Raised by a network that cannot take its input; the last two by models of other libraries.
MISFIT = (ValueError, RuntimeError, IndexError, AssertionError)


LABELS_FUSION = "average_labels"  # the fusion "average" of labels that do not exclude each other
ENTROPY_FUSIONS = ("entropy", "entropy_over_batch")  # of classes that exclude each other


def train(request: Request) -> int:
    """Train as requested, in this process alone or as one of the processes that torchrun started.

    Returns:
        The exit status: 0; 1 if a loss was not finite; 130 or 143 if a signal stopped the run.

    Raises:
        InputError: data, a GPU or a folder is missing, or the checkpoint does not match, and nothing was written; or a
            data file turned out to be damaged during training.
    """
    with process_group(request.settings.process_timeout) as processes:
        return _train(request, processes)


def _train(request: Request, processes: Processes) -> int:
    settings = request.settings
    banner = DATASETS[settings.dataset].banner
    if banner:
        print(banner, flush=True)
    processes.devices(settings.gpu_ids)  # raises for a missing GPU before anything is written
    if request.stand_in:
        print(f"{request.stand_in} does not exist: training on the synthetic stand-in instead", flush=True)
        processes.run_on_rank0(lambda: make_stand_in(settings))

    def check_flags(facts: Facts) -> None:
        _warn(request.check_flags(facts), processes)

    with contextlib.ExitStack() as stack:

        def lock(folder: Path) -> None:
            processes.run_on_rank0(lambda: stack.enter_context(run_lock(folder)))

        if request.resume:
            lock(request.resume)
        trainer = make_trainer(settings, request.resume, processes, check_flags)
        if not request.resume:
            lock(trainer.folder)
        _warn(data_warnings(trainer.data), processes)
        return _fit(trainer, request, banner)


def _fit(trainer: Trainer, request: Request, banner: str | None) -> int:
    """Train to the end, write and print the results, and return the exit status."""
    settings, processes = request.settings, trainer.processes
    where = f"{trainer.device}, {processes.world_size} processes" if processes.is_distributed else trainer.device
    further = [f"encoder {value_text(settings.encoder)}"] if is_pretrained(settings.encoder, None) else []
    further += [f"blocks {settings.blocks}"] if settings.blocks != NO_BLOCKS else []
    further += [f"cross_terms {settings.cross_terms}"] if settings.cross_terms != "excluded" else []
    further += [f"pretrained {names_of_files(settings.pretrained)}"] if settings.pretrained else []
    further += objective_details(settings.objective)
    method = label(settings.method, settings.variant, settings.options, further, default_variant=True)
    sizes = sizes_text(trainer.data.record)
    print(f"{settings.name}: {method}, {sizes} samples on {where}, into {trainer.folder}", flush=True)
    resume = f"{_python()} code/train.py --resume {trainer.folder}"
    try:
        with _loggers(trainer, request.resume is None) as logger:
            trainer.fit(logger)
            summary = write_summary(trainer, banner)
            logger.finish(final_metrics(summary), trainer.epoch - 1)
        if processes.is_rank0:
            write_model_card(trainer.folder)
    except Stopped as stop:
        where = f"in epoch {trainer.epoch} after step {trainer.steps}" if trainer.steps else "between epochs"
        print(f"stopped by {stop} {where}, and saved; continue with: {resume}")
        return stop.status
    except (KeyboardInterrupt, SystemExit):  # a second signal: nothing more was saved
        if processes.is_rank0:
            print(f"stopped at once; continue from what was saved before with: {resume}", file=sys.stderr)
        raise
    except OSError as error:
        if error.errno in NO_ROOM and error.filename is None:  # of TensorBoard's files
            error.filename = str(trainer.folder)
        raise
    except NonFiniteError as error:
        last = trainer.folder / LAST
        saved = f"{last} is from before" if last.exists() else "nothing was saved"
        if processes.is_rank0:
            print(f"error: {error}; the run stops here, {saved}. {error.advice}", file=sys.stderr)
        return 1
    finally:
        trainer.loaders.stop()

    print(summary_text(summary, trainer.network.head_names, trainer.network.tasks))
    board = settings.tensorboard_path or trainer.folder
    curves = f"; curves: tensorboard --logdir {board}" if settings.use_tensorboard else ""
    if banner:
        print(banner)
    print(
        f"results: {trainer.folder / SUMMARY}, metrics.jsonl, best.pt, last.pt{curves}\n"
        f"more metrics: {_python()} code/evaluate.py {trainer.folder / BEST}"
    )
    return 0


def _warn(sentences: Sequence[str], processes: Processes) -> None:
    for sentence in sentences if processes.is_rank0 else ():
        print(f"warning: {sentence}.", file=sys.stderr, flush=True)


def _loggers(trainer: Trainer, is_new: bool) -> Loggers:
    """The run's loggers; none for a run that is finished already, and on other ranks than 0.

    Raises:
        InputError: a service refuses the run, perhaps because nobody has logged in; of a new run, nothing is left.
    """
    if trainer.is_finished or not trainer.processes.is_rank0:
        return NO_LOGGER
    try:
        return open_loggers(trainer.folder, trainer.settings, trainer.epoch, trainer.total_steps + 1)
    except InputError:
        if is_new:
            discard(trainer.folder)
        raise


def sizes_text(record: dict[str, Any]) -> str:
    """The numbers of samples in `Data.record`, such as "6,656 of 6,698 train, 704 of 744 test"."""
    available = record.get("available", record["clips"])
    return ", ".join(
        f"{count:,}{'' if count == available[part] else f' of {available[part]:,}'} {part}"
        for part, count in record["clips"].items()
        if count
    )


def make_stand_in(settings: Settings) -> None:
    """Create and prepare the synthetic stand-in unless it exists, or wait while another process does."""
    folder = Path(settings.data)
    if (folder / "prepared.json").exists():
        return
    with file_lock(f"{folder}.lock"):  # the one that tables.py locks
        if not (folder / "prepared.json").exists():
            print(DATASETS[settings.dataset].prepare(out=folder).text(), flush=True)


def make_trainer(
    settings: Settings,
    resume: Path | None = None,
    processes: Processes = SINGLE_PROCESS,
    check_flags: Callable[[Facts], None] = lambda facts: None,
) -> Trainer:
    """Return the trainer of a new run, or of the run in `resume` in the state of its last.pt.

    The run's folder is created last, when data, network and checkpoint have been checked. A run in `resume` that has
    saved nothing yet begins again.

    Arguments:
        check_flags: called before the folder is created, with what is then known of the run; see `Request.check_flags`.

    Raises:
        InputError: the settings, data, checkpoint or folders do not fit together; nothing was written.
    """
    devices.seed_everything(settings.random_seed)
    checkpoint = load_checkpoint(resume / LAST) if resume and has_progress(resume) else None
    if resume and checkpoint:
        check_training_state(checkpoint, resume / LAST)
    device, gpu_ids = processes.devices(settings.gpu_ids)
    devices.Precision(settings.amp, device)  # raises for what the device cannot do, before data is read
    check_logger(settings)
    method, objective = make_method(settings.method, settings.options), OBJECTIVES[settings.objective]
    data = processes.rank0_first(lambda: open_data(settings, method.modalities, method.tasks))  # may write a cache
    shapes = _sample_shapes(data)
    encoders = choose_encoders(settings.encoder, shapes, all_modalities=method.modalities is None)
    fusion = required_fusion(encoders, method.network.get("fusion"))
    _check_data(settings, data, method, fusion, processes.is_distributed)
    if resume and checkpoint:
        _check_resumable(settings, data, resume, checkpoint)

    shape: dict[str, Any] = {
        "channels": dict(data.train.channels),
        "n_classes": len(data.train.classes),
        "encoder": encoders,
        **objective.network,
    }
    if data.train.tasks:
        shape["tasks"] = data.train.tasks
    else:
        shape |= {"blocks": settings.blocks} if settings.blocks != NO_BLOCKS and len(shapes) > 1 else {}
        shape |= {**method.network, "fusion": fusion or settings.fusion}
        shape |= {"cosine_scale": settings.cosine_scale} if shape["fusion"] == "cosine" else {}
    if any(getattr(ENCODERS[name], "input_sized", False) for name in encoders.values()):
        shape["input_shapes"] = {name: list(shapes[name]) for name in shapes}
    if shape.get("fusion") == "average" and task_of_labels(data.train.labels) == "multilabel":
        shape["fusion"] = LABELS_FUSION
    network = build_network(**shape, init=settings.init)
    if network.interaction and method.no_interaction:
        raise InputError(
            f"method {settings.method!r} {method.no_interaction}, but these encoders exchange information; use another "
            "method, or other --blocks or --encoder."
        )
    if network.interaction and objective.no_interaction:
        raise InputError(
            f"--objective {settings.objective} {objective.no_interaction}, and here they exchange information; take "
            "other encoders, without blocks, or another --method."
        )
    for name, encoder in network.encoders.items():  # a checkpoint can be opened where no file of an encoder is
        shape["encoder"][name] = getattr(encoder, "without_files", shape["encoder"][name])
    if checkpoint:
        load_weights(network, checkpoint["model"], resume)
    else:
        _load_pretrained(network, settings, method, processes)
    _check_fits(network, data, settings, any_size=method.resamples)
    devices.allow_tf32(settings.tf32)
    network.recompute = settings.checkpoint_activations
    network.absent, network.input_shapes = method.absent, shapes
    if settings.channels_last:
        network.to_channels_last()
    if settings.amp == "bf16" and device.type == "cpu":
        devices.check_bf16(network, shapes)
    network = processes.synchronise(network.to(device), device)
    check_flags(_facts(settings, data, network, method, device, objective.instead_of_fusion or fusion))

    identity = {
        "network": shape,
        "data": data.train.description,
        "dataset": settings.dataset,
        "data_folder": settings.data,
        "method": settings.method,
        "objective": settings.objective,
        "amp": settings.amp,
        "settings": portable_settings(to_config(settings)),
        "input_shapes": {name: list(shape) for name, shape in shapes.items()},
        "plugins": list(settings.plugin or ()),
    }
    trainer = Trainer(settings, data, network, method, device, gpu_ids, identity, processes)
    if resume and checkpoint:
        try:
            trainer.load_state_dict(checkpoint)
        except Exception as error:  # a damaged file may hold anything
            raise InputError(f"{resume / LAST} is damaged ({error}); give a whole copy.") from error
        trainer.recorder.restore(resume, trainer.total_steps)
    try:
        method.begin_training(trainer.method_context)
    except ValueError as error:
        raise InputError(f"--method {settings.method}: {str(error).removesuffix('.')}.") from error

    trainer.folder = resume or processes.run_on_rank0(lambda: new_folder(settings.name, settings.ckpt_path))
    if processes.is_rank0 and not trainer.is_finished:
        write_config(trainer.folder, to_config(settings), data.record)
    if processes.is_rank0 and checkpoint:
        write_metrics(trainer.folder, trainer.history)  # drops what was written after last.pt
    return trainer


def _facts(
    settings: Settings, data: Data, network: MultimodalNetwork, method: Method, device: torch.device, fusion: str | None
) -> Facts:
    sources = data.train.sources
    every_option = frozenset(field.name for field in dataclasses.fields(InputOptions))
    return Facts(
        modalities=", ".join(sources),
        input_options=frozenset().union(*(getattr(source, "reads", every_option) for source in sources.values())),
        own_validation=(data.train.folder / "valid.csv").is_file(),
        convolutions=any(isinstance(part, nn.Conv2d) for part in network.modules()),
        heads_trained=OBJECTIVES[settings.objective].uses_labels
        and (not network.heads or (method.descends_unimodal and "descends_unimodal" not in method.memory)),
        gpu=device.type == "cuda",
        fusion=fusion,
        free_blocks="blocks" not in method.network and len(sources) > 1,
        cross_terms=network.interaction and method.separates,
        tasks=", ".join(network.tasks),
    )


def _check_data(settings: Settings, data: Data, method: Method, fusion: str | None, is_distributed: bool) -> None:
    """Raise InputError if the settings do not fit the data, or the fusion that method or encoders require."""
    OBJECTIVES[settings.objective].check(settings, data, method)
    task = task_of_labels(data.train.labels)
    if method.needs_fusion and task == "multitask":
        raise InputError(
            f"--method {settings.method} needs a joint prediction of several modalities, but {settings.data} has the "
            f"tasks {', '.join(data.train.tasks)} on one encoder; use one that combines their losses or gradients, "
            "such as uniform or mmpareto, or unimodal --task NAME."
        )
    if method.needs_classes and task != "classification":
        problem = "a regression has none" if task == "regression" else "here a sample may have several labels"
        raise InputError(f"--method {settings.method} compares classes, and {problem}; use a method that does not.")
    if (fusion or settings.fusion) == LABELS_FUSION and task != "multilabel":
        raise InputError(f"--fusion {LABELS_FUSION} is for several labels per sample; use average.")
    if (fusion or settings.fusion) in ENTROPY_FUSIONS and task == "multilabel":
        raise InputError(f"--fusion {settings.fusion} is for one label per sample, and here it may have several.")
    if fusion and settings.fusion not in (fusion, "concat"):  # the flag's default is not the user's choice
        owner = (
            f"--method {settings.method}" if "fusion" in method.network else f"--encoder {value_text(settings.encoder)}"
        )
        raise InputError(f"{owner} uses the fusion {fusion!r} always; leave --fusion out.")
    if method.needs_whole_batch and (settings.accumulate > 1 or is_distributed):
        raise InputError(
            f"--method {settings.method} with these options needs a step's whole batch at once: leave --accumulate "
            "out, and train in one process."
        )
    if settings.tensorboard_path and Path(settings.tensorboard_path).is_file():
        raise InputError(f"--tensorboard_path {settings.tensorboard_path} is a file; give a folder.")


def _sample_shapes(data: Data) -> dict[str, tuple[int, ...]]:
    """Modality → shape of its input for one sample."""
    return {name: tuple(values.shape) for name, values in data.train_fixed[0].inputs.items()}


def _load_pretrained(network: MultimodalNetwork, settings: Settings, method: Method, processes: Processes) -> None:
    files = choose_files(settings.pretrained, network.modalities, all_modalities=method.modalities is None)
    for name, file in files.items():
        note = load_pretrained(network.encoders[name], file, name)
        if processes.is_rank0:
            print(note, flush=True)


def _check_resumable(settings: Settings, data: Data, folder: Path, checkpoint: dict[str, Any]) -> None:
    """Raise InputError if the data are not those of the run, or the run is past its last epoch."""
    reached = checkpoint["epoch"] - (checkpoint["steps"] == 0)
    if settings.epochs < reached:
        raise InputError(f"--epochs is {settings.epochs}, but the run in {folder} has already reached epoch {reached}.")
    known = read_config(folder).get("data", {}).get("fingerprint")
    if known is None:
        raise InputError(f"{folder / CONFIG} is damaged (no data.fingerprint); give a whole copy.")
    if data.record["fingerprint"] != known:
        raise InputError(
            f"--data {settings.data} is not what the run in {folder} was trained on; give that, or start a new run."
        )


def _check_fits(network: MultimodalNetwork, data: Data, settings: Settings, *, any_size: bool) -> None:
    """Raise InputError if the network cannot train on the smallest micro-batch, such as a last batch of one sample.

    BatchNorm needs more than one value per channel, and every convolution an image at least as large as its kernel.

    Arguments:
        any_size: whether the number of samples differs from epoch to epoch, so that the last batch may be of any size.
    """
    full, samples = settings.batch_size, data.record["clips"]["train"]
    batches = {min(full, samples), samples % full or full}
    batches |= {1} if any_size and settings.drop_last == "none" else set()
    parts = [size // micro_batch_count(size, full, settings.accumulate) for size in batches]
    smallest = min(*parts, 2)
    batch = next(iter(make_loader(data.train_fixed, batch_size=smallest)))
    inputs = to_device(batch, "cpu", data.train.normalisation).inputs
    trial = copy.deepcopy(network).train()
    try:
        with torch.no_grad():
            trial(inputs)
    except MISFIT as error:
        part, cause = _failing_encoder(trial, inputs) or ("the network", error)
        reason = str(cause).partition("\n")[0]
        remedy = "take another --encoder, or larger inputs (--image_size, --audio_frames, a smaller --audio_pool)"
        if "more than 1 value per channel" in reason:  # BatchNorm's
            remedy = "change --batch_size or --accumulate, or leave partial batches out with --drop_last train"
        raise InputError(f"{part} cannot take a batch of {smallest} ({reason}); {remedy}.") from error


def _failing_encoder(network: MultimodalNetwork, inputs: dict[str, torch.Tensor]) -> tuple[str, Exception] | None:
    """The encoder that cannot take its input, with the shape of a sample, and its error; None where all can."""
    for name, encoder in network.encoders.items():
        try:
            with torch.no_grad():
                encoder(inputs[name])
        except MISFIT as error:
            return f"the encoder of {name}, for inputs of shape {tuple(inputs[name].shape[1:])},", error
    return None


def _python() -> str:
    """The command that starts this Python, as a person would type it."""
    venv = Path.cwd() / ".venv" / "bin" / "python"
    return ".venv/bin/python" if Path(sys.executable) == venv else "python"
