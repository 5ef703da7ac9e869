"""Base class of all methods: one call, `backward`, in place of `loss.backward()`."""

import abc
import contextlib
import sys
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor
from torch.amp import GradScaler

from mmpareto.integration.accumulation import Accumulation
from mmpareto.integration.differentiation import (
    Gradients,
    Pass,
    PassHook,
    differentiate,
    differentiate_per_encoder,
    separate_passes,
)
from mmpareto.integration.features import NAME_THEM, encoders_behind, features_of, find_cut, read_output
from mmpareto.integration.hooks import Hooks
from mmpareto.integration.objectives import Encoders, Objectives, UnimodalLosses, check_whole, collect
from mmpareto.integration.reduction import MeanReducer, SumReducer
from mmpareto.integration.report import EncoderReport, Report
from mmpareto.integration.state import StatefulModule


class Method(Hooks, StatefulModule, abc.ABC):
    """Combines the gradients of several losses into one gradient per parameter.

    A step calls five functions, which a subclass may override:

        objectives   the losses that are descended, and the ones that each encoder learns from
        statistics   whatever else the method needs of the batch (logits, features, …), as sums over samples
        passes       the losses that are differentiated together
        prepare      once per step, from the statistics: coefficients, and state between steps
        integrate    one encoder: one list of gradients per objective → one list of gradients

    `backward` does the rest: differentiation, `.grad`, gradient accumulation, loss scaling, several processes. A method
    does not wait for the device unless its docstring says so. One that computes losses of its own, in `objectives`,
    takes `loss` for the loss of a prediction and multiplies it by `share`. Non-finite steps never update state, so that
    a step that overflows under fp16 leaves no trace: a method with state sees to that by `gradients.finite` in
    `prepare`. A method names its state in `memory`, and `StatefulModule` describes how that is saved. Callbacks outside
    `backward` are in `Hooks`.
    """

    source: ClassVar[str] = ""
    """Publication that defines the method."""
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named choices of options, where a method's sources differ; the first one is the default. A subclass with an
    `__init__` of its own, whose options may be others, does not inherit them, nor `without_effect`."""
    variant_aliases: ClassVar[Mapping[str, str]] = {}
    """Former names of variants → their names."""
    files: ClassVar[Sequence[str]] = ()
    """Options that name files or folders; labels of runs leave them out."""
    without_effect: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Option → the values of others with which it has no effect; one that is not listed always has one."""
    refreshable: ClassVar[bool] = False
    """Whether `Refresh` can wrap the method."""
    descends_joint: bool = True
    """Whether the joint loss is descended; if not, what only it reaches is not trained."""
    descends_unimodal: bool = True
    """Whether the unimodal losses are descended; if not, the unimodal heads are not trained."""

    separates: bool = True
    """Whether objectives are differentiated apart, so that the cross terms of encoders that interact can be left out;
    a method that descends a sum of losses includes them."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Inherit what is said about options only with the options themselves."""
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            for name in ("variants", "variant_aliases", "without_effect"):
                if name not in vars(cls):
                    setattr(cls, name, {})

    def __init__(self) -> None:
        super().__init__()
        self.reduce = "mean"
        self.accumulation = Accumulation()
        self.loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
        self._share: float | None = None
        self._is_part = False  # whether `backward` has been given a micro-batch
        self._warned: set[str] = set()

    @property
    def reduce(self) -> SumReducer | None:
        """Combines gradients over processes; without an initialised process group, nothing is done.

        "mean", the default, is `MeanReducer()`: the gradients of every objective are averaged, as
        DistributedDataParallel does, whatever wraps the model. Assign a `MeanReducer` or `SumReducer` with other
        arguments, a subclass of them, or None if every process trains a model of its own.
        """
        return self._reduce

    @reduce.setter
    def reduce(self, reducer: SumReducer | str | None) -> None:
        reducer = MeanReducer() if isinstance(reducer, str) and reducer == "mean" else reducer
        if not (reducer is None or isinstance(reducer, SumReducer)):
            raise ValueError(f"reduce must be 'mean', None or a reducer such as MeanReducer(model), not {reducer!r}")
        self._reduce = reducer

    over = reduce  # its former name

    @property
    def active_reducer(self) -> SumReducer | None:
        """The reducer, or None where a process trains alone."""
        return self.reduce if self.reduce is not None and self.reduce.processes > 1 else None

    @property
    def share(self) -> float:
        """This micro-batch's share of the step's samples, for losses that the method computes itself.

        Raises:
            ValueError: micro-batches are accumulated, and `backward` was not given it.
        """
        if self._share is None and self._is_part:
            raise ValueError(
                f"{type(self).__name__} computes losses of its own, as means over a micro-batch: pass share=, its "
                "share of the step's samples, to every backward()"
            )
        return 1.0 if self._share is None else self._share

    def check_whole_batch(self, what: str, alternative: str = "") -> None:
        """Require a step's whole batch, in `objectives`; see `needs_whole_batch`.

        Arguments:
            what: needs it, at the beginning of the message.
            alternative: what to do instead, as the end of the message.

        Raises:
            ValueError: micro-batches are accumulated, or several processes share the batch.
        """
        if self.active_reducer is not None or self.accumulation.is_open:
            raise ValueError(
                f"{what} needs the whole batch at once: train without gradient accumulation and in one process"
                f"{alternative}"
            )

    @property
    def trains_encoders(self) -> bool | Collection[str]:
        """True if the encoders are trained, False if none is, or the modalities of those that are.

        The others are frozen, and in evaluation mode. It may change when an epoch begins.
        """
        return True

    def objectives(
        self, joint: Tensor | None, unimodal: UnimodalLosses, encoders: Encoders, outputs: Any, labels: Any
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
        self, objectives: Objectives, scale: float | Tensor | None, after_pass: PassHook | None = None
    ) -> Gradients:
        """Run the backward passes: one encoder after another where that saves memory and is possible, else at once.

        It saves memory where an encoder is differentiated twice. It is possible where the losses depend on the encoders
        through their features alone (`find_cut`) and no hook waits for whole passes.
        """
        passes = self.passes(objectives)
        times = [sum(modality in run.encoders for run in passes) for modality in objectives.encoders]
        if after_pass is None and max(times, default=0) > 1:
            cut = find_cut(objectives)
            if cut.features is not None:
                return differentiate_per_encoder(objectives, cut.features, passes, scale)
            if objectives.features is not None and not objectives.interaction:
                self._warn_once(f"the features do not save memory: that takes {cut.needed}")
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
        unimodal: UnimodalLosses,
        *,
        encoders: Encoders | None = None,
        outputs: Any = None,
        features: Mapping[str, Tensor] | None = None,
        labels: Tensor | None = None,
        scale: float | Tensor | GradScaler | None = None,
        interaction: bool = False,
        share: float | None = None,
    ) -> Report:
        """Add the integrated gradient to `.grad` of the encoders, and the plain sum to that of all other parameters.

        Replaces `(joint + sum(unimodal.values())).backward()` and, like it, frees the graph. Does not wait for the
        device. If an error is raised, every `.grad` is unchanged. In a process group, every process calls it once per
        step, and gradients are averaged (`reduce`).

        Arguments:
            joint: () loss of the fused prediction, or None if there is none (several tasks on one encoder).
            unimodal: name → () loss. Leave a loss out, or pass None, where the modality is absent from the batch: its
                encoder keeps its `.grad`.
            encoders: modality → module or parameters, or (those, [names of its losses]). Frozen parameters are skipped;
                the losses of a frozen encoder train its head. `.grad` of a parameter that no loss reaches is unchanged.
                If left out, an encoder is what its feature depends on.
            outputs: the model's return value, an object with attributes or a mapping. Its field `features` is used like
                the argument; some methods read further fields, which their docstrings name.
            features: modality → the encoder's output. They save memory (`differentiate`), and take the place of
                `encoders`.
            labels: (B,) class indices, for the methods that need them.
            scale: a gradient scaler, or its factor, which the result in `.grad` carries; nothing else depends on it.
            interaction: whether a unimodal loss may reach other encoders than its own. Such cross terms are left
                out of the gradients that are integrated.
            share: this micro-batch's share of the step's samples, by which the caller multiplied the losses. Methods
                that compute losses of their own require it where micro-batches are accumulated.

        Raises:
            ValueError: losses and encoders do not match (see `objectives.collect`), a loss does not reach its encoder,
                the features do not tell the encoders, the method lacks outputs or labels, or processes do not fit.
        """
        if outputs is None and features is not None:
            outputs = {"features": features}
        earlier = self.accumulation.take()  # before anything can fail: an error drops earlier micro-batches
        self._share, self._is_part = share, self.accumulation.is_open or earlier is not None
        objectives = self._objectives(joint, unimodal, encoders, outputs, features, labels, interaction)
        reducer = self.active_reducer
        if reducer is not None:
            reducer.fill(objectives)
        if earlier is not None:
            earlier.fill(objectives)
        is_last = not self.accumulation.is_open
        reduction = None
        if reducer is not None and is_last:
            reduction = reducer.begin(objectives, self.passes(objectives), named=encoders is not None)
        with torch.no_grad():
            statistics = self.statistics(outputs, labels, objectives)
        # Sums over processes may begin after each pass only if no earlier micro-batch has to be added first.
        after_pass = reduction.start if reduction is not None and reduction.overlaps and earlier is None else None
        gradients = self.differentiate(objectives, _factor(scale, objectives), after_pass)
        if encoders is not None and "torch.distributed.fsdp" in sys.modules:
            check_whole(encoders)
        gradients.statistics = statistics
        if earlier is not None:
            gradients = earlier.gradients.added(gradients)
        if not is_last:
            self.accumulation.store(objectives, gradients)
            return _report({}, objectives, gradients)
        if reduction is not None:
            reduction.finish(objectives, self.passes(objectives), gradients)
        return self._integrate_all(objectives, gradients)

    def _objectives(
        self,
        joint: Tensor | None,
        unimodal: UnimodalLosses,
        encoders: Encoders | None,
        outputs: Any,
        features: Mapping[str, Tensor] | None,
        labels: Tensor | None,
        interaction: bool,
    ) -> Objectives:
        """The arguments of `backward`, checked and matched."""
        given = features_of(outputs, features)
        if outputs is not None and given is None and not self.needs_classes:
            if all(read_output(outputs, field) is None for field in ("joint", "unimodal", "contributions")):
                raise ValueError(
                    f"outputs, a {type(outputs).__name__}, have no field `features`: pass an object or a mapping that "
                    "has it, modality → the encoder's output, or leave outputs out"
                )
            self._warn_once("outputs have no field `features`, so they are of no use")
        if self.needs_classes and labels is not None and (labels.ndim != 1 or labels.is_floating_point()):
            raise ValueError(
                f"{type(self).__name__} compares classes: labels are class indices (B,), not {labels.dtype} of shape "
                f"{tuple(labels.shape)}"
            )
        named = encoders is not None
        if encoders is None:
            if interaction:
                raise ValueError(f"with interaction, features depend on several encoders: {NAME_THEM}")
            encoders = encoders_behind(given)
        objectives = self.objectives(joint, unimodal, encoders, outputs, labels)
        objectives.features, objectives.interaction = given, interaction
        if not named and (needed := find_cut(objectives).needed):
            raise ValueError(f"the features do not tell the encoders, which takes {needed}: {NAME_THEM}")
        if not objectives.losses and self.active_reducer is None:
            raise ValueError("no loss was given: pass the joint loss, the unimodal losses, or both")
        return objectives

    @torch.no_grad()
    def _integrate_all(self, objectives: Objectives, gradients: Gradients) -> Report:
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
        reached = [(p, gradient.to(p.dtype)) for p, gradient in integrated if gradient is not None and p.requires_grad]
        for parameter, gradient in reached:
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        for parameter, _ in reached:  # hooks of register_post_accumulate_grad_hook, as after Tensor.backward
            for hook in [*(getattr(parameter, "_post_accumulate_grad_hooks", None) or {}).values()]:
                hook(parameter)
        return _report(reports, objectives, gradients, metrics)

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(f"{type(self).__name__}.backward: {message}", stacklevel=4)

    def accumulate(self) -> contextlib.AbstractContextManager[None]:
        """Context in which `backward` only stores gradients; the next call outside integrates the sum of all.

        Weight the losses of each micro-batch by its share of the samples, and keep `scale` the same throughout. An
        error drops everything stored.
        """
        return self.accumulation.open()


def _report(
    encoders: Mapping[str, EncoderReport],
    objectives: Objectives,
    gradients: Gradients,
    metrics: Mapping[str, Tensor] | None = None,
) -> Report:
    """The report of a step, with its losses in the order in which they were given, then absent ones."""
    names = list(dict.fromkeys([*objectives.losses, *objectives.names]))
    finite = gradients.finite
    if names != objectives.names:
        finite = torch.stack([finite[objectives.names.index(name)] for name in names])
    return Report(encoders, finite, names, metrics)


def _factor(scale: float | Tensor | GradScaler | None, objectives: Objectives) -> float | Tensor | None:
    """The factor of a gradient scaler, without waiting for the device; a number or a tensor as it is."""
    if not isinstance(scale, GradScaler):
        return scale
    tensors = [
        *objectives.losses.values(),
        *(p for encoder in objectives.encoders.values() for p in encoder.parameters),
    ]
    device = next((tensor.device for tensor in tensors), None)
    return scale.scale(torch.ones((), device=device)) if scale.is_enabled() else None
