import itertools

import numpy as np
import pytest
from mmpareto.data.generated.rendering import render
from mmpareto.data.raw.off_files import Mesh

SIZE = 224
WHITE = 255
QUADS = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]


def mesh_of(*parts) -> Mesh:
    """Merge several (vertices, triangles) into one mesh."""
    starts = np.cumsum([0, *(len(vertices) for vertices, _ in parts)])
    vertices = np.concatenate([np.asarray(vertices, dtype=float) for vertices, _ in parts])
    triangles = [np.asarray(faces) + start for (_, faces), start in zip(parts, starts, strict=False)]
    return Mesh(vertices, np.concatenate(triangles).astype(np.int32))


def box(low, high):
    corners = np.array([*itertools.product((0, 1), repeat=3)])
    triangles = [(a, *pair) for a, b, c, d in QUADS for pair in ((b, c), (c, d))]
    return np.asarray(low) + corners * (np.asarray(high) - np.asarray(low)), triangles


def sphere(steps=96):
    """A unit sphere by latitude and longitude, with consistently wound triangles."""
    latitude, longitude = np.meshgrid(
        np.linspace(0, np.pi, steps + 1), np.linspace(0, 2 * np.pi, 2 * steps, endpoint=False), indexing="ij"
    )
    vertices = np.stack(
        [np.sin(latitude) * np.cos(longitude), np.sin(latitude) * np.sin(longitude), np.cos(latitude)], axis=-1
    ).reshape(-1, 3)
    row, column = (index.ravel() for index in np.meshgrid(np.arange(steps), np.arange(2 * steps), indexing="ij"))
    corner, beside = row * 2 * steps + column, row * 2 * steps + (column + 1) % (2 * steps)
    below, across = corner + 2 * steps, beside + 2 * steps
    return vertices, np.concatenate([np.stack([corner, below, across], 1), np.stack([corner, across, beside], 1)])


def turned(mesh, degrees):
    """Rotate a mesh counterclockwise as seen from above."""
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    return Mesh(mesh.vertices @ np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]]), mesh.triangles)


def knobbly(seed=0):
    """Random boxes: a shape without symmetry."""
    rng = np.random.default_rng(seed)
    lows = rng.uniform(-1, 1, (6, 3))
    return mesh_of(*(box(low, low + rng.uniform(0.2, 0.9, 3)) for low in lows))


def assert_alike(first, second):
    """Assert equality, except for rays that fall on an edge."""
    differing = np.abs(first.astype(int) - second.astype(int)) > 1
    assert differing.mean() < 0.002


def silhouette(picture):
    rows, columns = np.nonzero(picture < WHITE)
    return rows.min(), rows.max(), columns.min(), columns.max()


