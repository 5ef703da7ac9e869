"""Gradients of the losses during training, layer by layer: `--record-gradients N` writes gradients.npz.

Steps 1, N + 1, 2N + 1 … of the run are recorded while it trains the encoders; the first one shows the freshly
initialised network. A layer is a trainable tensor of an encoder. An objective is a loss that the method descends,
before the method weights it. With R recorded steps, P layers of modality <m>, n objectives, and G and R' groups of the
method's report, the file holds

    step, epoch                 (R,) int64, both from 1; steps are counted through the whole run
    modalities, objectives      names; objectives are "joint" and "unimodal", or the one that the method descends, or
                                the tasks of an encoder that has several
    layers_<m>                  (P,) names of the encoder's trainable tensors
    norm_<objective>_<m>        (R, P) float32: norm of the objective's gradient
    cosine_<m>                  (R, P) float32: between joint and unimodal gradient, 0 where one of them is zero;
                                only where the method descends both. Of n > 2 objectives, (R, P, n(n − 1)/2): of every
                                two, in the order of itertools.combinations
    weights_<m>                 (R, G, n) float32: α  ⎫
    conflict_<m>                (R, G) float32: 0, 1  ⎬ of methods that report on gradients (`EncoderReport`)
    rescale_<m>                 (R, R') float32: λ    ⎭
    cross_cosine_<m>, cross_difference_<m>
                                (R,) float32, where encoders interact: the encoder's update with cross terms compared
                                with the one without (`cross_terms.CrossTermComparison`)
    dataset, method, seed, every, banner    of the run; every is N, banner a warning about results on this data

NaN marks values that a recorded step lacks but another has: of an objective that the method did not descend then.
`numpy.load(…, allow_pickle=False)` reads the file.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmpareto.data import DATASETS
from mmpareto.errors import InputError
from mmpareto.files import atomic_path
from mmpareto.integration.differentiation import Gradients, Pass, differentiate, separate_passes
from mmpareto.integration.linear_algebra import gramians
from mmpareto.integration.method import Method
from mmpareto.integration.objectives import JOINT, Objectives, collect
from mmpareto.integration.report import EncoderReport
from mmpareto.models.network import MultimodalNetwork
from mmpareto.training.cross_terms import CrossTermComparison
from mmpareto.training.losses import UNIMODAL, objective_names
from mmpareto.training.run_folder import GRADIENTS
from mmpareto.training.settings import Settings

OBJECTIVES = (JOINT, UNIMODAL)  # of an encoder that does not serve several tasks
REPORTED = ("weights", "conflict", "rescale")


@dataclasses.dataclass(frozen=True)
class StepGradients:
    """The gradients of a step's micro-batches so far, before the method runs.

    Attributes:
        step, epoch: as in gradients.npz.
        objectives, passes: those of a step, without the losses themselves.
        comparison: None where no cross terms are left out or included.
    """

    step: int
    epoch: int
    objectives: Objectives
    passes: list[Pass]
    gradients: Gradients
    comparison: CrossTermComparison | None


@dataclasses.dataclass(frozen=True)
class StepRecord:
    """The record of one step; `values` by the names of gradients.npz, without the dimension R."""

    step: int
    epoch: int
    values: dict[str, Tensor]


class GradientRecorder:
    """Records gradients during training; results of the training are bit-identical to those without it.

    Arguments:
        settings, network, method: of the run. Without `record_gradients`, every method does nothing.
    """

    def __init__(self, settings: Settings, network: MultimodalNetwork, method: Method) -> None:
        self._settings, self._network, self._method = settings, network, method
        self._every = settings.record_gradients
        self._layers = {
            modality: {name: p for name, p in encoder.named_parameters() if p.requires_grad}
            for modality, encoder in network.encoders.items()
        }
        self._step: StepGradients | None = None
        self._on_device: list[StepRecord] = []  # until the file is written, so that no step waits for the device
        self._on_host: list[tuple[int, int, dict[str, np.ndarray]]] = []  # step, epoch, values

    def measure(
        self,
        epoch: int,
        step: int,
        joint: Tensor | None,
        unimodal: Mapping[str, Tensor],
        scale: Tensor | None,
        outputs: Any = None,
        labels: Tensor | None = None,
    ) -> None:
        """Compute the gradients of a step's losses, keeping their graph, if the step is to be recorded.

        Gradients of several calls before `finish_step` are added up, for micro-batches and turns.

        Arguments:
            epoch, step: from 1; the step within the run.
            scale: factor of a gradient scaler; recorded values are unscaled.
            outputs, labels: of the step, as for `Method.backward`.
        """
        if self._every is None or (step - 1) % self._every or not self._method.trains_encoders:
            return
        objectives = self._objectives(joint, unimodal)
        passes = [dataclasses.replace(one, outside=False) for one in separate_passes(objectives)]
        gradients = differentiate(objectives, passes, scale, retain_graph=True)
        comparison = None
        if self._step is not None:
            gradients, comparison = self._step.gradients.added(gradients), self._step.comparison
        elif self._network.interaction and self._method.separates:
            comparison = CrossTermComparison(self._method)
        objectives.losses = {}  # frees their graph after the step
        if comparison is not None:
            comparison.add(joint, unimodal, dict(self._network.encoders.items()), outputs, labels, scale)
        self._step = StepGradients(step, epoch, objectives, passes, gradients, comparison)

    def finish_step(self, report: Mapping[str, EncoderReport]) -> None:
        """Record the step, if it was measured, together with the method's report: modality → report."""
        step, self._step = self._step, None
        if step is None:
            return
        values: dict[str, Tensor] = {}
        with torch.no_grad():
            if (reducer := self._method.active_reducer) is not None:
                reducer.begin(step.objectives, step.passes).finish(step.objectives, step.passes, step.gradients)
            for modality, encoder in step.objectives.encoders.items():
                names = [UNIMODAL if name == modality else name for name in encoder.objectives]
                layer_gramians = gramians(step.gradients.encoders[modality], step.gradients.scale)
                values |= layer_metrics(modality, names, layer_gramians)
        if step.comparison is not None:
            values |= step.comparison.finish()
        for modality, encoder_report in report.items():
            values |= {f"{name}_{modality}": getattr(encoder_report, name).float() for name in REPORTED}
        self._on_device.append(StepRecord(step.step, step.epoch, values))

    def write(self, folder: Path) -> None:
        """Write all records to gradients.npz in the run's folder; waits for the device."""
        if self._every is None:
            return
        for record in self._on_device:
            values = {name: value.cpu().numpy() for name, value in record.values.items()}
            self._on_host.append((record.step, record.epoch, values))
        self._on_device = []
        stacked = _stacked([values for *_, values in self._on_host])
        about: dict[str, Any] = {
            "step": np.array([step for step, *_ in self._on_host], dtype=np.int64),
            "epoch": np.array([epoch for _, epoch, _ in self._on_host], dtype=np.int64),
            "modalities": np.array(list(self._layers), dtype=np.str_),
            "objectives": np.array(
                [name for name in self._objective_names if any(key.startswith(f"norm_{name}_") for key in stacked)],
                dtype=np.str_,
            ),
            **{f"layers_{modality}": np.array(list(layers)) for modality, layers in self._layers.items()},
            "dataset": np.array(self._settings.dataset),
            "method": np.array(self._settings.method),
            "seed": np.array(self._settings.random_seed),
            "every": np.array(self._every),
            "banner": np.array(DATASETS[self._settings.dataset].banner or ""),
        }
        with atomic_path(folder / GRADIENTS) as temporary:
            np.savez_compressed(temporary, **(about | stacked))

    def restore(self, folder: Path, steps: int) -> None:
        """Load the records of a run that resumes after `steps` steps, without those of later steps.

        If the file is missing, recording begins with the next steps.

        Raises:
            InputError: the file is damaged or belongs to another run.
        """
        if self._every is None:
            return
        path = folder / GRADIENTS
        if not path.exists():
            print(f"{path} is missing: gradients are recorded from here on", flush=True)
            return
        records = read_records(path)
        if list(records["modalities"]) != list(self._layers) or any(
            list(records[f"layers_{modality}"]) != list(layers) for modality, layers in self._layers.items()
        ):
            raise InputError(f"{path} is of another network: remove it, and gradients are recorded from here on.")
        count = int((records["step"] <= steps).sum())
        values = {name: array for name, array in records.items() if _is_recorded_value(name)}
        self._on_host = [
            (int(records["step"][row]), int(records["epoch"][row]), {name: v[row] for name, v in values.items()})
            for row in range(count)
        ]

    @property
    def _objective_names(self) -> list[str]:
        """Names of all encoders' objectives, each once."""
        own = self._network.own_losses
        return list(dict.fromkeys(name for modality in own for name in objective_names(modality, own[modality])))

    def _objectives(self, joint: Tensor | None, unimodal: Mapping[str, Tensor]) -> Objectives:
        """The losses that the method currently descends; for each encoder, the joint one and its own."""
        with_unimodal, own = self._method.descends_unimodal, self._network.own_losses
        objectives = collect(
            joint if self._method.descends_joint else None,
            unimodal if with_unimodal else {},
            {name: (layers.values(), own[name] if with_unimodal else []) for name, layers in self._layers.items()},
        )
        objectives.interaction = self._network.interaction and self._settings.cross_terms == "excluded"
        return objectives


