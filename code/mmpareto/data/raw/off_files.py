"""Meshes out of OFF files (http://www.geomview.org/docs/html/OFF.html), ModelNet's broken headers included.

A file is the word OFF, the numbers of vertices, faces and edges, a line `x y z` a vertex and a line `n i1 … in` a
face. In many files of ModelNet40 the counts stand on the first line: `OFF490 518 0`.
"""

import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

import numpy as np

from mmpareto.errors import InputError

# The number of edges is not used; some writers leave it out.
_HEADER = re.compile(rb"\s*OFF\s*(\d+)\s+(\d+)(?:[ \t]+\d+)?[ \t]*(?:\r|\n|\Z)", re.IGNORECASE)
_COMMENT = re.compile(rb"#[^\r\n]*")
SIZES = (1e-30, 1e30)  # within these, areas and their squares are neither 0 nor infinite

Number = TypeVar("Number", int, float)


class MeshError(InputError):
    """A mesh that cannot be used; `reason` is the kind of failure, for counting."""

    def __init__(self, message: str, reason: str = "unreadable file") -> None:
        super().__init__(message)
        self.reason = reason


class Mesh(NamedTuple):
    """Triangles in space."""

    vertices: np.ndarray
    """float64 (V, 3), finite; every one is a corner of a triangle."""
    triangles: np.ndarray
    """int32 (T, 3): places in `vertices`. At least one triangle has an area."""


def read_off(path: str | os.PathLike[str]) -> Mesh:
    """Read the mesh of a text OFF file.

    Comments, blank lines and what follows a vertex or a face on its line (colours) are passed over, and any line end
    will do. A face of more than three corners becomes a fan of triangles around its first one; one of fewer is a point
    or a line, and left out.

    Raises:
        MeshError: the file is missing, is no OFF file, has fewer or more lines than its counts say, names a vertex
            that is not there, or holds no face, no area, or a number that is not finite.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MeshError(f"{path} cannot be read: {error.strerror}.") from error
    if b"#" in content:
        content = _COMMENT.sub(b"", content)
    header = _HEADER.match(content)
    if header is None:
        what = "is empty" if not content.strip() else "does not begin with OFF and the numbers of vertices and faces"
        raise MeshError(f"{path} {what}.")
    count, faces = int(header[1]), int(header[2])
    body = content[header.end() :].strip()
    vertices, triangles = _triangle_body(body, count, faces) or _line_body(body, count, faces, path)
    return _checked(vertices, triangles, path)


def _triangle_body(body: bytes, count: int, faces: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Vertices and triangles of a file that holds nothing else, read as two blocks; None where it is another.

    Integers are read ten times as fast as decimals, and there are more of them.
    """
    line_ends = np.flatnonzero(np.frombuffer(body, dtype=np.uint8) == ord("\n"))
    if not 0 < count <= len(line_ends):
        return None
    middle = line_ends[count - 1]
    try:
        vertices = np.fromstring(body[:middle], sep=" ")
        corners = np.fromstring(body[middle:], dtype=np.int64, sep=" ")
    except ValueError:
        return None
    if len(vertices) != 3 * count or len(corners) != 4 * faces or (corners[::4] != 3).any():
        return None
    return vertices.reshape(count, 3), corners.reshape(faces, 4)[:, 1:]


def _line_body(body: bytes, count: int, faces: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and triangles of any file, line by line; says what is wrong with a damaged one."""
    lines = [words for line in body.decode("ascii", "replace").splitlines() if (words := line.split())]
    announced = f"{path} has {len(lines)} lines of vertices and faces where it announces {count} + {faces}"
    if len(lines) < count + faces:
        _fail(f"{announced}: it is cut short.", "cut short")
    if len(lines) > count + faces:
        _fail(f"{announced}: the counts are wrong.", "wrong counts")
    vertices = np.array([_numbers(words, float, 3, f"{path}: vertex {i}") for i, words in enumerate(lines[:count])])
    triangles: list[tuple[int, int, int]] = []
    for place, words in enumerate(lines[count:]):
        where = f"{path}: face {place}"
        (corner_count,) = _numbers(words, int, 1, where)
        first, *others = _numbers(words[1:], int, corner_count, where) or [0]
        triangles += [(first, *pair) for pair in itertools.pairwise(others)]
    return vertices, np.array(triangles, dtype=np.int64).reshape(-1, 3)


def _numbers(words: list[str], kind: Callable[[str], Number], count: int, where: str) -> list[Number]:
    """The first `count` of `words` as numbers."""
    if not 0 <= count <= len(words):
        _fail(f"{where} has {len(words)} numbers where {count} are announced.", "cut short")
    try:
        return [kind(word) for word in words[:count]]
    except ValueError:
        wanted = "a number" if kind is float else "a whole number"
        _fail(f"{where} holds something other than {wanted}: {' '.join(words)[:60]!r}.")


def _checked(vertices: np.ndarray, triangles: np.ndarray, path: Path) -> Mesh:
    """The mesh without the vertices that no triangle uses; refused if it is none, or if there is nothing to be seen."""
    if not len(triangles):
        _fail(f"{path} has no face.", "no face")
    if triangles.min() < 0 or triangles.max() >= len(vertices):
        wrong = triangles[(triangles < 0) | (triangles >= len(vertices))][0]
        _fail(f"{path} has a face with vertex {wrong}, but {len(vertices)} vertices.", "impossible face")
    if not np.isfinite(vertices).all():
        _fail(f"{path} has a vertex that is not finite.", "coordinates not finite")
    used = np.bincount(triangles.ravel(), minlength=len(vertices)) > 0
    vertices, triangles = vertices[used], (np.cumsum(used) - 1)[triangles]
    size = np.ptp(np.ascontiguousarray(vertices.T), axis=1).max()
    if not SIZES[0] < size < SIZES[1]:
        _fail(f"{path} has the size {size:.3g}.", "no size")
    first, second, third = (vertices[triangles[:, corner]] for corner in range(3))
    if not np.cross(second - first, third - first).any():
        _fail(f"{path} has no face with an area.", "no size")
    return Mesh(vertices, triangles.astype(np.int32))


def _fail(message: str, reason: str = "unreadable file") -> NoReturn:
    raise MeshError(message, reason) from None
