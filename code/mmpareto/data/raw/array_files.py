"""Named arrays with one row per sample: .npz and .safetensors files, and HuggingFace data sets on disk.

None of the readers runs code of the file: .npz without pickles, safetensors, and Arrow.
"""

import math
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from mmpareto.data.raw.npy_header import read_npy_header
from mmpareto.errors import InputError, first_few, one_line
from mmpareto.files import open_regular, parse_json

LENGTHS = "_lengths"
FORMS = "a .npz file, a .safetensors file, or a folder written by save_to_disk of HuggingFace's datasets"


class ArrayFile(NamedTuple):
    """Arrays of a file, each read on demand.

    Attributes:
        path: of the file or folder.
        readers: name → function that reads the array.
        class_names: array of class indices → names of the classes, where the file has them.
    """

    path: Path
    readers: Mapping[str, Callable[[], np.ndarray]]
    class_names: Mapping[str, Sequence[str]] = MappingProxyType({})

    def read(self, name: str) -> np.ndarray:
        """Read an array.

        Raises:
            InputError: the file is damaged, or the array holds Python objects.
        """
        try:
            return self.readers[name]()
        except InputError:
            raise
        except Exception as error:  # damaged files cause many kinds
            is_pickled = "allow_pickle" in str(error)
            problem = "it holds Python objects, which could run code" if is_pickled else one_line(error)
            raise InputError(
                f"{self.path}: the array {name!r} cannot be read ({problem}); save "
                "numbers, or strings as .astype(str), or leave it out by --modalities."
            ) from None


def open_arrays(path: Path) -> ArrayFile:
    """Open a file or folder of arrays.

    Raises:
        InputError: it is none of `FORMS`, is damaged, or its package is not installed.
    """
    if path.is_dir():
        return _open_huggingface(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a regular file.")
    openers = {".npz": _open_npz, ".safetensors": _open_safetensors}
    opener = openers.get(path.suffix.lower())
    if opener is None:
        raise InputError(f"{path} is not {FORMS}.")
    return opener(path)


def _open_npz(path: Path) -> ArrayFile:
    try:
        file = open_regular(path)
        if file.peek(6)[:6] == b"\x93NUMPY":
            raise InputError(f"{path} holds a single array; write all of them to one file with numpy.savez.")
        archive = zipfile.ZipFile(file)
    except InputError:
        raise
    except Exception as error:  # damaged files cause many kinds
        raise InputError(
            f"{path} is not a readable .npz file ({one_line(error)}); write it with numpy.savez."
        ) from None
    members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
    return ArrayFile(path, {m.filename.removesuffix(".npy"): partial(_read_member, archive, m) for m in members})


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Read an array of an .npz file, after checks that it is no larger than its file, and fits into memory."""
    with archive.open(member) as file:
        shape, dtype = read_npy_header(file)
    size = math.prod(shape) * dtype.itemsize
    if size > member.file_size:
        raise ValueError(f"its header states {size} bytes, but its file has {member.file_size}")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise ValueError(f"it takes {size / 1e9:.0f} GB, but this machine has {memory / 1e9:.0f} GB of memory")
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _open_safetensors(path: Path) -> ArrayFile:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise InputError(f"{path} needs the package safetensors: pip install safetensors.") from None
    try:
        file = safe_open(path, framework="pt")  # NumPy has no bfloat16
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is not a readable .safetensors file ({one_line(error)}).") from None

    def read(name: str) -> np.ndarray:
        tensor = file.get_tensor(name)
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()

    names = _names_in_metadata(path, file.metadata() or {})
    return ArrayFile(path, {name: partial(read, name) for name in file.keys()}, names)  # noqa: SIM118


def _names_in_metadata(path: Path, metadata: Mapping[str, str]) -> dict[str, list[str]]:
    """Class names of the labels: safetensors files hold no strings but those of their metadata."""
    if "classes" not in metadata:
        return {}
    try:
        names = parse_json(metadata["classes"])
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(
            f'{path}: the entry "classes" of its metadata is not a JSON list of names, such as ["no", "yes"].'
        )
    return {"": names}


def _open_huggingface(path: Path) -> ArrayFile:
    if not (path / "state.json").is_file() and not (path / "dataset_dict.json").is_file():
        raise InputError(f"{path} is a folder, but not one that save_to_disk of HuggingFace's datasets wrote.")
    try:
        import datasets
    except ImportError:
        raise InputError(f"{path} needs HuggingFace's package datasets: pip install datasets.") from None
    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # of Arrow, of JSON, of the file system
        raise InputError(
            f"{path} is not a readable HuggingFace data set ({type(error).__name__}: {one_line(error)})."
        ) from None
    parts = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
    features = next(iter(parts.values())).features
    if any(part.features != features for part in parts.values()):
        raise InputError(f"{path}: its parts {', '.join(parts)} have different columns.")
    readers: dict[str, Callable[[], np.ndarray]] = {}
    for column, feature in features.items():
        readers[column] = partial(_padded, parts.values(), path, column)
        if _is_ragged(feature):
            readers[column + LENGTHS] = partial(_lengths, parts.values(), column)
    if isinstance(loaded, datasets.DatasetDict) and "split" not in readers:
        readers["split"] = lambda: np.repeat([*parts], [len(part) for part in parts.values()])
    names = {column: feature.names for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)}
    return ArrayFile(path, readers, names)


def _rows(parts: Iterable[Any], column: str) -> list[np.ndarray]:
    """The rows of a column of all parts, as arrays; of numbers and strings, ()."""
    return [np.asarray(row) for part in parts for row in part.with_format("numpy", columns=[column])[:][column]]


def _lengths(parts: Iterable[Any], column: str) -> np.ndarray:
    """The number of steps of each row."""
    return np.array([len(array) for array in _rows(parts, column)], np.int64)


def _is_ragged(feature: Any) -> bool:
    """True if a column may hold sequences of steps of several features, of different lengths."""
    inner = getattr(feature, "feature", None)
    return inner is not None and hasattr(inner, "feature")


def _padded(parts: Iterable[Any], path: Path, column: str) -> np.ndarray:
    """The rows of a column of all parts as one array, with zeros after the end of shorter sequences.

    Raises:
        InputError: they differ in more than their lengths.
    """
    arrays = _rows(parts, column)
    shapes = {array.shape for array in arrays}
    if len(shapes) == 1:
        return np.stack(arrays)
    widths = {shape[1:] for shape in shapes if shape[:1] != (0,)}  # an empty sequence does not know its width
    if len(widths) != 1 or len(next(iter(widths))) != 1:
        few = first_few(map(str, sorted(shapes)))
        raise InputError(
            f"{path}: the rows of {column} have different shapes ({few}); bring them to one size, or leave them out "
            "by --modalities."
        )
    steps, (width,) = max(map(len, arrays)), widths.pop()
    filled = np.zeros((len(arrays), steps, width), next(array for array in arrays if len(array)).dtype)
    for index, array in enumerate(arrays):
        filled[index, : len(array)] = array.reshape(len(array), width)
    return filled
