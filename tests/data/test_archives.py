import gzip
import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmpareto.data.preparation.archives import MARKER, unpacked
from mmpareto.errors import InputError

FILES = {"set/a.txt": b"a" * 1000, "set/deep/er/b.bin": bytes(range(256)) * 20, "set/empty": b"", "ünï.txt": b"x"}


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", content: bytes = b"") -> tuple:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(content)
    return info, content


def write_tar(path: Path, members: list[tuple], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return path


def write(path: Path, files: dict[str, bytes] = FILES) -> Path:
    """Write an archive in the format given by its file name."""
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    mode = "w:gz" if path.name.lower().endswith("gz") else "w"
    return write_tar(path, [member(name, content=content) for name, content in files.items()], mode)


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != MARKER
    }


def assert_nothing_left(folder: Path, *expected: Path) -> None:
    assert sorted(folder.iterdir()) == sorted(expected)


NAMES = ["x.zip", "x.tar", "x.tar.gz", "x.tgz", "X.ZIP", "a.b.TAR.GZ"]


@pytest.mark.parametrize("name", NAMES)
def test_unpacks_all_files_once(tmp_path: Path, name: str) -> None:
    raw, into = write(tmp_path / name), tmp_path / "new" / "raw"
    assert unpacked(raw, into) == into
    assert content(into) == FILES
    assert_nothing_left(into.parent, into)
    (into / "set/a.txt").write_bytes(b"untouched")
    assert unpacked(raw, into) == into  # reused, not unpacked again
    assert (into / "set/a.txt").read_bytes() == b"untouched"
    assert_nothing_left(into.parent, into)


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz"])
def test_a_copy_is_accepted_and_another_archive_is_refused(tmp_path: Path, name: str) -> None:
    raw, into = write(tmp_path / name), tmp_path / "raw"
    unpacked(raw, into)
    copy = tmp_path / f"copy-{name}"
    shutil.copyfile(raw, copy)
    os.utime(copy, (1, 1))
    assert unpacked(copy, into) == into
    other = write(tmp_path / f"other-{name}", {"set/a.txt": b"b" * 1000})
    with pytest.raises(InputError, match=rf"raw contains the files of another archive \({name}\); delete"):
        unpacked(other, into)
    assert content(into) == FILES


def test_another_archive_of_the_same_size_is_refused(tmp_path: Path) -> None:
    raw, other = write(tmp_path / "x.tar", {"a": b"one"}), write(tmp_path / "y.tar", {"a": b"two"})
    assert raw.stat().st_size == other.stat().st_size
    unpacked(raw, tmp_path / "raw")
    with pytest.raises(InputError, match="another archive"):
        unpacked(other, tmp_path / "raw")


def test_a_folder_is_returned_unchanged(tmp_path: Path) -> None:
    folder = tmp_path / "clips.zip"
    folder.mkdir()
    assert unpacked(folder, tmp_path / "into") == folder
    assert_nothing_left(tmp_path, folder)


def test_other_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.rar").write_bytes(b"Rar!")
    with pytest.raises(InputError, match=r"x\.rar is neither a folder nor an archive \(\.zip, \.tar"):
        unpacked(tmp_path / "x.rar", tmp_path / "into")
    with pytest.raises(InputError, match=r"absent\.zip does not exist"):
        unpacked(tmp_path / "absent.zip", tmp_path / "into")
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(InputError, match=r"pipe\.zip is neither"):
        unpacked(tmp_path / "pipe.zip", tmp_path / "into")


def test_user_files_are_not_touched(tmp_path: Path) -> None:
    into = tmp_path / "raw"
    into.mkdir()
    raw = write(tmp_path / "x.zip")
    assert unpacked(raw, into) == into  # an empty folder is accepted
    shutil.rmtree(into)
    into.mkdir()
    (into / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="raw contains files that were not unpacked from an archive"):
        unpacked(raw, into)
    assert content(into) == {"mine.txt": b"mine"}
    (into / MARKER).write_text("{")
    with pytest.raises(InputError, match="were not unpacked from an archive"):
        unpacked(raw, into)


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    left = tmp_path / ".raw.unpacking"
    (left / "set").mkdir(parents=True)
    (left / "set/half.txt").write_text("ha")
    (left / "link").symlink_to(tmp_path)
    raw = write(tmp_path / "x.tar")
    assert content(unpacked(raw, tmp_path / "raw")) == FILES
    assert_nothing_left(tmp_path, raw, tmp_path / "raw")


