"""Running a script of someone else's checkout inside this process, and leaving the process as it was.

Importing a checkout executes it, with all of this process's rights: use a checkout that you trust.
"""

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mmpareto.errors import InputError

CPU = torch.device("cpu")


@contextlib.contextmanager
def imported(script: Path) -> Iterator[ModuleType]:
    """Import a script as a module, with its folder first on the path, in an empty temporary working folder.

    Packages that it imports and this machine lacks are replaced by empty ones whose every attribute is a class. What
    it prints is discarded. At the end, modules, path, working folder, environment and output are what they were.

    Arguments:
        script: not run as `__main__`. Modules beside it take precedence over installed ones of the same name.

    Raises:
        InputError: the script, or a module of the checkout that it imports, is missing or raises an exception.
    """
    script = script.resolve()
    own = {path.stem for path in script.parent.iterdir() if path.is_dir() or path.suffix == ".py"}
    with contextlib.ExitStack() as stack:
        stubs = _Stubs()
        stack.enter_context(_restored(own, stubs.names))
        stack.enter_context(contextlib.chdir(stack.enter_context(tempfile.TemporaryDirectory())))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        sys.dont_write_bytecode = True  # nothing is written into the checkout
        sys.path.insert(0, str(script.parent))
        sys.meta_path.append(stubs)
        yield _import(script, own, stubs)


@contextlib.contextmanager
def command_line(script: Path, words: Sequence[str]) -> Iterator[None]:
    """Set `sys.argv` to a script and its arguments."""
    before, sys.argv = sys.argv, [str(script), *words]
    try:
        yield
    finally:
        sys.argv = before


class Overlay:
    """A module or class with some attributes replaced, for those who hold this object; the original is unchanged."""

    def __init__(self, original: Any, **replaced: Any) -> None:
        self._original = original
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


class Float64Input(Tensor):
    """An input that stays in float64 when a loop calls `.float()` on it, or on a view of it; a plain tensor results."""

    def float(self, *options: Any, **more: Any) -> Tensor:
        """The values in float64."""
        return self.as_subclass(Tensor)


class Forwarding(nn.Module):
    """`torch.nn.DataParallel` without GPUs, in float64: it forwards, and prefixes parameter names with `module.`."""

    def __init__(self, module: nn.Module, *options: Any, **more: Any) -> None:
        super().__init__()
        self.module = module.double()

    def forward(self, *inputs: Any) -> Any:
        """The module's outputs."""
        return self.module(*inputs)

    def cuda(self, *options: Any) -> "Forwarding":
        """The module where it is."""
        return self


def without_gpus() -> Overlay:
    """`torch` for a script that names GPUs: every device is the CPU, and DataParallel is `Forwarding`."""
    return Overlay(
        torch,
        device=lambda *_: CPU,
        cuda=Overlay(torch.cuda, device_count=lambda: 0),
        nn=Overlay(nn, DataParallel=Forwarding),
    )


class _Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds an empty module for the packages in `names` and everything below them."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        known = _top(name) in self.names
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if known else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _StubModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _StubModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def _import(script: Path, own: set[str], stubs: _Stubs) -> ModuleType:
    """Import the script; after each failure for want of a package, once more with a stub in its place.

    A package is replaced only where its absence ends the import, so that optional imports of installed packages,
    which handle the absence, go as without stubs.
    """
    while True:
        spec = importlib.util.spec_from_file_location(script.stem, script)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[script.stem] = module
        try:
            spec.loader.exec_module(module)
            return module
        except ModuleNotFoundError as error:
            missing = _top(error.name or "")
            if not missing or missing in own | stubs.names:
                raise InputError(f"{script} cannot be imported ({error}); give a complete checkout.") from error
            stubs.names.add(missing)
            _forget(own)
        except Exception as error:  # whatever the checkout raises
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"{script} cannot be imported ({reason}); give an unchanged checkout.") from error


@contextlib.contextmanager
def _restored(own: set[str], stubs: set[str]) -> Iterator[None]:
    """Hide modules named like the checkout's; at the end, bring them back, and restore paths and environment."""
    hidden = _forget(own)
    path, finders, environment = [*sys.path], [*sys.meta_path], dict(os.environ)
    no_bytecode = sys.dont_write_bytecode
    try:
        yield
    finally:
        _forget(own | stubs)
        sys.modules.update(hidden)
        sys.path[:], sys.meta_path[:], sys.dont_write_bytecode = path, finders, no_bytecode
        os.environ.clear()
        os.environ.update(environment)


def _forget(tops: set[str]) -> dict[str, ModuleType]:
    """Remove the modules in these packages from `sys.modules`, and return them."""
    return {name: sys.modules.pop(name) for name in [*sys.modules] if _top(name) in tops}


def _top(name: str) -> str:
    return name.partition(".")[0]
