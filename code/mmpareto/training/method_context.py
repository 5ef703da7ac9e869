"""What the training loop offers to the methods that need more than losses and outputs (`integration.hooks.Loop`)."""

import copy
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from mmpareto.data.loading.batches import Batch, EpochOrder, sharded_batches, stop_workers, to_device
from mmpareto.data.loading.samples import PreparedDataset
from mmpareto.integration.hooks import Trial
from mmpareto.integration.objectives import JOINT
from mmpareto.models.network import MultimodalNetwork, Outputs
from mmpareto.training import devices
from mmpareto.training.data import Data, hold_out, open_loader, open_split
from mmpareto.training.distributed import ALONE, Processes
from mmpareto.training.evaluation import of_all, predict
from mmpareto.training.losses import loss_of, losses
from mmpareto.training.optimisation import make_optimizer, set_learning_rate
from mmpareto.training.settings import Settings


class MethodContext:
    """The loop as a method sees it; see `integration.hooks.Loop` for what each member is.

    Arguments:
        settings, data, network: of the run; the network is on `device`.
        gpu_ids: the GPUs that share a batch.
        check: called after every batch; what it raises ends what the method asked for, and the run.
        processes: that train together. What is offered is of all samples, and the same in all of them.
    """

    def __init__(
        self,
        settings: Settings,
        data: Data,
        network: MultimodalNetwork,
        device: torch.device,
        gpu_ids: list[int],
        check: Callable[[], None],
        processes: Processes = ALONE,
    ) -> None:
        self.epoch, self.epochs = 1, settings.epochs
        self.network = network
        self._settings, self._data, self._device, self._gpu_ids, self._check = settings, data, device, gpu_ids, check
        self._processes = processes
        self._precision = devices.Precision(settings.amp, device)
        self._model = devices.runnable(network, gpu_ids, compiled=settings.compile)

    @torch.no_grad()
    def eval_forward(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """The network's outputs in evaluation mode, without a graph."""
        was_training = self.network.training
        self.network.eval()
        try:
            with self._precision.autocast():
                return self._model(inputs)
        finally:
            self.network.train(was_training)

    def features(self, share: float) -> Iterator[tuple[Mapping[str, Tensor], Tensor]]:
        """Features of a share of the training set, drawn anew an epoch, read without augmentation."""
        dataset = self._data.train_fixed
        order = EpochOrder(len(dataset), self._settings.random_seed)
        order.set_epoch(self.epoch, start=len(dataset) - max(1, round(share * len(dataset))))
        for batch, samples in self._batches(dataset, order):
            own = self.eval_forward(batch.inputs).features
            features = {name: self._processes.gathered(values, samples) for name, values in own.items()}
            yield features, self._processes.gathered(batch.labels, samples)
            self._check()

    def trial(self, loss: str, epochs: int) -> Trial:
        """Train a copy on one loss alone. What is held out is the run's validation set, or part of its training set."""
        train, train_fixed, validation = self._trial_parts()
        network = copy.deepcopy(self.network)
        model = devices.runnable(network, self._gpu_ids, compiled=self._settings.compile)
        precision = devices.Precision(self._settings.amp, self._device)
        optimizer = make_optimizer(self._settings, network)
        order = EpochOrder(len(train), self._settings.random_seed)
        with torch.random.fork_rng(self._gpu_ids):  # the run draws what it would have drawn without the trial
            before = [self._mean_loss(model, part, loss) for part in (train_fixed, validation)]
            for epoch in range(self.epoch, self.epoch + epochs):
                set_learning_rate(optimizer, self._settings, epoch)
                order.set_epoch(epoch)
                model.train()
                for batch, samples in self._batches(train, order):
                    with precision.autocast():
                        chosen = _chosen(loss, model(batch.inputs), batch.labels, len(batch.labels) / samples)
                    precision.scaler.scale(chosen).backward()
                    self._processes.sum_gradients(network)
                    precision.step(optimizer, self._settings.clip_grad)
                    optimizer.zero_grad(set_to_none=True)
                    self._check()
            after = [self._mean_loss(model, part, loss) for part in (train_fixed, validation)]
        return Trial(before[0], after[0], before[1], after[1])

    def _trial_parts(self) -> tuple[PreparedDataset, PreparedDataset, PreparedDataset]:
        data = self._data
        if data.val is not None:
            return data.train, data.train_fixed, data.val
        kept, held_out = hold_out(data.train.labels, self._settings)  # the papers' protocol trains on everything
        modalities = list(data.train.sources)

        def part(training: bool, subset: list[int]) -> PreparedDataset:
            return open_split(self._settings, "train", modalities, training=training, subset=subset)

        return part(True, kept), part(False, kept), part(False, held_out)

    def _mean_loss(self, model: nn.Module, dataset: PreparedDataset, loss: str) -> float:
        loader = open_loader(self._settings, self._device, dataset, processes=self._processes)
        check = self._processes.checking(self._check, len(dataset), self._settings.batch_size)
        try:
            found = predict(model, loader, self._device, dataset.normalisation, self._precision, check)
        finally:
            stop_workers(loader)
        found = of_all(found, self._processes, len(dataset))
        return loss_of(found.logits["" if loss == JOINT else loss], found.labels).item()

    def _batches(self, dataset: PreparedDataset, order: EpochOrder) -> Iterator[tuple[Batch, int]]:
        """This process's share of every batch, on the device, and the samples of the whole."""
        loader = open_loader(self._settings, self._device, dataset, order, self._processes)
        try:
            for batch, samples in sharded_batches(loader, len(order), self._settings.batch_size, self._processes.share):
                yield to_device(batch, self._device, dataset.normalisation), samples
        finally:
            stop_workers(loader)


def _chosen(loss: str, outputs: Outputs, labels: Tensor, share: float) -> Tensor:
    joint, unimodal = losses(outputs, labels, share)
    return joint if loss == JOINT else unimodal[loss]
