"""Base class of all methods: one call, `backward`, in place of `loss.backward()`."""

import abc
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmpareto.integration.differentiation import (
    Gradients,
    Pass,
    PassHook,
    differentiate,
    differentiate_per_encoder,
    find_cut,
    separate_passes,
)
from mmpareto.integration.hooks import Hooks
from mmpareto.integration.objectives import Encoders, Objectives, collect
from mmpareto.integration.reduction import SumReducer
from mmpareto.integration.report import EncoderReport, Report


class Method(Hooks, abc.ABC):
    """Combines the gradients of several losses into one gradient per parameter.

    A step calls five functions, which a subclass may override:

        objectives   the losses that are descended, and the ones that each encoder learns from
        statistics   whatever else the method needs of the batch (logits, features, …), as sums over samples
        passes       the losses that are differentiated together
        prepare      once per step, from the statistics: coefficients, and state between steps
        integrate    one encoder: one list of gradients per objective → one list of gradients

    `backward` does the rest: differentiation, `.grad`, gradient accumulation, loss scaling, several processes. A method
    does not wait for the device unless its docstring says so. Non-finite steps never update state, so that a step that
    overflows under fp16 leaves no trace. Callbacks outside `backward` are in `Hooks`.
    """

    source: ClassVar[str] = ""
    """Publication that defines the method."""
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named choices of options, where a method's sources differ; the first one is the default."""
    variant_aliases: ClassVar[Mapping[str, str]] = {}
    """Former names of variants → their names."""
    without_effect: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Option → the values of others with which it has no effect; one that is not listed always has one."""
    refreshable: ClassVar[bool] = False
    """Whether `Refresh` can wrap the method."""
    memory: tuple[str, ...] = ()
    """Attributes kept between steps: tensors, builtins and dicts of them, replaced and never changed in place."""
    descends_joint: bool = True
    """Whether the joint loss is descended; if not, what only it reaches is not trained."""
    descends_unimodal: bool = True
    """Whether the unimodal losses are descended; if not, the unimodal heads are not trained."""

    def __init__(self) -> None:
        self.reduce: SumReducer | None = None
        """Sums gradients over the processes that share a batch; None with one process."""
        self.accumulation = Accumulation()

    @property
    def trains_encoders(self) -> bool:
        """True if the encoders are trained; if not, they are frozen and in evaluation mode."""
        return True

    def objectives(
        self, joint: Tensor | None, unimodal: Mapping[str, Tensor], encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """Return the losses to descend. The arguments are those of `backward`."""
        return collect(joint, unimodal, encoders)

    def statistics(self, outputs: Any, labels: Tensor | None, objectives: Objectives) -> dict[str, Tensor]:
        """Return what `prepare` needs of the batch, as sums over its samples; micro-batches are added up."""
        return {}

    def passes(self, objectives: Objectives) -> list[Pass]:
        """Return the backward passes of a step: by default, the joint loss and all unimodal losses separately."""
        return separate_passes(objectives)

    def differentiate(
        self, objectives: Objectives, outputs: Any, scale: float | Tensor | None, after_pass: PassHook | None = None
    ) -> Gradients:
        """Run the backward passes: one encoder after another where that saves memory and is possible, else at once.

        It saves memory where an encoder is differentiated twice. It is possible where the losses depend on the encoders
        through `outputs.features` alone (`find_cut`) and no hook waits for whole passes.
        """
        passes = self.passes(objectives)
        times = [sum(modality in run.encoders for run in passes) for modality in objectives.encoders]
        if after_pass is None and max(times, default=0) > 1:
            features = find_cut(objectives, outputs).features
            if features is not None:
                return differentiate_per_encoder(objectives, features, passes, scale)
        return differentiate(objectives, passes, scale, after_pass=after_pass)

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Once per step, before the encoders: evaluate `gradients.statistics`; return () metrics for the report."""
        return {}

    @abc.abstractmethod
    def integrate(
        self, modality: str, gradients: list[list[Tensor | None]], scale: Tensor
    ) -> tuple[list[Tensor | None], EncoderReport | None]:
        """Return the gradient of one encoder, in new floating-point tensors, and a report or None.

        Arguments:
            modality: the encoder's name.
            gradients: one list per objective, in the order of the encoder's parameters. The caller no longer needs
                them: they may be released on the way to save memory.
            scale: () factor that the gradients carry; reports are without it.
        """

    def backward(
        self,
        joint: Tensor | None,
        unimodal: Mapping[str, Tensor],
        *,
        encoders: Encoders,
        outputs: Any = None,
        labels: Tensor | None = None,
        scale: float | Tensor | None = None,
        interaction: bool = False,
    ) -> Report:
        """Add the integrated gradient to `.grad` of the encoders, and the plain sum to that of all other parameters.

        Replaces `(joint + sum(unimodal.values())).backward()` and, like it, frees the graph. Does not wait for the
        device. If an error is raised, every `.grad` is unchanged.

        Arguments:
            joint: () loss of the fused prediction, or None if there is none (several tasks on one encoder).
            unimodal: name → () loss.
            encoders: modality → module or parameters, or (those, [names of its losses]). Frozen parameters are
                skipped; `.grad` of a parameter that no loss reaches is unchanged.
            outputs: the model's return value. Its attribute `features`, modality → the encoder's output, saves memory
                (`differentiate`); some methods read further attributes, which their docstrings name.
            labels: (B,) class indices, for the methods that need them.
            scale: factor of a gradient scaler, which the result in `.grad` carries; nothing else depends on it.
            interaction: whether a unimodal loss may reach other encoders than its own. Such cross terms are left
                out of the gradients that are integrated.

        Raises:
            ValueError: losses and encoders do not match (see `objectives.collect`), a loss does not reach its encoder,
                or the method lacks outputs or labels.
        """
        earlier = self.accumulation.take()  # before anything can fail: an error drops earlier micro-batches
        objectives = self.objectives(joint, unimodal, encoders, outputs, labels)
        objectives.interaction = interaction
        with torch.no_grad():
            statistics = self.statistics(outputs, labels, objectives)
        is_last = not self.accumulation.is_open
        reduction = self.reduce.begin() if self.reduce is not None and is_last else None
        # Sums over processes may begin after each pass only if no earlier micro-batch has to be added first.
        after_pass = reduction.start if reduction is not None and earlier is None else None
        gradients = self.differentiate(objectives, outputs, scale, after_pass)
        gradients.statistics = statistics
        if earlier is not None:
            earlier.add_(gradients)
            gradients = earlier
        if not is_last:
            self.accumulation.store(gradients)
            return Report({}, gradients.finite, list(objectives.losses))
        if reduction is not None:
            reduction.finish({name: encoder.parameters for name, encoder in objectives.encoders.items()}, gradients)
        return self._apply(objectives, gradients)

    @torch.no_grad()
    def _apply(self, objectives: Objectives, gradients: Gradients) -> Report:
        """Integrate encoder by encoder and add the results to `.grad`."""
        metrics = self.prepare(objectives, gradients)
        integrated: list[tuple[Tensor, Tensor | None]] = []
        reports: dict[str, EncoderReport] = {}
        for modality, encoder in objectives.encoders.items():
            if not gradients.encoders[modality]:
                continue
            combined, report = self.integrate(modality, gradients.encoders[modality], gradients.scale)
            integrated += zip(encoder.parameters, combined, strict=True)
            if report is not None:
                reports[modality] = report
        integrated += ((parameter, gradient.clone()) for parameter, gradient in gradients.others.items())
        for parameter, gradient in integrated:
            if gradient is not None:
                gradient = gradient.to(parameter.dtype)
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return Report(reports, gradients.finite, list(objectives.losses), metrics)

    @property
    def over(self) -> SumReducer | None:
        """Former name of `reduce`."""
        return self.reduce

    @over.setter
    def over(self, reducer: SumReducer | None) -> None:
        self.reduce = reducer

    def accumulate(self) -> contextlib.AbstractContextManager[None]:
        """Context in which `backward` only stores gradients; the next call outside integrates the sum of all.

        Weight the losses of each micro-batch by its share of the samples, and keep `scale` the same throughout. An
        error drops everything stored.
        """
        return self.accumulation.open()

    def state_dict(self) -> dict[str, Any]:
        """State between steps, in tensors and builtins; empty for a method without state."""
        return {name: getattr(self, name) for name in self.memory}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned.

        Raises:
            ValueError: the state is another method's.
        """
        if set(state) != set(self.memory):
            raise ValueError(f"the state holds {sorted(state)}, which is not {type(self).__name__}'s")
        for name, value in state.items():
            setattr(self, name, value)


class Accumulation:
    """Gradients of the micro-batches of a step that is not complete yet.

    Attributes:
        is_open: whether more micro-batches of the step follow.
    """

    def __init__(self) -> None:
        self.is_open = False
        self._stored: Gradients | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Context in which micro-batches are stored; an error drops them."""
        before, self.is_open = self.is_open, True
        try:
            yield
        except BaseException:
            self._stored = None
            raise
        finally:
            self.is_open = before

    def store(self, gradients: Gradients) -> None:
        """Keep the sum so far."""
        self._stored = gradients

    def take(self) -> Gradients | None:
        """Return the sum so far and forget it."""
        stored, self._stored = self._stored, None
        return stored
