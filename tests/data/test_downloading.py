"""Downloads, from a local server that stands for the data sets' own."""

import hashlib
import io
import signal
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import prepare
import pytest
import test_avdigits
import test_cgmnist
from file_server import FileServer, serving
from mmpareto import cli
from mmpareto.data import DATASETS, avdigits
from mmpareto.data.preparation.downloading import download
from mmpareto.errors import InputError
from torchvision.datasets import MNIST

CONTENT = bytes(range(256)) * 1000
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving({"a.bin": CONTENT}) as state:
        yield state


@pytest.fixture
def nowhere() -> str:
    """An address where nobody listens, as without a network."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_file_is_downloaded_once(server: FileServer, tmp_path: Path, chunked: bool) -> None:
    server.chunked, path = chunked, tmp_path / "new/folder/a.bin"
    for _ in range(2):
        download([f"{server.address}a.bin"], path, MD5)
        assert path.read_bytes() == CONTENT and [*path.parent.iterdir()] == [path]
    assert server.requests == ["a.bin"]


@pytest.mark.parametrize("chunked", [False, True])
def test_half_a_file_is_not_kept(server: FileServer, tmp_path: Path, chunked: bool) -> None:
    server.chunked, server.cut, path = chunked, True, tmp_path / "a.bin"
    with pytest.raises(InputError, match=r"a\.bin cannot be downloaded .*bytes.*save it as .*/a\.bin\.$"):
        download([f"{server.address}a.bin"], path)
    assert not [*tmp_path.iterdir()]
    (tmp_path / ".a.bin.killed.bin").write_bytes(CONTENT[:10])
    server.cut = False
    download([f"{server.address}a.bin"], path)
    assert path.read_bytes() == CONTENT and [*tmp_path.iterdir()] == [path]


def test_the_next_address_is_tried(server: FileServer, tmp_path: Path, nowhere: str) -> None:
    server.files["bad/a.bin"] = CONTENT[:-1] + b"x"
    path = tmp_path / "a.bin"
    path.write_bytes(b"an older, damaged copy")
    addresses = [f"{nowhere}a.bin", *(f"{server.address}{name}" for name in ("missing/a.bin", "bad/a.bin"))]
    with pytest.raises(InputError) as caught:
        download(addresses, path, MD5)
    reasons = f"{addresses[0]}: Connection refused; {addresses[1]}: Not Found; {addresses[2]}: its checksum is not"
    assert reasons in str(caught.value).replace("HTTP Error 404: ", "") and "\n" not in str(caught.value)
    assert path.read_bytes() == b"an older, damaged copy"
    download([*addresses, f"{server.address}a.bin"], path, MD5)
    assert path.read_bytes() == CONTENT


# --- the data sets ---


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def mnist(server: FileServer, here: Path, monkeypatch: pytest.MonkeyPatch, nowhere: str) -> list[str]:
    """Serve small IDX files in place of torchvision's first mirror that answers; return their names."""
    names = [name for name, _ in MNIST.resources]
    plain = tuple(name.removesuffix(".gz") for name in names)
    folder = test_cgmnist.write_mnist(here / "files", test_cgmnist.digits(), zipped=plain)
    content = {name: (folder / name).read_bytes() for name in names}
    server.files |= {f"mnist/{name}": values for name, values in content.items()}
    monkeypatch.setattr(MNIST, "mirrors", [nowhere, f"{server.address}mnist/"])
    monkeypatch.setattr(MNIST, "resources", [(name, hashlib.md5(content[name]).hexdigest()) for name in names])
    return names


def test_cgmnist_by_one_command(server: FileServer, mnist: list[str], here: Path) -> None:
    last = server.files.pop(f"mnist/{mnist[3]}")
    with pytest.raises(InputError, match=f"{mnist[3]} cannot be downloaded"):
        prepare.main(["cgmnist", "--download"])
    assert not (here / "data/cgmnist").exists()
    server.files[f"mnist/{mnist[3]}"] = last
    assert prepare.main(["cgmnist", "--download"]) == 0
    assert server.requests == [f"mnist/{name}" for name in (*mnist, mnist[3])]  # the first three are kept
    assert sorted(path.name for path in (here / "data/raw/mnist").iterdir()) == sorted(mnist)
    assert prepare.main(["cgmnist", "--raw", "files", "--out", "again"]) == 0
    for path in (here / "again/arrays").iterdir():
        assert path.read_bytes() == (here / "data/cgmnist/arrays" / path.name).read_bytes()


def fsdd_archive(folder: Path) -> bytes:
    """An archive as GitHub makes them: one folder, and a global header with the commit."""
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT, pax_headers={"comment": "0" * 40}
    ) as made:
        made.add(folder, "free-spoken-digit-dataset-1.0.10/recordings")
    return buffer.getvalue()


def sha256sum(folder: Path) -> str:
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in sorted(folder.glob("*.wav"))]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def test_avdigits_by_one_command(
    server: FileServer,
    mnist: list[str],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recordings = test_avdigits.write_recordings(here / "recordings")
    server.files["v1.tar.gz"], server.chunked = b"<html>Please log in to this network.</html>", True
    monkeypatch.setattr(avdigits, "FSDD_ARCHIVE", f"{server.address}v1.tar.gz")
    with pytest.raises(InputError, match=r"fsdd\.tar\.gz cannot be unpacked"):
        prepare.main(["avdigits", "--download", "raw"])
    assert not [*(here / "raw").iterdir()]

    server.files["v1.tar.gz"] = fsdd_archive(recordings)
    with pytest.raises(InputError, match=r"v1\.tar\.gz does not hold the recordings of v1\.0\.10"):
        prepare.main(["avdigits", "--download", "raw"])
    assert not [*(here / "raw").iterdir()]
    monkeypatch.setattr(avdigits, "FSDD_SHA256", sha256sum(recordings))
    server.requests.clear()
    for _ in range(2):
        assert prepare.main(["avdigits", "--download", "raw"]) == 0
    assert server.requests == ["v1.tar.gz", *(f"mnist/{name}" for name in mnist)]  # all of it once
    text = capsys.readouterr().out
    assert "recordings: those of FSDD v1.0.10" in text and "prepared before  80" in text

    (here / "all").mkdir()
    recordings.rename(here / "all/recordings")
    (here / "files").rename(here / "all/mnist")
    assert prepare.main(["avdigits", "--raw", "all", "--out", "again"]) == 0
    for path in (here / "again/arrays").iterdir():
        assert np.array_equal(np.load(path), np.load(here / "data/avdigits/arrays" / path.name))


def test_without_a_network_the_exit_status_is_2(
    here: Path, nowhere: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(MNIST, "mirrors", [nowhere])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as caught:
            cli.run(lambda _: prepare.main(["cgmnist", "--download"]))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1 and "data/raw/mnist/train-images-idx3-ubyte.gz" in lines[0]


def test_other_data_sets_name_their_page(here: Path) -> None:
    for name in set(DATASETS) - {"cgmnist", "avdigits", "multimnist"}:
        with pytest.raises(InputError) as caught:
            prepare.main([name, "--download"])
        assert DATASETS[name].download.page in str(caught.value) and "\n" not in str(caught.value), name
    with pytest.raises(InputError, match="--download and --raw"):
        prepare.main(["cgmnist", "--download", "--raw", "x"])
    assert not [*here.iterdir()]
