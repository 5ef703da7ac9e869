"""The package that `pip install .` installs, whose integration needs only torch, and its types."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
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
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built by the backend that pip calls.

    They are built from a copy, because building leaves files behind, with data and a run beside the code.
    """
    folder = tmp_path_factory.mktemp("package")
    copy = folder / "a clone"
    leave_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("code", "tests", "docs"):
        shutil.copytree(REPOSITORY / name, copy / name, symlinks=True, ignore=leave_out)
    for name in ("pyproject.toml", "MANIFEST.in", "LICENSE", "README.md"):
        shutil.copy(REPOSITORY / name, copy)
    for path in (copy / "data" / "cremad" / "audio.npy", copy / "runs" / "first" / "last.pt"):
        path.parent.mkdir(parents=True)
        path.touch()
    build = f"from setuptools import build_meta as b; b.build_wheel({str(folder)!r}); b.build_sdist({str(folder)!r})"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A folder with the files that pip would install: the contents of a pure wheel."""
    target = wheel.parent / "installed"
    zipfile.ZipFile(wheel).extractall(target)
    return target


@pytest.fixture(scope="module")
def required(installed: Path) -> Path:
    """A folder with links to what pip would install besides: what the wheel requires, what that requires, and so on."""
    target = installed.parent / "required"
    target.mkdir()
    (metadata,) = importlib.metadata.distributions(name="mmpareto", path=[str(installed)])
    found = {"mmpareto": metadata}
    left = [metadata]
    while left:
        needed = [Requirement(text) for text in left.pop().requires or []]
        for name in {one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})} - {*found}:
            found[name] = importlib.metadata.distribution(name)
            left.append(found[name])
            for top in {file.parts[0] for file in found[name].files or []} - {"..", "__pycache__"}:
                if not (target / top).exists():
                    (target / top).symlink_to(Path(str(found[name].locate_file(top))))
    return target


def run_isolated(folders: list[Path], cwd: Path, program: str) -> str:
    """Run a program that can import the standard library and what is in `folders`, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-S", "-W", "ignore", "-c", program],  # -S: no site-packages
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def package_files() -> set[str]:
    folder = REPOSITORY / "code" / "mmpareto"
    files = {path.relative_to(folder.parent).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in files if "__pycache__" not in name}


def test_the_wheel_contains_only_the_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == package_files()
    assert "mmpareto/py.typed" in names


