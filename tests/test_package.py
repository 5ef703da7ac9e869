"""The package that `pip install .` installs, whose integration needs only torch."""

import importlib.metadata
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY
from packaging.requirements import Requirement
from packaging.version import Version

NEEDED = 77  # the version of setuptools that pyproject.toml requires


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
    """The wheel, built by the backend that pip calls, from a copy because building leaves files behind."""
    folder = tmp_path_factory.mktemp("package")
    copy = folder / "a clone"
    leave_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(REPOSITORY / "code", copy / "code", symlinks=True, ignore=leave_out)
    shutil.copytree(REPOSITORY / "tests", copy / "tests", ignore=leave_out)
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(REPOSITORY / name, copy)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A folder with the files that pip would install: the contents of a pure wheel."""
    target = wheel.parent / "installed"
    zipfile.ZipFile(wheel).extractall(target)
    return target


def run_isolated(installed: Path, cwd: Path, program: str) -> str:
    """Run a program that can import the installed package and torch, but none of the other requirements."""
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


def test_the_wheel_contains_only_the_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"mmpareto"}
    sources = {name for name in names if name.endswith(".py")}
    assert sources == {
        path.relative_to(REPOSITORY / "code").as_posix() for path in (REPOSITORY / "code" / "mmpareto").rglob("*.py")
    }


def requirements(path: str) -> dict[str, Version]:
    lines = (REPOSITORY / path).read_text(encoding="utf-8").splitlines()
    pins = [line.partition("#")[0].strip().partition("==") for line in lines]
    return {name: Version(version) for name, _, version in pins if name}


def test_the_metadata_require_only_torch(installed: Path) -> None:
    import mmpareto

    (metadata,) = installed.glob("mmpareto-*.dist-info/METADATA")
    lines = metadata.read_text(encoding="utf-8").splitlines()
    needed = [line for line in lines if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert needed == ["Requires-Dist: torch>=2.4"]
    assert "Requires-Python: >=3.11" in lines
    assert f"Version: {mmpareto.__version__}" in lines
    assert list(metadata.parent.rglob("LICENSE"))


def test_optional_dependencies_match_the_pinned_requirements() -> None:
    """Each package of a group is pinned, and each pin is in exactly one group and satisfies its bound."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = project["optional-dependencies"]
    assert set(groups) == {"train", "plots", "modelnet40", "ucf101", "torchjd", "dev"}
    bounds = [
        Requirement(text) for text in [*project["dependencies"], *(text for group in groups.values() for text in group)]
    ]
    pins = requirements("requirements.txt") | requirements("tests/requirements.txt")
    assert len({bound.name for bound in bounds}) == len(bounds)
    assert {bound.name for bound in bounds} == set(pins)
    assert not [str(bound) for bound in bounds if bound.name in pins and pins[bound.name] not in bound.specifier]


def test_integration_works_with_only_torch_installed(installed: Path, tmp_path: Path) -> None:
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
    path, _, methods = run_isolated(installed, tmp_path, program).partition(" ")
    assert Path(path) == installed / "mmpareto" / "__init__.py"
    assert "mmpareto" in methods


def test_building_the_parser_needs_no_torch(installed: Path, tmp_path: Path) -> None:
    program = """
from mmpareto.training.settings import parse, parser
from mmpareto.data import DATASETS
made = parser()
print("torch" in sys.modules, parse(["--dataset", "CREMAD", "--method", "mmpareto"]).settings.dataset)
"""
    assert run_isolated(installed, tmp_path, program) == "False cremad"
