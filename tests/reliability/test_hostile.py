"""A few hostile and broken files of every kind; script/reliability.sh reads 10,000."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("hostile.py")


def test_hostile_files_are_read_or_refused_in_one_sentence():
    command = [sys.executable, PROGRAM, "--inputs", "46"]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_the_check_notices_commands_crashes_and_tracebacks(tmp_path):
    wrong = """
import sys; sys.argv = ["hostile.py"]; sys.path.insert(0, {folder!r})
import os, hostile
from kinds import Kind
def write(target): (target / "a").write_bytes(b"abc")
kinds = {{
    "command": lambda path: os.system("true"),
    "crash": lambda path: os.abort(),
    "traceback": lambda path: 1 / 0,
    "outside": lambda path: (path.parent.parent / "x").touch(),
    "memory": lambda path: bytearray(1200 << 20),
    "nameless": lambda path: (_ for _ in ()).throw(hostile.InputError("wrong.")),
}}
hostile.KINDS.clear()
hostile.KINDS.update({{name: Kind("a", [read], write) for name, read in kinds.items()}})
hostile.HERE = hostile.Path({kept!r})
sys.exit(hostile.main(["--inputs", "6"]))
"""
    (tmp_path / "kept.txt").touch()
    program = wrong.format(folder=str(PROGRAM.parent), kept=str(tmp_path))
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 1
    assert "12 inputs, 12 failures" in result.stdout, result.stdout + result.stderr
    for text in ("os.system", "status -6", "ZeroDivisionError", "reader/x", "1200 MB", "does not name the file"):
        assert text in result.stdout
