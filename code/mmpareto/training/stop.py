"""Graceful shutdown on SIGINT and SIGTERM."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType


class Stopped(BaseException):
    """A signal has arrived, and the run stops after saving itself; `status` is the exit status."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.status = 128 + signum


class StopSignals:
    """Context manager in which SIGINT and SIGTERM are only recorded, for the training loop to `check` between steps.

    A second signal acts at once, as it would outside. With several processes it does not: it may be torchrun passing on
    the first one, and torchrun kills whatever does not stop in time.

    Arguments:
        agreed: returns the signal that any of the processes has received (0: none), given this one's; a collective
            call, which all processes make at the same steps. None for a single process.
    """

    def __init__(self, agreed: Callable[[int], int] | None = None) -> None:
        self.signum: int | None = None
        self._agreed = agreed
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._before[signum] = signal.signal(signum, self._record)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def check(self) -> None:
        """Raise Stopped if a signal has arrived."""
        signum = self.signum if self._agreed is None else self._agreed(self.signum or 0)
        if signum:
            raise Stopped(signum)

    def _record(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        if self._agreed is None:
            self._restore()

    def _restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        self._before = {}
