"""The call that every method shares."""

import abc
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmpareto.integration.by_encoder import NotSeparableError, differentiate_by_encoder, features_of
from mmpareto.integration.gradients import Gradients, Pass, differentiate, separate_passes
from mmpareto.integration.hooks import Hooks
from mmpareto.integration.objectives import Encoders, Objectives, collect
from mmpareto.integration.reduction import SumOver, Sums
from mmpareto.integration.report import EncoderReport, Report


class Method(Hooks, abc.ABC):
    """A way in which the gradients of several losses become one.

    A step goes through the five parts that a subclass may say anew:

        objectives   what is descended, and which of it each encoder learns from
        statistics   what else is needed of the batch (of its logits, features, …), as tensors that sum over samples
        passes       which losses are differentiated together
        prepare      once a step, from the statistics: coefficients, and the memory between steps
        integrate    an encoder's gradients, an objective each → one

    It keeps `.grad`, gradient accumulation and loss scaling to this class. Nothing in a method waits for the device
    (but the exact solver for more than two objectives), and its memory takes up nothing that is not finite: under fp16
    a step that overflows is not one. A method that needs more than a step's losses and outputs has it from `Hooks`.
    """

    source: ClassVar[str] = ""
    """Where the method comes from."""
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named choices of options, where a method's sources differ; the first is the default."""
    memory: tuple[str, ...] = ()
    """The attributes that are kept between steps: tensors, builtins and dicts of them, never changed in place."""
    descends_joint: bool = True
    """Whether the joint loss is descended; if not, what only it reaches is not trained."""
    descends_unimodal: bool = True
    """Whether the unimodal losses are descended; if not, the unimodal heads are not trained."""

    over: SumOver | None = None
    """The processes with which a batch is shared; None for this one alone."""

    def __init__(self) -> None:
        self._accumulating = False
        self._stored: Gradients | None = None
        self._sums: Sums | None = None

    def objectives(
        self, joint: Tensor | None, unimodal: Mapping[str, Tensor], encoders: Encoders, outputs: Any, labels: Any
    ) -> Objectives:
        """What is descended. The arguments are those of `backward`."""
        return collect(joint, unimodal, encoders)

    def statistics(self, outputs: Any, labels: Tensor | None, objectives: Objectives) -> dict[str, Tensor]:
        """What `prepare` needs of the batch, as sums over its samples, without a graph: micro-batches are added up."""
        return {}

    def passes(self, objectives: Objectives) -> list[Pass]:
        """The backward passes of a step; one for the joint and one for all unimodal losses, unless said otherwise."""
        return separate_passes(objectives)

    def differentiate(self, objectives: Objectives, outputs: Any, scale: float | Tensor | None) -> Gradients:
        """Run the passes; `refresh.py` runs cheaper ones at steps for which enough is known.

        Where passes share encoders, these are gone through one after another if that is possible, which takes less
        memory; but all at once with several processes, which sum what a pass gave while the next one runs.
        """
        passes = self.passes(objectives)
        if self._sums is not None:
            return differentiate(objectives, passes, scale, after_pass=self._sums.begin)
        if any(sum(modality in run.encoders for run in passes) > 1 for modality in objectives.encoders):
            with contextlib.suppress(NotSeparableError):
                features = features_of(outputs, objectives)
                return differentiate_by_encoder(objectives, features, passes, scale)
        return differentiate(objectives, passes, scale)

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Once a step, before the encoders: what follows from `gradients.statistics`; () figures for the report."""
        return {}

    @abc.abstractmethod
    def integrate(
        self, modality: str, gradients: list[list[Tensor | None]], scale: Tensor
    ) -> tuple[list[Tensor | None], EncoderReport | None]:
        """The one gradient of an encoder, in new tensors of any floating-point type, and what was seen.

        Arguments:
            modality: the encoder's name.
            gradients: a list an objective, each in the order of the encoder's parameters; may be emptied.
            scale: () the factor that they bear; a report leaves it out.
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
        """Add the integrated gradient to `.grad` of the encoders, and the plain sum to that of everything else.

        Takes the place of `(joint + sum(unimodal.values())).backward()` and, like it, frees the graph. Never
        waits for the device. An error leaves every `.grad` as it was.

        Arguments:
            joint: () loss of the fused prediction, or None where there is none (several tasks on one encoder).
            unimodal: name → () loss.
            encoders: modality → module or parameters, or (those, [names of its losses]). Frozen parameters are
                skipped; one that no loss reaches keeps its `.grad`.
            outputs: what the model returned. `features` in it, modality → the encoder's output, saves memory
                (`by_encoder.py`); some methods look at more, and say at which of its attributes.
            labels: (B,) class indices; only some methods look at them.
            scale: factor of a gradient scaler: what is added to `.grad` bears it, nothing else does.
            interaction: whether a unimodal loss may reach other encoders than its own. Such cross terms are left
                out of the gradients that are integrated.

        Raises:
            ValueError: losses and encoders do not match (see `objectives.collect`), a loss does not reach its encoder,
                or the method lacks outputs or labels.
        """
        stored, self._stored = self._stored, None  # so that an error drops what was stored
        objectives = self.objectives(joint, unimodal, encoders, outputs, labels)
        objectives.interaction = interaction
        with torch.no_grad():
            statistics = self.statistics(outputs, labels, objectives)
        over = None if self._accumulating else self.over
        # Where micro-batches are stored, nothing can be summed over the processes until this one is added to them.
        self._sums = over.begin() if over is not None and stored is None else None
        gradients = self.differentiate(objectives, outputs, scale)
        gradients.statistics = statistics
        if stored is not None:
            stored.add(gradients)
            gradients = stored
        if over is not None:
            parameters = {modality: encoder.parameters for modality, encoder in objectives.encoders.items()}
            (self._sums or over.begin()).finish(parameters, gradients)
            self._sums = None
        if self._accumulating:
            self._stored = gradients
            return Report({}, gradients.finite, list(objectives.losses))
        return self._apply(objectives, gradients)

    @torch.no_grad()
    def _apply(self, objectives: Objectives, gradients: Gradients) -> Report:
        figures = self.prepare(objectives, gradients)
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
        return Report(reports, gradients.finite, list(objectives.losses), figures)

    @contextlib.contextmanager
    def accumulate(self) -> Iterator[None]:
        """Inside, `backward` only stores objectives; the next call outside integrates their sum.

        Weight each micro-batch's losses by its share of the samples, and keep `scale` the same throughout. An error
        drops what was stored.
        """
        before, self._accumulating = self._accumulating, True
        try:
            yield
        except BaseException:
            self._stored = None
            raise
        finally:
            self._accumulating = before

    def state_dict(self) -> dict[str, Any]:
        """What must be kept between steps, in tensors and builtins; empty for a method without memory."""
        return {name: getattr(self, name) for name in self.memory}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state of `state_dict`.

        Raises:
            ValueError: the state is another method's.
        """
        if set(state) != set(self.memory):
            raise ValueError(f"the state holds {sorted(state)}, which is not {type(self).__name__}'s")
        for name, value in state.items():
            setattr(self, name, value)
