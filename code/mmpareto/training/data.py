"""The data of a run: which clips train, which choose the epoch, which test."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmpareto.data import DATASETS
from mmpareto.data.loading.batches import EpochOrder, make_loader, stop_workers
from mmpareto.data.loading.layout import fingerprint
from mmpareto.data.loading.options import FEATURE_FILES, InputOptions
from mmpareto.data.loading.samples import PreparedDataset
from mmpareto.data.preparation.splits import stratified
from mmpareto.errors import InputError
from mmpareto.training.devices import loader_workers
from mmpareto.training.distributed import ALONE, Processes
from mmpareto.training.recipes import recipe
from mmpareto.training.settings import Settings


@dataclasses.dataclass(frozen=True)
class Data:
    """The parts of a data set that a run uses.

    Attributes:
        train: with augmentation.
        train_fixed: the same clips as a test reads them, for linear probes and prototypes.
        val: the data set's own, or held out of the training set; None under the papers' protocol.
        test: the data set's own.
        record: what config.json keeps of it.
    """

    train: PreparedDataset
    train_fixed: PreparedDataset
    val: PreparedDataset | None
    test: PreparedDataset
    record: dict[str, Any]


def open_data(settings: Settings, modalities: Sequence[str] | None = None) -> Data:
    """Open the prepared data set of a run.

    Arguments:
        modalities: read these only; all where None.

    Raises:
        InputError: it is not there or not whole, does not have `--n_classes` classes, or its features are smaller
            than `--audio_pool`.
    """
    _check_pool(settings)
    folder = Path(settings.data)
    whole = open_split(settings, "train", modalities, training=False)
    if settings.n_classes not in (None, len(whole.classes)):
        raise InputError(f"--n_classes is {settings.n_classes}, but {folder}/stat.csv names {len(whole.classes)}.")
    kept, val = list(range(len(whole))), None
    if settings.protocol == "validation" and (folder / "valid.csv").is_file():  # the data set's own
        val = open_split(settings, "valid", modalities, training=False)
    elif settings.protocol == "validation":
        kept, held_out = hold_out(whole.labels, settings)
        val = open_split(settings, "train", modalities, training=False, subset=held_out)
    train = open_split(settings, "train", modalities, training=True, subset=kept)
    test = open_split(settings, "test", modalities, training=False)
    sizes = {"train": len(train), "val": 0 if val is None else len(val), "test": len(test)}
    record = {"folder": str(folder), "fingerprint": fingerprint(folder), "clips": sizes, "prepared": whole.prepared}
    return Data(train, open_split(settings, "train", modalities, training=False, subset=kept), val, test, record)


def hold_out(labels: Sequence[int], settings: Settings) -> tuple[list[int], list[int]]:
    """Places of the clips to train on, and of those held out: `--val_fraction` of every class, seeded.

    Raises:
        InputError: one side would be empty.
    """
    held_out = stratified(labels, settings.val_fraction, settings.random_seed)
    kept = np.setdiff1d(np.arange(len(labels)), held_out)
    if not len(held_out) or not len(kept):
        raise InputError(
            f"--val_fraction {settings.val_fraction:g} leaves nothing on one side of the {len(labels)} training "
            "clips; use another fraction or --protocol paper."
        )
    return kept.tolist(), held_out.tolist()


def _check_pool(settings: Settings) -> None:
    files = FEATURE_FILES[settings.audio]
    time = min(settings.audio_frames, files.shape[files.time_axis])
    frequencies = files.shape[1 - files.time_axis]
    if settings.audio_pool[0] > time or settings.audio_pool[1] > frequencies:
        pool = " ".join(map(str, settings.audio_pool))
        raise InputError(f"--audio_pool {pool} is larger than the feature that is read, {time} by {frequencies}.")


def open_split(
    settings: Settings, split: str, modalities: Sequence[str] | None, *, training: bool, subset: list[int] | None = None
) -> PreparedDataset:
    """One split of the prepared data set, read as the settings say."""
    return DATASETS[settings.dataset].open(
        settings.data,
        split,
        training=training,
        options=input_options(settings),
        seed=settings.random_seed,
        subset=subset,
        modalities=modalities,
    )


def input_options(settings: Settings) -> InputOptions:
    """How the settings want the data read."""
    return InputOptions(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(InputOptions)})


def recipe_options(dataset: str, name: str = "released") -> InputOptions:
    """How a data set's recipe wants it read."""
    values = recipe(dataset, name)
    return InputOptions(**{f.name: values[f.name].value for f in dataclasses.fields(InputOptions) if f.name in values})


class Loaders:
    """A run's loaders, one a data set; their processes stay from epoch to epoch, until `stop`."""

    def __init__(self, settings: Settings, device: torch.device, processes: Processes = ALONE) -> None:
        self._settings, self._device, self._processes = settings, device, processes
        self._open: dict[int, Any] = {}

    def of(self, dataset: PreparedDataset, order: EpochOrder | None = None) -> Any:
        """The loader of a data set; `order` counts when it is first asked for."""
        if id(dataset) not in self._open:
            self._open[id(dataset)] = open_loader(self._settings, self._device, dataset, order, self._processes)
        return self._open[id(dataset)]

    def stop(self) -> None:
        """End all processes now; a loader that is used again starts new ones."""
        for loader in self._open.values():
            stop_workers(loader)


def open_loader(
    settings: Settings,
    device: torch.device,
    dataset: PreparedDataset,
    order: EpochOrder | None = None,
    processes: Processes = ALONE,
) -> Any:
    """The run's loader of a data set, or of this process's share: in its own order where none is given."""
    return make_loader(
        dataset,
        batch_size=settings.batch_size,
        order=order,
        workers=loader_workers(settings.workers, device, processes.local_count),
        pin_memory=device.type == "cuda",
        share=processes.share,
    )
