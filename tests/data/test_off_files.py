import itertools
import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from mmpareto.data.raw.off_files import Mesh, MeshError, read_off
from mmpareto.errors import InputError

CORNERS = [*itertools.product((0, 1), repeat=3)]
SQUARES = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
TRIANGLES = [(a, *pair) for a, b, c, d in SQUARES for pair in ((b, c), (c, d))]


def lines(vertices=CORNERS, faces=TRIANGLES):
    points = [" ".join(map(str, vertex)) for vertex in vertices]
    return [*points, *(" ".join(map(str, (len(face), *face))) for face in faces)]


def off(vertices=CORNERS, faces=TRIANGLES, counts=None, head="OFF\n{} {} 0"):
    return "\n".join([head.format(*(counts or (len(vertices), len(faces)))), *lines(vertices, faces), ""])


def read(tmp_path, text) -> Mesh:
    path = tmp_path / "a mesh.off"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_off(path)


def area(mesh):
    """Area of the surface, by Heron's formula."""
    total = 0.0
    for corners in mesh.vertices[mesh.triangles]:
        a, b, c = (math.dist(corners[i], corners[i - 1]) for i in range(3))
        half = (a + b + c) / 2
        total += math.sqrt(max(half * (half - a) * (half - b) * (half - c), 0))
    return total


def assert_cube(mesh):
    assert mesh.vertices.dtype == np.float64 and mesh.triangles.dtype == np.int32
    np.testing.assert_array_equal(mesh.vertices, CORNERS)
    np.testing.assert_array_equal(mesh.triangles, TRIANGLES)


@pytest.mark.parametrize(
    "head",
    [
        "OFF\n{} {} 0",
        "OFF{} {} 0",
        "OFF {} {} 0",
        "OFF\n\n{} {} 18",
        "off\n{}  {} 0 ",
        "\n OFF \n {}\t{}\t0",
        "OFF\n{} {}",
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_headers_of_the_real_data_set_with_any_line_ending(tmp_path, head, line_end):
    assert_cube(read(tmp_path, off(head=head).replace("\n", line_end)))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "# a comment\n" + text,
        lambda text: text.replace("OFF\n", "OFF # 8 and 12\n# 1 2 3\n"),
        lambda text: text.replace("\n0 0 1", "\n# 5 5 5\n0 0 1  # the second"),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text.replace("\n", "  \n\t"),
        lambda text: text.rstrip(),
        lambda text: text + "\n\n  \n",
    ],
)
def test_comments_and_blanks_are_ignored(tmp_path, change):
    assert_cube(read(tmp_path, change(off())))


def test_coordinates_are_parsed_exactly(tmp_path):
    words = ["-1.25", "3e-5", "+0.1", "12345.678901234567", ".5", "7.", "1E+3", "-0", "2"]
    mesh = read(tmp_path, f"OFF3 1 0\n{' '.join(words[:3])}\n{' '.join(words[3:6])}\n{' '.join(words[6:])}\n3 2 0 1\n")
    assert mesh.vertices.ravel().tolist() == [float(word) for word in words]
    assert mesh.triangles.tolist() == [[2, 0, 1]]


def test_faces_of_more_than_three_corners_are_triangulated(tmp_path):
    cube = read(tmp_path, off(faces=SQUARES))
    assert len(cube.triangles) == 12 and area(cube) == pytest.approx(6)
    for corners in (5, 8):
        ring = [(math.cos(2 * math.pi * i / corners), math.sin(2 * math.pi * i / corners), 2) for i in range(corners)]
        mesh = read(tmp_path, off(ring, [tuple(range(corners)), (0, 1, 2)]))
        assert len(mesh.triangles) == corners - 1
        whole = Mesh(mesh.vertices, mesh.triangles[:-1])
        assert area(whole) == pytest.approx(corners / 2 * math.sin(2 * math.pi / corners))  # of a regular polygon


def test_points_lines_and_unused_vertices_are_left_out(tmp_path):
    mesh = read(tmp_path, off([(9, 9, 9), *CORNERS, (-7, 0, 0)], [(0,), (1, 9), (1, 2, 3), (8, 5, 2)]))
    assert mesh.vertices[mesh.triangles].tolist() == [
        [[*CORNERS[i]] for i in (0, 1, 2)],
        [[*CORNERS[i]] for i in (7, 4, 1)],
    ]
    assert len(mesh.vertices) == 5


