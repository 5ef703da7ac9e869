"""The programs in examples/: each runs, and docs/integration.md links to it.

The fast tests run the programs in processes that have imported torch already; the slow ones run the command that each
program's docstring names.
"""

import contextlib
import importlib.util
import io
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from conftest import REPOSITORY
from processes import in_processes

EXAMPLES = REPOSITORY / "examples"
NEEDED = {  # optional packages
    "lightning_module.py": ("lightning",),
    "accelerate_loop.py": ("accelerate",),
    "huggingface_two_tower.py": ("transformers",),
    "torchjd_both_ways.py": ("torchjd", "quadprog", "qpsolvers"),
    "introduction.ipynb": ("matplotlib",),
}


def skip_unless_runnable(name: str) -> None:
    for package in NEEDED.get(name, ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install -r requirements.txt -r tests/requirements.txt")
    if name == "accelerate_loop.py" and torch.cuda.device_count() == 1:
        pytest.skip("Accelerate's two processes need two GPUs or none")


def run(name: str, *arguments: str) -> str:
    """Run a program in this process and return what it prints."""
    with mock.patch("sys.argv", [name, *arguments]), contextlib.redirect_stdout(io.StringIO()) as printed:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return printed.getvalue()


def run_command(name: str, *arguments: str) -> str:
    """Run the command that the program's docstring names, in a process of its own, and return what it prints."""
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    command = re.search(r"^Run `(.+?)`", text, re.M)
    assert command is not None
    launcher, *rest = command[1].split()
    start = {"python": [], "torchrun": ["-m", "torch.distributed.run", "--standalone"]}[launcher]
    path = os.pathsep.join([str(REPOSITORY / "code"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *start, *rest, *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    # With gloo on the CPU, PyTorch 2.11 sometimes aborts as a process ends, after all of its work.
    assert done.returncode == 0 or "terminate called without an active exception" in done.stderr, done.stderr
    return done.stdout


def accuracies(printed: str) -> list[float]:
    return [float(value) for value in re.findall(r"accuracy ([\d.]+)%", printed)]


def test_every_example_is_tested_and_linked() -> None:
    names = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    assert names == {"plain_loop.py", "ddp.py", *NEEDED}
    page = (REPOSITORY / "docs/integration.md").read_text(encoding="utf-8")
    assert not [name for name in names if f"(../examples/{name})" not in page]


@pytest.mark.parametrize("method", ["mmpareto", "gradnorm"])
def test_plain_loop(method: str) -> None:
    assert accuracies(run("plain_loop.py", method))[-1] > 85


def test_torchjd_both_ways() -> None:
    skip_unless_runnable("torchjd_both_ways.py")
    assert run("torchjd_both_ways.py").count("equal gradients") == 3


def test_ddp(tmp_path: Path) -> None:
    printed = in_processes(2, run, tmp_path, "ddp.py", grouped=False)
    assert accuracies(printed[0])[-1] > 85
    assert all(f"rank {rank} of 2 has the weights of rank 0" in printed[rank] for rank in range(2))


def test_accelerate(tmp_path: Path) -> None:
    skip_unless_runnable("accelerate_loop.py")
    printed = in_processes(2, run, tmp_path, "accelerate_loop.py", "gradnorm", grouped=False)
    assert accuracies(printed[0])[-1] > 80


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_the_documented_command(name: str) -> None:
    skip_unless_runnable(name)
    # GradNorm has state, which the Lightning program compares after loading its checkpoint.
    assert run_command(name, *{"lightning_module.py": ["gradnorm"]}.get(name, []))


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_the_notebook_prints_its_stored_output(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_unless_runnable("introduction.ipynb")
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, object] = {}
    for cell in json.loads((EXAMPLES / "introduction.ipynb").read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            stored = [
                text for output in cell["outputs"] if output["output_type"] == "stream" for text in output["text"]
            ]
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile("".join(cell["source"]), "introduction.ipynb", "exec"), names)
            assert printed.getvalue() == "".join(stored)
