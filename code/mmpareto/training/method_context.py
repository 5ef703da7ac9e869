"""Training context for methods that need more than losses and outputs (`integration.hooks`)."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mmpareto.data.loading.batches import Batch, EpochOrder, sharded_batches, stop_workers, to_device
from mmpareto.data.loading.samples import PreparedDataset
from mmpareto.errors import InputError
from mmpareto.integration.hooks import Trial
from mmpareto.integration.objectives import JOINT
from mmpareto.models.network import MultimodalNetwork, Outputs
from mmpareto.training import devices
from mmpareto.training.data import Data, hold_out, open_loader, open_split, training_order
from mmpareto.training.distributed import SINGLE_PROCESS, Processes
from mmpareto.training.evaluation import gather_predictions, predict
from mmpareto.training.losses import loss_of, losses
from mmpareto.training.optimisation import make_optimizer, set_learning_rate
from mmpareto.training.settings import Settings
from mmpareto.training.trained_networks import load_frozen


class MethodContext:
    """The `integration.hooks.TrainingContext` of a training run; its members are documented there.

    Arguments:
        settings, data: of the run.
        network: the network that is trained, on `device`.
        gpu_ids: the GPUs that share a batch.
        check: called after every batch; an exception from it ends the method's request and the run.
        processes: the group of processes that train together. Results are over all samples, and equal in all of them.
    """

    def __init__(
        self,
        settings: Settings,
        data: Data,
        network: MultimodalNetwork,
        device: torch.device,
        gpu_ids: list[int],
        check: Callable[[], None],
        processes: Processes = SINGLE_PROCESS,
    ) -> None:
        self.epoch, self.epochs = 1, settings.epochs
        self.steps = 0  # of the epoch, which the trainer sets
        self.network = network
        self._settings, self._data, self._device, self._gpu_ids, self._check = settings, data, device, gpu_ids, check
        self._processes = processes
        self._precision = devices.Precision(settings.amp, device)
        self._model = devices.wrap_model(network, gpu_ids, compiled=settings.compile)

    def eval_forward(
        self, inputs: Mapping[str, Tensor], graph: bool = False, network: MultimodalNetwork | None = None
    ) -> Outputs:
        """The network's outputs in evaluation mode; activations of a pass with a graph are kept, not recomputed."""
        if network is not None:
            with torch.no_grad(), self._precision.autocast():
                return network(inputs)
        was_training, recompute = self.network.training, self.network.recompute
        self.network.eval()
        # A recomputation would be in the mode that the network has in the backward pass, that of training.
        self.network.recompute = recompute and not graph
        try:
            with torch.set_grad_enabled(graph), self._precision.autocast():
                return self._model(inputs)
        finally:
            self.network.train(was_training)
            self.network.recompute = recompute

    def load_network(self, path: str) -> MultimodalNetwork:
        """A trained network in a run's folder (its best.pt) or a checkpoint; see `trained_networks`."""
        network = load_frozen(Path(path), self._settings, self._data.train).to(self._device)
        if self._settings.channels_last:
            network.to_channels_last()
        return network

    def features(self, share: float, samples: str = "training") -> Iterator[tuple[Mapping[str, Tensor], Tensor]]:
        """Features and labels of a share of the samples; which, differs per epoch."""
        data = self._data
        dataset = {"training": data.train_fixed, "augmented": data.train, "validation": data.val}[samples]
        if dataset is None:
            raise InputError("it needs a validation set, and --protocol paper has none: use --protocol validation")
        return self._features(share, dataset)

    def _features(self, share: float, dataset: PreparedDataset) -> Iterator[tuple[Mapping[str, Tensor], Tensor]]:
        for batch, samples in self._batches(dataset, self._part(share, len(dataset))):
            features = self.eval_forward(batch.inputs).features
            gathered = {name: self._processes.all_gather(values, samples) for name, values in features.items()}
            yield gathered, self._processes.all_gather(batch.labels, samples)
            self._check()

    def indices(self, share: float) -> Tensor:
        """Indices of the training samples of `features(share)`, in their order."""
        return torch.tensor([index for _, index, *_ in self._part(share, len(self._data.train))])

    def _part(self, share: float, samples: int) -> EpochOrder:
        """The order of a share of the samples, the last ones of the epoch's order."""
        order = EpochOrder(samples, self._settings.random_seed)
        order.set_epoch(self.epoch, start=samples - max(1, round(share * samples)))
        return order

    def cluster(self, features: Tensor, count: int) -> Tensor:
        """Clusters by scikit-learn, from one start, on rank 0: the others receive them, not a sum in another order."""
        from sklearn.cluster import KMeans  # here, because the import takes more than a second

        seed = self._settings.random_seed % 2**32
        kmeans = KMeans(count, n_init=1, random_state=seed)
        return self._processes.run_on_rank0(lambda: torch.from_numpy(kmeans.fit_predict(features.numpy())).long())

    def trial(self, loss: str, epochs: int) -> Trial:
        """Losses before and after training a copy on one loss; validates on the run's set, or on held-out clips."""
        train, train_fixed, validation = self._trial_data()
        network = copy.deepcopy(self.network)
        model = devices.wrap_model(network, self._gpu_ids, compiled=self._settings.compile)
        precision = devices.Precision(self._settings.amp, self._device)
        optimizer = make_optimizer(self._settings, network)
        order = training_order(self._settings, len(train))
        steps = math.ceil(order.used / self._settings.batch_size)
        with torch.random.fork_rng(self._gpu_ids):  # the run's random numbers are those without the trial
            before = [self._mean_loss(model, dataset, loss) for dataset in (train_fixed, validation)]
            for epoch in range(self.epoch, self.epoch + epochs):
                order.set_epoch(epoch)
                model.train()
                for step, (batch, samples) in enumerate(self._batches(train, order)):
                    set_learning_rate(optimizer, self._settings, epoch, step, steps)
                    with precision.autocast():
                        outputs = model(batch.inputs)
                        joint, unimodal = losses(outputs, batch.labels, len(batch.labels) / samples)
                    chosen = joint if loss == JOINT else unimodal[loss]
                    assert chosen is not None  # no method that asks for trials has several tasks
                    precision.scaler.scale(chosen).backward()
                    self._processes.all_reduce_gradients(network)
                    precision.step(optimizer, self._settings.clip_grad)
                    optimizer.zero_grad(set_to_none=True)
                    self._check()
            after = [self._mean_loss(model, dataset, loss) for dataset in (train_fixed, validation)]
        return Trial(before[0], after[0], before[1], after[1])

    def _trial_data(self) -> tuple[PreparedDataset, PreparedDataset, PreparedDataset]:
        """Training set of a trial, with and without augmentation, and its validation set."""
        data = self._data
        if data.val is not None:
            return data.train, data.train_fixed, data.val
        kept, held_out = hold_out(data.train.labels, self._settings)  # the papers' protocol has no validation set
        modalities = list(data.train.sources)

        def part(training: bool, subset: list[int]) -> PreparedDataset:
            return open_split(self._settings, "train", modalities, training=training, subset=subset)

        return part(True, kept), part(False, kept), part(False, held_out)

    def _mean_loss(self, model: nn.Module, dataset: PreparedDataset, loss: str) -> float:
        loader = open_loader(self._settings, self._device, dataset, processes=self._processes)
        check = self._processes.collective_check(self._check, len(dataset), self._settings.batch_size)
        try:
            predictions = predict(model, loader, self._device, dataset.normalisation, self._precision, check)
        finally:
            stop_workers(loader)
        predictions = gather_predictions(predictions, self._processes, len(dataset))
        return loss_of(predictions.logits["" if loss == JOINT else loss], predictions.labels).item()

    def _batches(self, dataset: PreparedDataset, order: EpochOrder) -> Iterator[tuple[Batch, int]]:
        """This process's share of every batch, on the device, and the size of the whole batch."""
        loader = open_loader(self._settings, self._device, dataset, order, self._processes)
        try:
            for batch, samples in sharded_batches(loader, len(order), self._settings.batch_size, self._processes.share):
                yield to_device(batch, self._device, dataset.normalisation), samples
        finally:
            stop_workers(loader)