def test_colours_are_ignored(tmp_path):
    coloured = [f"{line} 255 0 128" for line in lines()]
    assert_cube(read(tmp_path, "\n".join([f"OFF\n{len(CORNERS)} {len(TRIANGLES)} 0", *coloured])))


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("unreadable file", ""),
        ("unreadable file", " \n\n"),
        ("unreadable file", "OFF\n"),
        ("unreadable file", "OFF\nx y z\n"),
        ("unreadable file", "OFF -8 12 0\n"),
        ("unreadable file", f"OFF {'9' * 9999} 12 0\n"),
        ("unreadable file", off(faces=[(0, 1, 2)]).replace("3 0 1 2", f"{'9' * 9999} 0 1 2")),
        ("unreadable file", off(faces=[(0, 1, 10**20)])),
        ("cut short", off(faces=[(0, 1, 2)]).replace("3 0 1 2", "999999999999 0 1 2")),
        ("unreadable file", "ply\nformat ascii 1.0\n"),
        ("unreadable file", "OFF BINARY\n8 12 0\n"),
        ("unreadable file", b"\x89PNG\r\n\x1a\n" + bytes(range(256))),
        ("unreadable file", off().replace("\n0 1 0\n", "\n0 one 0\n")),
        ("unreadable file", off().replace("\n0 1 0\n", "\n0 1,0 0\n")),
        ("unreadable file", off(faces=[(0, 1, "1.5")])),
        ("wrong counts", off().encode() + b"\x00\xff\n"),
        ("wrong counts", off(counts=(8, 11))),
        ("wrong counts", off(faces=SQUARES, counts=(8, 5))),
        ("cut short", off(counts=(8, 13))),
        ("cut short", off(counts=(9, 12))),
        ("cut short", off(counts=(10**20, 12))),
        ("unreadable file", off().replace("\n0 1 0\n", "\n0 1\n")),
        ("cut short", off(faces=[(0, 1, 2)]).replace("3 0 1 2", "4 0 1 2")),
        ("no face", off(faces=[(0, 1, 2)]).replace("3 0 1 2", "-3 0 1 2")),
        ("unreadable file", off(faces=[(0, 1, 2), (0, 1, 8)])),
        ("unreadable file", off(faces=[(0, 1, 2), (0, -1, 3)])),
        ("unreadable file", off(faces=[(0, 1, 2, 10**18)])),
        ("coordinates not finite", off([(0, 0, "nan"), *CORNERS[1:]])),
        ("coordinates not finite", off([(0, 0, "-inf"), *CORNERS[1:]])),
        ("coordinates not finite", off([(0, 0, "1e999"), *CORNERS[1:]])),
        ("no face", off(faces=[])),
        ("no face", off(faces=[(0, 1), (2,)])),
        ("no face", "OFF\n0 0 0\n"),
        ("no size", off([(3, 3, 3)] * 8)),
        ("no size", off([(i, 2 * i, 3 * i) for i in range(8)])),
        ("no size", off([(1e-200 * x, y * 1e-200, z * 1e-200) for x, y, z in CORNERS])),
        ("no size", off([(1e200 * x, y * 1e200, z * 1e200) for x, y, z in CORNERS])),
        ("no size", off(faces=[(0, 0, 1), (2, 3, 2)])),
    ],
)
def test_damaged_files_are_refused_by_name_and_reason(tmp_path, reason, text):
    with pytest.raises(MeshError, match=r"a mesh\.off") as caught:
        read(tmp_path, text)
    assert caught.value.reason == reason
    assert isinstance(caught.value, InputError) and "\n" not in str(caught.value)


@pytest.mark.parametrize("faces", [TRIANGLES, SQUARES])
def test_a_file_truncated_anywhere_is_refused(tmp_path, faces):
    content = off(faces=faces).rstrip()
    for kept in range(len(content)):
        with pytest.raises(MeshError):
            read(tmp_path, content[:kept])


def test_missing_files_are_named(tmp_path):
    for path in (tmp_path / "absent.off", tmp_path):
        with pytest.raises(MeshError, match=path.name) as caught:
            read_off(path)
        assert caught.value.reason == "unreadable file"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


@hypothesis.given(
    st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=3)), min_size=1, max_size=4), st.booleans()
)
def test_any_content_gives_a_mesh_or_a_mesh_error(folder, changes, squares):
    content = off(faces=SQUARES if squares else TRIANGLES).encode()
    for start, new in changes:
        content = content[:start] + new + content[start + len(new) :]
    try:
        mesh = read(folder, content)
    except MeshError:
        return
    assert np.isfinite(mesh.vertices).all() and area(mesh) > 0
    assert set(mesh.triangles.ravel()) == set(range(len(mesh.vertices)))
