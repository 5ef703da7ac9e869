"""Gradient accumulation: micro-batches of one step."""

import contextlib
import dataclasses
from collections.abc import Iterator

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.objectives import Objectives


@dataclasses.dataclass
class Stored:
    """Objectives and gradients of the micro-batches of a step so far."""

    objectives: Objectives
    gradients: Gradients

    def fill(self, objectives: Objectives) -> None:
        """Add to a further micro-batch's objectives what the earlier ones have more: it counts as absent.

        Raises:
            ValueError: an encoder has other parameters or objectives than before.
        """
        before = self.objectives
        for name, encoder in objectives.encoders.items():
            known = before.encoders.setdefault(name, encoder)
            same = {*map(id, known.parameters)} == {*map(id, encoder.parameters)}
            if not same or known.objectives != encoder.objectives:
                raise ValueError(
                    f"encoder {name!r} has other parameters or losses than in the step's earlier micro-batches: name "
                    "the same encoders, and pass a joint loss for all micro-batches or for none"
                )
        objectives.encoders = dict(before.encoders)
        objectives.names = list(dict.fromkeys([*before.names, *objectives.names]))


class Accumulation:
    """Gradients of the micro-batches of a step that is not complete yet.

    Attributes:
        is_open: whether more micro-batches of the step follow.
    """

    def __init__(self) -> None:
        self.is_open = False
        self._stored: Stored | None = None

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

    def store(self, objectives: Objectives, gradients: Gradients) -> None:
        """Keep the sum so far."""
        self._stored = Stored(dataclasses.replace(objectives, losses={}, features=None), gradients)

    def take(self) -> Stored | None:
        """Return the sum so far and forget it."""
        stored, self._stored = self._stored, None
        return stored
