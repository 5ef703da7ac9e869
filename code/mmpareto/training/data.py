"""The data of a run: its training, validation and test sets, and their loaders."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmpareto.data import DATASETS
from mmpareto.data.loading.batches import EpochOrder, make_loader, stop_workers
from mmpareto.data.loading.labels import strata
from mmpareto.data.loading.layout import fingerprint
from mmpareto.data.loading.options import FEATURE_FILES, InputOptions
from mmpareto.data.loading.samples import PreparedDataset
from mmpareto.data.preparation.splits import stratified
from mmpareto.errors import InputError
from mmpareto.training.devices import loader_workers
from mmpareto.training.distributed import SINGLE_PROCESS, Processes
from mmpareto.training.recipes import recipe
from mmpareto.training.settings import Settings


@dataclasses.dataclass(frozen=True)
class Data:
    """The parts of a prepared data set that a run uses.

    Attributes:
        train: with augmentation.
        train_fixed: the same clips without augmentation, for linear probes and prototypes.
        val: the data set's own validation set, or clips held out of its training set; None under the papers' protocol.
        test: without augmentation.
        record: folder, fingerprint and numbers of clips, for config.json: "clips" that an epoch uses, per part, and
            with `--drop_last` or `--train_fraction` "available", those that the parts have.
    """

    train: PreparedDataset
    train_fixed: PreparedDataset
    val: PreparedDataset | None
    test: PreparedDataset
    record: dict[str, Any]


def open_data(settings: Settings, modalities: Sequence[str] | None = None, tasks: Sequence[str] | None = None) -> Data:
    """Open the prepared data set of a run.

    Arguments:
        modalities, tasks: read only these; None for all.

    Raises:
        InputError: the data set is missing or incomplete, does not have `--n_classes` classes, has features smaller
            than `--audio_pool`, or has fewer clips than a batch of which `--drop_last` keeps only whole ones.
    """
    _check_pool(settings)
    folder = Path(settings.data)
    opened = functools.partial(open_split, settings, modalities=modalities, tasks=tasks)
    whole = opened("train", training=False)
    if settings.n_classes not in (None, len(whole.classes)):
        raise InputError(
            f"--n_classes is {settings.n_classes}, typed or from recipe {settings.recipe!r}, but {folder}/stat.csv "
            f"names {len(whole.classes)}; prepare data with those classes, or give --n_classes {len(whole.classes)}."
        )
    kept, val = list(range(len(whole))), None
    if settings.protocol == "validation" and (folder / "valid.csv").is_file():  # the data set's own validation set
        val = opened("valid", training=False)
    elif settings.protocol == "validation":
        kept, held_out = hold_out(whole.labels, settings)
        val = opened("train", training=False, subset=held_out)
    available = {"train": len(kept)}
    kept = _fraction_of(kept, whole.labels, settings)
    train = opened("train", training=True, subset=kept)
    test = opened("test", training=False)
    available |= {"val": 0 if val is None else len(val), "test": len(test)}
    used = {
        part: used_samples(settings, part, samples) for part, samples in (available | {"train": len(train)}).items()
    }
    if val is not None and used["val"] < len(val):
        val = val.subset(range(used["val"]))
    if used["test"] < len(test):
        test = test.subset(range(used["test"]))
    record = {"folder": str(folder), "fingerprint": fingerprint(folder), "clips": used, "prepared": whole.prepared}
    if settings.drop_last != "none" or settings.train_fraction < 1:
        record["available"] = available
    return Data(train, opened("train", training=False, subset=kept), val, test, record)


def used_samples(settings: Settings, part: str, samples: int) -> int:
    """Number of a part's samples that an epoch uses: those of whole batches where `--drop_last` applies, else all.

    Arguments:
        part: "train", "val" or "test".
        samples: number of samples that the part has.

    Raises:
        InputError: there is not a single whole batch.
    """
    if samples == 0 or settings.drop_last == "none" or (settings.drop_last == "train" and part != "train"):
        return samples
    if samples < settings.batch_size:
        weaker = "none" if part == "train" else "train"
        raise InputError(
            f"--drop_last {settings.drop_last} drops all {samples} {part} clips, fewer than --batch_size "
            f"{settings.batch_size}; give a smaller --batch_size, or --drop_last {weaker}."
        )
    return samples - samples % settings.batch_size


def training_order(settings: Settings, samples: int) -> EpochOrder:
    """Order of the training samples in each epoch; `--drop_last` drops the end of each order.

    As for PyTorch's `DataLoader(shuffle=True, drop_last=True)`, the dropped samples differ from epoch to epoch.
    """
    return EpochOrder(samples, settings.random_seed, used_samples(settings, "train", samples))


def hold_out(labels: Sequence[Any], settings: Settings) -> tuple[list[int], list[int]]:
    """Indices of the clips to train on and of the clips to hold out: `--val_fraction` of every stratum, seeded.

    Raises:
        InputError: one of the two would be empty.
    """
    held_out = stratified(strata(labels, settings.val_fraction), settings.val_fraction, settings.random_seed)
    kept = np.setdiff1d(np.arange(len(labels)), held_out)
    if not len(held_out) or not len(kept):
        raise InputError(
            f"--val_fraction {settings.val_fraction:g} leaves nothing to train on or nothing to hold out, of "
            f"{len(labels)} training clips; use another fraction or --protocol paper."
        )
    return kept.tolist(), held_out.tolist()


def _fraction_of(indices: list[int], labels: Sequence[Any], settings: Settings) -> list[int]:
    """`--train_fraction` of these samples, of every stratum alike, seeded.

    Raises:
        InputError: none is left.
    """
    fraction = settings.train_fraction
    if fraction == 1:
        return indices
    own = strata([labels[index] for index in indices], fraction)
    chosen = [indices[number] for number in stratified(own, fraction, settings.random_seed)]
    if not chosen:
        raise InputError(f"--train_fraction {fraction:g} leaves none of {len(indices)} training samples; give more.")
    return chosen


def _check_pool(settings: Settings) -> None:
    files = FEATURE_FILES[settings.audio]
    time = min(settings.audio_frames, files.shape[files.time_axis])
    frequencies = files.shape[1 - files.time_axis]
    if settings.audio_pool[0] > time or settings.audio_pool[1] > frequencies:
        pool = " ".join(map(str, settings.audio_pool))
        raise InputError(f"--audio_pool {pool} is larger than the feature, {time} by {frequencies}.")


def open_split(
    settings: Settings,
    split: str,
    modalities: Sequence[str] | None,
    *,
    training: bool,
    subset: list[int] | None = None,
    tasks: Sequence[str] | None = None,
) -> PreparedDataset:
    """One split of the prepared data set, with the input options of the settings."""
    return DATASETS[settings.dataset].open(
        settings.data,
        split,
        training=training,
        options=input_options(settings),
        seed=settings.random_seed,
        subset=subset,
        modalities=modalities,
        tasks=tasks,
    )


def input_options(settings: Settings) -> InputOptions:
    """The input options among the settings."""
    return InputOptions(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(InputOptions)})


def recipe_options(dataset: str, name: str | None = None) -> InputOptions:
    """The input options in a recipe of a data set; None for its default."""
    values = recipe(dataset, name)
    return InputOptions(**{f.name: values[f.name].value for f in dataclasses.fields(InputOptions) if f.name in values})


class Loaders:
    """A run's loaders, one per data set; loader processes persist from epoch to epoch until `stop`."""

    def __init__(self, settings: Settings, device: torch.device, processes: Processes = SINGLE_PROCESS) -> None:
        self._settings, self._device, self._processes = settings, device, processes
        self._loaders: dict[int, Any] = {}

    def get(self, dataset: PreparedDataset, order: EpochOrder | None = None) -> Any:
        """The loader of a data set, opened in the first call; later calls ignore `order`."""
        if id(dataset) not in self._loaders:
            self._loaders[id(dataset)] = open_loader(self._settings, self._device, dataset, order, self._processes)
        return self._loaders[id(dataset)]

    def stop(self) -> None:
        """Stop all loader processes; a loader that is used again starts new ones."""
        for loader in self._loaders.values():
            stop_workers(loader)


def open_loader(
    settings: Settings,
    device: torch.device,
    dataset: PreparedDataset,
    order: EpochOrder | None = None,
    processes: Processes = SINGLE_PROCESS,
) -> Any:
    """A loader of this process's share of a data set, in the data set's order unless one is given."""
    return make_loader(
        dataset,
        batch_size=settings.batch_size,
        order=order,
        workers=loader_workers(settings.workers, device, processes.local_world_size),
        pin_memory=device.type == "cuda",
        share=processes.share,
        timeout=settings.worker_timeout,
    )
