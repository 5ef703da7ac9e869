"""Every aggregator of the TorchJD library (torchjd.org) as a method; the library is imported on first use."""

import difflib
import functools
import importlib
import inspect
import math
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.linear_algebra import as_tensors, gramians, jacobian_of, nearest_coefficients
from mmpareto.integration.method import Method
from mmpareto.integration.objectives import Objectives
from mmpareto.integration.report import EncoderReport
from mmpareto.integration.weighted import in_conflict

HOMOGENEOUS = frozenset(
    {"AlignedMTL", "CAGrad", "ConFIG", "Constant", "DualProj", "GradDrop", "GradVac", "IMTLG", "Krum", "MGDA", "Mean"}
    | {"PCGrad", "Random", "Sum", "TrimmedMean", "UPGrad"}
)
"""The library's aggregators A with A(sJ) = s·A(J) for s > 0; GradVac up to its `eps`."""


class TorchJD(Method):
    """TorchJD: aggregate the Jacobian of an encoder's objectives by an aggregator, such as `TorchJD.of("UPGrad")()`.

        h = A(J),  J of shape (number of objectives, number of the encoder's elements)

    h is what the aggregator returns: for one that averages, such as MGDA, it is 1/n of the h of Pareto here. The
    gradient of a single objective is not changed, and absent objectives have no row. J does not contain the loss scale.
    Every encoder has its own aggregator, whose state is part of the method's state. One backward pass per objective of
    an encoder. Steps wait for the device: an aggregator is never given a Jacobian that is not finite, and many solve a
    programme on the CPU. The reported weights are 1/n of the coefficients with which the gradients come closest to h.

    The library squares gradients in their dtype, and compares them with absolute bounds: its UPGrad, for one, returns
    the mean of gradients whose norms are below 0.01. An aggregator with A(sJ) = s·A(J), as most have, is therefore
    given J times the power of two that brings its largest element to between ½ and 1, and h is divided by that power.
    The others (`HOMOGENEOUS` does not list them) are given J as it is, in float64.

    Arguments: those of the aggregator. A vector can be a tensor, a sequence of numbers, or text ("0.3,0.7").

    Raises:
        ValueError: TorchJD, or a library that it needs for this aggregator, is not installed; an argument is missing or
            wrong; `backward`: the aggregator does not accept this number of objectives, or fails, or returns numbers
            that are not finite for gradients that are.
    """

    source = "TorchJD (arXiv 2406.16232)"
    memory = ("kept",)
    aggregator: ClassVar[Any] = None
    """The library's class."""

    @staticmethod
    def known() -> list[str]:
        """Return the names of all aggregators; an empty list if the library is not installed."""
        return list(_aggregators())

    @staticmethod
    @functools.cache
    def of(name: str) -> "type[TorchJD]":
        """Return the method that applies the aggregator of this name, with the aggregator's own arguments.

        Raises:
            ValueError: there is no such aggregator, or the library is not installed.
        """
        known = _aggregators()
        if not known:
            raise ValueError(f"torchjd:{name} needs the TorchJD library: pip install torchjd")
        if name not in known:
            lower = {k.lower(): k for k in known}
            near = [lower[k] for k in difflib.get_close_matches(name.lower(), lower, n=1)]
            hint = f"did you mean {near[0]}? There are" if near else "there are"
            raise ValueError(f"TorchJD has no aggregator {name!r}: {hint} {', '.join(known)}")
        sentence, source = _description(known[name])

        def __init__(self: TorchJD, *args: Any, **options: Any) -> None:  # noqa: N807
            TorchJD.__init__(self, *args, **options)

        typing.cast(Any, __init__).__signature__ = inspect.signature(known[name].__init__, eval_str=True)
        body = {"__doc__": sentence, "__init__": __init__, "aggregator": known[name], "source": source}
        memory = TorchJD.memory if hasattr(known[name], "reset") else ()  # the library's stateful aggregators
        return type(name, (TorchJD,), body | {"memory": memory, "__module__": __name__})

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__()
        if self.aggregator is None:
            raise ValueError("TorchJD has many aggregators: choose one, such as TorchJD.of('UPGrad')")
        hints = typing.get_type_hints(self.aggregator.__init__)
        try:
            arguments = inspect.signature(self.aggregator).bind(*args, **options).arguments
            self.options = {name: _as_vector(value, hints[name]) for name, value in arguments.items()}
            self.aggregator(**self.options)
        except ImportError as error:
            raise ValueError(f"torchjd:{type(self).__name__} lacks a library: {error}") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"torchjd:{type(self).__name__}: {error}") from error
        self._finite = True
        self._present: dict[str, list[int]] = {}
        self._live: dict[str, nn.Module] = {}
        self._loaded: dict[str, dict[str, Any]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the aggregator's name, from which the class is created again."""
        return _rebuild, (type(self).__name__, self.options, self.state_dict()), {"_reduce": self.reduce}

    @property
    def kept(self) -> dict[str, dict[str, Any]]:
        """Modality → state of its aggregator between steps."""
        return self._loaded | {name: _aggregator_state(aggregator) for name, aggregator in self._live.items()}

    @kept.setter
    def kept(self, value: Mapping[str, dict[str, Any]]) -> None:
        self._live, self._loaded = {}, dict(value)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Restore the state; older checkpoints hold an empty one of aggregators that keep nothing."""
        super().load_state_dict(state_dict if self.memory or state_dict != {"kept": {}} else {}, strict, assign)

    def begin_training(self, context: TrainingContext) -> None:
        """Reject an aggregator that does not accept two objectives, joint and unimodal; draws no random number."""
        jacobian = torch.eye(2)
        with torch.random.fork_rng(devices=[]):
            try:
                self._new_aggregator(jacobian)(jacobian)
            except ValueError as error:
                raise ValueError(f"it does not take two objectives, joint and unimodal ({error})") from error

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Record whether the step is finite, and the indices of the objectives that are present."""
        self._finite = bool(gradients.finite.all())
        for modality, encoder in objectives.encoders.items():
            present = gradients.are_present(encoder.objectives) if encoder.objectives else None
            everything = [*range(len(encoder.objectives))]
            self._present[modality] = everything if present is None else present.nonzero().flatten().tolist()
        return {}

    def integrate(
        self, modality: str, gradients: list[list[Tensor | None]], scale: Tensor
    ) -> tuple[list[Tensor | None], EncoderReport | None]:
        """Return the aggregated Jacobian in the shapes of the parameters; the plain sum if it is not finite."""
        gramian, jacobian = gramians(gradients, scale).sum(0), jacobian_of(gradients, scale)
        h, weights = jacobian.sum(0), torch.full_like(gramian[0], 1 / len(gradients))
        present = self._present[modality]
        if len(present) > 1 and self._finite and bool(gramian.isfinite().all()):
            h = self._aggregate(modality, jacobian[present])
            weights = nearest_coefficients(gramian, jacobian @ h) / len(gradients)
        conflict = in_conflict(gramian.unsqueeze(0))
        report = EncoderReport.of(gramian, weights.unsqueeze(0), conflict, torch.ones_like(weights[:1]))
        return as_tensors(h * scale.to(h), gradients), report

    def _new_aggregator(self, jacobian: Tensor) -> nn.Module:
        options = {k: v.to(jacobian) if isinstance(v, Tensor) else v for k, v in self.options.items()}
        return self.aggregator(**options)

    def _aggregate(self, modality: str, jacobian: Tensor) -> Tensor:
        name, largest = type(self).__name__, float(jacobian.abs().amax()) if jacobian.numel() else 0.0
        factor = _power_of_two(largest, jacobian.dtype) if name in HOMOGENEOUS else 1.0
        given = jacobian * factor if name in HOMOGENEOUS else jacobian.double()
        if largest == 0:  # NashMTL divides by it
            return jacobian.sum(0)
        try:
            if modality not in self._live:
                aggregator = self._new_aggregator(given)
                if modality in self._loaded:
                    _load_aggregator_state(aggregator, self._loaded[modality], given)
                self._live[modality] = aggregator
            h = (self._live[modality](given) / factor).to(jacobian)
            if not bool(h.isfinite().all()):
                raise ValueError("it returns numbers that are not finite")
            return h
        except (ValueError, torch.linalg.LinAlgError) as error:
            where = f"torchjd:{name} at encoder {modality!r}"
            raise ValueError(f"{where}: {error} (the largest element of the gradients is {largest:.2g})") from error


def _power_of_two(largest: float, dtype: torch.dtype) -> float:
    """Return the power of two that brings the largest element to between ½ and 1, as far as the dtype has it."""
    limit = int(math.log2(torch.finfo(dtype).max)) - 2
    return 2.0 ** max(-limit, min(limit, -math.frexp(largest)[1]))


def _rebuild(name: str, options: Mapping[str, Any], state: Mapping[str, Any]) -> TorchJD:
    method = TorchJD.of(name)(**options)
    method.load_state_dict(state)
    return method


# --- the library's aggregators: names, arguments, state ---


def _aggregators() -> dict[str, Any]:
    """Return name → class of the aggregators that TorchJD exports, without the base classes of others."""
    try:
        library = importlib.import_module("torchjd.aggregation")
    except ImportError:
        return {}
    exported = {name: getattr(library, name) for name in library.__all__}
    classes = {name: cls for name, cls in exported.items() if issubclass(cls, library.Aggregator)}
    bases = {base for cls in classes.values() for base in cls.__mro__[1:]}
    return {name: cls for name, cls in classes.items() if cls not in bases}


def _description(aggregator: Any) -> tuple[str, str]:
    """Return the first sentence of an aggregator's docstring in plain text, and its source with the paper's address."""
    text = " ".join((inspect.getdoc(aggregator) or "").split())
    address = re.search(r"<(https?://[^>]+)>`_", text)
    text = text.replace(":class:`~torchjd.Stateful` ", "")
    text = re.sub(r":class:`~?(?:\w+\.)*(\w+)`", r"\1", text)
    text = re.sub(r"`([^`<]+) <[^>]+>`_", r"\1", text)
    source = f"{aggregator.__name__} of TorchJD" + (f", {address[1]}" if address else "")
    return re.split(r"(?<=\.) ", text)[0], source


def _as_vector(value: Any, hint: Any) -> Any:
    """Convert text or a sequence to a tensor if the argument's type hint allows one; return other values unchanged."""
    types = typing.get_args(hint) or (hint,)
    if Tensor not in types or not isinstance(value, str | list | tuple):
        return value
    if isinstance(value, str):
        try:
            value = [float(part) for part in value.split(",")]
        except ValueError:
            raise ValueError(
                f"{value!r} is not a number or a list of numbers separated by commas, such as 0.3,0.7"
            ) from None
        if len(value) == 1 and float in types:
            return value[0]
    return torch.tensor(value, dtype=torch.float64)


def _state_attributes(aggregator: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield (name, submodule, attribute) of all attributes of an aggregator and its submodules that are not options."""
    options = inspect.signature(type(aggregator)).parameters
    for path, module in aggregator.named_modules():
        for attribute in sorted((vars(module).keys() | module._buffers.keys()) - vars(nn.Module()).keys()):
            if attribute.removeprefix("_") not in options:
                yield f"{path}.{attribute}", module, attribute


def _aggregator_state(aggregator: nn.Module) -> dict[str, Any]:
    """Return name → value of the attributes that are tensors, arrays (as tensors) or builtins."""
    state: dict[str, Any] = {}
    for name, module, attribute in _state_attributes(aggregator):
        value = getattr(module, attribute)
        if hasattr(value, "__array__"):
            state[name] = torch.as_tensor(value).detach().clone()
        elif isinstance(value, bool | int | float | str):
            state[name] = value
    return state


def _load_aggregator_state(aggregator: nn.Module, state: Mapping[str, Any], jacobian: Tensor) -> None:
    """Restore the state that `_aggregator_state` returned.

    A first call lets the aggregator build what cannot be stored, and determines each value's type and device.
    """
    with torch.random.fork_rng([jacobian.device] if jacobian.is_cuda else []):
        aggregator(jacobian)
    for name, module, attribute in list(_state_attributes(aggregator)):
        if name in state:
            setattr(module, attribute, _converted(state[name], getattr(module, attribute), jacobian))


def _converted(value: Any, like: Any, jacobian: Tensor) -> Any:
    """Convert a stored value to the array type and device of the attribute that it replaces."""
    if not isinstance(value, Tensor):
        return value
    if isinstance(like, Tensor):
        return value.to(like.device)
    return value.numpy().copy() if hasattr(like, "__array__") else value.to(jacobian)
