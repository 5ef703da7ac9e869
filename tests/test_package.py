"""`pip install .` gives a package whose integration needs torch alone."""

import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY

NEEDED = 77  # of setuptools, as pyproject.toml says


def setuptools_version() -> int:
    try:
        return int(importlib.metadata.version("setuptools").partition(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return 0


pytestmark = pytest.mark.skipif(
    setuptools_version() < NEEDED, reason=f"without setuptools {NEEDED} or newer, building would download one"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from a copy: building leaves files in its folder."""
    folder = tmp_path_factory.mktemp("package")
    copy = folder / "a clone"
    leave_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(REPOSITORY / "code", copy / "code", symlinks=True, ignore=leave_out)
    shutil.copytree(REPOSITORY / "tests", copy / "tests", ignore=leave_out)
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy)
    readme = REPOSITORY / "README.md"
    (copy / "README.md").write_text(readme.read_text(encoding="utf-8") if readme.exists() else "", encoding="utf-8")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(copy))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    target = wheel.parent / "installed"
    pip("install", "--no-deps", "--target", str(target), str(wheel))
    return target


def pip(*arguments: str) -> None:
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input", "--no-index", "--no-cache-dir")
    command = [sys.executable, "-m", "pip", arguments[0], *quiet, *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def in_a_program_of_ones_own(installed: Path, cwd: Path, program: str) -> str:
    """What a program prints that sees the installed package, torch and what torch needs, and nothing else of ours."""
    blocker = (
        "import sys\n"
        f"sys.path.insert(0, {str(installed)!r})\n"
        "class Blocker:\n"
        "    names = {'torchvision', 'torchaudio', 'numpy', 'tqdm', 'tensorboard', 'av', 'PIL', 'matplotlib'}\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in self.names:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", blocker + program],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"mmpareto"}
    sources = {name for name in names if name.endswith(".py")}
    assert sources == {
        path.relative_to(REPOSITORY / "code").as_posix() for path in (REPOSITORY / "code" / "mmpareto").rglob("*.py")
    }


def test_it_needs_torch_alone(installed: Path) -> None:
    (metadata,) = installed.glob("mmpareto-*.dist-info/METADATA")
    lines = metadata.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("Requires-Dist")] == ["Requires-Dist: torch>=2.4"]
    assert "Requires-Python: >=3.11" in lines
    assert list(metadata.parent.rglob("LICENSE"))


def test_integration_works_where_only_torch_is(installed: Path, tmp_path: Path) -> None:
    program = """
import mmpareto
assert "torch" not in sys.modules
from mmpareto import METHODS, MMPareto
import torch
p = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
report = MMPareto().backward(p.sum(), {"a": p.prod()}, encoders={"a": [p]})
assert p.grad.tolist() == [3.0, 2.0], p.grad  # no conflict: the sum
print(mmpareto.__file__, sorted(METHODS))
"""
    place, _, methods = in_a_program_of_ones_own(installed, tmp_path, program).partition(" ")
    assert Path(place) == installed / "mmpareto" / "__init__.py"
    assert "mmpareto" in methods


def test_the_command_line_needs_no_torch_until_it_is_read(installed: Path, tmp_path: Path) -> None:
    program = """
from mmpareto.training.settings import parse, parser
from mmpareto.data import DATASETS
made = parser()
print("torch" in sys.modules, parse(["--dataset", "CREMAD", "--method", "mmpareto"]).settings.dataset)
"""
    assert in_a_program_of_ones_own(installed, tmp_path, program) == "False cremad"
