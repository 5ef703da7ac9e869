"""Verification of a prepared folder, which does not change it."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import prepare
import pytest
import raw_clips
import torch
from mmpareto.data.cremad import CREMAD
from mmpareto.data.loading.layout import fingerprint
from mmpareto.data.preparation.checking import check
from mmpareto.errors import InputError

NAMES = raw_clips.names(actors=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw, out = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("prepared") / "cremad"
    raw_clips.write_clips(raw, NAMES)
    assert prepare.main(["cremad", "--raw", str(raw), "--out", str(out), "--workers", "1"]) == 0
    return out


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "cremad"))


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_an_undamaged_folder_passes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(folder)
    assert prepare.main(["cremad", "--out", str(folder), "--check"]) == 0
    text = capsys.readouterr().out
    assert contents(folder) == before
    assert fingerprint(folder) in text and "wrong            0" in text
    assert "train            18 samples in 6 classes, 3 to 3 per class (16.7% to 16.7%)" in text
    files = sum(len(list((folder / name).rglob("*.*"))) for name in ("audio", "visual"))
    assert f"checksums        {files} files compared" in text


def test_checksums_are_in_the_format_of_sha256sum(folder: Path) -> None:
    lines = dict(reversed(line.split("  ")) for line in (folder / "checksums.sha256").read_text().splitlines())
    expected = contents(folder)
    assert lines == {name: expected[name] for name in expected if name.startswith(("audio/", "visual/"))}


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        ("cut", r"frame_00001.jpg is not a readable"),
        ("changed", r"audio/.*\.pt has changed .*\(checksum\)"),
        ("not finite", "contains numbers that are not finite"),
        ("list", "train.csv lists 17 samples, but prepared.json says 18"),
    ],
)
def test_problems_are_reported(folder: Path, harm: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = (folder / "train.csv").read_text().split(",")[0]
    feature = folder / "audio" / f"{name}.pt"
    if harm == "cut":
        path = folder / "visual" / name / "frame_00001.jpg"
        path.write_bytes(path.read_bytes()[:100])
    elif harm == "changed":
        torch.save(torch.load(feature) + 1, feature)
    elif harm == "not finite":
        torch.save(torch.full((1024, 128), float("nan")), feature)
    else:
        lines = (folder / "train.csv").read_text().splitlines(keepends=True)
        (folder / "train.csv").write_text("".join(lines[1:]))
    assert re.search(problem, "\n".join(check(CREMAD, folder).wrong))
    assert prepare.main(["cremad", "--out", str(folder), "--check"]) == 1
    assert re.search(problem, capsys.readouterr().out)


def test_the_fingerprint_depends_on_the_content(folder: Path) -> None:
    before = fingerprint(folder)
    sums = folder / "checksums.sha256"
    sums.write_text(sums.read_text().replace("a", "b", 1))
    assert fingerprint(folder) != before


def test_a_folder_prepared_by_other_software_is_accepted(folder: Path) -> None:
    (folder / "checksums.sha256").unlink()
    (folder / "prepared.json").unlink()
    report = check(CREMAD, folder)
    assert report.files is None and not report.wrong and "none: there is no checksums.sha256" in report.text()


def test_a_folder_with_only_spectrograms_is_checked(folder: Path) -> None:
    content = json.loads((folder / "prepared.json").read_text())
    (folder / "audio").rename(folder / "audio_spectrogram")
    for path in (folder / "audio_spectrogram").iterdir():
        torch.save(torch.zeros(257, 188), path)
    (folder / "prepared.json").write_text(json.dumps(content | {"audio": ["spectrogram"]}))
    (folder / "checksums.sha256").unlink()
    assert not check(CREMAD, folder).wrong


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        check(CREMAD, tmp_path / "absent")
