"""benchmark.py gpu on a machine without a GPU: sections are skipped, stopped and reported."""

import json
import time
from pathlib import Path
from typing import Any

import benchmark
import pytest
import torch
from mmpareto.analysis.speed import gpu_check
from mmpareto.analysis.speed.gpu_check import GPUCheck
from mmpareto.errors import InputError

REPORT = """<testsuites><testsuite errors="1" failures="1" skipped="2" tests="7">
<testcase classname="a" name="passes"/>
<testcase classname="a" name="fails"><failure message="1 != 2&#10;more">...</failure></testcase>
<testcase classname="b" name="breaks"><error message="no data">...</error></testcase>
</testsuite></testsuites>"""


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def checked(folder: Path, status: int, *words: str) -> dict[str, Any]:
    """Run the check and return its result."""
    assert benchmark.main(["gpu", "--out", str(folder), *words]) == status
    return json.loads((folder / "gpu_check.json").read_text())


def test_without_a_gpu_its_sections_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["tests", "step", "two_gpus", "cgmnist"]
    result = checked(tmp_path, 0, "--sections", *names, "--commit", "abc")
    assert list(result["sections"]) == names and result["commit"] == "abc"
    assert result["machine"]["torch"] == torch.__version__ and result["gpus"] == []
    printed = capsys.readouterr().out
    for name, section in result["sections"].items():
        assert section["status"] == "skipped" and "GPU" in section["reason"]
        for text in (printed, (tmp_path / "gpu_check.txt").read_text()):
            assert f"== {name}: skipped" in text and section["reason"] in text


def test_an_unknown_section_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'stepp', but tests, step"):
        checked(tmp_path, 2, "--sections", "stepp")


def test_a_section_that_fails_or_takes_too_long_does_not_stop_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs(check: GPUCheck, section: dict[str, Any]) -> None:
        section["exit"] = check.python("-c", "import time; time.sleep(60)")

    def fails(check: GPUCheck, section: dict[str, Any]) -> None:
        section["lines"].append(str(check.python("-c", "print('a line'); raise SystemExit(3)")))
        raise ValueError("wrong")

    def measures(check: GPUCheck, section: dict[str, Any]) -> None:
        section["measured"] = check.measure("nothing")

    monkeypatch.setattr(gpu_check, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(
        gpu_check, "SECTIONS", {"hangs": (hangs, 0.01), "fails": (fails, 0.5), "measures": (measures, 0.5)}
    )
    start = time.monotonic()
    sections = checked(tmp_path, 1, "--minutes", "1")["sections"]
    assert time.monotonic() - start < 30
    assert (sections["hangs"]["status"], sections["hangs"]["exit"]) == ("done", -15)
    assert sections["fails"] | {"seconds": 0} == {
        "status": "failed",
        "reason": "ValueError: wrong",
        "lines": ["3"],
        "seconds": 0,
    }
    assert sections["measures"]["status"] == "failed" and "invalid choice: 'nothing'" in sections["measures"]["reason"]
    assert "a line" in (tmp_path / "gpu_check.log").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"gpu_check.{end}" for end in ("json", "log", "txt")]


def test_when_the_time_is_used_up_the_rest_is_skipped(tmp_path: Path) -> None:
    section = checked(tmp_path, 0, "--minutes", "0", "--sections", "loading")["sections"]["loading"]
    assert section["status"] == "skipped" and "0 minutes are used up" in section["reason"]


def test_failures_are_read_from_the_report_of_pytest(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    assert gpu_check._test_results(tmp_path / "report.xml") == {
        "tests": "7 tests, 1 failures, 1 errors, 2 skipped",
        "failures": ["a.fails: 1 != 2", "b.breaks: no data"],
    }


@pytest.mark.slow
def test_steps_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, with tiny inputs."""
    monkeypatch.setattr(gpu_check, "CONDITIONS", ("", "--tf32", "--amp bf16 --channels_last"))
    tiny = ["--batch_size", "2", "--image_size", "33", "--frames", "1", "--audio_frames", "32", "--rounds", "1"]
    section = checked(tmp_path, 0, "--sections", "step", "--gpu_ids", "cpu", *tiny)["sections"]["step"]
    assert list(section["measured"]) == ["float32", "--amp bf16 --channels_last"]
    for measured in section["measured"].values():
        assert measured["conditions"]["batch_size"] == 2 and measured["rounds"] == 1
        assert {"uniform", "mmpareto", "mmpareto:paper", "released code"} <= set(measured["methods"])
    assert "--tf32 is missing: needs a GPU" in section["lines"]
    assert any("5/3 of uniform" in line for line in section["lines"])
