"""Reading pickles of NumPy arrays from untrusted sources without running any of their code.

A pickle is a program: it names functions and calls them. Here a name is looked up in `_ALLOWED` and nowhere else, and
its entries are stand-ins rather than NumPy's functions, since NumPy's `__setstate__` trusts the shapes, fields and
lengths that it is passed. The arrays are created once the whole file has been read and checked.
"""

import io
import math
import os
import pickle
import re
import reprlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

import numpy as np

from mmpareto.data.raw.limits import MOST_AXES
from mmpareto.data.raw.npy_header import read_npy_header
from mmpareto.errors import InputError, one_line
from mmpareto.files import open_regular

# Booleans, integers, floats, complex numbers, strings of one length; O is a list of any allowed objects.
_CODE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|[SU][1-9]\d{0,6}|O[48]?")
MOST_OBJECT_ARRAYS = 4096  # a chain of about 20,000 overflows the interpreter's stack when NumPy frees it
MOST_OBJECTS = 1 << 32  # that a pickle numbers
MOST_TUPLES, MOST_ITEMS = 10_000, 8  # tuples of numbers as keys, and the items of each
_PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray)


def load_pickle(path: Path) -> Any:
    """Read a pickle of NumPy arrays, NumPy scalars and builtin containers; Python 2 strings are decoded as latin1.

    Raises:
        InputError: the file is missing, truncated or not a pickle, or it names anything else (none of it is run).
    """
    with _opened(path) as file:
        return _load(_Rest(file), path)


def load_object_array(path: Path) -> Any:
    """Read the object in an .npy file of one pickled object (as `numpy.save` writes a dictionary).

    Raises:
        InputError: as `load_pickle`, or the file is not an .npy file of one object.
    """
    with _opened(path) as file:
        rest = _Rest(file)
        try:
            shape, dtype = read_npy_header(cast(BinaryIO, rest))
        except (ValueError, EOFError) as error:
            raise InputError(f"{path} is not a readable .npy file ({one_line(error)}); download it again.") from None
        if dtype != np.dtype(object) or math.prod(shape) != 1:
            raise InputError(f"{path} contains {dtype} {shape} instead of one pickled object; download the right file.")
        content = _load(rest, path)
    if not isinstance(content, np.ndarray) or content.dtype != np.dtype(object) or content.size != 1:
        raise InputError(f"{path} does not contain the object that its header announces; download it again.")
    return content.item()


