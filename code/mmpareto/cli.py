"""Common entry-point wrapper, argument parser and exit codes."""

import argparse
import difflib
import io
import os
import re
import signal
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from mmpareto.errors import InputError, process_failure, worker_failure
from mmpareto.files import NO_ROOM

BAD_INPUT = 2
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
BROKEN_PIPE = 128 + signal.SIGPIPE


def run(main: Callable[[list[str] | None], int]) -> NoReturn:
    """Call `main(None)` and exit with the status that it returns.

    `main` parses `sys.argv[1:]` when its argument is None, and returns 0, or 1 if it finished but skipped something.
    Bad input (`InputError`), a full disk or quota, and a limit on the size of files are printed as one line on standard
    error and exit with status 2, as argparse does. SIGINT exits with 130 and SIGTERM with 143, both by unwinding the
    stack: `finally` blocks run. A reader that leaves before the output ends, as in `… | head`, exits with 141 and no
    message.
    """
    # Read when torch is first imported. OpenMP threads that spin while they wait keep the cores from other processes:
    # on a busy machine, a training step takes twice as long with them.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, _terminate)
    threading.excepthook = _report_thread
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
    try:
        try:
            status = main(None)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at exit
        status = BROKEN_PIPE
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        status = BAD_INPUT
    except RuntimeError as error:
        if (sentence := worker_failure(error) or process_failure(error)) is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        status = BAD_INPUT
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        where = f" ({os.fsdecode(error.filename)})" if error.filename else ""
        remedy = (
            f"{NO_ROOM[error.errno]} and start again; a run that has a last.pt continues with train.py --resume FOLDER"
        )
        print(f"error: {error.strerror}{where}: {remedy}.", file=sys.stderr)
        status = BAD_INPUT
    except _Terminated:
        print("terminated", file=sys.stderr)
        status = TERMINATED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = INTERRUPTED
    sys.exit(status)


