"""User-facing errors."""

import re
from collections.abc import Iterable

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class InputError(ValueError):
    """Bad input, in one sentence: what is wrong, where, and what to do.

    The entry points print it without a traceback and exit with status 2. A DataLoader worker that raises it passes its
    message on inside a report with a traceback, of which only the sentence is kept.
    """

    def __init__(self, message: str) -> None:
        if message.startswith("Caught InputError in "):
            message = message.rpartition("InputError: ")[2].strip()
        super().__init__(message)


def one_line(error: object, limit: int = 200) -> str:
    """The text of a library's exception, or its type if it has none, as one line of at most `limit` characters.

    Without the codes by which libraries colour it.
    """
    text = " ".join(_COLOUR.sub("", str(error)).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def worker_failure(error: Exception, samples: str = "a batch", seconds: float = 0) -> str | None:
    """The failure of a data loader's worker in one sentence; None for any other error.

    Arguments:
        error: of PyTorch's DataLoader, which raises it in the process that reads from it.
        samples: names of the samples that were being read.
        seconds: that it waited for them.
    """
    text = str(error)
    if ("shared memory" in text or "/torch_" in text) and ("DataLoader" in text or "shm" in text):
        return (
            "the loader workers have no shared memory left (/dev/shm; 64 MB in a container by default): start the "
            "container with more, such as docker run --shm-size 8g, or give --workers 0."
        )
    if text.startswith("DataLoader timed out"):
        return (
            f"the loader workers gave nothing for {seconds:g} s, while reading {samples}: is the disk that holds the "
            "data responding? Give a larger --worker_timeout, or --workers 0 to read in this process."
        )
    if text.startswith("DataLoader worker") or (isinstance(error, ConnectionError | EOFError) and "Caught" not in text):
        reason = text.partition(".")[0] or "its connection is closed"
        return f"a loader worker died while reading {samples} ({reason}): if memory ran out, give fewer --workers."
    return None


def process_failure(error: RuntimeError) -> str | None:
    """The failure of another process of a group in one sentence; None for any other error.

    Arguments:
        error: of a collective call of torch.distributed, by gloo or NCCL.
    """
    text = str(error)
    if "Timed out waiting" in text or "Watchdog caught collective operation timeout" in text:
        return (
            "another process of the group has not answered within --process_timeout: it hangs, or is slower than that; "
            "look at its output."
        )
    if "by peer" in text and ("Connection" in text or "gloo" in text):
        return "another process of the group has ended, and this one ends with it: see that one's error."
    return None


def first_few(names: Iterable[str], limit: int = 4) -> str:
    """The first `limit` names, on one line and cut to 80 characters, and the number of the others, for a message."""
    names = list(names)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    first = [" ".join(name.split()) for name in names[:limit]]
    return ", ".join(name if len(name) <= 80 else f"{name[:79]}…" for name in first) + rest
