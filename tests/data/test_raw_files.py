from pathlib import Path

import pytest
from mmpareto.data.raw.raw_files import by_key, files_below, holding, read_lines
from mmpareto.errors import InputError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_files_at_any_depth_in_order_hidden_ones_left_out(tmp_path):
    raw = tmp_path / "raw"
    touch(raw / "b" / "deep" / "2.mp4", raw / "1.MP4", raw / "a" / "-3.mp4", raw / "a" / "3.avi", raw / "a" / "._3.mp4")
    found = [str(path.relative_to(raw)) for path in files_below(raw, ".mp4", "A set", "https://page")]
    assert found == ["1.MP4", "a/-3.mp4", "b/deep/2.mp4"]


def test_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path / "elsewhere" / "1.mp4", tmp_path / "raw" / "2.mp4")
    (tmp_path / "raw" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "raw")
    found = files_below(tmp_path / "raw", ".mp4", "A set", "https://page")
    assert [path.name for path in found] == ["2.mp4", "1.mp4"]


def test_nothing_there_is_told_with_the_page(tmp_path):
    with pytest.raises(InputError, match=r"absent is not there; A set can be had from https://page"):
        files_below(tmp_path / "absent", ".mp4", "A set", "https://page")
    touch(tmp_path / "notes.txt")
    with pytest.raises(InputError, match=r"holds no \.mp4 file; A set can be had from https://page"):
        files_below(tmp_path, ".mp4", "A set", "https://page")


def test_the_first_file_of_a_key_counts():
    paths = [Path("a/1.mp4"), Path("a/x.mp4"), Path("b/01.mp4"), Path("b/2.mp4")]
    files, left_out = by_key(paths, lambda name: int(name) if name.isdecimal() else None, "<number>.mp4")
    assert files == {1: Path("a/1.mp4"), 2: Path("b/2.mp4")}
    assert left_out == {
        "name not of the form": {"a/x.mp4": "a/x.mp4 is not <number>.mp4"},
        "the same clip again": {"b/01.mp4": "b/01.mp4 is the clip of a/1.mp4"},
    }


def test_the_first_folder_that_holds_all(tmp_path):
    touch(tmp_path / "one" / "a", tmp_path / "two" / "a", tmp_path / "two" / "b")
    assert holding([tmp_path / "none", tmp_path / "one", tmp_path / "two"], ["a", "b"]) == tmp_path / "two"
    assert holding([tmp_path / "one"], ["a", "b"]) is None


def test_lines_keep_their_numbers(tmp_path):
    (tmp_path / "list").write_bytes("\ufeffone\r\n\r\n  two é \nthree".encode())
    assert [*read_lines(tmp_path / "list")] == [(1, "one"), (3, "two é"), (4, "three")]
    (tmp_path / "list").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="list cannot be read"):
        [*read_lines(tmp_path / "list")]
