"""What the losses' gradients looked like on the way, layer by layer: `--record-gradients N` writes gradients.npz.

Steps 1, N + 1, 2N + 1 … of the run are recorded; the first one shows the freshly initialised network. A layer is a
trainable tensor of an encoder, an objective a loss that the method descends, as it is before the method weighs it. With
R recorded steps, P layers of modality <m>, n objectives, and G and R' groups of the method's report, the file holds

    step, epoch                 (R,) int64, both from 1; steps are counted through the whole run
    modalities, objectives      names; objectives are "joint" and "unimodal", or the one that the method descends
    layers_<m>                  (P,) names of the encoder's trainable tensors
    norm_<objective>_<m>        (R, P) float32: norm of the objective's gradient
    cosine_<m>                  (R, P) float32: between joint and unimodal gradient, 0 where one of them is zero;
                                only where the method descends both
    weights_<m>                 (R, G, n) float32: α  ⎫
    conflict_<m>                (R, G) float32: 0, 1  ⎬ of methods that report on gradients (`EncoderReport`)
    rescale_<m>                 (R, R') float32: λ    ⎭
    dataset, method, seed, every, banner    of the run; every is N, banner what must be said of results on this data

NaN stands where a recorded step lacks what another has: of the objective that a method does not descend at the time.
`numpy.load(…, allow_pickle=False)` reads it.
"""

import dataclasses
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmpareto.data import DATASETS
from mmpareto.errors import InputError
from mmpareto.files import atomic_path
from mmpareto.integration.differentiation import Gradients, differentiate, separate_passes
from mmpareto.integration.linear_algebra import gramians
from mmpareto.integration.method import Method
from mmpareto.integration.objectives import JOINT, Objectives, collect
from mmpareto.integration.report import Report
from mmpareto.models.network import MultimodalNetwork
from mmpareto.training.run_folder import GRADIENTS
from mmpareto.training.settings import Settings

UNIMODAL = "unimodal"
OBJECTIVES = (JOINT, UNIMODAL)
REPORTED = ("weights", "conflict", "rescale")


@dataclasses.dataclass(frozen=True)
class Recorded:
    """One step: its number in the run, its epoch, and figures by the names of gradients.npz."""

    step: int
    epoch: int
    figures: dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Measured:
    """The gradients of one step so far, its number in the run, its epoch, and modality → its objectives' names."""

    step: int
    epoch: int
    objectives: dict[str, list[str]]
    gradients: Gradients