def test_the_sdist_contains_what_the_wheel_is_built_from(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {one.name.partition("/")[2] for one in archive if one.isfile() and ".egg-info/" not in one.name}
    others = {"pyproject.toml", "MANIFEST.in", "LICENSE", "README.md", "PKG-INFO", "setup.cfg"}
    assert names == others | {f"code/{name}" for name in package_files()}


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
    groups_of_use = {"train", "plots", "modelnet40", "ucf101", "huggingface", "encoders", "export", "torchjd", "dev"}
    assert set(groups) == groups_of_use
    bounds = [
        Requirement(text) for text in [*project["dependencies"], *(text for group in groups.values() for text in group)]
    ]
    pins = requirements("requirements.txt") | requirements("tests/requirements.txt")
    assert len({bound.name for bound in bounds}) == len(bounds)
    assert {bound.name for bound in bounds} == set(pins)
    assert not [str(bound) for bound in bounds if bound.name in pins and pins[bound.name] not in bound.specifier]


def test_the_readme_example_runs_with_only_torch_installed(installed: Path, required: Path, tmp_path: Path) -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert any("MMPareto()" in example for example in examples)
    before = "import sys, mmpareto; assert 'torch' not in sys.modules\n"
    after = """
print(mmpareto.__file__)
p = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
mmpareto.MMPareto().backward(p.sum(), {"a": p.prod()}, encoders={"a": [p]})
assert p.grad.tolist() == [3.0, 2.0], p.grad  # no conflict: the sum
"""
    printed = run_isolated([installed, required], tmp_path, "\n".join([before, *examples, after]))
    assert Path(printed.splitlines()[-1]) == installed / "mmpareto" / "__init__.py"


def test_building_the_parser_needs_no_torch(installed: Path, required: Path, tmp_path: Path) -> None:
    program = """
import sys
from mmpareto.training.settings import parse, parser
from mmpareto.data import DATASETS
made = parser()
print("torch" in sys.modules, parse(["--dataset", "CREMAD", "--method", "mmpareto"]).settings.dataset)
"""
    assert run_isolated([installed, required], tmp_path, program) == "False cremad"


# Types, as mypy shows them to a user of the installed package

USER = """
from typing import assert_type
from torch import Tensor, nn
import mmpareto
from mmpareto import DGL, METHODS, EncoderReport, MeanReducer, Method, MMPareto, Refresh, Report, SumReducer, TorchJD

def train(audio: nn.Module, visual: nn.Module, joint: Tensor, unimodal: dict[str, Tensor]) -> None:
    integrate = MMPareto(gamma=2, weights="encoder")
    encoders = {"audio": audio, "visual": visual}
    report = integrate.backward(joint, unimodal, encoders=encoders)
    assert_type(report, Report)
    assert_type(report.finite, Tensor)
    assert_type(report.all_finite, Tensor)
    assert_type(report["audio"], EncoderReport)
    assert_type(report["audio"].cosine, Tensor)
    assert_type(report.metrics, dict[str, Tensor])
    integrate.reduce = "mean"
    integrate.reduce = MeanReducer(audio)
    integrate.reduce = SumReducer()
    integrate.reduce = None
    integrate.backward(joint, {"audio": None, "visual": joint}, features={"audio": joint, "visual": joint})
    with integrate.accumulate():
        integrate.backward(None, unimodal, encoders={"both": (audio, ["depth"])}, scale=2.0)

    assert_type(METHODS["uniform"], type[Method])
    assert_type(METHODS["uniform"](), Method)
    METHODS["mmpareto"](**{"gamma": 2.0})
    assert_type(MMPareto.paper(), MMPareto)
    assert_type(TorchJD.of("UPGrad")(), TorchJD)
    Refresh(MMPareto.paper(), every=10).backward(joint, unimodal, encoders=encoders)

    MMPareto(gammma=2)  # call-arg
    MMPareto(gamma="2")  # arg-type
    DGL(alfa=0.5)  # call-arg
    METHODS["uniform"].sources  # attr-defined
    integrate.backwards(joint, unimodal, encoders=encoders)  # attr-defined
    integrate.gammma  # attr-defined
    integrate.backward(1.0, unimodal, encoders=encoders)  # arg-type
    integrate.backward(joint, [joint], encoders=encoders)  # arg-type
    integrate.backward(joint, unimodal, encoder=encoders)  # call-arg
    report["audio"].cosines  # attr-defined
    mmpareto.MMPareta  # attr-defined
    mmpareto.importlib  # attr-defined
    from mmpareto import Misspelt  # attr-defined
"""
STAR = """
from mmpareto import *

METHODS["uniform"]()
MMPareto(gammma=2)  # call-arg
"""
# All of torch takes mypy 15 seconds. These are the classes that a user meets, nn.Module with its permissive attributes.
TORCH = {
    "torch/__init__.pyi": "class Tensor: ...",
    "torch/nn/__init__.pyi": """
from torch import Tensor
class Module:
    def __getattr__(self, name: str) -> Tensor | Module: ...
""",
}
SKIP_THE_REST = """
[mypy-torch.*]
follow_imports = skip
follow_imports_for_stubs = true
[mypy-torch,torch.nn]
follow_imports = normal
"""


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="needs mypy")
@pytest.mark.parametrize("outline", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["outline", "torch"])
def test_a_user_sees_types(installed: Path, tmp_path: Path, outline: bool) -> None:
    files = {"user.py": USER, "star.py": STAR, "mypy.ini": "[mypy]\nstrict = true\n"}
    if outline:
        files |= TORCH | {"mypy.ini": files["mypy.ini"] + SKIP_THE_REST}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=mypy.ini", "--hide-error-context", "user.py", "star.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},  # as if it were in site-packages
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    found = re.findall(r"^(\w+\.py):(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.M)
    expected = [
        (name, str(number), line.partition("  # ")[2])
        for name, text in (("user.py", USER), ("star.py", STAR))
        for number, line in enumerate(text.splitlines(), start=1)
        if "  # " in line
    ]
    assert sorted(found) == sorted(expected), done.stdout + done.stderr
