"""The training loop.

Path of a batch, in `Trainer.step`: inputs → outputs → losses → the method's gradients → the optimiser.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from mmpareto.data.loading.batches import Batch, sharded_batches, to_device
from mmpareto.data.loading.samples import PreparedDataset
from mmpareto.errors import InputError
from mmpareto.integration.method import Method
from mmpareto.integration.reduction import SumReducer
from mmpareto.integration.report import Report
from mmpareto.models.network import MultimodalNetwork
from mmpareto.progress import progress
from mmpareto.training import devices
from mmpareto.training.checkpoints import save_checkpoint
from mmpareto.training.data import Data, Loaders, training_order, used_samples
from mmpareto.training.distributed import SINGLE_PROCESS, Processes
from mmpareto.training.epoch_line import epoch_text, tagged
from mmpareto.training.evaluation import Predictions, gather_predictions, predict
from mmpareto.training.loggers import Loggers
from mmpareto.training.losses import loss_of, micro_batch_count, split_batch
from mmpareto.training.meters import FiniteMonitor, Meter, NonFiniteError, WaitTimer, mean_of_each, report_metrics
from mmpareto.training.method_context import MethodContext
from mmpareto.training.metrics import best_line
from mmpareto.training.objective import OBJECTIVES, Objective
from mmpareto.training.optimisation import (
    learning_rate,
    load_optimizer_state,
    make_optimizer,
    schedule_factor,
    set_learning_rate,
)
from mmpareto.training.probe import probe_entries, probe_samples
from mmpareto.training.recorder import GradientRecorder
from mmpareto.training.run_folder import BEST, LAST, write_metrics
from mmpareto.training.settings import Settings
from mmpareto.training.stop import Stopped, StopSignals

NO_LOGGER = Loggers([])


class Trainer:
    """Trains a network by a method. A run may be stopped after any step; resumed, it gives bit-identical results.

    A step depends only on the state in `last.pt`: the order and augmentation of samples are functions of
    (seed, epoch, index).

    Arguments:
        settings: of the run.
        data: of the run.
        network: on `device`; trained in place.
        method: combines the gradients of the losses.
        device, gpu_ids: as returned by `choose_devices`.
        identity: entries of every checkpoint that describe the network and its data.
        processes: the group of processes that train together, each on its share of every batch.

    Attributes:
        folder: the run's folder; set it before `fit`.
        epoch: current epoch, from 1.
        steps, seconds: steps and training time of the current epoch so far.
        history: one dict per finished epoch, the lines of metrics.jsonl.
        earlier_steps: number of steps in all earlier epochs.
        objective: of `--objective`: the inputs and the losses of a step.
    """

    folder: Path
    epoch: int
    steps: int
    seconds: float
    meter: Meter
    wait_timer: WaitTimer

    def __init__(
        self,
        settings: Settings,
        data: Data,
        network: MultimodalNetwork,
        method: Method,
        device: torch.device,
        gpu_ids: list[int],
        identity: dict[str, Any],
        processes: Processes = SINGLE_PROCESS,
    ) -> None:
        self.settings, self.data, self.network, self.method = settings, data, network, method
        self.device, self.identity, self.processes = device, identity, processes
        self.model = devices.wrap_model(network, gpu_ids, compiled=settings.compile)
        self.precision = devices.Precision(settings.amp, device)
        self.objective: Objective = OBJECTIVES[settings.objective](settings, data, processes)
        self.optimizer = make_optimizer(settings, network)
        self.order = training_order(settings, len(data.train))
        self.earlier_steps = 0
        self.loaders = Loaders(settings, device, processes)
        self.loader = self.loaders.get(data.train, self.order)
        self.finite_monitor = FiniteMonitor(self.precision.SMALLEST_SCALE)
        self.signals = StopSignals(processes.all_reduce_max if processes.is_distributed else None)
        self.method_context = MethodContext(settings, data, network, device, gpu_ids, self.signals.check, processes)
        self.method.reduce = SumReducer(same_graph=True) if processes.is_distributed else None
        self.method.loss = loss_of
        self.recorder = GradientRecorder(settings, network, method)
        self.history: list[dict[str, Any]] = []
        self._reset_epoch(1)

    def step(self, batch: Batch, samples: int | None = None) -> dict[str, torch.Tensor]:
        """Train on one batch, in one turn or several (`Hooks.turns`), and return the step's metrics, () each.

        A metric of several turns, such as the loss of the joint prediction from the inputs of a turn, is their mean.

        Arguments:
            batch: this process's share of the batch.
            samples: number of samples in the whole batch, over all processes; None for those of `batch`.
        """
        samples = len(batch.labels) if samples is None else samples
        turns = [batch.only(modalities) for modalities in self.method.turns(self.network.modalities)]
        taken = [self._turn(part, number, samples) for number, part in enumerate(turns)]
        self.recorder.finish_step({name: report for reports, _ in taken for name, report in reports.items()})
        self.steps += 1
        return mean_of_each([metrics for _, metrics in taken])

    def _turn(self, batch: Batch, turn: int, samples: int) -> tuple[Report, dict[str, torch.Tensor]]:
        """One step of the optimiser. Returns the method's report and the metrics, on the device.

        Arguments:
            batch: as of `step`, with the inputs of the turn.
            turn: its number in the step, from 0.
            samples: number of samples in the whole batch, over all processes.
        """
        count = micro_batch_count(samples, self.settings.batch_size, self.settings.accumulate)
        count = min(count, math.ceil(samples / self.processes.world_size))  # the same in every process
        scale = self.precision.scale()
        metrics: dict[str, torch.Tensor] = {}
        for number, micro_batch in enumerate(split_batch(batch, count), start=1):
            with self.method.accumulate() if number < count else contextlib.nullcontext():
                report, more = self._forward_backward(micro_batch, turn * count + number, samples, scale)
            metrics = {name: metrics[name] + value if name in metrics else value for name, value in more.items()}
        for name, encoder in self.network.encoders.items():
            if name not in batch.inputs:  # DataParallel gives it zeros, on which weight decay and momentum would act
                encoder.zero_grad(set_to_none=True)
        self.precision.step(self.optimizer, self.settings.clip_grad)
        self.optimizer.zero_grad(set_to_none=True)
        self.finite_monitor.add(self.epoch, self.steps + 1, report, scale)
        return report, self.processes.all_reduce_sum(metrics) | report_metrics(report, self.network.own_losses)

    def _forward_backward(
        self, batch: Batch, number: int, samples: int, scale: torch.Tensor | None
    ) -> tuple[Report, dict[str, torch.Tensor]]:
        """Forward and backward pass of a micro-batch: the method's report, and the training metrics.

        Arguments:
            batch: the micro-batch.
            number: its number in the step, over all turns, from 1.
            samples: number of samples in the step, over all micro-batches and processes.
            scale: factor of the gradient scaler, if any.
        """
        inputs = self.objective.inputs(batch, samples, self.epoch, self.steps + 1)
        options = self.method.before_forward(self.method_context, inputs, batch.labels)
        options = options | {"alone": batch.alone} if self.order.copies else options
        seeds = self.settings.random_seed, self.epoch, self.steps, number
        with self.precision.autocast():
            with self.processes.per_rank_rng(self.device, *seeds):
                outputs = self.model(inputs, **options)
            joint, unimodal = batch_losses = self.objective.losses(outputs, batch.labels, samples)
        self.processes.average_buffers(self.network, len(batch.labels))
        self.recorder.measure(self.epoch, self.total_steps + 1, joint, unimodal, scale, outputs, batch.labels)
        own_losses = self.network.own_losses
        share = len(batch.labels) / samples
        try:
            report = self.method.backward(
                joint,
                unimodal,
                encoders={name: (encoder, own_losses[name]) for name, encoder in self.network.encoders.items()},
                outputs=outputs,
                labels=batch.labels if self.objective.uses_labels else None,
                scale=scale,
                interaction=self.excludes_cross_terms,
                share=share,
            )
        except ValueError as error:
            raise InputError(f"--method {self.settings.method}: {error}.") from error
        return report, self.objective.training_metrics(
            outputs, batch_losses, batch.labels, share, unimodal=self.trains_unimodal
        )

    @property
    def trains_unimodal(self) -> bool:
        """True if the method trains what the unimodal losses are of: the unimodal heads, or the fusion."""
        return self.method.descends_unimodal or not self.network.heads

    @property
    def excludes_cross_terms(self) -> bool:
        """True if unimodal losses reach other encoders, and an encoder must not learn from those of others."""
        return self.network.interaction and self.settings.cross_terms == "excluded"

    @property
    def heads_trained(self) -> bool:
        """True if the network has unimodal predictions, and what makes them is trained."""
        return self.objective.uses_labels and self.trains_unimodal

    @property
    def total_steps(self) -> int:
        """Number of steps since the run began."""
        return self.earlier_steps + self.steps

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps of the current epoch, or the last one that began."""
        return math.ceil(self.order.used / self.settings.batch_size)

    @property
    def is_finished(self) -> bool:
        """True after the last epoch, or when `--patience` has run out."""
        return self.epoch > self.settings.epochs or self.out_of_patience

    @property
    def out_of_patience(self) -> bool:
        """True if the best epoch on the validation set is `--patience` finished epochs old."""
        finished = self.history[self.settings.best_from_epoch - 1 :]
        if self.settings.patience is None or self.data.val is None or not finished:
            return False
        return finished[-1]["epoch"] - best_line(finished, "val_")["epoch"] >= self.settings.patience

    def fit(self, logger: Loggers = NO_LOGGER) -> list[dict[str, Any]]:
        """Train from the current state to the last epoch, or until `--patience` runs out. Returns the history.

        Arguments:
            logger: for the metrics of every epoch and, with `--log_every`, of steps; on rank 0 only.

        Raises:
            Stopped: on a signal, after the state was saved to `last.pt`.
            NonFiniteError: a loss or gradient is NaN or infinite; the last `last.pt` is from before.
        """
        with self.signals:
            try:
                while not self.is_finished:
                    self._train_epoch(logger)
                    metrics = self._evaluate_epoch()
                    names = dict.fromkeys([*self.network.head_names, *self.network.modalities])
                    tags = tagged(metrics, [*names], self.meter.names)
                    logger.log(tags, "epoch", self.epoch)  # before the checkpoint: a resumed run purges what it repeats
                    self._finish_epoch(metrics)
                    print(epoch_text(metrics, self.settings.epochs, self.network.head_names), flush=True)
                    self.signals.check()
            except Stopped:
                self.finite_monitor.check()
                self.save()
                raise
            except NonFiniteError as error:
                if error.step is not None:
                    self.order.set_epoch(self.epoch, start=(error.step - 1) * self.settings.batch_size)
                    error.blame(self.data.train, itertools.islice(self.order, self.settings.batch_size))
                raise
        return self.history

    def begin_epoch(self) -> None:
        """Prepare for the first step of the epoch, or for the step after which the run was stopped."""
        self.method_context.epoch, self.method_context.steps = self.epoch, self.steps_per_epoch
        if self.steps == 0:
            self.method.begin_epoch(self.method_context)
            if self.method.renews_optimizer(self.method_context):
                self.optimizer = make_optimizer(self.settings, self.network)
        self._set_copies()
        self._set_learning_rate()
        # Freezes what the method does not train: weight decay would shrink weights whose gradient is zero.
        before = [p.requires_grad for p in self.network.parameters()]
        self.network.train_parts(
            joint=self.method.descends_joint,
            unimodal=self.method.descends_unimodal,
            encoders=self.method.trains_encoders,
        )
        if self.settings.compile and before != [p.requires_grad for p in self.network.parameters()]:
            torch.compiler.reset()  # compiled code does not notice the change
        self.order.set_epoch(self.epoch, start=min(self.steps * self.settings.batch_size, self.order.used))
        self.model.train()

    def _set_copies(self) -> None:
        """Add the copies that the method asks for to the epoch's samples."""
        modalities = self.network.modalities
        copies = [
            (i, modalities.index(name)) for name, indices in self.method.copies().items() for i in indices.tolist()
        ]
        self.order.set_copies(copies, used_samples(self.settings, "train", self.order.size + len(copies)))
        self.method_context.steps = self.steps_per_epoch

    def _set_learning_rate(self) -> None:
        set_learning_rate(self.optimizer, self.settings, self.epoch, self.steps, self.steps_per_epoch)

    def _train_epoch(self, logger: Loggers = NO_LOGGER) -> None:
        self.begin_epoch()
        show_every = 1 if self.device.type == "cpu" else self.finite_monitor.every  # showing means waits for a GPU
        start = time.monotonic() - self.seconds
        description = f"epoch {self.epoch}/{self.settings.epochs}"
        with self._bar(self.order.used, description, self.meter.weight) as bar:
            for batch, samples in self._batches():
                self._set_learning_rate()
                metrics = self.step(batch, samples)
                self.meter.add(metrics, weight=samples)
                self._log_step(logger, metrics)
                self.seconds = time.monotonic() - start
                bar.update(samples)
                if self.steps % show_every == 0:
                    means = self.meter.means()
                    shown = {
                        name: f"{means[f'train_{name}']:.3f}" for name in ("loss", "acc") if f"train_{name}" in means
                    }
                    bar.set_postfix(shown, refresh=False)
                self.signals.check()
        self.finite_monitor.check()  # waits for a GPU, so that the time below is the whole epoch's
        self.seconds = time.monotonic() - start

    def _log_step(self, logger: Loggers, metrics: dict[str, torch.Tensor]) -> None:
        """Log the losses of every Nth step of the run, with `--log_every N`; reading them waits for the device."""
        if self.settings.log_every is None or self.total_steps % self.settings.log_every:
            return
        names = {"": "joint"} | {f"_{name}": name for name in self.network.head_names}
        losses = {name: metrics.get(f"train_loss{suffix}") for suffix, name in names.items()}
        values = {f"step/loss/{name}": loss.item() for name, loss in losses.items() if loss is not None}
        logger.log(values | {"step/learning_rate": self.optimizer.param_groups[-1]["lr"]}, "step", self.total_steps)

    def _batches(self) -> Iterator[tuple[Batch, int]]:
        """This process's share of every batch of the epoch, on the device, and the size of the whole batch."""
        batches = self.wait_timer.time(self.loader)
        for batch, samples in sharded_batches(batches, len(self.order), self.settings.batch_size, self.processes.share):
            yield to_device(batch, self.device, self.data.train.normalisation), samples

    def _evaluate_epoch(self) -> dict[str, Any]:
        """The epoch's line of metrics.jsonl.

        Raises:
            NonFiniteError: a loss is NaN or infinite.
        """
        seconds = max(self.seconds, 1e-9)
        metrics: dict[str, Any] = {
            "epoch": self.epoch,
            "seconds": round(self.seconds, 3),
            "samples_per_second": round(self.meter.weight / seconds, 2),
            "data_wait": round(self.wait_timer.seconds / seconds, 4),
            "learning_rate": learning_rate(self.settings, self.epoch, 0, self.steps_per_epoch),
        }
        if self.settings.encoder_learning_rate is not None:
            factor = schedule_factor(self.settings, self.epoch, 0, self.steps_per_epoch)
            metrics["encoder_learning_rate"] = self.settings.encoder_learning_rate * factor
        try:
            metrics |= self._metrics_on(self.data.test)
            if self.data.val is not None:
                metrics |= self._metrics_on(self.data.val, "val_")
            every = self.settings.probe_every
            if every is not None and self.epoch % every == 0:
                metrics |= self.fit_probes(f"probes of epoch {self.epoch}")["probe_result"]["metrics"]
        except NonFiniteError as error:
            error.args = (f"epoch {self.epoch}, after step {self.steps}: {error}",)
            raise
        means = self.meter.means()
        return metrics | {key: value if math.isfinite(value) else None for key, value in means.items()}

    def _metrics_on(self, dataset: PreparedDataset, prefix: str = "") -> dict[str, Any]:
        """Metrics on a data set; None for the unimodal heads if the method does not train them."""
        predictions = self.predict(dataset)
        try:
            metrics = self.objective.metrics(predictions, dataset, prefix)
        except NonFiniteError as error:
            error.blame(dataset, predictions.nonfinite_rows())
            raise
        if not self.heads_trained:
            suffixes = tuple(f"_{name}" for name in self.network.head_names)
            metrics |= {key: None for key in metrics if key.endswith(suffixes)}
        return metrics

    def predict(self, dataset: PreparedDataset, description: str | None = None) -> Predictions:
        """The network's outputs on a data set that is read without augmentation.

        Arguments:
            description: of the progress bar; None for no bar.
        """
        check = self.processes.collective_check(self.signals.check, len(dataset), self.settings.batch_size)
        loader = self.loaders.get(dataset)
        with self._bar(len(dataset), description) as bar:

            def after_batch() -> None:
                bar.update(min(self.settings.batch_size, len(dataset) - bar.n))
                check()

            predictions = predict(self.model, loader, self.device, dataset.normalisation, self.precision, after_batch)
        predictions = gather_predictions(predictions, self.processes, len(dataset))
        return dataclasses.replace(predictions, label_scale=dataset.label_scale)

    def fit_probes(self, description: str) -> dict[str, Any]:
        """Fit linear probes to the present weights, and test them: the entries of a checkpoint (`probe.probe_entries`).

        Arguments:
            description: of the progress bars.
        """
        training = self.data.train_fixed
        return probe_entries(
            self.predict(self._probe_samples, f"{description}, training set"),
            self.predict(self.data.test, f"{description}, test set"),
            self.processes,
            available=len(training),
            n_classes=len(training.classes),
            joint=not self.objective.uses_labels,
        )

    @functools.cached_property
    def _probe_samples(self) -> PreparedDataset:
        return probe_samples(self.data.train_fixed, self.settings.random_seed)

    def _bar(self, samples: int, description: str | None, initial: int = 0) -> tqdm:
        """A progress bar over samples, on rank 0 and on a terminal only: a log has lines of its own."""
        hidden = description is None or not self.processes.is_rank0
        return progress(
            total=samples,
            initial=initial,
            desc=description,
            unit=" samples",
            leave=False,
            disable=True if hidden else None,  # None: unless it is a terminal
        )

    def _finish_epoch(self, metrics: dict[str, Any]) -> None:
        """End the epoch for the method, extend the history, write checkpoints and metrics.jsonl."""
        self.method.end_epoch(self.method_context)
        prefix, note = ("val_", "validation") if self.data.val is not None else ("", "test (papers' protocol)")
        first = min(self.settings.best_from_epoch, self.settings.epochs)
        is_best = self.epoch >= first and best_line([*self.history[first - 1 :], metrics], prefix) is metrics
        self.history.append(metrics)
        if is_best and self.processes.is_rank0:
            save_checkpoint(self.folder / BEST, self._weights() | {"epoch": self.epoch, "selected_on": note})
        self.earlier_steps += self.steps
        self._reset_epoch(self.epoch + 1)
        self.save()
        if self.processes.is_rank0:
            write_metrics(self.folder, self.history)

    def _reset_epoch(self, epoch: int) -> None:
        self.epoch, self.steps, self.seconds = epoch, 0, 0.0
        self.meter, self.wait_timer = Meter(), WaitTimer()

    def save(self) -> None:
        """Write last.pt, on rank 0; the other processes wait."""
        if self.processes.is_rank0:
            self.recorder.write(self.folder)  # first: a resumed run drops records from after last.pt
            save_checkpoint(self.folder / LAST, self._weights() | self.state_dict() | {"selected_on": "last"})
        self.processes.barrier()

    def _weights(self) -> dict[str, Any]:
        """The entries that all checkpoints share."""
        return {**self.identity, "model": self.network.state_dict(), "heads_trained": self.heads_trained}

    def state_dict(self) -> dict[str, Any]:
        """Everything besides the network's weights that the rest of the run depends on."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            "method_state": self.method.state_dict(),
            "random_state": devices.get_rng_state(),
            "epoch": self.epoch,
            "steps": self.steps,
            "earlier_steps": self.earlier_steps,
            "seconds": self.seconds,
            "waited": self.wait_timer.seconds,
            "meter": self.meter.state_dict(),
            "history": self.history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`, or a whole last.pt; does not load the network's weights."""
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.precision.scaler.load_state_dict(state["scaler"])
        self.method.load_state_dict(state["method_state"])
        devices.set_rng_state(state["random_state"], self.device if self.processes.is_distributed else None)
        self.epoch, self.steps, self.seconds = (state[name] for name in ("epoch", "steps", "seconds"))
        whole_epochs = (self.epoch - 1) * self.steps_per_epoch  # all alike in runs that did not record their number
        self.earlier_steps = state.get("earlier_steps", whole_epochs)
        self.wait_timer.seconds = state["waited"]
        self.meter.load_state_dict(state["meter"], self.device)
        self.history = state["history"]
