"""User-facing errors."""

from collections.abc import Sequence


class InputError(ValueError):
    """Bad input: one sentence that says what is wrong, where, and what to do.

    The entry points print it without a traceback and leave with exit status 2. A DataLoader worker that
    raises it hands its text on inside a report of its own; only the sentence is kept.
    """

    def __init__(self, message: str) -> None:
        if message.startswith("Caught InputError in "):
            message = message.rpartition("InputError: ")[2].strip()
        super().__init__(message)


def few(names: Sequence[str], limit: int = 4) -> str:
    """The first `limit` names, separated by commas, and the number of those left out."""
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
