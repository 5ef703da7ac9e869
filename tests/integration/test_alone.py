"""`mmpareto.integration` requires only torch, and `import mmpareto` does not even import torch."""

import subprocess
import sys
from pathlib import Path

import pytest

CODE = Path(__file__).resolve().parents[2] / "code"


def modules_after(statements: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after running `statements`."""
    program = f"import sys; sys.path.insert(0, {str(CODE)!r}); {statements}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=CODE.parent, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def used_alone() -> set[str]:
    step = (
        "import mmpareto.integration; from mmpareto import METHODS, MMPareto; [METHODS[name] for name in METHODS]; "
        "import torch; p = torch.nn.Parameter(torch.ones(2)); "
        "MMPareto().backward(p.sum(), {'a': p.prod()}, encoders={'a': [p]})"
    )
    return modules_after(step)


def test_integration_imports_no_other_part_of_the_project(used_alone: set[str]) -> None:
    own = {name for name in used_alone if name.split(".")[0] == "mmpareto"}
    foreign = {name for name in own if name != "mmpareto" and not name.startswith("mmpareto.integration")}
    assert not foreign
    assert "torch" in used_alone


def test_integration_requires_torch_only(used_alone: set[str]) -> None:
    """Of the packages that training requires, only those that torch itself imports are loaded."""
    training = {"torchvision", "torchaudio", "torchmetrics", "tensorboard", "tqdm", "av", "PIL", "matplotlib"}
    assert not used_alone & training - modules_after("import torch")


def test_importing_the_package_does_not_import_torch() -> None:
    loaded = modules_after("import mmpareto")
    assert "mmpareto" in loaded
    assert "torch" not in loaded
