"""tables.py: command line, exit statuses, and one table from prepared data to its report."""

import contextlib
import csv
import functools
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import evaluate
import pytest
import tables
import train
from conftest import REPOSITORY
from mmpareto.analysis.speed import cost
from mmpareto.analysis.tables import command, job, stand_in
from mmpareto.analysis.tables.cells import Cell, Outcome
from mmpareto.analysis.tables.definitions import QUICK_SEEDS, QUICK_STAND_IN, TABLES
from mmpareto.data.synthetic import Synthetic
from mmpareto.errors import InputError
from mmpareto.models import ENCODERS
from mmpareto.models.building import build_network
from prepared_clips import write_prepared

ENCODERS.add("tiny", "tiny_encoder:TinyEncoder")
REPORT = ("table.md", "table.csv", "table.tex", "report.html")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name in REPORT}


@pytest.mark.parametrize("words", [[], ["--list"], ["main", "--list"], ["--help"]])
def test_tables_are_listed_without_torch(words: list[str]) -> None:
    program = (
        "import sys, tables\n"
        f"try: status = tables.main({words})\n"
        "except SystemExit as leaving: status = leaving.code\n"
        "print(status, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY / "code", capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "0 False"
    if "--help" not in words:
        for table in TABLES.values():
            assert f"{table.name} " in done.stdout and table.question in done.stdout


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["mian"], "unknown table 'mian'. Did you mean 'main'"),
        (["main", "--dataset", "crema"], "Did you mean 'cremad'"),
        (["main", "--methods", "mpareto"], "Did you mean 'mmpareto'"),
        (["main", "--encoders", "resnet"], "unknown encoder 'resnet'"),
        (["main", "--quick", "--dataset", "synthetic", "cremad"], "on the synthetic stand-in: leave --dataset out"),
        (["tasks", "--quick"], "compares methods for several tasks on one encoder"),
        (["bridge", "--protocol", "last"], "table 'bridge' goes from one protocol to another: leave --protocol out"),
        (["main", "--gpu_ids", "99"], "--gpu_ids names GPU 99"),
        (["main", "--", "--ckpt_path", "x"], "--ckpt_path after the -- is set by the table"),
        (["main", "--", "--image_sise", "48"], "unknown flag --image_sise. Did you mean --image_size?"),
        (["main", "--share", "1/2", "--report_only"], "--report_only reports the whole table: leave --share out"),
        (["gamma", "--share", "1/2", "--dataset", "synthetic"], "first run python code/prepare.py synthetic."),
        (["cost", "--share", "1/2"], "table 'cost' measures training steps"),
        (["cost", "--seeds", "3"], "table 'cost' measures training steps"),
        (["cost", "--dataset", "mosi"], "table 'cost' measures training steps"),
        (["cost", "--", "--epochs", "3"], "table 'cost' measures training steps"),
        (
            ["cost", "--report_only"],
            "cost.json cannot be read (No such file or directory): measure without --report_only",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(here: Path, words: list[str], complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        tables.main(words)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)
    assert not list(here.iterdir())


def test_a_dry_run_writes_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main(["preprocessing", "--seeds", "0", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("impossible ") == 2 * len(TABLES["preprocessing"].rows)
    assert tables.main(["main", "--dataset", "synthetic", "--quick", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{Synthetic.banner}\n")
    assert printed.count("to run ") == len(QUICK_SEEDS) * len(TABLES["main"].rows)
    assert tables.main(["main", "--quick", "--dry-run"]) == 0  # the stand-in goes without saying
    assert capsys.readouterr().out == printed
    gpus = ["--gpu_ids", "0,1,2,97", "--dry-run"]  # which another machine has
    assert tables.main(["main", "--dataset", "synthetic", "--quick", *gpus]) == 0
    assert capsys.readouterr().out == printed
    assert tables.main(["cost", "--dry-run"]) == 0 and "would measure Joint loss" in capsys.readouterr().out
    assert not list(here.iterdir())


def test_a_missing_run_is_in_the_report(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main(["refresh", "--seeds", "0", "1", "--report-only"]) == 1
    assert written(here / "runs" / "tables" / "refresh") == set(REPORT)
    printed = capsys.readouterr().out
    assert "no result: Uniform, CREMA-D, seed 0 and 5 more: data/cremad does not exist; prepare it" in printed
    assert "data/cremad does not exist" in (here / "runs" / "tables" / "refresh" / "table.md").read_text()


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (None, 1)])
def test_a_stopped_grid_is_reported(
    here: Path, monkeypatch: pytest.MonkeyPatch, signum: int | None, status: int
) -> None:
    def stopped(cells: Sequence[Cell], runs: Path, slots: list[str], protocol: str, **more: Any) -> list[Outcome]:
        more["signals"].signum = signum
        assert (slots, protocol) == (["cpu"] * 3, "last")
        return [Outcome(cell, None, "interrupted in epoch 3") for cell in cells]

    monkeypatch.setattr(command, "run_grid", stopped)
    words = ["gamma", "--seeds", "0", "--slots", "3", "--protocol", "last", "--out", "there", "--dataset", "synthetic"]
    monkeypatch.setattr(stand_in, "missing", lambda *_: [])
    assert tables.main(words) == status
    assert "interrupted in epoch 3" in (here / "there" / "table.md").read_text()
    assert str(Synthetic.banner) in (here / "there" / "table.md").read_text()


@pytest.mark.parametrize("value", ["0/2", "3/2", "2", "a/b"])
def test_a_share_is_one_of_n(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        tables.main(["main", "--share", value])
    assert caught.value.code == 2 and "--share" in capsys.readouterr().err


@pytest.fixture
def preparations(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of each call that would prepare the stand-in."""
    options_used: list[dict[str, Any]] = []

    def prepare(**options: Any) -> None:
        options_used.append(options)
        options["out"].mkdir(parents=True)
        origin = {name: options[name] for name in ("clips", "actors", "seed")}
        (options["out"] / "prepared.json").write_text(json.dumps({"origin": origin}))

    monkeypatch.setattr(Synthetic, "prepare", prepare)
    return options_used


def test_the_stand_in_is_prepared_with_its_derived_folders(preparations: list[dict[str, Any]], here: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "prepared.json").write_text('{"origin": {"clips": 30, "actors": 5, "seed": 7, "version": 1}}')
    wanted = ["data/synthetic", "data/synthetic-quick-fps3", "data/synthetic-spectrogram", "mine", "mine-fps3", "other"]
    wanted += ["data/synthetic", "other-fps3"]
    missing = stand_in.missing(wanted)
    assert missing == [*wanted[:3], "mine-fps3"]
    for folder in missing:
        stand_in.prepare(folder)
    assert [str(options["out"]) for options in preparations] == missing
    assert [options["fps"] for options in preparations] == [1, 3, 1, 3]
    assert [tuple(options["audio"]) for options in preparations] == [
        ("fbank",),
        ("fbank",),
        ("spectrogram",),
        ("fbank",),
    ]
    assert [options["clips"] for options in preparations] == [420, QUICK_STAND_IN["clips"], 420, 30]
    assert (preparations[3]["actors"], preparations[3]["seed"]) == (5, 7)  # the same clips
    stand_in.prepare("mine-fps3")  # does nothing, as another process may have been faster
    assert len(preparations) == 4 and not stand_in.missing(missing)


def test_slots_depend_on_the_flags_and_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def slots(*words: str) -> list[str]:
        return command.slots_of(tables.parser().parse_args(["main", *words]))

    monkeypatch.setattr(command, "_gpu_count", lambda: 0)
    monkeypatch.setattr(command, "available_cores", lambda: 64)
    assert slots() == ["cpu"] * 2 and slots("--slots", "5") == ["cpu"] * 5 and slots("--gpu_ids", "cpu") == ["cpu"] * 2
    monkeypatch.setattr(command, "_gpu_count", lambda: 3)
    assert slots() == ["0", "1", "2"] and slots("--slots", "1") == ["cpu"]
    monkeypatch.setattr(command, "choose_devices", lambda ids: (None, [int(number) for number in ids.split(",")]))
    assert slots("--gpu_ids", "5,6") == ["5", "6"]
    assert slots("--gpu_ids", "5,6", "--slots", "5") == ["5", "6", "5", "6", "5"]  # GPUs that runs share


def test_the_cost_table_is_measured_and_reported(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cost, "build_network", functools.partial(build_network, encoder="tiny"))
    words = ["cost", "--dataset", "synthetic", "--quick", "--methods", "joint", "mmpareto:paper", "--slots", "1"]
    assert tables.main(words) == 0
    folder = here / "runs" / "tables" / "cost-synthetic-quick"
    assert written(folder) == set(REPORT)
    costs = json.loads((folder / "cost.json").read_text())
    assert list(costs["methods"]) == ["uniform", "joint", "mmpareto:paper"] and costs["rounds"] == 3
    assert costs["conditions"]["gpu_ids"] == "cpu"  # --slots selects the CPU
    text = (folder / "table.md").read_text()
    for name, label in (("uniform", "Uniform"), ("joint", "Joint loss"), ("mmpareto:paper", "MMPareto (paper)")):
        line = next(line for line in text.splitlines() if line.startswith(f"| {label}"))
        result = costs["methods"][name]
        assert f"{result['seconds']['median']:.3f}" in line and f"{result['ratio']['median']:.2f}" in line
        assert f"{result['peak_bytes'] / 2**20:.0f}" in line
    assert costs["machine"]["cpu"] in text and "random inputs" in text
    before = (folder / "cost.json").read_bytes()
    assert tables.main([*words, "--report-only"]) == 0
    assert (folder / "cost.json").read_bytes() == before
    assert tables.main([*words[:5], "pareto", "--report-only"]) == 1  # pareto was not measured
    assert "Conventional Pareto" in (folder / "table.md").read_text()


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call train.py and evaluate.py in this process, where the tiny encoder is registered."""

    def start(self: job.Job, command: tuple[str, ...], log_mode: str) -> Any:
        main = {"train.py": train.main, "evaluate.py": evaluate.main}[Path(command[1]).name]
        with self.log.open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            status = main(list(command[2:]))
        return SimpleNamespace(returncode=status, poll=lambda: status)

    monkeypatch.setattr(job.Job, "_start", start)


@pytest.mark.usefixtures("in_process")
def test_from_prepared_data_to_a_report(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A minimal training run and its report, which is then written again without training."""
    write_prepared(here / "data" / "cremad", train=12, test=6, frames=1)
    words = ["multitask", "--dataset", "cremad", "--methods", "uniform", "--seeds", "3", "--slots", "2"]
    small = "--encoder tiny --image_size 32 --frames 1 --audio_frames 64 --audio_pool 2 4 --batch_size 4 --epochs 1"
    small += " --val_fraction 0.4 --use_tensorboard false"
    assert tables.main([*words, "--", *small.split()]) == 0, capsys.readouterr().out
    printed = capsys.readouterr().out
    (run,) = (here / "runs").glob("cremad-uniform-*-seed3")
    assert f"[1/1] Uniform, CREMA-D, seed 3: starts in runs/{run.name}" in printed
    report = here / "runs" / "tables" / "multitask-cremad"
    assert written(report) == set(REPORT)
    for name in ("best", "last"):
        with (run / f"evaluation-test-{name}" / "per_clip.csv").open() as file:
            assert len(list(csv.DictReader(file))) == 6
    accuracy = json.loads((run / "summary.json").read_text())["best_val"]["acc"]
    assert f": {100 * accuracy:.2f}% after " in printed
    text = (report / "table.md").read_text()
    assert f"{100 * accuracy:.2f}" in next(line for line in text.splitlines() if line.startswith("| Uniform"))
    (report / "table.md").unlink()
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert tables.main([*words, "--report-only", "--", *small.split()]) == 0
    assert (report / "table.md").read_text() == text
    assert tables.main([*words, "--", *small.split()]) == 0  # nothing is left to run
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