def test_a_sphere_matches_the_closed_form():
    (picture,) = render(mesh_of(sphere()), [0], SIZE)
    assert picture.shape == (SIZE, SIZE) and picture.dtype == np.uint8
    offsets = (np.arange(SIZE) + 0.5) / SIZE - 0.5
    radius = np.hypot(*np.meshgrid(offsets, offsets)) / 0.45  # the disc fills nine tenths
    covered = (picture < 230).sum()  # half of a pixel at the rim
    assert covered == pytest.approx(np.pi * (0.45 * SIZE) ** 2, rel=0.01)
    assert (picture[radius > 1.02] == WHITE).all()
    # From 4 radii away the rim is at the angle asin(1/4), and a ray at the angle β to the axis meets the sphere at an
    # angle of incidence whose sine is 4 · sin β.
    angle = np.arctan(radius * np.tan(np.arcsin(1 / 4)))
    cosine = np.sqrt(np.clip(1 - (4 * np.sin(angle)) ** 2, 0, 1))
    inside = radius < 0.97
    error = picture[inside] - 255 * (0.2 + 0.6 * cosine[inside])
    assert np.abs(error).max() < 8 and np.abs(error).mean() < 1
    centre = picture[SIZE // 2 - 2 : SIZE // 2 + 2, SIZE // 2 - 2 : SIZE // 2 + 2]
    assert (centre == 204).all() and picture[inside].max() == 204  # 0.8 · 255, brightest where it faces the light


def box_by_slabs(low, high, azimuth, size):
    """Render a box independently: a rotated pinhole camera, and the slab method for each pixel's centre."""
    low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
    turn, tilt = np.radians(azimuth), np.radians(30)
    # Columns: the camera's right, line of sight and up in world coordinates; azimuth 0 looks along +y.
    about_x = np.array([[1, 0, 0], [0, np.cos(tilt), np.sin(tilt)], [0, -np.sin(tilt), np.cos(tilt)]])
    about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    to_world = about_z @ about_x
    centre, radius = (low + high) / 2, np.linalg.norm(high - low) / 2
    eye = centre - 4 * radius * to_world[:, 1]

    local = (np.array([*itertools.product(*zip(low, high, strict=True))]) - eye) @ to_world
    x, z = local[:, 0] / local[:, 1], local[:, 2] / local[:, 1]
    side = max(np.ptp(x), np.ptp(z)) / 0.9
    pixels = ((np.arange(size) + 0.5) / size - 0.5) * side
    across, above = np.meshgrid((x.min() + x.max()) / 2 + pixels, (z.min() + z.max()) / 2 - pixels)
    rays = np.stack([across, np.ones_like(across), above], axis=-1) @ to_world.T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)

    with np.errstate(divide="ignore"):
        near = np.minimum((low - eye) / rays, (high - eye) / rays)
        far = np.maximum((low - eye) / rays, (high - eye) / rays)
    hit = near.max(-1) <= far.min(-1)
    entered = near.argmax(-1)  # the axis normal to the face
    cosine = np.abs(np.take_along_axis(rays, entered[..., None], -1)[..., 0])
    return np.where(hit, 255 * (0.2 + 0.6 * cosine), 255.0)


@pytest.mark.parametrize("azimuth", [0, 30, 75, 180, 250])
@pytest.mark.parametrize("high", [(1, 2, 3), (5, 0.3, 1), (0.4, 4, 0.2)])
def test_a_box_matches_the_slab_method(azimuth, high):
    (picture,) = render(mesh_of(box((-3, 1, 7), np.add((-3, 1, 7), high))), [azimuth], SIZE)
    expected = box_by_slabs((-3, 1, 7), np.add((-3, 1, 7), high), azimuth, SIZE)
    error = np.abs(picture - expected)
    assert np.median(error[expected < WHITE]) < 0.6 and (error > 1.5).mean() < 0.03  # pixels at edges are mixtures


