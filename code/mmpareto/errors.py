"""User-facing errors."""


class InputError(ValueError):
    """Bad input, in one sentence: what is wrong, where, and what to do.

    The entry points print it without a traceback and exit with status 2. A DataLoader worker that raises it passes its
    message on inside a report with a traceback, of which only the sentence is kept.
    """

    def __init__(self, message: str) -> None:
        if message.startswith("Caught InputError in "):
            message = message.rpartition("InputError: ")[2].strip()
        super().__init__(message)
