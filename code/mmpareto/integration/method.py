"""The call that every method shares."""

import abc
import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmpareto.integration.gradients import Gradients, Pass, differentiate
from mmpareto.integration.objectives import Encoders, Objectives, collect
from mmpareto.integration.report import EncoderReport, Report


class Method(abc.ABC):
    """A way in which the gradients of several losses become one.

    A subclass says which losses are differentiated together (`passes`) and what becomes of the gradients at an
    encoder (`integrate`). It keeps `.grad`, gradient accumulation and loss scaling to this class.
    """

    needs_unimodal: ClassVar[bool] = True
    """Whether the unimodal losses are descended, so that the unimodal heads are trained."""
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named choices of options, where a method's sources differ."""

    def __init__(self) -> None:
        self._accumulating = False
        self._stored: Gradients | None = None

    @abc.abstractmethod
    def passes(self, objectives: Objectives) -> list[Pass]:
        """The backward passes of a step."""

    @abc.abstractmethod
    def integrate(
        self, modality: str, gradients: list[list[Tensor | None]], scale: Tensor
    ) -> tuple[list[Tensor | None], EncoderReport | None]:
        """The one gradient of an encoder, in new tensors of any floating-point type, and what was seen.

        Arguments:
            modality: for messages.
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
            outputs: what the model returned; only some methods look at it.
            labels: (B,) class indices; only some methods look at them.
            scale: factor of a gradient scaler: what is added to `.grad` bears it, nothing else does.
            interaction: whether a unimodal loss may reach other encoders than its own. Such cross terms are left
                out of the gradients that are integrated.

        Raises:
            ValueError: losses and encoders do not match; see `objectives.collect`.
        """
        stored, self._stored = self._stored, None  # so that an error drops what was stored
        objectives = collect(joint, unimodal if self.needs_unimodal else {}, encoders if self.needs_unimodal else {})
        objectives = dataclasses.replace(objectives, interaction=interaction)
        gradients = differentiate(objectives, self.passes(objectives), scale)
        if stored is not None:
            stored.add(gradients)
            gradients = stored
        if self._accumulating:
            self._stored = gradients
            return Report({}, gradients.finite)
        return self._apply(objectives, gradients)

    @torch.no_grad()
    def _apply(self, objectives: Objectives, gradients: Gradients) -> Report:
        integrated: list[tuple[Tensor, Tensor | None]] = []
        reports: dict[str, EncoderReport] = {}
        for modality, encoder in objectives.encoders.items():
            combined, report = self.integrate(modality, gradients.encoders[modality], gradients.scale)
            integrated += zip(encoder.parameters, combined, strict=True)
            if report is not None:
                reports[modality] = report
        integrated += ((parameter, gradient.clone()) for parameter, gradient in gradients.others.items())
        for parameter, gradient in integrated:
            if gradient is not None:
                gradient = gradient.to(parameter.dtype)
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return Report(reports, gradients.finite)

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
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state of `state_dict`.

        Raises:
            ValueError: the state is another method's.
        """
        if set(state) != set(self.state_dict()):
            raise ValueError(f"the state holds {sorted(state)}, which is not {type(self).__name__}'s")
