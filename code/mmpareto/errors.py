"""What is the user's to mend, told in one sentence."""


class InputError(ValueError):
    """Bad input: one sentence that says what is wrong, where, and what to do.

    The entry points print it without a traceback and leave with exit status 2. A DataLoader worker that
    raises it hands its text on inside a report of its own; only the sentence is kept.
    """

    def __init__(self, message: str) -> None:
        if message.startswith("Caught InputError in "):
            message = message.rpartition("InputError: ")[2].strip()
        super().__init__(message)
