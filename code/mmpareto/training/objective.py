"""The objective of a run, `--objective`: inputs and losses of a step, and metrics of predictions."""

import abc
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor

from mmpareto.data import DATASETS
from mmpareto.data.loading.batches import Batch
from mmpareto.data.loading.samples import PreparedDataset
from mmpareto.integration.method import Method
from mmpareto.models.network import Outputs
from mmpareto.registry import Registry
from mmpareto.training.data import Data
from mmpareto.training.distributed import SINGLE_PROCESS, Processes
from mmpareto.training.evaluation import Predictions, extra_metrics, head_metrics
from mmpareto.training.losses import Losses, losses, training_metrics
from mmpareto.training.settings import Settings


class Objective(abc.ABC):
    """Base class of objectives.

    Arguments:
        settings, data: of the run.
        processes: that train together.
    """

    uses_labels: ClassVar[bool] = True
    """Whether the losses are those of predictions and labels."""
    network: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Arguments of `build_network` that the objective requires."""
    instead_of_fusion: ClassVar[str | None] = None
    """The part of the network that takes the place of a fusion and its joint logits, for messages."""
    no_interaction: ClassVar[str] = ""
    """Why it needs encoders that exchange nothing inside, a clause without its subject; "" if it does not."""

    def __init__(self, settings: Settings, data: Data, processes: Processes = SINGLE_PROCESS) -> None:
        self.settings, self.processes = settings, processes

    @classmethod  # noqa: B027 (nothing by default)
    def check(cls, settings: Settings, data: Data, method: Method) -> None:
        """Raise InputError if the method or the data do not go with the objective."""

    @abc.abstractmethod
    def inputs(self, batch: Batch, samples: int, epoch: int, step: int) -> dict[str, Tensor]:
        """The network's inputs for a micro-batch, a function of the arguments and of the run's seed.

        Arguments:
            samples: number of samples in the whole batch, over all micro-batches and processes.
            epoch, step: from 1; the step within the epoch.
        """

    @abc.abstractmethod
    def losses(self, outputs: Outputs, labels: Tensor, samples: int) -> Losses:
        """Losses such that their gradients add up, over micro-batches and processes, to those of the whole batch."""

    @abc.abstractmethod
    def training_metrics(
        self, outputs: Outputs, batch_losses: Losses, labels: Tensor, share: float, *, unimodal: bool
    ) -> dict[str, Tensor]:
        """Metrics () of a micro-batch, which add up to the step's; see `losses.training_metrics`."""

    @abc.abstractmethod
    def metrics(self, predictions: Predictions, dataset: PreparedDataset, prefix: str = "") -> dict[str, Any]:
        """Metrics of predictions for a part of the data, by their names in metrics.jsonl.

        Raises:
            NonFiniteError: a loss is NaN or infinite.
        """


class Supervised(Objective):
    """The losses of predictions and labels."""

    def inputs(self, batch: Batch, samples: int, epoch: int, step: int) -> dict[str, Tensor]:
        """The batch's inputs as they are."""
        return batch.inputs

    def losses(self, outputs: Outputs, labels: Tensor, samples: int) -> Losses:
        """See `losses.losses`."""
        return losses(outputs, labels, len(labels) / samples)

    def training_metrics(
        self, outputs: Outputs, batch_losses: Losses, labels: Tensor, share: float, *, unimodal: bool
    ) -> dict[str, Tensor]:
        """Losses and accuracies."""
        return training_metrics(outputs, batch_losses, labels, share, unimodal=unimodal)

    def metrics(self, predictions: Predictions, dataset: PreparedDataset, prefix: str = "") -> dict[str, Any]:
        """Metrics of every head, and those of the data set's own literature."""
        literature = DATASETS[self.settings.dataset].extra_metrics
        return head_metrics(predictions, prefix) | extra_metrics(predictions, literature, dataset.scores, prefix)


OBJECTIVES = Registry(
    "objective",
    {
        "supervised": "mmpareto.training.objective:Supervised",
        "contrastive": "mmpareto.training.contrastive:Contrastive",
    },
)
