"""Reading pickles of NumPy arrays from untrusted sources without running any of their code.

A pickle is a program: it names functions and calls them. Here a name is looked up in `_ALLOWED` and nowhere else, and
its entries are stand-ins rather than NumPy's functions, since NumPy's `__setstate__` trusts the shapes, fields and
lengths that it is passed. The arrays are created once the whole file has been read and checked.
"""

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mmpareto.errors import InputError

# Booleans, integers, floats, complex numbers, strings of one length; O is a list of any allowed objects.
_CODE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|[SU][1-9]\d{0,6}|O[48]?")
_PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray)


def load_pickle(path: Path) -> Any:
    """Read a pickle of NumPy arrays, NumPy scalars and builtin containers; Python 2 strings are decoded as latin1.

    Raises:
        InputError: the file is missing, truncated or not a pickle, or it names anything else (none of it is run).
    """
    with _opened(path) as file:
        return _load(file, path)


def load_object_array(path: Path) -> Any:
    """Read the object in an .npy file of one pickled object (as `numpy.save` writes a dictionary).

    Raises:
        InputError: as `load_pickle`, or the file is not an .npy file of one object.
    """
    with _opened(path) as file:
        try:
            version = np.lib.format.read_magic(file)
            readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = readers[version](file)
        except (ValueError, KeyError, EOFError) as error:
            raise InputError(f"{path} is not a readable .npy file ({error}); download it again.") from None
        if dtype != np.dtype(object) or math.prod(shape) != 1:
            raise InputError(f"{path} contains {dtype} {shape} instead of one pickled object; download the right file.")
        content = _load(file, path)
    if not isinstance(content, np.ndarray) or content.dtype != np.dtype(object) or content.size != 1:
        raise InputError(f"{path} does not contain the object that its header announces; download it again.")
    return content.item()


def _opened(path: Path) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def _load(file: BinaryIO, path: Path) -> Any:
    try:
        return _Finishing().finished(_Unpickler(file).load())
    except _RefusedError as error:
        raise InputError(
            f"{path} {error}, so it is not a file of arrays and plain containers. None of it was run; do not use it."
        ) from None
    except Exception as error:  # a damaged file may cause any exception (MemoryError among them)
        problem = f"{type(error).__name__}: {error}".rstrip(": ")
        raise InputError(f"{path} is damaged or not a pickle of NumPy arrays ({problem}); download it again.") from None


class _RefusedError(Exception):
    """The file requests something that is not allowed; the text continues a sentence that begins with its name."""


class _Unpickler(pickle._Unpickler):
    """Unpickler that resolves the names in `_ALLOWED` only.

    It derives from the unpickler written in Python, since the one in C allocates memory for as many entries as a few
    bytes may claim. A large array is a single step in either.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _RefusedError(f"requests {module}.{name}")
        return _ALLOWED[module, name]

    def get_extension(self, code: int) -> None:
        raise _RefusedError(f"requests the registered extension {code}")

    def persistent_load(self, pid: Any) -> None:
        raise _RefusedError(f"requests the object {pid!r} outside the file")


class _Allowed:
    """Value of a name in a pickle: the file can call it but not change it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise _RefusedError("changes a function")


