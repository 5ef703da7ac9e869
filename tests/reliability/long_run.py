"""Train in small steps for hours, and watch memory, open files, threads, processes and TensorBoard files.

    python tests/reliability/long_run.py --minutes 120

The run is a process of its own, with a loader process, and is stopped at the end. What it takes is read from /proc, and
printed. The check fails if the second half of the readings shows growth: a line is fitted to it, and may rise by at
most 2% of its mean for memory, and 10% for the counts. TensorBoard's files may grow with the epochs and steps that they
describe, but not faster.
"""

import argparse
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path[:0] = [str(REPOSITORY / "code"), str(HERE.parent)]

from prepared_clips import write_prepared  # noqa: E402

CLIPS, COPIES = 20, 25  # of each clip, under other names: an epoch takes seconds, and the disk little
FLAGS = (
    "--dataset cremad --encoder tiny --plugin tiny_runs --audio spectrogram --image_size 16 --frames 1 --batch_size 4 "
    "--epochs 1000000 --protocol paper --gpu_ids cpu --workers 1 --log_every 1 --allow_unused"
)
# Figures that must not grow, and by what share of its mean each may rise over the second half.
FIGURES = {"megabytes": 0.02, "open files": 0.1, "threads": 0.1, "processes": 0.1, "event files": 0.1}
WAIT = 300  # seconds until the first epoch has ended


class Reading(NamedTuple):
    """What the processes of a run take together."""

    seconds: float
    steps: int
    figures: tuple[float, ...]  # see FIGURES
    event_bytes: int


def processes(pid: int) -> Iterator[Path]:
    """The folder in /proc of a process, and of those that it started."""
    yield Path(f"/proc/{pid}")
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from processes(int(child))


def read(pid: int, run: Path, started: float) -> Reading:
    """Take a reading."""
    folders = [*processes(pid)]
    status = [dict(line.split(":", 1) for line in (one / "status").read_text().splitlines()) for one in folders]
    memory = sum(int(one["VmRSS"].split()[0]) for one in status) / 1024
    open_files = sum(len([*(one / "fd").iterdir()]) for one in folders)
    threads = sum(int(one["Threads"]) for one in status)
    events = [*run.rglob("events.out.tfevents*")]
    figures = (memory, open_files, threads, len(folders), len(events))
    lines = (run / "metrics.jsonl").read_text().count("\n")
    steps = lines * CLIPS * COPIES // 4
    return Reading(time.monotonic() - started, steps, figures, sum(path.stat().st_size for path in events))


def rise(values: Sequence[float]) -> float:
    """How far the line rises that is fitted to the second half of the values, as a share of their mean."""
    half = np.asarray(values[len(values) // 2 :], dtype=float)
    slope = np.polyfit(np.arange(len(half)), half, 1)[0]
    return float(slope * (len(half) - 1) / max(half.mean(), 1))


def growth(readings: Sequence[Reading]) -> list[str]:
    """What grows, in a sentence each."""
    found, figures = list[str](), zip(*(one.figures for one in readings), strict=True)
    for (name, most), values in zip(FIGURES.items(), figures, strict=True):
        if (share := rise(values)) > most:
            middle, last = values[len(values) // 2], values[-1]
            found.append(f"{name}: the second half rises by {share:.1%}, from {middle:.0f} to {last:.0f}")
    parts = itertools.pairwise((readings[0], readings[len(readings) // 2], readings[-1]))
    first, second = ((b.event_bytes - a.event_bytes) / max(b.steps - a.steps, 1) for a, b in parts)
    if second > 1.1 * first:
        found.append(f"event files: {second:.0f} bytes per step in the second half, {first:.0f} in the first")
    return found


def watch(process: "subprocess.Popen[bytes]", run: Path, minutes: float) -> list[Reading]:
    """Take about 120 readings of a run after its first epoch, and print 12 of them."""
    started = time.monotonic()
    while not (run / "metrics.jsonl").exists():
        if process.poll() is not None or time.monotonic() - started > WAIT:
            raise SystemExit("the run does not train")
        time.sleep(0.1)
    started, readings = time.monotonic(), list[Reading]()
    print(f"{'minutes':>8}{'steps':>10}" + "".join(f"{name:>13}" for name in FIGURES) + f"{'event MB':>10}")
    for number in range(121):
        time.sleep(max(0.0, started + number * minutes / 2 - time.monotonic()))
        if process.poll() is not None:
            raise SystemExit(f"the run ended with status {process.returncode}")
        reading = read(process.pid, run, started)
        readings.append(reading)
        if number % 10 == 0:
            numbers = "".join(f"{value:13.0f}" for value in reading.figures)
            megabytes = reading.event_bytes / (1 << 20)
            print(f"{reading.seconds / 60:8.1f}{reading.steps:10}{numbers}{megabytes:10.1f}", flush=True)
    return readings


def main(argv: list[str] | None = None) -> int:
    """Train, watch and judge; return 1 if something grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120, help="default: %(default)s")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        data, run = Path(name) / "cremad", Path(name) / "run"
        write_prepared(data, train=CLIPS, test=CLIPS, frames=1, audio=["spectrogram"])
        copy_clips(data)
        words = [*FLAGS.split(), "--data", str(data), "--ckpt_path", str(run)]
        command = [sys.executable, str(REPOSITORY / "code" / "train.py"), *words]
        path = os.pathsep.join([*sys.path[:2], str(HERE.parent / "training")])
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True, env=environment) as process:
            try:
                readings = watch(process, run, given.minutes)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGINT)
                status = process.wait()
    found = growth(readings)
    print(*found, sep="\n", end="\n" if found else "")
    if status != 128 + signal.SIGINT:
        print(f"Ctrl-C ended it with status {status}")
    print(f"{readings[-1].steps} steps, {len(found)} figures that grow")
    return int(bool(found) or status != 128 + signal.SIGINT)


def copy_clips(data: Path) -> None:
    """List each training clip under more names, which share its files."""
    lines = (data / "train.csv").read_text().split()
    clips = [line.split(",") for line in lines]
    for clip, _ in clips:
        for number in range(1, COPIES):
            (data / "audio_spectrogram" / f"{clip}_{number}.pt").hardlink_to(data / "audio_spectrogram" / f"{clip}.pt")
            (data / "visual" / f"{clip}_{number}").symlink_to(data / "visual" / clip)
    copies = [f"{clip}_{number},{label}" for number in range(1, COPIES) for clip, label in clips]
    (data / "train.csv").write_text("\n".join([*lines, *copies]) + "\n")


if __name__ == "__main__":
    sys.exit(main())
