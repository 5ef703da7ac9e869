from pathlib import Path

import pytest
from mmpareto.data.raw.raw_files import check_listed, find_files, first_folder_with, read_lines
from mmpareto.errors import InputError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def find(folder: Path, key=lambda name: name):
    return find_files(folder, ".mp4", key, form="<number>.mp4", title="A set", page="https://page")


def test_files_at_any_depth_in_order_without_hidden_ones(tmp_path):
    raw = tmp_path / "raw"
    touch(raw / "b" / "deep" / "2.mp4", raw / "1.MP4", raw / "a" / "-3.mp4", raw / "a" / "3.avi", raw / "a" / "._3.mp4")
    files, skipped = find(raw)
    assert [str(path.relative_to(raw)) for path in files.values()] == ["1.MP4", "a/-3.mp4", "b/deep/2.mp4"]
    assert [*files] == ["1", "-3", "2"] and not skipped


def test_links_are_followed_once_in_a_cycle(tmp_path):
    touch(tmp_path / "elsewhere" / "1.mp4", tmp_path / "raw" / "2.mp4")
    (tmp_path / "raw" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "raw")
    assert [*find(tmp_path / "raw")[0]] == ["2", "1"]


def test_a_folder_without_files_is_refused_with_the_download_page(tmp_path):
    touch(tmp_path / "empty" / "notes.txt")
    for folder, problem in (("absent", "does not exist"), ("empty", r"has no \.mp4 file")):
        with pytest.raises(InputError, match=rf"{folder} {problem}; get A set from https://page"):
            find(tmp_path / folder)


def test_the_first_file_with_a_key_counts(tmp_path):
    touch(*(tmp_path / name for name in ("a/1.mp4", "a/x.mp4", "b/01.mp4", "b/2.mp4")))
    files, skipped = find(tmp_path, lambda name: int(name) if name.isdecimal() else None)
    assert files == {1: tmp_path / "a/1.mp4", 2: tmp_path / "b/2.mp4"}
    assert {reason: [*sentences] for reason, sentences in skipped.items()} == {
        "name not of the form": [str(tmp_path / "a/x.mp4")],
        "the same clip again": [str(tmp_path / "b/01.mp4")],
    }
    assert "is not <number>.mp4" in skipped["name not of the form"][str(tmp_path / "a/x.mp4")]
    assert "a/1.mp4" in skipped["the same clip again"][str(tmp_path / "b/01.mp4")]


def test_one_listed_clip_is_enough():
    check_listed([1, 2], {2: "two"}, Path("raw"), "A set", "https://page")
    with pytest.raises(
        InputError,
        match=r"raw has no clip that A set's lists name: they list .* found are .*; see https://page",
    ):
        check_listed([1, 2], {3: "three"}, Path("raw"), "A set", "https://page")


def test_the_first_folder_with_all_files(tmp_path):
    touch(tmp_path / "one" / "a", tmp_path / "two" / "a", tmp_path / "two" / "b")
    assert first_folder_with([tmp_path / "none", tmp_path / "one", tmp_path / "two"], ["a", "b"]) == tmp_path / "two"
    assert first_folder_with([tmp_path / "one"], ["a", "b"]) is None


def test_lines_keep_their_numbers(tmp_path):
    (tmp_path / "list").write_bytes("\ufeffone\r\n\r\n  two é \nthree".encode())
    assert [*read_lines(tmp_path / "list")] == [(1, "one"), (3, "two é"), (4, "three")]
    (tmp_path / "list").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="list cannot be read"):
        [*read_lines(tmp_path / "list")]