@pytest.mark.parametrize("name", ["/nonexistent/evil", "../evil", "set/../../evil", "set/..", ".."])
@pytest.mark.parametrize("kind", ["x.zip", "x.tar", "x.tgz"])
def test_names_that_escape_the_folder_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    raw = write(folder / kind, {"fine": b"fine", name: b"evil"})
    with pytest.raises(InputError, match=rf"{kind} contains '{name}', which leads out.*do not use it"):
        unpacked(raw, folder / "raw")
    assert_nothing_left(folder, raw)
    assert_nothing_left(tmp_path, folder)


LINK, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE
EVIL = {
    "absolute link": [member("l", LINK, "/nonexistent"), member("l/x", content=b"evil")],
    "absolute link, alone": [member("l", LINK, "/nonexistent")],
    "link out": [member("l", LINK, ".."), member("l/x", content=b"evil")],
    "link out, alone": [member("d/l", LINK, "../../outside")],
    "link out through an inner folder": [member("d/l", LINK, "x/../../../outside")],
    "write through an inner link": [member("l", LINK, "d"), member("l/x", content=b"evil")],
    "write over a link": [member("l", LINK, "d"), member("l", content=b"evil")],
    "link behind a link": [member("d", LINK, "."), member("d/l", LINK, ".."), member("d/l/x", content=b"evil")],
    "link through a link to ..": [
        member("a/b/up", LINK, "../.."),
        member("l", LINK, "a/b/up/../outside"),
    ],
    "hard link out": [member("l", HARD, "../../outside")],
    "absolute hard link": [member("l", HARD, "/nonexistent")],
    "hard link through a link": [member("d", LINK, "."), member("l", HARD, "d/x")],
    "hard link to a link": [member("d", LINK, "e"), member("l", HARD, "d")],
    "hard link to nothing": [member("l", HARD, "nothing")],
    "device": [member("null", tarfile.CHRTYPE)],
    "block device": [member("disk", tarfile.BLKTYPE)],
    "pipe": [member("pipe", tarfile.FIFOTYPE)],
}


@pytest.mark.parametrize("attack", EVIL)
def test_escaping_links_and_devices_are_refused(tmp_path: Path, attack: str) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (tmp_path / "outside").write_text("outside")
    raw = write_tar(folder / "x.tar", [member("fine", content=b"fine"), *EVIL[attack]])
    with pytest.raises(InputError, match=r"x\.tar"):
        unpacked(raw, folder / "raw")
    assert_nothing_left(folder, raw)
    assert_nothing_left(tmp_path, folder, tmp_path / "outside")
    assert (tmp_path / "outside").read_text() == "outside"


@pytest.mark.parametrize("attack", [name for name in EVIL if "link" in name])
def test_the_refusal_does_not_depend_on_the_filter_of_tarfile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    """Python's filter let links through in several versions (CVE-2025-4138, CVE-2025-4330, CVE-2025-4517)."""
    monkeypatch.setitem(tarfile._NAMED_FILTERS, "data", tarfile.fully_trusted_filter)  # type: ignore[attr-defined]
    test_escaping_links_and_devices_are_refused(tmp_path, attack)


def test_links_that_stay_inside_are_kept(tmp_path: Path) -> None:
    members = [
        member("set/a.txt", content=b"a"),
        member("set/same.txt", LINK, "a.txt"),
        member("hard.txt", HARD, "set/a.txt"),
        member("all", LINK, "set"),
    ]
    into = unpacked(write_tar(tmp_path / "x.tar", members), tmp_path / "raw")
    assert (into / "set/same.txt").is_symlink() and (into / "all/same.txt").read_bytes() == b"a"
    assert (into / "hard.txt").read_bytes() == b"a"


