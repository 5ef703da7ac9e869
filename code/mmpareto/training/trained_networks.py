"""Networks of earlier runs, such as the teachers of a method."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmpareto.data.loading.options import InputOptions, options_of
from mmpareto.data.loading.samples import PreparedDataset
from mmpareto.errors import InputError
from mmpareto.models.network import MultimodalNetwork
from mmpareto.training.checkpoints import load_checkpoint, network_of
from mmpareto.training.run_folder import BEST
from mmpareto.training.settings import Settings

# Options of inputs that evaluation does not depend on, or that not all descriptions of data have.
WITHOUT_EFFECT = {"crop_scale", "cache", "cache_dir", "n_classes"}
PER_MODALITY = ("channels", "normalisation", "arrays")  # entries of a description that have one value per modality


def load_frozen(path: Path, settings: Settings, data: PreparedDataset) -> MultimodalNetwork:
    """The network of an earlier run, on the CPU: without gradients, and in evaluation mode. Nothing in it is executed.

    Arguments:
        path: the run's folder, for its best.pt, or a checkpoint.
        settings, data: of the present run, on whose data set, classes and inputs the network must have been trained.

    Raises:
        InputError: there is no such network.
    """
    path = path / BEST if path.is_dir() else path
    content = load_checkpoint(path)
    if content["dataset"] != settings.dataset:
        raise InputError(f"{path} was trained on {content['dataset']}, and this run is on {settings.dataset}.")
    if content["data"].get("classes") != data.description["classes"]:
        raise InputError(f"{path} was trained on other classes than those of this run; train it on {settings.data}.")
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and then replaced
        network = network_of(content, path)
    try:
        for name in network.modalities:
            _check_input(name, content["data"], data, path)
    except (KeyError, TypeError, AttributeError) as error:  # a damaged file may hold anything
        raise InputError(f"{path} does not describe its inputs ({error!r}); give a whole copy.") from error
    network.input_shapes = content.get("input_shapes", {})
    return network.requires_grad_(False).eval()


def _check_input(name: str, description: Mapping[str, Any], data: PreparedDataset, path: Path) -> None:
    """Raise InputError unless the run reads this modality, and as the description says."""
    if name not in data.sources:
        raise InputError(f"{path} reads {name}, and this run reads {', '.join(data.sources)} alone.")
    every = frozenset(field.name for field in dataclasses.fields(InputOptions))
    theirs, ours = options_of(description), options_of(data.description)
    for option in sorted(getattr(data.sources[name], "reads", every) - WITHOUT_EFFECT):
        before, now = getattr(theirs, option), getattr(ours, option)
        if before != now:
            raise InputError(
                f"{path} was trained with --{option} {before}, and this run has {now}; train it with that."
            )
    for entry in PER_MODALITY:
        if description.get(entry, {}).get(name) != data.description.get(entry, {}).get(name):
            raise InputError(
                f"{path} was trained with other {entry} of {name} than this run's; train it on {data.folder}."
            )
