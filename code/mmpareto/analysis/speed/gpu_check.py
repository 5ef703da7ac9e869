"""Everything of this project that needs a GPU, in sections: tests, speed, several GPUs, runs that share a GPU.

Every section runs in processes of its own, until it is finished or its time is used up. A section that fails is
reported, and the next one runs. The result is written after every section.
"""

import argparse
import contextlib
import datetime
import itertools
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from mmpareto.analysis.speed import cost, loading
from mmpareto.data.workers import available_cores
from mmpareto.errors import InputError
from mmpareto.files import read_json, write_text
from mmpareto.training.devices import choose_devices
from mmpareto.training.run_folder import BEST, LAST, SUMMARY, git_commit

CODE = Path(__file__).resolve().parents[3]
TESTS = CODE.parent / "tests"
TWO_GPUS = TESTS / "training" / "test_two_gpus.py"
GRACE_SECONDS = 30  # for a process to save its state after SIGTERM
LEAST_SECONDS = 5  # a process is not started with less time
PRECISIONS = ("", "--tf32", "--amp bf16")
# In order of interest; the last ones may be left out for want of time.
CONDITIONS = (
    *PRECISIONS,
    *(f"{precision} --channels_last".strip() for precision in PRECISIONS),
    *(f"{precision} --channels_last --compile".strip() for precision in reversed(PRECISIONS)),
    *(f"{precision} --compile".strip() for precision in reversed(PRECISIONS)),
)
COMPARED = ("uniform", "mmpareto", "mmpareto:paper", "released_code")  # and TorchJD, if it is installed
COMPILED = ("uniform", "mmpareto", "released_code")
RESULT = "gpu_check"
DIGITS = Path("data/cgmnist")
DIGIT_RUNS = Path("runs/gpu_check/cgmnist")  # kept, so that the next check continues them


def check(given: argparse.Namespace) -> int:
    """Run the sections, and write gpu_check.json, gpu_check.txt and gpu_check.log.

    Arguments:
        given: the command line of benchmark.py. `out` is the folder of the result: by default $OUT, else
            runs/gpu_check. With the `gpu_ids` "cpu", the CPU is measured in place of a GPU, to try the check.

    Returns:
        The exit status: 1 if a section failed. A section that is skipped has not failed.

    Raises:
        InputError: a section or a GPU does not exist.
    """
    unknown = [name for name in given.sections or () if name not in SECTIONS]
    if unknown:
        raise InputError(f"--sections: there is no section {unknown[0]!r}, but {', '.join(SECTIONS)}.")
    running = GPUCheck(given, given.out or Path(os.environ.get("OUT") or DIGIT_RUNS.parent))
    running.run_sections(given.sections or [*SECTIONS])
    print(f"\n{running.out / RESULT}.json, .txt and .log")
    return int(running.has_failed)


class Skipped(Exception):  # noqa: N818 (not an error)
    """A section that cannot run here; the message gives the reason."""


