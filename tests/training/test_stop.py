import os
import signal
from collections.abc import Iterator

import pytest
from mmpareto.training.stop import Stopped, StopSignals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Restore the signal handlers of the test process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_raised_at_the_next_check(sent: signal.Signals, status: int) -> None:
    with StopSignals() as signals:
        signals.check()
        os.kill(os.getpid(), sent)
        with pytest.raises(Stopped, match=sent.name) as stop:
            signals.check()
    assert stop.value.status == status
    assert not isinstance(stop.value, Exception)  # so `except Exception` does not catch it


def test_a_second_signal_acts_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), StopSignals():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_replaced_only_inside_the_context() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signals = StopSignals()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with signals:
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