class ArgumentParser(argparse.ArgumentParser):
    """argparse's parser, for which `--batch-size` is another spelling of `--batch_size`.

    Declare flags with underscores: that is the spelling in `--help`. Flags cannot be abbreviated; the error for an
    unknown one suggests the flag that was probably meant (`nearest_flag`). Subparsers are of this class, too.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False} | options)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse `args` (default: `sys.argv[1:]`) as argparse does; unknown flags are returned with underscores."""
        self._words = with_underscores(sys.argv[1:] if args is None else args)
        return super().parse_known_args(self._words, namespace)

    def error(self, message: str) -> NoReturn:
        """Exit with status 2; where a flag is missing, perhaps because it was misspelled, the message has both."""
        flags = (word for word in getattr(self, "_words", []) if word.startswith("--"))
        unknown = next((word for word in flags if word.partition("=")[0] not in self._option_string_actions), None)
        if "arguments are required" in message and unknown is not None:
            message = f"{message}; {unknown_flag(unknown, self.flags_of(argparse.Namespace()))}"
        super().error(message)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse `args` (default: `sys.argv[1:]`) as argparse does, which exits with status 2 on an unknown flag."""
        given, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(unknown_flag(unknown[0], self.flags_of(given)))
        return given

    def refuse(self, args: Sequence[str] | None, names: Iterable[str], where: str) -> None:
        """Exit with an error, as for an unknown flag, if one of these flags was typed.

        Arguments:
            args: the command line that was parsed (default: `sys.argv[1:]`).
            names: of flags without an effect.
            where: in which case they have none, such as "with --report_only".
        """
        typed = {word.partition("=")[0] for word in with_underscores(sys.argv[1:] if args is None else args)}
        for name in names:
            if f"--{name}" in typed:
                self.error(f"--{name} has no effect {where}; leave it out")

    def flags_of(self, given: argparse.Namespace) -> list[str]:
        """Return the names of all flags, with those of the subcommands that were given."""
        names = [text.removeprefix("--") for action in self._actions for text in action.option_strings]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and getattr(given, action.dest, None) in action.choices:
                names += action.choices[getattr(given, action.dest)].flags_of(given)
        return names


def with_underscores(words: Sequence[str]) -> list[str]:
    """Replace the dashes inside flags by underscores; values, and everything after `--`, stay as they are."""
    end = list(words).index("--") if "--" in words else len(words)
    return [_FLAG.sub(lambda flag: "--" + flag[1].replace("-", "_"), word) for word in words[:end]] + [*words[end:]]


def unknown_flag(word: str, names: Iterable[str]) -> str:
    """Return the message for a word that a command line does not take.

    Arguments:
        word: such as "--lr=3".
        names: of the known flags, without dashes.
    """
    if not word.startswith("--"):
        return f"unknown word {word!r}: it is no flag and no flag's value."
    flag = word.partition("=")[0]
    near = nearest_flag(flag, names)
    return f"unknown flag {flag}." + (f" Did you mean --{near}?" if near else " See --help.")


def nearest_flag(flag: str, names: Iterable[str]) -> str | None:
    """Return the name that was probably meant by an unknown flag: `--lr` is `learning_rate`, `--seed` `random_seed`.

    In this order: nearly the same letters; the initials of its words; the same words but for some; the beginning of a
    word; similar letters.
    """
    asked, known = flag.lstrip("-").lower(), list(dict.fromkeys(names))
    words = set(asked.split("_"))
    by_similarity = {cutoff: difflib.get_close_matches(asked, known, n=1, cutoff=cutoff) for cutoff in (0.85, 0.6)}
    candidates = [
        *by_similarity[0.85],
        *(name for name in known if asked == "".join(word[:1] for word in name.split("_"))),
        *sorted(
            (name for name in known if words & set(name.split("_"))), key=lambda name: len(words ^ set(name.split("_")))
        ),
        *(name for name in known if any(word.startswith(asked) for word in name.split("_")) and len(asked) > 1),
        *by_similarity[0.6],
    ]
    return next(iter(candidates), None)


_FLAG = re.compile(r"^--([A-Za-z][\w-]*)(?=$|=)")


def argument_options(annotation: Any) -> dict[str, Any]:
    """Options of `add_argument` for a value of the annotated type; empty where a command line cannot give one.

    Handles bool (`true` or `false`), int, float, str, a Literal of strings, tuples of one of these (of any length with
    `...`), and unions, of which the first member that a command line can give counts.
    """
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return next((options for part in parts if (options := argument_options(part))), {})
    if origin is tuple:
        return argument_options(parts[0]) | {"nargs": "+" if parts[-1] is Ellipsis else len(parts)}
    if origin is typing.Literal:
        return {"choices": parts}
    if annotation is bool:
        return {"type": truth}
    return {"type": annotation} if annotation in (int, float, str) else {}


def at_least(least: int) -> Callable[[str], int]:
    """Type of a flag whose value is an integer, `least` or more."""

    def integer(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        return int(text)

    return integer


def share(text: str) -> tuple[int, int]:
    """Type of a flag whose value is I/N with 1 ≤ I ≤ N; returns (I, N)."""
    number, slash, count = text.partition("/")
    if not slash or not 1 <= int(number) <= int(count):
        raise argparse.ArgumentTypeError(f"I/N with I from 1 to N, not {text!r}")
    return int(number), int(count)


def truth(text: str) -> bool:
    """Type of a flag whose value is true or false."""
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"true or false, not {text!r}")
    return text.lower() in ("true", "1")


def _report_thread(failed: threading.ExceptHookArgs) -> None:
    """Print why a thread failed, but not for want of room: TensorBoard's writer raises that in the main thread, too."""
    if not (isinstance(failed.exc_value, OSError) and failed.exc_value.errno in NO_ROOM):
        threading.__excepthook__(failed)


class _Terminated(SystemExit):
    """SIGTERM arrived. A SystemExit, so that no `except Exception` handles it."""


def _terminate(signum: int, frame: types.FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut the clean-up short
    raise _Terminated(TERMINATED)
