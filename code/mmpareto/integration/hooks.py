"""What a training loop offers to a method that needs more than the losses and outputs of a step."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from torch import Tensor


class Trial(NamedTuple):
    """Losses of a copy of the model before and after it was trained on one loss alone; means over the samples."""

    train_before: float
    train_after: float
    validation_before: float
    validation_after: float


class TrainingContext(Protocol):
    """A training loop, as a method sees it."""

    @property
    def epoch(self) -> int:
        """The current epoch, from 1."""

    @property
    def epochs(self) -> int:
        """The number of epochs of the run."""

    @property
    def network(self) -> Any:
        """The model that is trained; `network.modalities` are its modalities' names."""

    def eval_forward(self, inputs: Mapping[str, Tensor]) -> Any:
        """The model's outputs for inputs, in evaluation mode and without a graph."""

    def features(self, share: float) -> Iterable[tuple[Mapping[str, Tensor], Tensor]]:
        """Batches of ({modality: feature (B, F)}, labels (B,)) of a share of the training set, in evaluation mode.

        Without a graph, on the device; which samples follows from the seed and the epoch.
        """

    def trial(self, loss: str, epochs: int) -> Trial:
        """Train a copy of the model on one loss alone ("joint" or a modality) for some epochs; the model stays."""


class Hooks:
    """When the loop calls a method beside `backward`; nothing is done unless a method says so.

    In a loop of your own, call those that the method's docstring names, with an object that has what it uses of
    `TrainingContext`.
    """

    network: Mapping[str, Any] = MappingProxyType({})
    """What it asks of the network: arguments of `build_network`."""
    modalities: Sequence[str] | None = None
    """The modalities that it trains, where not all."""
    needs_classes: bool = False
    """Whether labels must be class indices: it looks at the logits, or at which samples share a class."""

    def begin_training(self, loop: TrainingContext) -> None:
        """Once, before the first step of a process; the state is loaded by then."""

    def begin_epoch(self, loop: TrainingContext) -> None:
        """Before the first step of an epoch."""

    def before_forward(self, loop: TrainingContext, inputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Any]:
        """Before each forward pass, on the device; what it returns goes to the model's forward as keyword arguments."""
        return {}

    def end_epoch(self, loop: TrainingContext) -> None:
        """After an epoch and its evaluation. Change the state last: this may be interrupted, and is then repeated."""
