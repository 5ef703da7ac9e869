"""A run's checkpoint, opened to be measured, and the measurements that are kept beside it as <run>/<name>.json."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmpareto.analysis.trained import Trained, open_trained
from mmpareto.data.loading.batches import Batch, make_loader
from mmpareto.data.loading.samples import PreparedDataset
from mmpareto.errors import InputError
from mmpareto.files import write_text
from mmpareto.integration.objectives import JOINT
from mmpareto.models.network import MultimodalNetwork
from mmpareto.training.checkpoints import load_checkpoint
from mmpareto.training.data import open_data
from mmpareto.training.run_folder import read_config
from mmpareto.training.settings import Settings, from_config


@dataclasses.dataclass(frozen=True)
class Subject:
    """A run's network at a checkpoint, and the samples that it was trained on.

    Attributes:
        network: on `device`, in evaluation mode (BatchNorm normalises by its running statistics), every parameter
            trainable. A linear probe takes the place of unimodal heads that the method does not train.
        samples: of the training set, without what was held out for validation; read as a test reads them: no random
            crop, flip or frame.
        losses: the names of the losses that mean something: "joint", and the modalities unless their heads are
            untrained.
        epoch: after which the weights are.
    """

    folder: Path
    settings: Settings
    trained: Trained
    network: MultimodalNetwork
    samples: PreparedDataset
    device: torch.device
    losses: list[str]
    epoch: int

    def drawn(self, count: int, batch_size: int, seed: int = 0) -> list[Batch]:
        """`count` samples that the seed chooses of the training set, none twice, in batches on the CPU.

        Raises:
            InputError: the training set has fewer.
        """
        have = len(self.samples)
        if count > have:
            raise InputError(f"--samples is {count}, but {self.folder} was trained on {have} samples; give fewer.")
        return self.batches([np.random.default_rng(seed).permutation(have)[:count].tolist()], batch_size)

    def batches(self, places: Sequence[Sequence[int]], batch_size: int) -> list[Batch]:
        """The samples at these places of the training set, a list after the other, in batches on the CPU."""
        chosen = torch.utils.data.Subset(self.samples, [place for part in places for place in part])
        return list(make_loader(chosen, batch_size=batch_size))


def measure_runs(
    name: str,
    folders: Sequence[Path],
    options: Callable[[Settings], dict[str, Any]],
    measure: Callable[[Subject], dict[str, Any]],
    *,
    checkpoint: str,
    device: torch.device,
    data: Path | None = None,
    anew: bool = False,
) -> list[dict[str, Any]]:
    """Measure every run that has not been measured so; what is in <run>/<name>.json of each, in their order.

    The file holds what the measurement is of (`about`), the options, and what `measure` returns.

    Arguments:
        options: of the measurement of a run with these settings. A run whose file says the same of the same checkpoint
            is not measured again.
        checkpoint: the name of the file in the run's folder.
        data: the prepared data set, where it is not in the folder that the run names.
        anew: measure in any case.

    Raises:
        InputError: a folder holds no run or no such checkpoint, the data are not there or others, or a result is not
            finite.
    """
    for folder in folders:
        _checkpoint_path(folder, checkpoint)  # all of them, before the first is measured
    found = []
    for folder in folders:
        path = folder / f"{name}.json"
        asked = {"checkpoint": checkpoint, "checkpoint_sha256": _digest(_checkpoint_path(folder, checkpoint))}
        asked |= options(from_config(read_config(folder)))
        known = None if anew else _read(path)
        if known is None or any(known.get(key) != value for key, value in asked.items()):
            subject = open_run(folder, checkpoint, device, data)
            known = asked | about(subject) | measure(subject)
            if not all(math.isfinite(value) for value in _numbers(known)):
                raise InputError(f"{name} of {folder} is NaN or infinite at {checkpoint}: its training diverged.")
            write_text(path, json.dumps(known, indent=1) + "\n")
        found.append(known)
    return found


def open_run(folder: Path, checkpoint: str, device: torch.device, data: Path | None = None) -> Subject:
    """Open a run at a checkpoint; see `measure_runs`."""
    path = _checkpoint_path(folder, checkpoint)
    config = read_config(folder)
    settings = from_config(config)
    if data is not None:
        settings = dataclasses.replace(settings, data=str(data))
    trained = open_trained(path)
    found = open_data(settings, trained.network.modalities)
    if found.record["fingerprint"] != config["data"]["fingerprint"]:
        raise InputError(f"{settings.data} is not what {folder} was trained on; say where that is with --data DIR.")
    network = trained.network.to(device).eval()
    for modality, head in trained.heads.items():
        network.heads[modality].load_state_dict(head)
    content = load_checkpoint(path)  # for two entries that `Trained` does not keep
    trains_heads = content["heads_trained"] or bool(trained.heads)
    between = content["selected_on"] == "last" and not content.get("steps")  # last.pt names the epoch that comes next
    return Subject(
        folder=folder,
        settings=settings,
        trained=trained,
        network=network,
        samples=found.train_fixed,
        device=device,
        losses=[JOINT, *(network.modalities if trains_heads else [])],
        epoch=content["epoch"] - between,
    )


def about(subject: Subject) -> dict[str, Any]:
    """What every measurement says of its run: keys of the JSON file."""
    probed = "a linear probe" if subject.trained.heads else "untrained: left out"
    return {
        "epoch": subject.epoch,
        "dataset": subject.settings.dataset,
        "method": subject.settings.method,
        "variant": subject.settings.variant,
        "seed": subject.settings.random_seed,
        "banner": subject.trained.banner,
        "unimodal_heads": "trained" if len(subject.losses) > 1 and not subject.trained.heads else probed,
    }


def _checkpoint_path(folder: Path, checkpoint: str) -> Path:
    read_config(folder)  # refuses what is no run
    path = folder / checkpoint
    if not path.is_file():
        there = ", ".join(sorted(one.name for one in folder.glob("*.pt"))) or "none"
        raise InputError(f"{folder} holds no checkpoint {checkpoint} (there: {there}); choose one with --checkpoint.")
    return path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    """An earlier measurement; None where there is none that can be read: it is made anew then."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _numbers(content: Any) -> list[float]:
    """All numbers of a JSON value, at any depth."""
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        return [number for one in content for number in _numbers(one)]
    return [content] if isinstance(content, int | float) else []
