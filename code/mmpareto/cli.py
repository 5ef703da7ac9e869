"""Common entry-point wrapper, argument parser and exit codes."""

import argparse
import errno
import os
import re
import signal
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from mmpareto.errors import InputError

BAD_INPUT = 2
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
BROKEN_PIPE = 128 + signal.SIGPIPE


def run(main: Callable[[list[str] | None], int]) -> NoReturn:
    """Call `main(None)` and exit with the status that it returns.

    `main` parses `sys.argv[1:]` when its argument is None, and returns 0, or 1 if it finished but skipped something.
    Bad input (`InputError`) and a full disk are printed as one line on standard error and exit with status 2, as
    argparse does. SIGINT exits with 130 and SIGTERM with 143, both by unwinding the stack: `finally` blocks run. A
    reader that leaves before the output ends, as in `… | head`, exits with 141 and no message.
    """
    # Read when torch is first imported. OpenMP threads that spin while they wait keep the cores from other processes:
    # on a busy machine, a training step takes twice as long with them.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, _terminate)
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
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" ({error.filename})" if error.filename else ""
        remedy = "make room and start again; a run that has a last.pt continues with train.py --resume FOLDER"
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

    Declare flags with underscores: that is the spelling in `--help`. Flags cannot be abbreviated. Subparsers are of
    this class, too.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False} | options)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse `args` (default: `sys.argv[1:]`) as argparse does; unknown flags are returned with underscores."""
        return super().parse_known_args(with_underscores(sys.argv[1:] if args is None else args), namespace)


def with_underscores(words: Sequence[str]) -> list[str]:
    """Replace the dashes inside flags by underscores; values, and everything after `--`, stay as they are."""
    end = list(words).index("--") if "--" in words else len(words)
    return [_FLAG.sub(lambda flag: "--" + flag[1].replace("-", "_"), word) for word in words[:end]] + [*words[end:]]


_FLAG = re.compile(r"^--([A-Za-z][\w-]*)(?=$|=)")


def argument_options(annotation: Any) -> dict[str, Any]:
    """Options of `add_argument` for a value of the annotated type; empty where a command line cannot give one.

    Handles bool (`true` or `false`), int, float, str, a Literal of strings, tuples of one of these, and unions, of
    which the first member that a command line can give counts.
    """
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return next((options for part in parts if (options := argument_options(part))), {})
    if origin is tuple:
        return argument_options(parts[0]) | {"nargs": len(parts)}
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


class _Terminated(SystemExit):
    """SIGTERM arrived. A SystemExit, so that no `except Exception` handles it."""


def _terminate(signum: int, frame: types.FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut the clean-up short
    raise _Terminated(TERMINATED)
