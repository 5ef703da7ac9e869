"""Every aggregator of the TorchJD library (torchjd.org) as a method; the library is imported on first use."""

import difflib
import functools
import inspect
import typing
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.linear_algebra import as_tensors, gramians, jacobian_of, nearest_coefficients
from mmpareto.integration.method import Method
from mmpareto.integration.methods.torchjd_library import aggregators, as_vector, described, numbers_kept, restore
from mmpareto.integration.objectives import Objectives
from mmpareto.integration.report import EncoderReport
from mmpareto.integration.weighted import in_conflict


class TorchJD(Method):
    """Aggregate the Jacobian of an encoder's objectives by an aggregator of TorchJD: `TorchJD.of("UPGrad")()`.

        h = A(J),  J of shape (objectives, all of the encoder's elements)

    just as the aggregator returns it: of one that averages, such as MGDA, h is 1/n of what Pareto here descends. A
    single objective is left as it is. J bears no factor of a gradient scaler. One backward pass an objective of an
    encoder. The device is waited for: an aggregator is not shown what is not finite, and many have their programme
    solved on the CPU. Every encoder has an aggregator of its own; what that keeps between steps is in the state. The
    reported weights are 1/n of the coefficients with which the gradients come closest to h.

    Arguments: those of the aggregator. A vector is a tensor, a sequence of numbers, or text ("0.3,0.7").

    Raises:
        ValueError: TorchJD, or what it needs for this aggregator, is not installed; an argument is missing or wrong;
            `backward`: the aggregator does not take this number of objectives.
    """

    source = "TorchJD (arXiv 2406.16232)"
    memory = ("kept",)
    aggregator: ClassVar[Any] = None
    """The library's class."""

    @staticmethod
    def known() -> list[str]:
        """The names of all aggregators; none without the library."""
        return list(aggregators())

    @staticmethod
    @functools.cache
    def of(name: str) -> "type[TorchJD]":
        """The method that applies the aggregator of this name, with the aggregator's own arguments.

        Raises:
            ValueError: there is none, or no library.
        """
        known = aggregators()
        if not known:
            raise ValueError(f"torchjd:{name} needs the TorchJD library: pip install torchjd")
        if name not in known:
            lower = {k.lower(): k for k in known}
            near = [lower[k] for k in difflib.get_close_matches(name.lower(), lower, n=1)]
            hint = f"did you mean {near[0]}? There are" if near else "there are"
            raise ValueError(f"TorchJD has no aggregator {name!r}: {hint} {', '.join(known)}")
        sentence, source = described(known[name])

        def __init__(self: TorchJD, *args: Any, **options: Any) -> None:  # noqa: N807
            TorchJD.__init__(self, *args, **options)

        typing.cast(Any, __init__).__signature__ = inspect.signature(known[name].__init__, eval_str=True)
        body = {"__doc__": sentence, "__init__": __init__, "aggregator": known[name], "source": source}
        return type(name, (TorchJD,), body | {"__module__": __name__})

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__()
        if self.aggregator is None:
            raise ValueError("TorchJD has many aggregators: choose one, such as TorchJD.of('UPGrad')")
        hints = typing.get_type_hints(self.aggregator.__init__)
        try:
            given = inspect.signature(self.aggregator).bind(*args, **options).arguments
            self.options = {name: as_vector(value, hints[name]) for name, value in given.items()}
            self.aggregator(**self.options)
        except ImportError as error:
            raise ValueError(f"torchjd:{type(self).__name__} lacks a library: {error}") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"torchjd:{type(self).__name__}: {error}") from error
        self._finite = True
        self._live: dict[str, nn.Module] = {}
        self._loaded: dict[str, dict[str, Any]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by the aggregator's name: the class is made anew."""
        return _rebuilt, (type(self).__name__, self.options, self.state_dict())

    @property
    def kept(self) -> dict[str, dict[str, Any]]:
        """Modality → what its aggregator keeps between steps, for those that keep anything (they can be reset)."""
        live = {name: dict(numbers_kept(a)) for name, a in self._live.items() if hasattr(a, "reset")}
        return self._loaded | live

    @kept.setter
    def kept(self, value: Mapping[str, dict[str, Any]]) -> None:
        self._live, self._loaded = {}, dict(value)

    def begin_training(self, loop: TrainingContext) -> None:
        """Refuse an aggregator that does not take two objectives, joint and unimodal; without drawing a number."""
        jacobian = torch.eye(2)
        with torch.random.fork_rng(devices=[]):
            try:
                self._made_for(jacobian)(jacobian)
            except ValueError as error:
                raise ValueError(f"it does not take two objectives, joint and unimodal ({error})") from error

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Note whether the step is one."""
        self._finite = bool(gradients.finite.all())
        return {}

    def integrate(
        self, modality: str, gradients: list[list[Tensor | None]], scale: Tensor
    ) -> tuple[list[Tensor | None], EncoderReport | None]:
        """The Jacobian, what the aggregator makes of it, and that in the parameters' shapes."""
        gramian, jacobian = gramians(gradients, scale).sum(0), jacobian_of(gradients, scale)
        h, weights = jacobian.sum(0), torch.full_like(gramian[0], 1 / len(gradients))
        if len(gradients) > 1 and self._finite and bool(gramian.isfinite().all()):
            h = self._aggregated(modality, jacobian)
            weights = nearest_coefficients(gramian, jacobian @ h) / len(gradients)
        conflict = in_conflict(gramian.unsqueeze(0))
        report = EncoderReport.of(gramian, weights.unsqueeze(0), conflict, torch.ones_like(weights[:1]))
        return as_tensors(h * scale.to(h), gradients), report

    def _made_for(self, jacobian: Tensor) -> nn.Module:
        options = {k: v.to(jacobian) if isinstance(v, Tensor) else v for k, v in self.options.items()}
        return self.aggregator(**options)

    def _aggregated(self, modality: str, jacobian: Tensor) -> Tensor:
        try:
            if modality not in self._live:
                aggregator = self._made_for(jacobian)
                if modality in self._loaded:
                    restore(aggregator, self._loaded[modality], jacobian)
                self._live[modality] = aggregator
            return self._live[modality](jacobian)
        except ValueError as error:
            raise ValueError(f"torchjd:{type(self).__name__} at encoder {modality!r}: {error}") from error


def _rebuilt(name: str, options: Mapping[str, Any], state: Mapping[str, Any]) -> TorchJD:
    method = TorchJD.of(name)(**options)
    method.load_state_dict(state)
    return method
