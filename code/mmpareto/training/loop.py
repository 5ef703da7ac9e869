"""The one loop.

The way of one batch, in `Trainer.step`: inputs → outputs → losses → the method's gradients → the optimiser.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from mmpareto.data import DATASETS
from mmpareto.data.loading.batches import Batch, EpochOrder, sharded_batches, to_device
from mmpareto.data.loading.samples import PreparedDataset
from mmpareto.errors import InputError
from mmpareto.integration.method import Method
from mmpareto.integration.reduction import SumOver
from mmpareto.integration.report import Report
from mmpareto.models.network import MultimodalNetwork
from mmpareto.progress import progress
from mmpareto.training import devices
from mmpareto.training.checkpoints import save_checkpoint
from mmpareto.training.data import Data, Loaders
from mmpareto.training.distributed import ALONE, Processes
from mmpareto.training.epoch_line import epoch_text, write_scalars
from mmpareto.training.evaluation import Predictions, extra_metrics, figures, of_all, predict
from mmpareto.training.losses import losses
from mmpareto.training.meters import FiniteWatch, Meter, NonFiniteError, Waiting, report_metrics
from mmpareto.training.method_context import MethodContext
from mmpareto.training.optimisation import learning_rate, make_optimizer, set_learning_rate
from mmpareto.training.recorder import GradientRecorder
from mmpareto.training.run_folder import BEST, LAST, write_metrics
from mmpareto.training.settings import Settings
from mmpareto.training.step import figures_of, micro_batches, part_count
from mmpareto.training.stop import Stopped, StopSignals


class Trainer:
    """Trains a network by a method, and can be stopped after any step and resumed as if it had not been.

    What a step computes depends on the state that `last.pt` holds and on nothing else: order and augmentation are
    functions of (seed, epoch, index).

    Arguments:
        settings: of the run.
        data: its data.
        network: on `device`; its weights are trained in place.
        method: the way in which the losses' gradients become one.
        device, gpu_ids: where it computes.
        identity: what every checkpoint says of the network and its input.
        processes: that train together, each on its share of every batch.

    Attributes:
        folder: the run's folder; to be set before anything is written.
    """

    folder: Path

    def __init__(
        self,
        settings: Settings,
        data: Data,
        network: MultimodalNetwork,
        method: Method,
        device: torch.device,
        gpu_ids: list[int],
        identity: dict[str, Any],
        processes: Processes = ALONE,
    ) -> None:
        self.settings, self.data, self.network, self.method = settings, data, network, method
        self.device, self.identity, self.processes = device, identity, processes
        self.model = devices.runnable(network, gpu_ids, compiled=settings.compile)
        self.precision = devices.Precision(settings.amp, device)
        self.optimizer = make_optimizer(settings, network)
        self.order = EpochOrder(len(data.train), settings.random_seed)
        self.loaders = Loaders(settings, device, processes)
        self.loader = self.loaders.of(data.train, self.order)
        self.watch = FiniteWatch(self.precision.SMALLEST_SCALE)
        self.signals = StopSignals(processes.largest if processes.together else None)
        self.offered = MethodContext(settings, data, network, device, gpu_ids, self.signals.check, processes)
        self.method.over = SumOver() if processes.together else None
        self.recorder = GradientRecorder(settings, len(data.train), network, method)
        # Where the run stands; all of it is in `last.pt`.
        self.epoch, self.steps, self.seconds, self.waiting = 1, 0, 0.0, Waiting()
        self.meter = Meter()
        self.history: list[dict[str, Any]] = []

    def step(self, batch: Batch, samples: int | None = None) -> dict[str, torch.Tensor]:
        """One step on one batch; the figures that it gives, () each, left on the device.

        Arguments:
            batch: this process's share of it.
            samples: in the whole batch, where `batch` is not all of it.
        """
        scale, samples = self.precision.scale(), len(batch.labels) if samples is None else samples
        count = part_count(samples, self.settings.batch_size, self.settings.accumulate)
        parts = micro_batches(batch, min(count, -(-samples // self.processes.share.count)))  # alike in all processes
        seen: dict[str, torch.Tensor] = {}
        for number, part in enumerate(parts, start=1):
            with contextlib.nullcontext() if number == len(parts) else self.method.accumulate():
                report, figures = self._backward(part, number, len(part.labels) / samples, scale)
            seen = {name: seen[name] + value if name in seen else value for name, value in figures.items()}
        self.recorder.keep(report)
        self.precision.step(self.optimizer, self.settings.clip_grad)
        self.optimizer.zero_grad(set_to_none=True)

        self.steps += 1
        self.watch.see(self.epoch, self.steps, report, scale)
        return self.processes.summed(seen) | report_metrics(report)

    def _backward(
        self, batch: Batch, number: int, share: float, scale: torch.Tensor | None
    ) -> tuple[Report, dict[str, torch.Tensor]]:
        """Both passes over the step's `number`th part, a share of its samples: the method's report, and train_…."""
        asked = self.method.before_forward(self.offered, batch.inputs, batch.labels)
        own_random = self.processes.own_random(self.device, self.settings.random_seed, self.epoch, self.steps, number)
        with self.precision.autocast():
            with own_random:
                outputs = self.model(batch.inputs, **asked)
            found = losses(outputs, batch.labels, share)
        self.processes.share_buffers(self.network, len(batch.labels))
        self.recorder.measure(self.epoch, self.steps + 1, found.joint, found.unimodal, scale)
        try:
            report = self.method.backward(
                found.joint,
                found.unimodal,
                encoders=dict(self.network.encoders.items()),
                outputs=outputs,
                labels=batch.labels,
                scale=scale,
                interaction=self.network.interaction,
            )
        except ValueError as error:
            raise InputError(f"--method {self.settings.method}: {error}.") from error
        return report, figures_of(outputs, found, batch.labels, share, heads=self.heads_trained)

    @property
    def heads_trained(self) -> bool:
        """Whether the unimodal predictions are the method's work: of heads that it trains now, or of the fusion."""
        return self.method.descends_unimodal or not self.network.heads

    def fit(self) -> list[dict[str, Any]]:
        """Train from where the run stands to its last epoch; the history, a line an epoch.

        Raises:
            Stopped: by a signal; `last.pt` holds the run as it stood.
            NonFiniteError: a loss or gradient is NaN or infinite; `last.pt` is the last one before.
        """
        path = self.settings.tensorboard_path or self.folder
        shown = self.settings.use_tensorboard and self.processes.first
        board = SummaryWriter(path, purge_step=self.epoch) if shown else None
        with self.signals:
            try:
                while self.epoch <= self.settings.epochs:
                    self._train_epoch()
                    line = self._evaluate_epoch()
                    if board is not None:
                        write_scalars(board, line)  # before the checkpoint: a resumed run purges what it repeats
                    self._finish_epoch(line)
                    print(epoch_text(line, self.settings.epochs, self.network.modalities), flush=True)
                    self.signals.check()
            except Stopped:
                self.watch.read()
                self.save()
                raise
            finally:
                if board is not None:
                    board.close()
        return self.history

    def begin_epoch(self) -> None:
        """Make everything ready for the epoch's first step, or for that after which the run was stopped."""
        set_learning_rate(self.optimizer, self.settings, self.epoch)
        self.offered.epoch = self.epoch
        if self.steps == 0:
            self.method.begin_epoch(self.offered)
        # What the method does not train stays as it is: weight decay would shrink the weights of a zero gradient.
        before = [p.requires_grad for p in self.network.parameters()]
        self.network.train_parts(joint=self.method.descends_joint, unimodal=self.method.descends_unimodal)
        if self.settings.compile and before != [p.requires_grad for p in self.network.parameters()]:
            torch.compiler.reset()  # compiled programs don't notice
        self.order.set_epoch(self.epoch, start=min(self.steps * self.settings.batch_size, len(self.data.train)))
        self.model.train()

    def _train_epoch(self) -> None:
        self.begin_epoch()
        read_every = 1 if self.device.type == "cpu" else self.watch.every  # reading waits for a GPU
        begin, before = time.monotonic(), self.seconds
        with progress(
            total=len(self.data.train),
            initial=self.meter.weight,
            desc=f"epoch {self.epoch}/{self.settings.epochs}",
            unit=" samples",
            leave=False,
            disable=None if self.processes.first else True,  # in a log (None), the line an epoch must do
        ) as bar:
            for batch, samples in self._batches():
                values = self.step(batch, samples)
                self.meter.add(values, weight=samples)
                self.seconds = before + time.monotonic() - begin
                bar.update(samples)
                if self.steps % read_every == 0:
                    means = self.meter.means()
                    bar.set_postfix(loss=f"{means['train_loss']:.3f}", acc=f"{means['train_acc']:.3f}", refresh=False)
                self.signals.check()
        self.watch.read()  # waits for a GPU, so that the time is the whole epoch's
        self.seconds = before + time.monotonic() - begin

    def _evaluate_epoch(self) -> dict[str, Any]:
        """The epoch's line of metrics.jsonl.

        Raises:
            NonFiniteError: a loss is NaN or infinite.
        """
        line: dict[str, Any] = {
            "epoch": self.epoch,
            "seconds": round(self.seconds, 3),
            "samples_per_second": round(self.meter.weight / max(self.seconds, 1e-9), 2),
            "data_wait": round(self.waiting.seconds / max(self.seconds, 1e-9), 4),
            "learning_rate": learning_rate(self.settings, self.epoch),
        }
        try:
            line |= self._figures(self.predict(self.data.test), self.data.test)
            if self.data.val is not None:
                line |= self._figures(self.predict(self.data.val), self.data.val, "val_")
        except NonFiniteError as error:
            raise NonFiniteError(f"epoch {self.epoch}, after step {self.steps}: {error}") from None
        means = self.meter.means()
        return line | {key: value if math.isfinite(value) else None for key, value in means.items()}

    def _finish_epoch(self, line: dict[str, Any]) -> None:
        """Keep the epoch: the method's part, history, checkpoints, metrics.jsonl."""
        self.method.end_epoch(self.offered)
        chosen_by, note = ("val_acc", "validation") if self.data.val is not None else ("acc", "test (papers' protocol)")
        better = all(line[chosen_by] > old[chosen_by] for old in self.history)
        self.history.append(line)
        if better:
            content = {
                "model": self.network.state_dict(),
                "heads_trained": self.heads_trained,
                "epoch": self.epoch,
                "selected_on": note,
            }
            if self.processes.first:
                save_checkpoint(self.folder / BEST, self.identity | content)
        self.epoch, self.steps, self.seconds, self.waiting = self.epoch + 1, 0, 0.0, Waiting()
        self.meter = Meter()
        self.save()
        if self.processes.first:
            write_metrics(self.folder, self.history)

    def predict(self, dataset: Any) -> Predictions:
        """The network's outputs on a data set read without augmentation."""
        loader = self.loaders.of(dataset)
        check = self.processes.checking(self.signals.check, len(dataset), self.settings.batch_size)
        own = predict(self.model, loader, self.device, dataset.normalisation, self.precision, check)
        return of_all(own, self.processes, len(dataset))

    def save(self) -> None:
        """Write last.pt: everything that the rest of the run depends on. The first process does; the others wait."""
        if self.processes.first:
            self._save()
        self.processes.wait()

    def _save(self) -> None:
        content = {
            "model": self.network.state_dict(),
            "heads_trained": self.heads_trained,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            "method_state": self.method.state_dict(),
            "random_state": devices.random_state(),
            "epoch": self.epoch,
            "steps": self.steps,
            "seconds": self.seconds,
            "waited": self.waiting.seconds,
            "meter": self.meter.state_dict(),
            "history": self.history,
            "selected_on": "last",
        }
        self.recorder.write(self.folder)  # first: what is beyond last.pt, a resumed run drops
        save_checkpoint(self.folder / LAST, self.identity | content)

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Take up the run where `last.pt` holds it (its weights are in the network already)."""
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.precision.scaler.load_state_dict(checkpoint["scaler"])
        self.method.load_state_dict(checkpoint["method_state"])
        devices.set_random_state(checkpoint["random_state"], self.device if self.processes.together else None)
        self.epoch, self.steps, self.seconds = (checkpoint[name] for name in ("epoch", "steps", "seconds"))
        self.waiting.seconds = checkpoint["waited"]
        self.meter.load_state_dict(checkpoint["meter"], self.device)
        self.history = checkpoint["history"]

    def _figures(self, predictions: Predictions, dataset: PreparedDataset, prefix: str = "") -> dict[str, Any]:
        """Figures of every head; None for the unimodal heads that the method does not train."""
        further = DATASETS[self.settings.dataset].extra_metrics
        found = figures(predictions, prefix) | extra_metrics(predictions, further, dataset.scores, prefix)
        if not self.heads_trained:
            found |= {key: None for key in found if any(key.endswith(f"_{m}") for m in self.network.modalities)}
        return found

    def _batches(self) -> Iterator[tuple[Batch, int]]:
        """This process's share of every batch of the epoch, on the device, and the samples of the whole."""
        loaded, share = self.waiting.of(self.loader), self.processes.share
        for batch, samples in sharded_batches(loaded, len(self.order), self.settings.batch_size, share):
            yield to_device(batch, self.device, self.data.train.normalisation), samples
