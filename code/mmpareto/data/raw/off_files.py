"""OFF meshes (http://www.geomview.org/docs/html/OFF.html), read by trimesh; each failure becomes one sentence.

A file is the word OFF, the numbers of vertices, faces and edges, one line `x y z` per vertex and one line `n i1 … in`
per face. In many files of ModelNet40 the counts are on the first line: `OFF490 518 0`.
"""

import io
import itertools
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import trimesh

from mmpareto.errors import InputError, one_line
from mmpareto.files import open_regular

# The number of edges is not used; some writers leave it out.
_HEADER = re.compile(r"\s*OFF\s*(\d{1,99})\s+(\d{1,99})(?:[ \t]+\d+)?[ \t]*(?:\r|\n|\Z)", re.IGNORECASE)
_COMMENT = re.compile(r"#[^\r\n]*")
SIZES = (1e-30, 1e30)  # within these, areas and their squares are neither 0 nor infinite


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
    """int32 (T, 3): indices into `vertices`. At least one triangle has an area."""


def read_off(path: str | os.PathLike[str]) -> Mesh:
    """Read the mesh of a text OFF file.

    Comments, blank lines and anything after a vertex or a face on its line (colours) are ignored, and all line ends
    are accepted. A face of more than three corners becomes a fan of triangles; one of fewer is left out.

    Raises:
        MeshError: the file is missing, is no OFF file, has fewer or more lines than its counts announce, refers to a
            vertex that does not exist, or has no face, no area, or a number that is not finite.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            content = _COMMENT.sub("", file.read().decode("ascii", "replace"))
    except OSError as error:
        raise MeshError(f"{path} cannot be read: {error.strerror}.") from error
    header = _HEADER.match(content)
    if header is None:
        what = "does not begin with OFF and the numbers of vertices and faces" if content.strip() else "is empty"
        raise MeshError(f"{path} {what}.")
    lines = [line for line in content[header.end() :].splitlines() if line.strip()]
    vertex_count, face_count = int(header[1]), int(header[2])
    if len(lines) != vertex_count + face_count:  # trimesh would ignore what is missing, and allocate what is announced
        reason = "cut short" if len(lines) < vertex_count + face_count else "wrong counts"
        raise MeshError(
            f"{path} announces {vertex_count} + {face_count} lines of vertices and faces and has {len(lines)}.", reason
        )
    try:
        faces = [part for line in lines[vertex_count:] for part in _without_polygons(line)]
        text = "\n".join([f"OFF\n{vertex_count} {len(faces)} 0", *lines[:vertex_count], *faces])
        mesh = trimesh.load_mesh(io.StringIO(text), file_type="off", process=False)
        announced = sum(max(int(line.split()[0]) - 2, 0) for line in faces)
    except Exception as error:  # trimesh raises many kinds for damaged numbers
        raise MeshError(f"{path} is damaged: {one_line(error)}.") from None
    vertices, triangles = np.array(mesh.vertices), np.array(mesh.faces).reshape(-1, 3)
    if len(triangles) < announced:
        raise MeshError(f"{path} has a face with fewer corners than it announces.", "cut short")
    return _checked(vertices, triangles, path)


def _without_polygons(line: str) -> list[str]:
    """Split a face of more than four corners into triangles: trimesh 5.2 cannot read one beside other faces."""
    count, *corners = line.split()
    if int(count) <= 4 or int(count) > len(corners):
        return [line]
    return [f"3 {corners[0]} {second} {third}" for second, third in itertools.pairwise(corners[1 : int(count)])]


def _checked(vertices: np.ndarray, triangles: np.ndarray, path: Path) -> Mesh:
    """Return the mesh without the vertices that no triangle uses; refuse one of which nothing would be seen."""
    if not len(triangles):
        raise MeshError(f"{path} has no face.", "no face")
    if not np.isfinite(vertices).all():
        raise MeshError(f"{path} has a vertex that is not finite.", "coordinates not finite")
    used = np.bincount(triangles.ravel(), minlength=len(vertices)) > 0
    vertices, triangles = vertices[used], (np.cumsum(used) - 1)[triangles]
    size = np.ptp(vertices, axis=0).max()
    first, second, third = (vertices[triangles[:, corner]] for corner in range(3))
    if not SIZES[0] < size < SIZES[1] or not np.cross(second - first, third - first).any():
        raise MeshError(f"{path} has no face with an area that can be drawn (its size is {size:.3g}).", "no size")
    return Mesh(vertices, triangles.astype(np.int32))
