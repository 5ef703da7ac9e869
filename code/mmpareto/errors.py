"""User-facing errors."""

from collections.abc import Iterable


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
    """The text of a library's exception, or its type if it has none, as one line of at most `limit` characters."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def first_few(names: Iterable[str], limit: int = 4) -> str:
    """The first `limit` names, each cut to 80 characters, and the number of the others, for a message."""
    names = [name if len(name) <= 80 else f"{name[:79]}…" for name in names]
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
