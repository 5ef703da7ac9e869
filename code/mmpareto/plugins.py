"""Plug-ins: modules from elsewhere that register data sets, encoders, fusions, methods, recipes or tables."""

import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmpareto.errors import InputError

HELP = "import this module, installed or in the current directory, which registers parts of its own; repeatable"
_PACKAGE = str(Path(__file__).parent)
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def take_plugins(words: Sequence[str] | None = None) -> tuple[list[str], list[str]]:
    """Import the modules that `--plugin` names; return their names, each once, and the other words.

    Called before a command line is parsed, so that what the modules register is in `--help` and accepted.

    Arguments:
        words: the command line; `sys.argv[1:]` if None. Words after `--` are another program's.

    Raises:
        InputError: see `import_plugins`; or a name is missing.
    """
    rest = [*(sys.argv[1:] if words is None else words)]
    end = rest.index("--") if "--" in rest else len(rest)
    rest, further = rest[:end], rest[end:]
    names = []
    for index in reversed(range(len(rest))):
        flag, has_value, name = rest[index].partition("=")
        if flag != "--plugin":
            continue
        if not has_value:
            name = rest.pop(index + 1) if index + 1 < len(rest) else ""
        rest.pop(index)
        names.append(name)
    names = list(dict.fromkeys(reversed(names)))
    import_plugins(names)
    return names, [*rest, *further]


def import_plugins(names: Iterable[str], needed_by: object = None) -> None:
    """Import modules by name: installed ones, or else those in the current directory.

    Names that a file holds are imported only if the module's own files mention this package, so that a file from a
    stranger cannot start any other program.

    Arguments:
        needed_by: the run or checkpoint that names them; None for the command line.

    Raises:
        InputError: a name is not a module's, or the module is missing or fails.
    """
    for name in names:
        subject = f"--plugin {name}" if needed_by is None else f"the plug-in {name} of {needed_by}"
        if name.endswith(".py") or not _MODULE.fullmatch(name):
            example = re.sub(r"\W+", ".", name.removesuffix(".py")).strip(".") or "my_package"
            raise InputError(f"{subject}: not a module's name; give one such as {example}, without a path.")
        if str(Path.cwd()) not in sys.path:  # last: a file here does not replace an installed module
            sys.path.append(str(Path.cwd()))
        if needed_by is not None and name not in sys.modules and not _mentions_this_package(name):
            raise InputError(f"{subject}: this module does not use mmpareto, and is not imported.")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and f"{name}.".startswith(f"{error.name}."):
                remedy = "install it, start in the folder that holds it, or name that folder in PYTHONPATH"
                raise InputError(f"{subject}: there is no such module; {remedy}.") from error
            raise InputError(f"{subject}: it needs the module {error.name}; install that.") from error
        except InputError as error:
            raise InputError(f"{subject}: {error}") from error
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            where = next((f for f in reversed(frames) if not f.filename.startswith((_PACKAGE, "<frozen"))), frames[-1])
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            raise InputError(f"{subject}: it fails on import, in {where.filename}:{where.lineno} ({text}).") from error


def _mentions_this_package(name: str) -> bool:
    """Return whether the files of a module's top-level package do; True where there is no such module."""
    spec = importlib.util.find_spec(name.partition(".")[0])
    if spec is None:
        return True  # importing it raises the error
    folders = spec.submodule_search_locations
    files = (
        [path for folder in folders for path in Path(folder).rglob("*.py")] if folders else [Path(spec.origin or "")]
    )
    return any(b"mmpareto" in path.read_bytes() for path in files if path.is_file())
