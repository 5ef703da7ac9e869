"""A trained network from a checkpoint, with the description of its input."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmpareto.data import DATASETS
from mmpareto.errors import InputError
from mmpareto.models.network import MultimodalNetwork, build_network
from mmpareto.models.pretrained import read_released
from mmpareto.training.checkpoints import ENTRIES, load_checkpoint, load_weights, network_of
from mmpareto.training.devices import Precision
from mmpareto.training.evaluation import Predictions
from mmpareto.training.recipes import recipe
from mmpareto.training.run_folder import BEST

RELEASED_SUFFIX = ".pth"  # train.py writes .pt
INPUT_SETTINGS = ("audio", "frames", "frame_choice", "image_size", "audio_frames", "audio_pool")


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network and the description of its input.

    Attributes:
        path: the checkpoint.
        dataset: the data set's name.
        folder: of the prepared data set when the network was trained.
        description: of the input (`PreparedDataset.description`); lacks "classes", "fps" and "normalisation" where the
            file lacks them.
        heads: modality → weight and bias of a linear probe in place of untrained unimodal heads; {} where trained.
        notes: sentences on the origin of the weights, for a person.
        amp: the mixed precision of the evaluation in training.
    """

    path: Path
    network: MultimodalNetwork
    dataset: str
    folder: Path
    description: dict[str, Any]
    heads: dict[str, dict[str, Tensor]]
    notes: list[str]
    amp: str | None = None

    @property
    def banner(self) -> str | None:
        """Warning that accompanies all results on the data set, if it has one."""
        return DATASETS[self.dataset].banner

    def precision(self, device: torch.device) -> Precision:
        """The precision of the training; full precision where the device lacks it."""
        return Precision(None if self.amp == "fp16" and device.type == "cpu" else self.amp, device)

    def with_probe(self, predictions: Predictions) -> Predictions:
        """The predictions, with the linear probe's logits in place of those of untrained unimodal heads."""
        return predictions.with_heads(self.heads) if self.heads else predictions


def open_trained(path: Path, dataset: str | None = None) -> Trained:
    """Open a checkpoint of train.py (.pt) or of the released MMPareto code (.pth).

    Arguments:
        path: the file, or the folder of a run, for its best.pt.
        dataset: for files of the released code, which lack it (default: cremad).

    Raises:
        InputError: the file is missing, damaged, or of another architecture, version or data set.
    """
    if path.is_dir():
        path = path / BEST
    if path.suffix == RELEASED_SUFFIX:
        return _open_released(path, DATASETS.name(dataset or "cremad"))
    checkpoint = load_checkpoint(path)
    missing = [name for name in ENTRIES if name not in checkpoint]
    if missing:
        raise InputError(f"{path} is of another version of this code: it lacks {', '.join(missing)}; train it again.")
    if dataset is not None and DATASETS.name(dataset) != checkpoint["dataset"]:
        raise InputError(f"{path} was trained on {checkpoint['dataset']}, not on {dataset}; leave --dataset out.")
    return Trained(
        path=path,
        network=network_of(checkpoint, path),
        dataset=checkpoint["dataset"],
        folder=Path(checkpoint["data_folder"]),
        description=checkpoint["data"],
        heads=checkpoint.get("probe", {}),
        notes=_notes(checkpoint),
        amp=checkpoint.get("amp"),
    )


def _notes(checkpoint: dict[str, Any]) -> list[str]:
    epoch, steps = checkpoint["epoch"], checkpoint.get("steps", 0)
    if checkpoint["selected_on"] != "last":
        notes = [f"the weights of epoch {epoch}, chosen on: {checkpoint['selected_on']}"]
    elif steps:
        notes = [f"the weights of a run that was stopped in epoch {epoch}, after step {steps}"]
    else:
        notes = [f"the weights of the last epoch, {epoch - 1}"]  # the "epoch" of last.pt is the next one
    if not checkpoint["heads_trained"]:
        probe = "a linear probe's, on the frozen encoders" if checkpoint.get("probe") else "untrained: ignore them"
        notes.append(f"the method trains no unimodal heads; those used here are {probe}")
    return notes


def _open_released(path: Path, dataset: str) -> Trained:
    weights, unmatched = read_released(path)
    channels = {
        parts[1]: tensor.shape[1]
        for name, tensor in weights.items()
        if (parts := name.split("."))[0] == "encoders" and parts[2:] == ["conv1", "weight"] and tensor.dim() == 4
    }
    joint = weights.get("fusion.fc_out.weight")
    if not channels or joint is None:
        raise InputError(f"{path} lacks the encoders or the joint head of the released MMPareto code's model.")
    network = build_network(channels, len(joint))
    load_weights(network, weights, path)
    notes = ["a checkpoint of the released code: the epoch that was best on its test set"]
    if unmatched:
        notes.append(f"not used, as the network here has no such entry: {', '.join(unmatched)}")
    values = recipe(dataset, "released")
    description = {key: values[key].value for key in INPUT_SETTINGS} | {"channels": channels}
    return Trained(path, network, dataset, Path("data") / dataset, description, {}, notes)
