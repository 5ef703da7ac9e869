"""Views of a mesh from around it, by casting rays on the CPU (Embree, through embreex; no display and no OpenGL).

The setup is that of MVCNN's twelve views (Su et al., ICCV 2015, section 3.1, and its released renderer:
render_views.m and plotMesh.m of suhangpro/mvcnn). Shapes are upright along +z. The cameras are 30° apart and 30° above
the ground, and look at the centroid, in perspective; the first is on the −y side, the others follow counterclockwise as
seen from above. The shape and the background are white, with ambient light 0.2, diffuse reflection 0.6 and no
highlights. Three things differ from MVCNN: the light is at the camera, not beside it, so that a mirrored shape gives
the mirrored picture; faces are flat, because many of ModelNet's vertices belong to faces on both sides of an edge; and
a silhouette fills nine tenths of the picture, whatever its area.
"""

import functools
from collections.abc import Sequence

import numpy as np
from embreex.mesh_construction import TriangleMesh  # type: ignore[import-untyped]
from embreex.rtcore_scene import EmbreeScene  # type: ignore[import-untyped]

from mmpareto.data.raw.off_files import Mesh

ELEVATION = 30.0  # degrees
AMBIENT, DIFFUSE = 0.2, 0.6
FILLED = 0.9  # share of the picture's side that the longer side of the silhouette has
DISTANCE = 4.0  # of the camera from the centroid, in radii of the shape, which spans at most 29°
SAMPLES = 2  # rays per pixel and direction, averaged: smooth edges


def render(mesh: Mesh, azimuths: Sequence[float], size: int) -> list[np.ndarray]:
    """Draw `mesh` as seen from each of `azimuths`, in degrees; 0 is from −y, 90 from +x.

    Both sides of a face are shaded alike, since ModelNet's faces are wound either way: a pixel is 0.2 + 0.6 · |cos| of
    the angle between the ray and the face's normal, and 1 in the background. A flat shape seen exactly edge-on gives a
    white picture.

    Returns:
        One picture per azimuth, uint8 (size, size).
    """
    vertices, normals = _normalised(mesh)
    scene = EmbreeScene(robust=True)  # no ray slips through between two faces
    TriangleMesh(scene, vertices, mesh.triangles)
    return [_view(scene, vertices, normals, azimuth, size) for azimuth in azimuths]


def _normalised(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Return the vertices, with the centroid at 0 and the farthest vertex at distance 1, and the faces' normals.

    The centroid is that of the surface: the mean of the faces' centres, weighted by their areas.

    Returns:
        Vertices, float32 (V, 3); normals, float32 (T, 3) of length 1, or 0 for a face without an area.
    """
    first, second, third = (mesh.vertices[mesh.triangles[:, corner]] for corner in range(3))
    normals = np.cross(second - first, third - first)
    areas = _lengths(normals)  # twice the areas
    centroid = areas @ (first + second + third) / (3 * areas.sum())
    vertices = mesh.vertices - centroid
    vertices /= _lengths(vertices).max()
    normals /= np.where(areas > 0, areas, 1)[:, None]
    return vertices.astype(np.float32), normals.astype(np.float32)


def _lengths(vectors: np.ndarray) -> np.ndarray:
    """Return the lengths of the rows, (N,)."""
    return np.sqrt(np.einsum("nc,nc->n", vectors, vectors))


def _view(scene: EmbreeScene, vertices: np.ndarray, normals: np.ndarray, azimuth: float, size: int) -> np.ndarray:
    """Return the picture from one azimuth, uint8 (size, size)."""
    right, up, forward = _camera(azimuth)
    position = -DISTANCE * forward
    relative = vertices - position
    depth = relative @ forward
    projected = np.stack([relative @ right / depth, relative @ up / depth])  # on a screen at distance 1
    low, high = projected.min(axis=1), projected.max(axis=1)
    middle, extent = (low + high) / 2, high - low

    grid = _grid(size * SAMPLES) * extent.max() / FILLED
    across, above = (grid[np.abs(grid) <= half] for half in extent / 2)  # no ray beside the shape
    rays = forward + (middle[0] + across)[None, :, None] * right + (middle[1] - above)[:, None, None] * up
    rays = rays.reshape(-1, 3).astype(np.float32)
    light = np.ones((len(grid), len(grid)), dtype=np.float32)
    top, left = (len(grid) - len(above)) // 2, (len(grid) - len(across)) // 2
    window = light[top : top + len(above), left : left + len(across)]
    window[:] = _light(scene, position, rays, normals).reshape(window.shape)
    pixels = light.reshape(size, SAMPLES, size, SAMPLES).mean(axis=(1, 3))
    return np.rint(255 * pixels).astype(np.uint8)


def _light(scene: EmbreeScene, position: np.ndarray, rays: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Return the light, float32 (R,) from 0 (black) to 1 (white), that `rays` (R, 3) from `position` meet."""
    face = scene.run(np.tile(position.astype(np.float32), (len(rays), 1)), rays)  # index of the face that is hit, or −1
    hit = np.flatnonzero(face >= 0)
    hitting = rays[hit]
    light = np.ones(len(rays), dtype=np.float32)
    light[hit] = AMBIENT + DIFFUSE * np.abs(np.einsum("rc,rc->r", normals[face[hit]], hitting)) / _lengths(hitting)
    return light


def _camera(azimuth: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return right, up and forward, as unit vectors, of a camera that looks at the origin."""
    turn, tilt = np.radians([azimuth, ELEVATION])
    right = np.array([np.cos(turn), np.sin(turn), 0.0])
    forward = np.array([-np.cos(tilt) * np.sin(turn), np.cos(tilt) * np.cos(turn), -np.sin(tilt)])
    return right, np.cross(right, forward), forward


@functools.lru_cache(maxsize=4)
def _grid(count: int) -> np.ndarray:
    """Return the midpoints of `count` equal parts of the interval from −½ to ½."""
    return (np.arange(count) + 0.5) / count - 0.5