def test_setuid_and_group_write_bits_are_dropped(tmp_path: Path) -> None:
    info, data = member("run", content=b"x")
    info.mode = 0o6777
    into = unpacked(write_tar(tmp_path / "x.tar", [(info, data)]), tmp_path / "raw")
    assert stat.S_IMODE((into / "run").stat().st_mode) & 0o6022 == 0


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(InputError, match=r"x\.zip contains the link 'link'"):
        unpacked(tmp_path / "x.zip", tmp_path / "raw")
    assert_nothing_left(tmp_path, tmp_path / "x.zip")


def test_a_zip_larger_than_the_disk_is_refused_before_unpacking(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("large")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, b"small")
        info.file_size = 10**18  # the size recorded in the central directory
    with pytest.raises(InputError, match=r"x\.zip unpacks to 1000000000\.0 GB, but only .* GB are free"):
        unpacked(tmp_path / "x.zip", tmp_path / "raw")
    assert_nothing_left(tmp_path, tmp_path / "x.zip")


@pytest.mark.parametrize("kind", ["x.zip", "x.tar", "x.tar.gz"])
def test_an_archive_truncated_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    whole = write(tmp_path / kind).read_bytes()
    end = len(whole.rstrip(b"\0")) + 512 if kind == "x.tar" else len(whole)  # trailing zeros of a tar hold no data
    cuts = {
        0,
        1,
        100,
        512,
        1024,
        *range(0, end, max(end // 40, 1)),
        *range(0, end, 512),
        end - 1 if kind != "x.tar" else 0,
    }
    for length in sorted(cut for cut in cuts if cut < (end if kind != "x.tar" else end - 511)):
        (tmp_path / kind).write_bytes(whole[:length])
        with pytest.raises(InputError, match=rf"{kind} cannot be unpacked \(.*download it again"):
            unpacked(tmp_path / kind, tmp_path / "raw")
        assert_nothing_left(tmp_path, tmp_path / kind)


@pytest.mark.parametrize("kind", ["x.zip", "x.tar", "x.tar.gz"])
@settings(max_examples=60)
@given(data=st.data())
def test_a_damaged_archive_is_unpacked_or_told(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    whole = bytearray(write(folder / kind, {"a": b"abc" * 300, "b": b"d"}).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (folder / kind).write_bytes(whole)
    try:
        unpacked(folder / kind, folder / "raw")
    except InputError as error:
        assert kind in str(error)
        assert_nothing_left(folder, folder / kind)
    shutil.rmtree(folder)


def test_damage_that_only_gzip_detects_is_refused(tmp_path: Path) -> None:
    plain = write(tmp_path / "x.tar", {"a": b"a" * 5000}).read_bytes()
    raw = tmp_path / "x.tar.gz"
    raw.write_bytes(gzip.compress(plain)[:-8] + gzip.compress(plain.replace(b"aaa", b"aab"))[-8:])
    with pytest.raises(InputError, match=r"x\.tar\.gz cannot be unpacked \(BadGzipFile: CRC check failed"):
        unpacked(raw, tmp_path / "raw")


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    content = bytearray(write(tmp_path / "x.zip").read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the encryption flag in every header
        index = content.find(header)
        while index >= 0:
            content[index + flags] |= 1
            index = content.find(header, index + 1)
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.zip cannot be unpacked .*password"):
        unpacked(tmp_path / "x.zip", tmp_path / "raw")


@pytest.mark.parametrize("make", [lambda p: p.write_text("not a folder"), lambda p: (p.mkdir(), p.chmod(0o500))])
def test_an_unwritable_destination_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    raw = write(tmp_path / "x.zip")
    make(tmp_path / "parent")
    if os.geteuid() == 0 and (tmp_path / "parent").is_dir():
        pytest.skip("root can write anywhere")
    with pytest.raises(InputError, match=r"cannot write to .*parent"):
        unpacked(raw, tmp_path / "parent" / "raw")
