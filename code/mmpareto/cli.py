"""Common entry-point wrapper, argument parser and exit codes."""

import argparse
import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn

from mmpareto.errors import InputError

BAD_INPUT = 2
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


def run(main: Callable[[list[str] | None], int]) -> NoReturn:
    """Run `main(None)` and leave the process with its exit status.

    `main` parses `sys.argv[1:]` when its argument is None and returns 0, or 1 when it finished but something was
    skipped. Bad input (`InputError`) is printed as one line on standard error and leaves with 2, as argparse does, and
    so does a full disk; SIGINT leaves with 130 and SIGTERM with 143, both by unwinding the stack, so that `finally`
    blocks run.
    """
    # Read when torch is first imported. OpenMP threads that spin while they wait take the cores from whoever computes:
    # on a machine with other work, a training step takes twice as long with them.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        status = main(None)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        status = BAD_INPUT
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" ({error.filename})" if error.filename else ""
        what = "make room and start again; a run that has a last.pt goes on with train.py --resume FOLDER"
        print(f"error: {error.strerror}{where}: {what}.", file=sys.stderr)
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
        """Parse `args` (default: `sys.argv[1:]`) as argparse does; flags that remain have underscores."""
        return super().parse_known_args(with_underscores(sys.argv[1:] if args is None else args), namespace)


def with_underscores(words: Sequence[str]) -> list[str]:
    """A command line with the dashes inside its flags replaced by underscores; values, and all after `--`, are kept."""
    end = list(words).index("--") if "--" in words else len(words)
    return [_FLAG.sub(lambda flag: "--" + flag[1].replace("-", "_"), word) for word in words[:end]] + [*words[end:]]


_FLAG = re.compile(r"^--([A-Za-z][\w-]*)(?=$|=)")


def at_least(least: int) -> Callable[[str], int]:
    """The type of a flag whose value is an integer from `least` on."""

    def integer(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        return int(text)

    return integer


def truth(text: str) -> bool:
    """The type of a flag whose value is true or false."""
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"true or false, not {text!r}")
    return text.lower() in ("true", "1")


class _Terminated(SystemExit):
    """SIGTERM came. As a SystemExit it is nobody's error to handle on the way."""


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: the clean-up must not be cut short
    raise _Terminated(TERMINATED)
