"""Leaving in good order on SIGINT and SIGTERM."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType


class Stopped(BaseException):
    """A signal asked to stop, and the run has saved itself; `status` is the exit status."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.status = 128 + signum


class StopSignals:
    """While entered, SIGINT and SIGTERM are only noted, for the loop to ask between steps.

    A second signal acts at once, as it would have without this. Not so with several processes: there it may be the
    first one, sent on by torchrun, which itself ends what does not stop.

    Arguments:
        agreed: the signal that any of several processes has had, 0 for none; all ask it at the same steps.
    """

    def __init__(self, agreed: Callable[[int], int] | None = None) -> None:
        self.signum: int | None = None
        self._agreed = agreed
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def check(self) -> None:
        """Raise Stopped when a signal has come."""
        signum = self.signum if self._agreed is None else self._agreed(self.signum or 0)
        if signum:
            raise Stopped(signum)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        if self._agreed is None:
            self._restore()

    def _restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        self._before = {}