def test_front_is_seen_from_minus_y_and_rear_from_plus_y():
    body, knob = box((-1, -1, -1), (1, 1, 1)), box((-0.2, -1.5, -0.2), (0.2, -1, 0.2))
    front, rear = render(mesh_of(body, knob), [0, 180], SIZE)
    plain_front, plain_rear = render(mesh_of(body), [0, 180], SIZE)
    shades = np.bincount(plain_front.ravel(), minlength=256)
    assert (shades > 1000).sum() >= 2  # the front face and the top face
    middle = slice(SIZE // 2 - 40, SIZE // 2 + 40)
    # From the front, the knob changes the middle of the picture; from the rear it is hidden by a uniform face.
    assert front[middle, middle].std() > 1.3 * plain_front[middle, middle].std()
    assert np.abs(np.diff(rear[SIZE // 2 + 30, middle].astype(int))).max() <= 1
    assert np.abs(np.diff(front[SIZE // 2 + 30, middle].astype(int))).max() > 10
    assert_alike(plain_front, plain_rear)


@pytest.mark.parametrize(
    ("knob", "azimuth", "side"),
    [((3, 0, 0), 0, "right"), ((-3, 0, 0), 0, "left"), ((3, 0, 0), 180, "left"), ((0, 3, 0), 90, "right"),
     ((0, -3, 0), 90, "left"), ((0, 0, 3), 0, "top"), ((0, 0, -3), 180, "bottom"), ((0, 3, 0), 30, "right")],
)  # fmt: skip
def test_the_axes_point_in_the_documented_directions(knob, azimuth, side):
    """The shape is a box at the end of a thin rod."""
    end = np.array(knob, dtype=float)
    rod = box(np.minimum(end, 0) - 0.02, np.maximum(end, 0) + 0.02)
    (picture,) = render(mesh_of(rod, box(end - 0.5, end + 0.5)), [azimuth], SIZE)
    rows, columns = np.nonzero(picture < WHITE)
    means = {"right": columns.mean(), "left": SIZE - columns.mean(), "bottom": rows.mean(), "top": SIZE - rows.mean()}
    assert max(means, key=means.__getitem__) == side and means[side] > 0.65 * SIZE


@pytest.mark.parametrize("seed", range(3))
def test_half_a_turn_swaps_front_and_rear(seed):
    mesh = knobbly(seed)
    front, rear = render(mesh, [0, 180], SIZE)
    turned_front, turned_rear = render(turned(mesh, 180), [0, 180], SIZE)
    assert_alike(turned_front, rear)
    assert_alike(turned_rear, front)
    assert (np.abs(front.astype(int) - rear) > 1).mean() > 0.05


@pytest.mark.parametrize("azimuth", [30, 90, 210])
def test_turning_the_shape_equals_moving_the_camera(azimuth):
    mesh = knobbly()
    assert_alike(render(turned(mesh, -azimuth), [0], SIZE)[0], render(mesh, [azimuth], SIZE)[0])


def test_a_mirrored_shape_gives_the_mirrored_picture():
    mesh = knobbly()
    mirrored = Mesh(mesh.vertices * [-1, 1, 1], mesh.triangles)
    for azimuth in (0, 60, 180):
        (picture,), (mirror,) = render(mesh, [azimuth], SIZE), render(mirrored, [-azimuth], SIZE)
        assert_alike(picture[:, ::-1], mirror)


@pytest.mark.filterwarnings("error")
def test_position_size_and_winding_do_not_matter():
    mesh = knobbly()
    pictures = render(mesh, [0, 180], SIZE)
    rng = np.random.default_rng(0)
    flipped = np.where(rng.random(len(mesh.triangles))[:, None] < 0.5, mesh.triangles[:, ::-1], mesh.triangles)
    without_area = np.concatenate([mesh.triangles, [[3, 3, 5], [0, 0, 0]]]).astype(np.int32)
    for other in (
        Mesh(mesh.vertices * 1e4 + [5e5, -3e5, 1e5], mesh.triangles),
        Mesh(mesh.vertices * 1e-20, mesh.triangles),
        Mesh(mesh.vertices, flipped),
        Mesh(mesh.vertices, without_area),
        Mesh(mesh.vertices, np.repeat(mesh.triangles, 2, axis=0)),
    ):
        for picture, same in zip(pictures, render(other, [0, 180], SIZE), strict=True):
            assert_alike(picture, same)


@pytest.mark.parametrize("size", [32, 224, 301])
@pytest.mark.parametrize("high", [(9, 1, 0.1), (0.1, 0.1, 5), (1, 1, 1)])
def test_a_silhouette_is_centred_and_fills_nine_tenths(size, high):
    for picture in render(mesh_of(box((0, 0, 0), high)), [0, 30, 180], size):
        top, bottom, left, right = silhouette(picture)
        assert max(bottom - top, right - left) + 1 == pytest.approx(0.9 * size, abs=2)
        assert top + bottom == pytest.approx(size - 1, abs=2) and left + right == pytest.approx(size - 1, abs=2)


def test_the_camera_looks_at_the_centroid_of_the_surface():
    """The centroid does not depend on the number of triangles that a face is divided into."""
    corners, faces = box((0, 0, 0), (1, 2, 1))
    middle = corners[[*faces[0]]].mean(axis=0)
    finer = [*faces[1:], *((*pair, 8) for pair in (faces[0][:2], faces[0][1:], (faces[0][2], faces[0][0])))]
    pictures = [
        render(mesh_of(part), [0], SIZE)[0] for part in ((corners, faces), (np.array([*corners, middle]), finer))
    ]
    assert_alike(*pictures)


def test_a_flat_shape_is_invisible_edge_on_and_edges_are_smooth():
    square = ([(0, 0, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1)], [(0, 1, 2), (0, 2, 3)])
    edge_on, face_on = render(mesh_of(square), [0, 90], SIZE)
    assert (edge_on == WHITE).all()
    expected = 255 * (0.2 + 0.6 * np.cos(np.radians(30)))
    assert np.median(face_on[face_on < WHITE]) == pytest.approx(expected, abs=4)
    assert ((face_on > expected + 15) & (face_on < WHITE)).any()  # partially covered pixels