class GPUCheck:
    """A check that is running.

    Attributes:
        out: folder of the result.
        gpus: ids of the GPUs that are checked.
        deadline: of the section that is running, in seconds of `time.monotonic`.
    """

    def __init__(self, options: argparse.Namespace, out: Path) -> None:
        device, ids = choose_devices(options.gpu_ids)
        self.options, self.out, self.gpus = options, out, ids
        self.log = out / f"{RESULT}.log"
        self.deadline = 0.0
        self.started = time.monotonic()
        self.result: dict[str, Any] = {
            "machine": cost.machine(device),
            "gpus": [torch.cuda.get_device_name(gpu) for gpu in ids],
            "driver": _driver() if ids else None,
            "commit": options.commit or git_commit() or "unknown",
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "sections": {},
        }

    def run_sections(self, names: Sequence[str]) -> None:
        """Run the sections one after the other, and print each."""
        self.out.mkdir(parents=True, exist_ok=True)
        self.log.write_text("")
        print(self._heading(), flush=True)
        for name in names:
            run, most = SECTIONS[name]
            start = time.monotonic()
            left = self.started + 60 * self.options.minutes - start
            self.deadline = start + min(left, 60 * most * self.options.minutes)
            section: dict[str, Any] = {"status": "done", "lines": []}
            try:
                if left < LEAST_SECONDS:
                    raise Skipped(f"the {self.options.minutes:g} minutes are used up")
                run(self, section)
            except Skipped as reason:
                section |= {"status": "skipped", "reason": str(reason)}
            except Exception as error:  # whatever it is, the time on the GPU goes on
                section |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
            section["seconds"] = round(time.monotonic() - start, 1)
            self.result["sections"][name] = section
            print(_section_text(name, section), flush=True)
            self._write()

    @property
    def has_failed(self) -> bool:
        """True if a section failed."""
        return any(section["status"] == "failed" for section in self.result["sections"].values())

    @property
    def text(self) -> str:
        """The result as text."""
        parts = [_section_text(name, section) for name, section in self.result["sections"].items()]
        return "\n".join([self._heading(), *parts])

    @property
    def step_flags(self) -> list[str]:
        """The flags of the training step's shapes, and of the number of rounds."""
        names = ("batch_size", "image_size", "frames", "audio_frames", "rounds")
        return [word for name in names for word in (f"--{name}", str(getattr(self.options, name)))]

    def require_gpus(self, count: int = 1) -> None:
        """Raise `Skipped` if fewer GPUs are available."""
        if len(self.gpus) < count:
            has = "no GPU that PyTorch can use" if not self.gpus else f"{len(self.gpus)} of them"
            raise Skipped(f"needs {count} GPU{'s' * (count > 1)}, and there is {has}")

    def python(self, *words: str, reserve: float = 0.0) -> int:
        """Run Python with these arguments until the section's deadline; return its exit status, −15 if out of time.

        The output is appended to the log. After the deadline the process gets SIGTERM, and if it goes on, SIGKILL.

        Arguments:
            reserve: seconds to leave until the deadline.

        Raises:
            Skipped: too little time is left to start.
        """
        seconds = self.deadline - time.monotonic() - reserve
        if seconds < LEAST_SECONDS:
            raise Skipped("its time was used up")
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"\n$ python {' '.join(words)}\n")
            log.flush()
            process = subprocess.Popen(
                [sys.executable, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
            try:
                return process.wait(seconds)
            except subprocess.TimeoutExpired:
                return -signal.SIGTERM
            finally:
                _end(process)

    def pytest(self, section: dict[str, Any], *paths: Path) -> None:
        """Run the tests marked gpu in these files; add their numbers to the section."""
        report = self.out / ".tests.xml"
        try:
            words = ("-m", "pytest", "-v", "-m", "gpu", "--durations=5", f"--junitxml={report}", *map(str, paths))
            status = self.python(*words)
            if not report.exists():
                reason = "out of time" if status == -signal.SIGTERM else f"exit status {status}"
                raise ValueError(f"the tests did not finish ({reason}); the last one is in {self.log.name}")
            section |= _test_results(report)
        finally:
            report.unlink(missing_ok=True)
        section["lines"] += [section["tests"], *section["failures"]]
        if status or section["failures"]:
            reason = f"{len(section['failures'])} tests (exit status {status}); see {self.log.name}"
            section |= {"status": "failed", "reason": reason}

    def measure(self, what: str, *words: str) -> dict[str, Any]:
        """The measurements of `benchmark.py WHAT`.

        Raises:
            ValueError: it failed.
            Skipped: there is no time left, or there was too little.
        """
        path = self.out / ".measured.json"
        path.unlink(missing_ok=True)
        try:
            status = self.python(str(CODE / "benchmark.py"), what, *words, "--out", str(path))
            if status == -signal.SIGTERM:
                raise Skipped("its time was used up")
            if status or not path.exists():
                raise ValueError(f"exit status {status}: {_last_line(self.log)}")
            return read_json(path)
        finally:
            path.unlink(missing_ok=True)

    def _heading(self) -> str:
        machine = self.result["machine"]
        device = ", ".join(self.result["gpus"]) or f"{machine['cpu']} (no GPU)"
        driver = f"driver {self.result['driver']}, CUDA {machine['cuda']}, " if self.gpus else ""
        return f"{device}; {driver}torch {machine['torch']}; commit {self.result['commit']}; {self.result['started']}"

    def _write(self) -> None:
        write_text(self.out / f"{RESULT}.json", json.dumps(self.result, indent=1) + "\n")
        write_text(self.out / f"{RESULT}.txt", self.text + "\n")


# The sections


def _tests(check: GPUCheck, section: dict[str, Any]) -> None:
    """All tests marked gpu, but those of several GPUs."""
    check.require_gpus()
    paths = [path for path in sorted(TESTS.rglob("test_*.py")) if "mark.gpu" in path.read_text(encoding="utf-8")]
    check.pytest(section, *(path for path in paths if path != TWO_GPUS))


def _step(check: GPUCheck, section: dict[str, Any]) -> None:
    """Time and memory of training steps under each of the conditions."""
    if check.options.gpu_ids != "cpu":
        check.require_gpus()
    if not _has_torchjd():
        section["lines"].append("TorchJD is not installed, and so not measured")
    _measure_steps(check, section, CONDITIONS, str(check.gpus[0]) if check.gpus else "cpu")


def _measure_steps(check: GPUCheck, section: dict[str, Any], conditions: Sequence[str], gpu_ids: str) -> None:
    section["measured"], missing = {}, []
    words = [*check.step_flags, "--gpu_ids", gpu_ids, "--integration"]
    for flags in conditions:
        methods = (*(COMPILED if "--compile" in flags else COMPARED), *([cost.MGDA] if _has_torchjd() else []))
        name = flags or "float32"
        try:
            if "--tf32" in flags and not check.gpus:
                raise Skipped("needs a GPU")
            measured = check.measure("step", *words, *flags.split(), "--methods", *methods)
        except Skipped as reason:
            missing.append(f"{name} is missing: {reason}")
        except ValueError as error:
            missing.append(f"{name} failed: {error}")
            section |= {"status": "failed", "reason": "some conditions; see below"}
        else:
            section["measured"][name] = measured
            section["lines"] += [f"-- {name}", *cost.table(measured).splitlines()]
    section["lines"] += missing


def _loading(check: GPUCheck, section: dict[str, Any]) -> None:
    """Loading of training samples in one process, and in one per core."""
    clips, workers = str(check.options.clips), str(min(available_cores(), 16))
    section["measured"] = check.measure("loading", "--clips", clips, "--rounds", "3", "--workers", workers)
    section["lines"] += loading.table(section["measured"]).splitlines()


def _two_gpus(check: GPUCheck, section: dict[str, Any]) -> None:
    """Training on two GPUs compared with one, and the speed of DataParallel."""
    check.require_gpus(2)
    check.pytest(section, TWO_GPUS)
    _measure_steps(check, section, ("", "--amp bf16"), f"{check.gpus[0]},{check.gpus[1]}")


def _cgmnist(check: GPUCheck, section: dict[str, Any]) -> None:
    """The table of CG-MNIST, several runs at a time on a GPU; stopped runs are continued by the next check."""
    if check.options.gpu_ids != "cpu":
        check.require_gpus()
    if not DIGITS.is_dir():
        raise Skipped(f"needs {DIGITS}, as made by `python code/prepare.py cgmnist`")
    where = ["--gpu_ids", str(check.gpus[0])] if check.gpus else []
    words = ("cgmnist", "--runs", str(DIGIT_RUNS), "--slots", str(check.options.slots), *where)
    status = check.python(str(CODE / "tables.py"), *words, reserve=GRACE_SECONDS + 5)
    if status not in (0, 1, 143, -signal.SIGTERM):
        raise ValueError(f"exit status {status}: {_last_line(check.log)}")
    if status == 1:
        section |= {"status": "failed", "reason": f"some runs; see {DIGIT_RUNS}/tables/logs"}
    report = DIGIT_RUNS / "tables" / "cgmnist" / "table.md"  # of all runs that are finished
    if report.exists():
        lines = itertools.dropwhile(
            lambda line: not line.startswith("|"), report.read_text(encoding="utf-8").splitlines()
        )
        section["lines"] += itertools.takewhile(lambda line: line.startswith("|"), lines)
    section["finished"] = len(list(DIGIT_RUNS.glob("*/summary.json")))
    section["lines"].append(
        f"{section['finished']} finished runs in {DIGIT_RUNS}; cgmnist.tar.gz has these and the rest"
    )
    with tarfile.open(check.out / "cgmnist.tar.gz", "w:gz") as archive:
        archive.add(DIGIT_RUNS, filter=_without_needless_weights)


def _without_needless_weights(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out the checkpoints that a run is not resumed from, so that the archive is small."""
    path = Path(member.name)
    is_needless = path.name == BEST or (path.name == LAST and (path.parent / SUMMARY).exists())
    return None if is_needless else member


# Each with its largest share of the time; the last one gets what is left.
SECTIONS: dict[str, tuple[Callable[[GPUCheck, dict[str, Any]], None], float]] = {
    "tests": (_tests, 0.25),
    "step": (_step, 0.5),
    "loading": (_loading, 0.1),
    "two_gpus": (_two_gpus, 0.2),
    "cgmnist": (_cgmnist, 1.0),
}


def _section_text(name: str, section: dict[str, Any]) -> str:
    reason = f": {section['reason']}" if "reason" in section else ""
    return "\n".join([f"\n== {name}: {section['status']} after {section['seconds']:.0f} s{reason}", *section["lines"]])


def _test_results(report: Path) -> dict[str, Any]:
    """Numbers of tests, and one line per failure, from pytest's XML report."""
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    counts = {
        key: sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "failures", "errors", "skipped")
    }
    failures = [
        f"{case.get('classname')}.{case.get('name')}: {next(iter((problem.get('message') or '').splitlines()), '')}"
        for suite in suites
        for case in suite.iter("testcase")
        for problem in [*case.findall("failure"), *case.findall("error")]
    ]
    return {"tests": ", ".join(f"{count} {key}" for key, count in counts.items()), "failures": failures}


def _has_torchjd() -> bool:
    return cost.MGDA in cost.contender_names(None)


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.split()[0] if done.stdout.split() else None


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the process, which may save its state first, and whatever it has started and left."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