class GradientRecorder:
    """Measures gradients beside the training, which goes on bit by bit as without it.

    Arguments:
        settings, network, method: of the run; without `record_gradients`, nothing is recorded.
        samples: of the training set.
    """

    def __init__(self, settings: Settings, samples: int, network: MultimodalNetwork, method: Method) -> None:
        self._settings, self._network, self._method = settings, network, method
        self._every = settings.record_gradients
        self._steps_an_epoch = math.ceil(samples / settings.batch_size)
        self._layers = {
            modality: {name: p for name, p in encoder.named_parameters() if p.requires_grad}
            for modality, encoder in network.encoders.items()
        }
        self._measured: Measured | None = None
        self._fresh: list[Recorded] = []  # on the device until the file is written: no step waits for it
        self._written: list[tuple[int, int, dict[str, np.ndarray]]] = []

    def measure(
        self, epoch: int, step: int, joint: Tensor, unimodal: Mapping[str, Tensor], scale: Tensor | None
    ) -> None:
        """Take the gradients of this step's losses, whose graph is kept, if the step is to be recorded.

        Called more than once before `keep`, it adds them up: of losses that add up to the step's.

        Arguments:
            epoch, step: from 1; the step within the epoch.
            scale: the factor of a gradient scaler, which no figure bears.
        """
        number = (epoch - 1) * self._steps_an_epoch + step
        if self._every is None or (number - 1) % self._every:
            return
        objectives = self._objectives(joint, unimodal)
        passes = [dataclasses.replace(run, outside=False) for run in separate_passes(objectives)]
        gradients = differentiate(objectives, passes, scale, retain_graph=True)
        if self._measured is not None:
            self._measured.gradients.add_(gradients)
        else:
            names = {modality: encoder.objectives for modality, encoder in objectives.encoders.items()}
            self._measured = Measured(number, epoch, names, gradients)

    def keep(self, report: Report) -> None:
        """Keep what was measured, if anything, and what the method reports of the same step."""
        measured, self._measured = self._measured, None
        if measured is None:
            return
        figures: dict[str, Tensor] = {}
        with torch.no_grad():
            if self._method.reduce is not None:
                parameters = {modality: list(layers.values()) for modality, layers in self._layers.items()}
                self._method.reduce.begin().finish(parameters, measured.gradients)
            for modality, objectives in measured.objectives.items():
                names = [JOINT if name == JOINT else UNIMODAL for name in objectives]
                grams = gramians(measured.gradients.encoders[modality], measured.gradients.scale)
                figures |= layer_figures(modality, names, grams)
        for modality, seen in report.items():
            figures |= {f"{name}_{modality}": getattr(seen, name).float() for name in REPORTED}
        self._fresh.append(Recorded(measured.step, measured.epoch, figures))

    def write(self, folder: Path) -> None:
        """Write all records, if any are asked for, into the run's folder; waits for the device."""
        if self._every is None:
            return
        fresh, self._fresh = self._fresh, []
        for one in fresh:
            self._written.append((one.step, one.epoch, {name: t.cpu().numpy() for name, t in one.figures.items()}))
        steps, epochs = ([record[place] for record in self._written] for place in (0, 1))
        stacked = _stacked([figures for _, _, figures in self._written])
        about: dict[str, Any] = {
            "step": np.array(steps, dtype=np.int64),
            "epoch": np.array(epochs, dtype=np.int64),
            "modalities": np.array(list(self._layers), dtype=np.str_),
            "objectives": np.array(
                [name for name in OBJECTIVES if any(key.startswith(f"norm_{name}_") for key in stacked)], dtype=np.str_
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

    def restore(self, folder: Path, epoch: int, steps: int) -> None:
        """Take up the records of a run that goes on after `steps` steps of `epoch`; later ones are made anew.

        Where the file is not there, recording begins here; its "step" says so.

        Raises:
            InputError: the file is damaged or another run's.
        """
        if self._every is None:
            return
        path = folder / GRADIENTS
        if not path.exists():
            print(f"{path} is not there: the gradients are recorded from here on", flush=True)
            return
        found = read_records(path)
        if list(found["modalities"]) != list(self._layers) or any(
            list(found[f"layers_{modality}"]) != list(layers) for modality, layers in self._layers.items()
        ):
            raise InputError(f"{path} is of another network: remove it, and the gradients are recorded from here on.")
        count = int((found["step"] <= (epoch - 1) * self._steps_an_epoch + steps).sum())
        figures = {name: values for name, values in found.items() if _is_figure(name)}
        self._written = [
            (int(found["step"][row]), int(found["epoch"][row]), {name: v[row] for name, v in figures.items()})
            for row in range(count)
        ]

    def _objectives(self, joint: Tensor, unimodal: Mapping[str, Tensor]) -> Objectives:
        """What the method descends at this time, an encoder's own losses each."""
        own = self._method.descends_unimodal
        objectives = collect(
            joint if self._method.descends_joint else None,
            unimodal if own else {},
            {name: (layers.values(), [name] if own else []) for name, layers in self._layers.items()},
        )
        objectives.interaction = self._network.interaction
        return objectives


def layer_figures(modality: str, objectives: list[str], grams: Tensor) -> dict[str, Tensor]:
    """Norms, and with two objectives cosines, of every layer, (P,) float32 each, by the names of gradients.npz.

    Arguments:
        objectives: the n names of the columns.
        grams: (P, n, n) inner products of the objectives' gradients.
    """
    norms = grams.diagonal(dim1=-2, dim2=-1).sqrt()
    figures = {f"norm_{name}_{modality}": norms[:, place].float() for place, name in enumerate(objectives)}
    if len(objectives) == 2:
        product = norms.prod(-1)
        cosine = torch.where(product == 0, 0.0, grams[:, 0, 1] / product)
        figures[f"cosine_{modality}"] = cosine.clamp(-1, 1).float()  # rounding may lead beyond
    return figures


def read_records(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a gradients.npz, by the names of the module's docstring.

    Raises:
        InputError: it is damaged, or no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        needed = ["step", "epoch", "modalities", "objectives", "dataset", "method", "seed", "every", "banner"]
        needed += [f"layers_{modality}" for modality in found.get("modalities", [])]
        if missing := [name for name in needed if name not in found]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        if any(len(found[name]) != len(found["step"]) for name in found if name == "epoch" or _is_figure(name)):
            raise ValueError("its arrays are of different lengths")
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is damaged ({reason}): put back a whole copy, or remove it.") from error
    return found


def _is_figure(name: str) -> bool:
    return name.partition("_")[0] in ("norm", "cosine", *REPORTED)


def _stacked(records: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Figures by name with the records along the first axis; NaN where a record lacks one."""
    shapes = {name: values.shape for figures in records for name, values in figures.items()}
    return {
        name: np.stack([figures.get(name, np.full(shape, np.nan, dtype=np.float32)) for figures in records])
        for name, shape in shapes.items()
    }
