"""The scripts, run in copies of the repository with a fake Python, so that nothing is downloaded."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY

SCRIPTS = sorted(path.name for path in (REPOSITORY / "script").glob("*.sh"))
TRAINING = {
    "mmpareto.sh": ["--method", "mmpareto"],
    "uniform_baseline.sh": ["--method", "uniform"],
    "one_joint_loss.sh": ["--method", "joint"],
    "dgl.sh": ["--method", "dgl"],
}


def recipe_of(script: str) -> str:
    return "dgl" if script == "dgl.sh" else "released"


SHELLS = [shell for shell in ("dash", "bash") if shutil.which(shell)]

# A fake Python that passes or fails the checks of setup.sh, depending on files in its home, and installs nothing.
FAKE = r"""#!/bin/sh
home='@HOME@'
me=@ME@
note() { echo "$me $*" >>"$home/log"; }
case $1 in
-) if [ -e "$home/$me.satisfies" ]; then exit 0; else exit 1; fi ;;
-c) case $2 in
    '') exit 0 ;;
    *version_info*) if [ -e "$home/$me.old" ]; then exit 1; else exit 0; fi ;;
    *ensurepip*) if [ -e "$home/$me.bare" ]; then exit 1; else exit 0; fi ;;
    *'name="pip"'*) if [ -e "$home/$me.pip" ]; then exit 0; else exit 1; fi ;;
    *) exec "@PYTHON@" "$@" ;;
    esac ;;
-m) note "$@"
    hold() { if [ -e "$home/hold.$1" ]; then sleep 300 & sleep 301; fi; }
    case $2 in
    venv) hold venv
        for last; do :; done
        rm -rf "$last" && mkdir -p "$last/bin"
        sed "s/^me=$me\$/me=venv/" "$0" >"$last/bin/python"
        chmod +x "$last/bin/python"
        : >"$home/venv.pip" ;;
    ensurepip) : >"$home/venv.pip" ;;
    pip) hold pip
        if [ -e "$home/pip.fails" ]; then echo "no such thing" >&2; exit 1; fi
        : >"$home/venv.satisfies" ;;
    esac ;;
*) echo "cwd $PWD"
    for argument; do echo "argument $argument"; done
    if [ -e "$home/hold.train" ]; then exec "@PYTHON@" "$home/train.py" "$$"; fi ;;
esac
"""
TRAIN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print("ready", os.getpid(), flush=True)
time.sleep(300)
"""


