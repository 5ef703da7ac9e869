"""Callbacks of a training loop, for methods that need more than the losses and outputs of a step."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from torch import Tensor


class Trial(NamedTuple):
    """Losses of a copy of the model before and after training it on one loss alone; means over the samples."""

    train_before: float
    train_after: float
    validation_before: float
    validation_after: float


class TrainingContext(Protocol):
    """The part of a training loop that a method may use."""

    @property
    def epoch(self) -> int:
        """The current epoch, from 1."""

    @property
    def epochs(self) -> int:
        """The number of epochs of the run."""

    @property
    def steps(self) -> int:
        """The number of steps (batches) of the current epoch."""

    @property
    def network(self) -> Any:
        """The model in training; `network.modalities` are the names of its modalities."""

    def eval_forward(self, inputs: Mapping[str, Tensor], graph: bool = False, network: Any = None) -> Any:
        """Run the model in evaluation mode, without a graph unless `graph` is true, and return its outputs.

        Arguments:
            network: one of `load_network`, to run in place of the model in training; never with a graph.
        """

    def load_network(self, path: str) -> Any:
        """Return the trained network in a run's folder or a checkpoint, frozen, in evaluation mode, on the device.

        Its `modalities` are the names of its inputs, and `encoders` maps them to its encoders.

        Raises:
            ValueError: there is none, or it was trained on another data set, other classes or other inputs.
        """

    def features(self, share: float, samples: str = "training") -> Iterable[tuple[Mapping[str, Tensor], Tensor]]:
        """Return batches of ({modality: feature (B, F)}, labels (B,)) of a share of the samples, computed on demand.

        Features are computed in evaluation mode, without a graph, and stay on the device. Seed and epoch determine
        which samples are chosen.

        Arguments:
            samples: "training" for the training set without augmentation, "augmented" for the training set as it is
                trained on, "validation" for the validation set.

        Raises:
            ValueError: the run has no such samples; at the call, not at the first batch.
        """

    def indices(self, share: float) -> Tensor:
        """Return the indices (N,) int64, on the CPU, of the training samples of `features(share)`, in their order."""

    def cluster(self, features: Tensor, count: int) -> Tensor:
        """Return the index of the k-means cluster of every sample, (N,) int64 on the CPU, from features (N, F).

        The run's seed determines them. Every process of a group calls it with the same features and gets the same.
        """

    def trial(self, loss: str, epochs: int) -> Trial:
        """Train a copy of the model on one loss alone ("joint" or a modality); the model itself does not change."""


class Hooks:
    """Optional callbacks and requirements of a method; every callback is a no-op by default.

    In your own loop, call those that the method's docstring names, with an object that has the attributes of
    `TrainingContext` which they use.
    """

    network: Mapping[str, Any] = MappingProxyType({})
    """Arguments of `build_network` that the method requires."""
    modalities: Sequence[str] | None = None
    """The modalities that the method trains; None for all."""
    tasks: Sequence[str] | None = None
    """Of several tasks on one encoder, those that the method trains; None for all."""
    needs_fusion: bool = False
    """Whether the method is defined by a joint prediction of several modalities. If not, it also trains several tasks
    on one encoder, which have no joint loss."""
    absent: str = "feature"
    """How a prediction does without a modality that is absent (`MultimodalNetwork.absent`)."""
    no_interaction: str = ""
    """Why the method needs encoders that exchange nothing inside, a clause without its subject; "" if it does not."""
    needs_classes: bool = False
    """Whether labels must be class indices, because the method reads logits or groups samples by class."""
    needs_labels: bool = False
    """Whether the method reads labels of any kind."""
    trains_copies: bool = False
    """Whether the method trains copies of the model, by `TrainingContext.trial`."""

    resamples: bool = False
    """Whether `copies` may return any."""

    @property
    def needs_whole_batch(self) -> bool:
        """True if `backward` must be given a step's whole batch at once: no micro-batches, one process."""
        return False

    def turns(self, modalities: Sequence[str]) -> list[list[str]]:
        """Return the modalities of each optimiser step that a batch takes: by default, one step with all of them.

        Every turn is a whole step on the same batch: a forward pass with the inputs of its modalities alone, `backward`
        with the losses of what they give, and a step of the optimiser. It moves nothing that these do not reach.

        Arguments:
            modalities: of the model, in order.
        """
        return [list(modalities)]

    def begin_training(self, context: TrainingContext) -> None:
        """Called once per process before the first step, after the state has been loaded."""

    def begin_epoch(self, context: TrainingContext) -> None:
        """Called before the first step of an epoch."""

    def copies(self) -> Mapping[str, Tensor]:
        """Return further samples of the current epoch: modality → indices (N,) int64 of training samples.

        A copy is shuffled in among the samples, and has zeros in place of the features of all other modalities. An
        index may occur several times. Called after `begin_epoch`, and when a run is resumed within an epoch: keep them
        in `memory`.
        """
        return {}

    def renews_optimizer(self, context: TrainingContext) -> bool:
        """Return whether the epoch begins with a new optimiser, without momentum; called after `begin_epoch`."""
        return False

    def before_forward(self, context: TrainingContext, inputs: Mapping[str, Tensor], labels: Tensor) -> dict[str, Any]:
        """Called before each forward pass, with tensors on the device; return keyword arguments for that pass."""
        return {}

    def end_epoch(self, context: TrainingContext) -> None:
        """Called after an epoch and its evaluation.

        Change the state last: an interrupted call is repeated when the run is resumed.
        """
