"""A few kills, full disks and readings of a long run; script/reliability.sh does it at full size."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
BOTH = """
import kills, disk  # one process, since importing everything takes most of the time
status = kills.main(["--kills", "3", "--of", "training", "preparing"])
sys.exit(status | disk.main(["--most", "3", "--of", "training, with TensorBoard", "preparing arrays", "exporting"]))
"""


def python(program: str) -> "subprocess.CompletedProcess[str]":
    code = f"import sys; sys.path.insert(0, {str(FOLDER)!r})\n{program}"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_programs_that_are_killed_or_find_the_disk_full_can_go_on():
    result = python(BOTH)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "noticed"),
    [
        ("torch.optim.SGD.load_state_dict = lambda *_: None", "not as the undisturbed one"),
        ("kills.Path.replace = lambda a, b: (open(b, 'wb').write(a.read_bytes()), a.unlink())", "half a file"),
        ("mmpareto.training.run_folder.remove_leftovers = lambda *_: None", "not as the undisturbed one: run/."),
    ],
    ids=["state lost", "not atomic", "leftovers stay"],
)
def test_the_check_of_kills_notices_what_is_broken(wrong, noticed):
    result = python(f"import kills, mmpareto, torch\n{wrong}\nsys.exit(kills.main(['--of', 'training']))")
    assert result.returncode == 1 and noticed in result.stdout, result.stdout + result.stderr


def test_growth_is_noticed():
    from long_run import FIGURES, Reading, growth

    def readings(**rising: float) -> list[Reading]:
        levels = dict(zip(FIGURES, (1600.0, 62.0, 13.0, 3.0, 2.0), strict=True))
        return [
            Reading(
                7.5 * number,
                100 * number,
                tuple(level + number % 3 + rising.get(name, 0) * number for name, level in levels.items()),
                int(20_000 * number + rising.get("bytes", 0) * number**2),
            )
            for number in range(121)
        ]

    assert growth(readings()) == []
    for name, step in (("megabytes", 1.0), ("open files", 0.5), ("threads", 0.1), ("processes", 0.1), ("bytes", 100)):
        assert len(growth(readings(**{name: step}))) == 1


@pytest.mark.slow
def test_a_short_run_does_not_grow():
    result = python('import long_run; sys.exit(long_run.main(["--minutes", "0.5"]))')
    assert result.returncode == 0, result.stdout + result.stderr
