"""Progress bars: live on a terminal, one line every 30 seconds in a log."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm  # a widget in a notebook


def progress(iterable: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """Return `tqdm(iterable, **options)`, which shows rate and remaining time on standard error."""
    return tqdm(iterable, mininterval=0.2 if sys.stderr.isatty() else 30, **options)