def layer_metrics(modality: str, objectives: list[str], layer_gramians: Tensor) -> dict[str, Tensor]:
    """Norms and cosines of every layer, by their names in gradients.npz: (P,) float32 each; see there.

    Arguments:
        objectives: the n names of the columns.
        layer_gramians: (P, n, n) inner products of the objectives' gradients.
    """
    norms = layer_gramians.diagonal(dim1=-2, dim2=-1).sqrt()
    metrics = {f"norm_{name}_{modality}": norms[:, column].float() for column, name in enumerate(objectives)}
    if len(objectives) > 1:
        first, second = torch.triu_indices(len(objectives), len(objectives), 1)
        product = norms[:, first] * norms[:, second]
        cosines = torch.where(product == 0, 0.0, layer_gramians[:, first, second] / product)
        cosines = cosines.clamp(-1, 1).float()  # rounding may exceed 1
        metrics[f"cosine_{modality}"] = cosines[:, 0] if len(objectives) == 2 else cosines
    return metrics


def read_records(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a gradients.npz, by the names in this module's docstring.

    Raises:
        InputError: the file is missing, damaged, or another kind of file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            records = {name: file[name] for name in file.files}
        required = ["step", "epoch", "modalities", "objectives", "dataset", "method", "seed", "every", "banner"]
        required += [f"layers_{modality}" for modality in records.get("modalities", [])]
        if missing := [name for name in required if name not in records]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        if records["every"].ndim or records["seed"].ndim:
            raise ValueError("it has several numbers where there is one")
        per_step = [name for name in records if name == "epoch" or _is_recorded_value(name)]
        if any(len(records[name]) != len(records["step"]) for name in per_step):
            raise ValueError("its arrays are of different lengths")
        if any(records[name].dtype.kind not in "fiu" or 0 in records[name].shape[1:] for name in per_step):
            raise ValueError("its arrays are not of numbers")
    except Exception as error:  # a damaged file may raise any
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is damaged ({reason}): put back a whole copy, or remove it.") from error
    return records


def _is_recorded_value(name: str) -> bool:
    return name.partition("_")[0] in ("norm", "cosine", *REPORTED, "cross")


def _stacked(records: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Recorded values by name, with the records along the first axis; NaN where a record lacks a value."""
    shapes = {name: values.shape for record in records for name, values in record.items()}
    return {
        name: np.stack([record.get(name, np.full(shape, np.nan, dtype=np.float32)) for record in records])
        for name, shape in shapes.items()
    }