class _Rest:
    """The rest of a file. A read beyond its end raises EOFError before the memory for it is allocated."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self.size = self.left = os.fstat(file.fileno()).st_size

    def read(self, size: int, /) -> bytes:
        """Read `size` bytes."""
        if not 0 <= size <= self.left:
            raise EOFError(f"{size} bytes are announced, and {self.left} are left")
        self.left -= size
        return self._file.read(size)

    def readline(self) -> bytes:
        """Read up to the end of a line."""
        line = self._file.readline()
        self.left -= len(line)
        return line


def _opened(path: Path) -> io.BufferedReader:
    try:
        return open_regular(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def _load(file: _Rest, path: Path) -> Any:
    try:
        return _Finishing().finished(_Unpickler(file).load())
    except _RefusedError as error:
        raise InputError(
            f"{path} {error}, so it is not a file of arrays and plain containers. None of it was run: download the "
            "published file, or, if you trust where this one is from, load it where its classes are installed and save "
            "its content as NumPy arrays in lists and dictionaries."
        ) from None
    except Exception as error:  # a damaged file may cause any exception (MemoryError among them)
        problem = one_line(f"{type(error).__name__}: {error}".rstrip(": "))
        raise InputError(f"{path} is damaged or not a pickle of NumPy arrays ({problem}); download it again.") from None


class _RefusedError(Exception):
    """The file requests something that is not allowed; the text continues a sentence that begins with its name."""


_OPERATIONS: dict[int, Callable[[Any], None]] = pickle._Unpickler.dispatch


class _Unpickler(pickle._Unpickler):
    """Unpickler that resolves the names in `_ALLOWED` only.

    It derives from the unpickler written in Python, since the one in C allocates memory for as many entries as a few
    bytes may claim. A large array is a single step in either.

    Keys are limited (`_check_keys`): hashing deeply nested tuples overflows the interpreter's stack, and a file may
    hold any number of keys with one hash.
    """

    memo: dict[int, Any]
    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    readinto: Callable[[bytearray], int]
    readline: Callable[[], bytes]

    def __init__(self, file: _Rest) -> None:
        super().__init__(file, encoding="latin1")
        self._source, self._tuples = file, 0

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _RefusedError(f"requests {module[:80]}.{name[:80]}")
        return _ALLOWED[module, name]

    def get_extension(self, code: int) -> None:
        raise _RefusedError(f"requests the registered extension {code}")

    def persistent_load(self, pid: Any) -> None:
        raise _RefusedError(f"requests the object {_shown(pid)} outside the file")

    def load_put(self) -> None:
        """Store an object under a number, which protocol 0 writes as text."""
        index = int(self.readline())
        if not 0 <= index < MOST_OBJECTS:
            raise ValueError("a number of an object that is out of range")
        self.memo[index] = self.stack[-1]

    def load_bytearray8(self) -> None:
        """Read a bytearray, if the file is as long as it."""
        size = int.from_bytes(self.read(8), "little")
        if size > self._source.size:
            raise EOFError(f"{size} bytes are announced in a file of {self._source.size}")
        content = bytearray(size)
        self.readinto(content)
        self.append(content)

    def load_setitem(self) -> None:
        """Add an item to a dictionary."""
        self._check_keys(self.stack[-2:-1])
        _OPERATIONS[pickle.SETITEM[0]](self)

    def load_setitems(self) -> None:
        """Add the items since the mark to a dictionary."""
        self._check_keys(self.stack[::2])
        _OPERATIONS[pickle.SETITEMS[0]](self)

    def load_dict(self) -> None:
        """Make a dictionary of the items since the mark."""
        self._check_keys(self.stack[::2])
        _OPERATIONS[pickle.DICT[0]](self)

    def load_additems(self) -> None:
        """Add the items since the mark to a set."""
        self._check_keys(self.stack)
        _OPERATIONS[pickle.ADDITEMS[0]](self)

    def load_frozenset(self) -> None:
        """Make a set of the items since the mark."""
        self._check_keys(self.stack)
        _OPERATIONS[pickle.FROZENSET[0]](self)

    def _check_keys(self, keys: Iterable[Any]) -> None:
        for key in keys:
            self._tuples += _check_key(key)
        if self._tuples > MOST_TUPLES:
            raise _RefusedError(f"has more than {MOST_TUPLES} tuples of numbers as keys")

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = _OPERATIONS | {
        pickle.PUT[0]: load_put,
        pickle.BYTEARRAY8[0]: load_bytearray8,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
    }


def _check_key(key: Any) -> bool:
    """Refuse a key or a member of a set whose hash may be that of many others; return whether it is a tuple of numbers.

    The hash of a string is different in every process, and that of a number below 2 ** 60 is its own.
    """
    if _is_plain_key(key):
        return False
    if isinstance(key, tuple) and len(key) <= MOST_ITEMS and all(map(_is_plain_key, key)):
        return not any(isinstance(item, str | bytes) for item in key)
    raise _RefusedError(f"has a key of the type {type(key).__name__}")


def _is_plain_key(key: Any) -> bool:
    if isinstance(key, int):
        return abs(key) < 1 << 60
    return key is None or isinstance(key, str | bytes | float | np.bool_ | np.integer | np.floating)


_repr = reprlib.Repr()
_repr.maxlevel = 2


def _shown(thing: Any) -> str:
    """An object of the file in a message: references that it shares could make its text as long as any number."""
    return _repr.repr(thing)


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
        if not isinstance(code, str) or not _CODE.fullmatch(code):
            raise _RefusedError(f"contains data of the type {_shown(code)}")
        self.dtype = np.dtype(code.rstrip("48") if code.startswith("O") else code)

    def __setstate__(self, state: Any) -> None:
        _, order, subarray, names, fields, *_ = state  # then sizes, which `code` implies, and flags
        if any(part is not None for part in (subarray, names, fields)):
            raise _RefusedError("contains data of a structured type")
        if order not in ("<", ">", "=", "|"):
            raise ValueError("a type of unknown byte order")
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
        fits = isinstance(shape, tuple) and all(isinstance(size, int) and 0 <= size < 1 << 48 for size in shape)
        if not fits or len(shape) > MOST_AXES or order not in ("C", "F"):
            raise ValueError(f"an array of shape {_shown(shape)} and order {_shown(order)}")
        is_object = dtype.dtype == np.dtype(object)
        self.content = content if is_object else _raw(content)
        if is_object and not isinstance(content, list):
            raise ValueError("an array of objects without a list of objects")
        if len(self.content) != math.prod(shape) * (1 if is_object else dtype.dtype.itemsize):
            raise ValueError(f"{len(self.content)} bytes or items for an array of shape {_shown(shape)}")
        self.dtype, self.shape, self.order, self.axes = dtype.dtype, tuple(shape), order, axes
        return self


class _Finishing:
    """Replaces stand-ins by arrays and dtypes; each object is finished once, however often it occurs."""

    def __init__(self) -> None:
        self._object_arrays = 0
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
        self._object_arrays += 1
        if self._object_arrays > MOST_OBJECT_ARRAYS:
            raise _RefusedError(f"has more than {MOST_OBJECT_ARRAYS} arrays of objects")
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
        raise _RefusedError(f"requests the encoding {_shown(encoding)}")
    return text.encode("latin1")


def _bytes() -> bytes:
    return b""


def _bytearray(content: str | bytes | bytearray = b"", encoding: str = "latin1") -> bytearray:
    return bytearray(_raw(content))  # never from a number, which would be a length


def _set(items: Any = ()) -> set[Any]:
    return set(_members(items))


def _frozenset(items: Any = ()) -> frozenset[Any]:
    return frozenset(_members(items))


def _members(items: Any) -> list[Any]:
    if not isinstance(items, list | tuple):
        raise ValueError(f"{type(items).__name__} where the members of a set are expected")
    if sum(map(_check_key, items)) > MOST_TUPLES:
        raise _RefusedError(f"has more than {MOST_TUPLES} tuples of numbers in a set")
    return [*items]


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
    "set": _set,
    "frozenset": _frozenset,
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