class Machine:
    """A copy of the scripts in a folder with a space in its name, and a PATH with only the necessary tools."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "my clone"
        self.home = folder / "home"
        self.path = folder / "path"
        for folder in (self.root / "code", self.home, self.path):
            folder.mkdir(parents=True)
        shutil.copytree(REPOSITORY / "script", self.root / "script")
        (self.root / "code" / "script").symlink_to("../script")
        shutil.copytree(REPOSITORY / ".ci", self.root / ".ci")
        for name in ("requirements.txt", "tests/requirements.txt"):
            (self.root / name).parent.mkdir(exist_ok=True)
            shutil.copy(REPOSITORY / name, self.root / name)
        for tool in ("sh", "dirname", "sed", "rm", "mkdir", "chmod", "sleep", *SHELLS):
            (self.path / tool).symlink_to(str(shutil.which(tool)))
        (self.home / "train.py").write_text(TRAIN)

    def python(self, name: str, *traits: str) -> None:
        """Add a fake Python to PATH; traits: satisfies, old (below 3.11), bare (without ensurepip)."""
        program = FAKE
        for mark, value in (("@HOME@", self.home), ("@ME@", name), ("@PYTHON@", sys.executable)):
            program = program.replace(mark, str(value))
        (self.path / name).write_text(program)
        (self.path / name).chmod(0o755)
        self.traits(name, *traits)

    def traits(self, name: str, *traits: str) -> None:
        for trait in traits:
            (self.home / f"{name}.{trait}").touch()

    def environment(self) -> dict[str, str]:
        return {"PATH": str(self.path), "HOME": str(self.home)}

    def run(self, *command: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command,
            cwd=cwd or self.root,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def log(self) -> list[str]:
        """All calls of fake Pythons with `-m`: module and arguments."""
        return (self.home / "log").read_text().splitlines() if (self.home / "log").exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def trained(done: "subprocess.CompletedProcess[str]", root: Path) -> list[str]:
    """The arguments of the Python that replaced the script, which must have started in `root`."""
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert f"cwd {root.resolve()}" in lines
    return [line.removeprefix("argument ") for line in lines if line.startswith("argument ")]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_need_only_a_posix_shell(shell: str, script: str) -> None:
    path = REPOSITORY / "script" / script
    assert subprocess.run([shell, "-n", path], check=False, capture_output=True).stderr == b""
    assert path.read_text().startswith("#!/bin/sh\n# ")


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != "setup.sh"])
def test_scripts_change_to_the_root_and_end_in_python(script: str) -> None:
    lines = [line for line in (REPOSITORY / "script" / script).read_text().splitlines() if not line.startswith("#")]
    assert lines[0].startswith('cd -P "$(dirname "$0")/.."') and lines[-1].startswith("exec python ")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("script", TRAINING)
def test_training_starts_from_any_folder(machine: Machine, script: str, shell: str) -> None:
    machine.python("python", "satisfies")
    extra = ["--epochs", "3", "--model", "two words", "--data", "a*b"]
    (machine.root.parent / "else where").mkdir()
    calls = {
        machine.root: f"script/{script}",
        machine.root / "script": script,
        machine.root / "code": f"script/{script}",  # as in the README of the released code
        machine.root / "code" / "script": f"./{script}",
        machine.root.parent: f"my clone/script/{script}",
        machine.root.parent / "else where": str(machine.root / "script" / script),
    }
    for cwd, path in calls.items():
        arguments = trained(machine.run(shell, path, *extra, cwd=cwd), machine.root)
        assert arguments[0] == "code/train.py" and arguments[-len(extra) :] == extra
        assert " ".join(TRAINING[script]) in " ".join(arguments)
        for flag, value in (("--dataset", "cremad"), ("--recipe", recipe_of(script)), ("--protocol", "paper")):
            assert arguments[arguments.index(flag) + 1] == value
        assert "--stand_in" in arguments
    assert machine.log() == [] and not (machine.root / ".venv").exists()


@pytest.mark.parametrize("script", TRAINING)
def test_train_py_accepts_the_arguments_and_later_ones_override(
    machine: Machine, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmpareto.training.settings import parse

    machine.python("python", "satisfies")
    monkeypatch.chdir(machine.root)
    given = trained(machine.run("sh", f"script/{script}"), machine.root)[1:]
    request = parse(given)
    assert request.stand_in and request.settings.dataset == "synthetic"
    assert (request.settings.protocol, request.settings.recipe) == ("paper", recipe_of(script))
    (machine.root / "data" / "cremad").mkdir(parents=True)
    request = parse(given)
    assert not request.stand_in and request.settings.dataset == "cremad"
    request = parse([*given, "--protocol", "validation", "--recipe", "paper", "--epochs", "3"])
    assert (request.settings.protocol, request.settings.learning_rate) == ("validation", 1e-3)


def test_pretraining_makes_the_runs_that_the_tables_look_for(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmpareto.analysis.finished_run import identity
    from mmpareto.analysis.tables.cells import make_cells
    from mmpareto.analysis.tables.definitions import TABLES
    from mmpareto.training.settings import parse, to_config

    machine.python("python", "satisfies")
    monkeypatch.setattr(machine, "environment", lambda: {"PATH": str(machine.path), "SEEDS": "0 3"})
    calls = " ".join(trained(machine.run("sh", "script/pretraining.sh", "--slots", "1"), machine.root)).split(" code/")
    *runs, pretraining, finetuning = [call.removeprefix("code/").split()[1:] for call in calls]
    assert pretraining == ["pretraining", "--seeds", "0", "3", "--slots", "1"] and finetuning[1:] == pretraining[1:]
    made = {
        words[words.index("--ckpt_path") + 1]: identity(to_config(parse(words).settings), "") for words in runs
    }  # by folder
    table = {
        cell.label: identity(to_config(cell.settings), "") for cell in make_cells(TABLES["pretraining"], [0, 3], "last")
    }
    assert all(known in table.values() for known in made.values()) and len(made) == 2 * 4
    starts = [cell.settings.pretrained for cell in make_cells(TABLES["finetuning"], [0, 3], "validation")]
    assert sorted(filter(None, starts)) == sorted(f"{folder}/last.pt" for folder in made)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_fresh_machine_is_set_up_once(machine: Machine, shell: str) -> None:
    machine.python("python3")
    done = machine.run(shell, "script/mmpareto.sh", "--epochs", "1")
    assert trained(done, machine.root)[-2:] == ["--epochs", "1"]
    assert done.stdout.startswith("installing requirements.txt")
    assert machine.log() == [
        "python3 -m venv --clear .venv",
        "venv -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock",
    ]
    done = machine.run(shell, "script/mmpareto.sh")  # nothing is missing the second time
    assert "installing" not in done.stdout and len(machine.log()) == 2
    trained(done, machine.root)


@pytest.mark.parametrize("folder", [".", "code"])
def test_setup_alone_creates_the_environment(machine: Machine, folder: str) -> None:
    machine.python("python3")
    assert machine.run("sh", "script/setup.sh", cwd=machine.root / folder).returncode == 0
    assert (machine.root / ".venv" / "bin" / "python").exists()


def test_nothing_is_installed_into_the_active_python(machine: Machine) -> None:
    machine.python("python")
    trained(machine.run("sh", "script/mmpareto.sh"), machine.root)
    assert machine.log()[0] == "python -m venv --clear .venv" and len(machine.log()) == 2


@pytest.mark.parametrize("traits", [None, "old", "bare"])
def test_without_a_suitable_python_there_is_an_error(machine: Machine, traits: str | None) -> None:
    if traits:
        machine.python("python3", traits)
        machine.python("python", "old")
    done = machine.run("sh", "script/mmpareto.sh")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: Python 3.11 or newer ") and done.stderr.count("\n") == 1
    assert not (machine.root / ".venv").exists()


def test_a_newer_python_is_used_by_its_versioned_name(machine: Machine) -> None:
    machine.python("python3", "old")
    machine.python("python3.12")
    trained(machine.run("sh", "script/mmpareto.sh"), machine.root)
    assert machine.log()[0] == "python3.12 -m venv --clear .venv"


def test_an_old_venv_is_not_deleted(machine: Machine) -> None:
    machine.python("python3")
    machine.run("sh", "script/setup.sh")
    (machine.home / "venv.satisfies").unlink()
    machine.traits("venv", "old")
    done = machine.run("sh", "script/mmpareto.sh")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "delete .venv" in done.stderr
    assert len(machine.log()) == 2


@pytest.mark.parametrize("left", ["no python", "dangling python", "no pip", "no packages"])
def test_an_interrupted_installation_is_completed(machine: Machine, left: str) -> None:
    machine.python("python3")
    machine.run("sh", "script/setup.sh")
    (machine.home / "venv.satisfies").unlink()
    (machine.home / "log").unlink()
    python = machine.root / ".venv" / "bin" / "python"
    if left in ("no python", "dangling python"):
        python.unlink()
    if left == "dangling python":
        python.symlink_to("gone")
    if left == "no pip":
        (machine.home / "venv.pip").unlink()
    trained(machine.run("sh", "script/mmpareto.sh"), machine.root)
    first = {"no pip": "venv -m ensurepip", "no packages": machine.log()[-1]}
    assert machine.log()[0] == first.get(left, "python3 -m venv --clear .venv")
    assert machine.log()[-1].startswith("venv -m pip install ")


def test_a_failed_installation_is_reported_and_can_be_repeated(machine: Machine) -> None:
    machine.python("python3")
    machine.traits("pip", "fails")
    done = machine.run("sh", "script/mmpareto.sh")
    assert done.returncode == 1 and "argument" not in done.stdout
    assert done.stderr.splitlines()[0] == "no such thing"
    assert done.stderr.splitlines()[1].startswith("error: setting up failed: .venv/bin/python -m pip install ")
    (machine.home / "pip.fails").unlink()
    trained(machine.run("sh", "script/mmpareto.sh"), machine.root)


def test_ci_runs_lint_types_and_tests(machine: Machine) -> None:
    machine.python("python3")
    done = machine.run("sh", "my clone/.ci/run", "-k", "two words", cwd=machine.root.parent)
    assert done.returncode == 0, done.stderr
    assert machine.log() == [
        "python3 -m venv --clear .venv",
        "venv -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock"
        " -r tests/requirements.lock",
        "venv -m ruff check .",
        "venv -m ruff format --check .",
        "venv -m mypy",
        "venv -m pytest -n auto --dist worksteal -m not slow -k two words",
    ]


def test_requirements_are_compared_with_installed_versions(machine: Machine) -> None:
    """The version check of setup.sh, run by this Python."""
    import numpy
    import torch

    machine.python("python3")
    machine.python("python")
    real = f'#!/bin/sh\ncase $1 in -) exec "{sys.executable}" "$@" ;; *) echo "argument $1" ;; esac\n'
    (machine.path / "python").write_text(real)
    requirements = machine.root / "requirements.txt"
    right = f"torch=={torch.__version__.partition('+')[0]}\n\n# a comment\nnumpy=={numpy.__version__}  # why\n"
    for content, satisfied in ((right, True), ("torch==1.0\n", False), (right + "no-such-package==1\n", False)):
        requirements.write_text(content)
        done = machine.run("sh", "script/setup.sh")
        assert done.returncode == 0, done.stderr
        assert (machine.log() == []) is satisfied
        shutil.rmtree(machine.root / ".venv", ignore_errors=True)
        (machine.home / "venv.satisfies").unlink(missing_ok=True)


# Signals


def processes_with(word: str) -> dict[int, str]:
    """Running processes with HOME=`word` in their environment, which are all those that a `Machine` started."""
    processes = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and f"HOME={word}\0".encode() in (folder / "environ").read_bytes():
                processes[int(folder.name)] = (folder / "cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return processes


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "the condition did not become true in time"
        time.sleep(0.02)


@pytest.fixture
def held(machine: Machine) -> Iterator[Machine]:
    """A machine whose remaining processes are killed after the test."""
    yield machine
    for pid in processes_with(str(machine.home)):
        os.kill(pid, signal.SIGKILL)


def start(machine: Machine, *command: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command,
        cwd=machine.root,
        env=machine.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("step", ["venv", "pip"])
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_while_installing_leaves_no_process(
    held: Machine, shell: str, step: str, sent: signal.Signals, status: int
) -> None:
    held.python("python3")
    (held.home / f"hold.{step}").touch()
    with start(held, shell, "script/mmpareto.sh") as process:
        wait_for(lambda: sum("sleep" in line for line in processes_with(str(held.home)).values()) == 2)
        if sent == signal.SIGINT:
            os.killpg(process.pid, sent)  # as a terminal does
        else:
            process.send_signal(sent)
        assert process.wait(timeout=20) == status
        wait_for(lambda: not processes_with(str(held.home)))
        assert process.stderr is not None
        errors = process.stderr.read()
    assert errors.splitlines()[-1] == "stopped while setting up; start again to continue" and "Traceback" not in errors
    (held.home / f"hold.{step}").unlink()
    trained(held.run(shell, "script/mmpareto.sh"), held.root)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
@pytest.mark.parametrize("shell", SHELLS)
def test_of_two_concurrent_scripts_one_installs_and_the_other_waits(held: Machine, shell: str) -> None:
    held.python("python3")
    (held.home / "hold.pip").touch()

    def sleeping() -> list[int]:
        return [pid for pid, line in processes_with(str(held.home)).items() if "sleep" in line]

    first = start(held, shell, "script/mmpareto.sh")
    wait_for(lambda: len(sleeping()) == 2)
    second = start(held, shell, "script/uniform_baseline.sh")
    wait_for(lambda: any("flock" in line for line in processes_with(str(held.home)).values()))
    for pid in sleeping():
        os.kill(pid, signal.SIGTERM)
    for process, method in ((first, "mmpareto"), (second, "uniform")):
        output, errors = process.communicate(timeout=20)
        assert process.returncode == 0, errors
        assert f"argument {method}" in output.splitlines()
        assert ("installing" in output) == (process is first)
    assert sum("pip install" in line for line in held.log()) == 1


@pytest.mark.parametrize("shell", SHELLS)
def test_a_signal_to_the_script_reaches_training(held: Machine, shell: str) -> None:
    held.python("python", "satisfies")
    (held.home / "hold.train").touch()
    with start(held, shell, "script/uniform_baseline.sh") as process:
        assert process.stdout is not None
        ready = next(line for line in process.stdout if line.startswith("ready "))
        assert int(ready.split()[1]) == process.pid  # exec: Python has replaced the script
        process.terminate()
        assert process.wait(timeout=20) == 143
    assert not processes_with(str(held.home))


# Slurm


def test_slurm_starts_torchrun_once_per_node(machine: Machine) -> None:
    machine.python("python", "satisfies")
    for tool, body in {
        "scontrol": 'echo "one"; echo "two"',
        "srun": 'echo "srun $*"; while case $1 in --*) true ;; *) false ;; esac; do shift; done\n'
        'for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done',
    }.items():
        (machine.path / tool).write_text(f"#!/bin/sh\n{body}\n")
        (machine.path / tool).chmod(0o755)
    spool = machine.root.parent / "spool" / "job7" / "slurm_script"  # Slurm runs a copy of the script
    spool.parent.mkdir(parents=True)
    shutil.copy(machine.root / "script" / "slurm.sh", spool)
    job = {"SLURM_SUBMIT_DIR": str(machine.root), "SLURM_JOB_NODELIST": "[one-two]", "SLURM_JOB_NUM_NODES": "2"}
    done = subprocess.run(
        ["sh", spool, "--model", "two words"],
        cwd=spool.parent,
        env=machine.environment() | job | {"SLURM_JOB_ID": "10042"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout == "srun --ntasks-per-node=1 --kill-on-bad-exit=1 sh script/slurm.sh --model two words\n"
    rest = "--master-addr one --master-port 20042 --nproc-per-node gpu code/train.py --model two words"
    run = "python -m torch.distributed.run --nnodes 2 --node-rank"
    assert machine.log() == [f"{run} {node} {rest}" for node in (0, 1)]


# Runs the tasks of an array, or a single job, as processes; sbatch [--parsable] [--option=value …] SCRIPT ARGUMENT …
SBATCH = r"""#!/bin/sh
array=
while case $1 in --*) true ;; *) false ;; esac; do
    case $1 in --array=*) array=${1#--array=} ;; esac
    shift
done
cp "$1" "$HOME/slurm_script" && shift
export SLURM_SUBMIT_DIR="$PWD"
if [ "$array" ]; then
    tasks=$(seq "${array%-*}" "${array#*-}")
    SLURM_ARRAY_TASK_MIN=${array%-*} SLURM_ARRAY_TASK_MAX=${array#*-} SLURM_ARRAY_TASK_COUNT=$(echo $tasks | wc -w)
    export SLURM_ARRAY_TASK_MIN SLURM_ARRAY_TASK_MAX SLURM_ARRAY_TASK_COUNT
    for task in $tasks; do
        (cd "$HOME" && SLURM_ARRAY_TASK_ID=$task exec sh slurm_script "$@" >"$HOME/task$task" 2>&1) &
    done
    wait
else
    (cd "$HOME" && exec sh slurm_script "$@" >"$HOME/job" 2>&1)
fi
"""


@pytest.fixture
def cluster(machine: Machine) -> Machine:
    machine.python("python", "satisfies")
    (machine.path / "sbatch").write_text(SBATCH)
    (machine.path / "sbatch").chmod(0o755)
    for tool in ("cp", "seq", "wc"):
        (machine.path / tool).symlink_to(str(shutil.which(tool)))
    return machine


def test_each_task_of_a_slurm_array_has_its_share_of_a_table(cluster: Machine) -> None:
    words = ["main", "--dataset", "cremad", "--", "--model", "two words"]
    assert cluster.run("sbatch", "--parsable", "--array=1-3", "script/slurm_table.sh", *words).returncode == 0
    for task in (1, 2, 3):
        lines = (cluster.home / f"task{task}").read_text().splitlines()
        assert lines[0] == f"cwd {cluster.root.resolve()}"
        assert [line.removeprefix("argument ") for line in lines[1:]] == [
            "code/tables.py", "--share", f"{task}/3", *words
        ]  # fmt: skip
    cluster.run("sbatch", "--dependency=afterany:7", "script/slurm_table.sh", "main", "--report_only")
    assert (cluster.home / "job").read_text().splitlines()[1:] == [
        f"argument {word}" for word in ("code/tables.py", "main", "--report_only")
    ]


@pytest.mark.parametrize("array", ["0-2", "2-4"])
def test_a_task_of_an_incomplete_array_refuses(cluster: Machine, array: str) -> None:
    cluster.run("sbatch", f"--array={array}", "script/slurm_table.sh", "main")
    text = (cluster.home / "task2").read_text()
    assert text.startswith("error: the tasks are not those of --array=1-N") and text.count("\n") == 1