class _Dtype:
    """Stand-in for a NumPy dtype while the file is read."""

    __slots__ = ("dtype",)
    __hash__ = None  # type: ignore[assignment]  # so that it cannot be in a set or a dictionary's key

    def __init__(self, code: str, align: bool = False, copy: bool = True) -> None:
        if not _CODE.fullmatch(code):
            raise _RefusedError(f"contains data of the type {code!r}")
        self.dtype = np.dtype(code.rstrip("48") if code.startswith("O") else code)

    def __setstate__(self, state: Any) -> None:
        _, order, subarray, names, fields, *_ = state  # then sizes, which `code` implies, and flags
        if any(part is not None for part in (subarray, names, fields)):
            raise _RefusedError("contains data of a structured type")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stand-in for a NumPy array while the file is read; the items of an object array may be stand-ins, too."""

    __slots__ = ("axes", "content", "dtype", "order", "shape")
    __hash__ = None  # type: ignore[assignment]

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state  # the first is the number of this layout
        self.set(content, dtype, shape, "F" if fortran else "C")

    def set(self, content: Any, dtype: _Dtype, shape: tuple[int, ...], order: Any, axes: Any = None) -> "_Array":
        """Set the content, after checks that the array is no larger than its data in the file.

        Arguments:
            axes: order into which the axes are transposed afterwards.
        """
        if not all(isinstance(size, int) and size >= 0 for size in shape) or order not in ("C", "F"):
            raise ValueError(f"an array of shape {shape} and order {order}")
        is_object = dtype.dtype == np.dtype(object)
        self.content = content if is_object else _raw(content)
        if is_object and not isinstance(content, list):
            raise ValueError("an array of objects without a list of objects")
        if len(self.content) != math.prod(shape) * (1 if is_object else dtype.dtype.itemsize):
            raise ValueError(f"{len(self.content)} bytes or items for an array of shape {shape}")
        self.dtype, self.shape, self.order, self.axes = dtype.dtype, tuple(shape), order, axes
        return self


class _Finishing:
    """Replaces stand-ins by arrays and dtypes; each object is finished once, however often it occurs."""

    def __init__(self) -> None:
        self._done: dict[int, tuple[Any, Any]] = {}  # id → (unfinished, finished); an object that is kept keeps its id

    def finished(self, thing: Any) -> Any:
        """Return `thing` with all stand-ins in it replaced; lists and dictionaries are changed in place."""
        if isinstance(thing, np.generic) or type(thing) in _PLAIN:
            return thing
        if id(thing) not in self._done:
            self._finish(thing)
        return self._done[id(thing)][1]

    def _finish(self, thing: Any) -> None:
        kind = type(thing)
        if kind is _Array:
            self._finish_array(thing)
        elif kind is _Dtype:
            self._done[id(thing)] = thing, thing.dtype
        elif kind is tuple:
            self._done[id(thing)] = thing, tuple(self.finished(item) for item in thing)
        elif kind in (list, dict, set, frozenset):
            self._done[id(thing)] = thing, thing  # before its items: it may contain itself
            if kind is list:
                thing[:] = [self.finished(item) for item in thing]
            elif kind is dict:
                for key, value in thing.items():
                    self.finished(key)  # hashable objects do not change, but may have to be refused
                    thing[key] = self.finished(value)
            else:
                for item in thing:
                    self.finished(item)
        else:
            raise _RefusedError(f"contains a {'function' if kind is _Allowed else kind.__name__}")

    def _finish_array(self, array: _Array) -> None:
        content, array.content = array.content, None  # release the memory: an array may be large
        if array.dtype != np.dtype(object):
            buffer = content if isinstance(content, bytearray) else bytearray(content)  # a writable one
            finished = np.ndarray(array.shape, array.dtype, buffer, order=array.order)
            self._done[id(array)] = array, finished if array.axes is None else finished.transpose(array.axes)
            return
        items = np.empty(len(content), dtype=object)
        self._done[id(array)] = array, items.reshape(array.shape, order=array.order)
        for index, item in enumerate(content):
            items[index] = self.finished(item)


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    """Stand-in for NumPy's `_reconstruct`: an empty array, whose content follows."""
    if kind is not _NDARRAY:
        raise _RefusedError("contains an array of a custom class")
    return _Array()


def _scalar(dtype: _Dtype, content: Any) -> Any:
    array = _Array().set(content, dtype, (), "C")
    if isinstance(array.content, list):
        raise _RefusedError("contains a scalar that is an object")
    return np.frombuffer(array.content, array.dtype)[0]


def _frombuffer(content: Any, dtype: _Dtype, shape: Any, order: Any, axes: Any = None) -> _Array:
    return _Array().set(content, dtype, shape, "C" if order == "K" else order, axes)  # with K, `axes` gives the order


def _ndarray(*_: Any) -> None:
    raise _RefusedError("calls numpy.ndarray")


def _encode(text: str, encoding: str) -> bytes:
    """Python 3's way to write bytes for Python 2; other encodings may decompress, or import a module of their name."""
    if encoding not in ("latin1", "latin-1"):
        raise _RefusedError(f"requests the encoding {encoding!r}")
    return text.encode("latin1")


def _bytes() -> bytes:
    return b""


def _bytearray(content: str | bytes | bytearray = b"", encoding: str = "latin1") -> bytearray:
    return bytearray(_raw(content))  # never from a number, which would be a length


def _raw(content: Any) -> bytes | bytearray:
    if isinstance(content, str):  # a Python 2 string
        return content.encode("latin1")
    if not isinstance(content, bytes | bytearray):
        raise ValueError(f"{type(content).__name__} where bytes are expected")
    return content


_NDARRAY = _Allowed(_ndarray)
_BUILTINS: dict[str, Callable[..., Any]] = {
    "bytes": _bytes,
    "bytearray": _bytearray,
    "complex": complex,
    "set": set,
    "frozenset": frozenset,
}
_ALLOWED = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Allowed(_Dtype),
    ("_codecs", "encode"): _Allowed(_encode),
}
for _core in ("numpy.core", "numpy._core"):  # before NumPy 2 and since
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _Allowed(_reconstruct)
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _Allowed(_scalar)
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _Allowed(_frombuffer)
for _module in ("__builtin__", "builtins"):  # Python 2 and 3
    _ALLOWED |= {(_module, name): _Allowed(call) for name, call in _BUILTINS.items()}
