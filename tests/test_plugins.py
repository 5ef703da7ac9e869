"""Plug-ins: modules that `--plugin` imports, and the worked example in examples/plugin."""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY
from mmpareto.errors import InputError
from mmpareto.integration import METHODS
from mmpareto.plugins import import_plugins, take_plugins
from mmpareto.registry import Registry


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory; what is imported from it is forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_plugins_are_imported_once_each_and_taken_from_the_words(here: Path) -> None:
    for name in ("one", "two"):
        (here / f"plugin_{name}.py").write_text("import builtins\n")
    words = ["--plugin", "plugin_two", "--epochs", "2", "--plugin=plugin_one", "--plugin", "plugin_two"]
    names, rest = take_plugins([*words, "--", "--plugin", "other"])
    assert names == ["plugin_two", "plugin_one"] and set(names) <= set(sys.modules)
    assert rest == ["--epochs", "2", "--", "--plugin", "other"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere_plugin", "--plugin nowhere_plugin: there is no such module; install it, start in the folder"),
        ("tools/mine.py", r"not a module's name; give one such as tools\.mine"),
        ("", "not a module's name"),
        ("needing", "--plugin needing: it needs the module nowhere_library"),
        ("failing", r"failing\.py:2 \(ZeroDivisionError: division by zero\)"),
        ("repeating", r"repeating\.py:2 \(ValueError: method 'dgl' is registered already"),
        ("clashing", "encoder 'ResNet-18' is registered already"),
        ("pathless", "encoder 'pathless' is registered as 'module'; give 'module:attribute'"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_one_sentence(name: str, message: str, here: Path) -> None:
    (here / "needing.py").write_text("import nowhere_library\n")
    (here / "failing.py").write_text("\n1 / 0\n")
    (here / "repeating.py").write_text("from mmpareto import METHODS\nMETHODS.add('dgl', 'repeating:Mine')\n")
    add = "from mmpareto.models import ENCODERS\nENCODERS.add({!r}, {!r})\n"
    (here / "clashing.py").write_text(add.format("ResNet-18", "clashing:Mine"))
    (here / "pathless.py").write_text(add.format("pathless", "module"))
    with pytest.raises(InputError, match=message) as error:
        take_plugins(["--plugin", name])
    assert "\n" not in str(error.value)


def test_a_file_can_only_name_modules_that_use_this_package(here: Path) -> None:
    (here / "stranger.py").write_text("import pathlib\npathlib.Path('sprung').touch()\n")
    with pytest.raises(InputError, match=r"the plug-in stranger of best\.pt: this module does not use mmpareto"):
        import_plugins(["stranger"], "best.pt")
    assert not (here / "sprung").exists()
    with pytest.raises(InputError, match=r"the plug-in nowhere_plugin of best\.pt: there is no such module"):
        import_plugins(["nowhere_plugin"], "best.pt")
    (here / "package").mkdir()
    (here / "package/__init__.py").write_text("from . import inner\n")
    (here / "package/inner.py").write_text("import mmpareto\n")
    import_plugins(["package"], "best.pt")
    assert "package.inner" in sys.modules


def test_a_registered_class_that_is_missing_is_one_sentence() -> None:
    registry = Registry("encoder", {})
    registry.add("mine", "conftest:Nothing")
    registry.add("other", "nowhere_plugin:Other")
    for name in ("mine", "other"):
        with pytest.raises(InputError, match=f"encoder '{name}' is registered as .*, which is missing"):
            registry[name]


def test_methods_are_registered_like_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "_added", {})
    METHODS.add("mine", "mmpareto.integration.methods.pareto:Pareto")
    assert METHODS["mine"] is METHODS["pareto"] and "mine" in list(METHODS)
    for name, target in (("mine", "x:Y"), ("dgl", "x:Y"), ("other", "x")):
        with pytest.raises(ValueError, match=f"method '{name}' is registered"):
            METHODS.add(name, target)


@pytest.mark.parametrize("entry", ["train", "evaluate", "tables", "prepare", "figures"])
def test_every_program_imports_plugins_before_it_parses_the_rest(entry: str) -> None:
    with pytest.raises(InputError, match="--plugin nowhere_plugin: there is no such module"):
        importlib.import_module(entry).main(["unknown", "--plugin", "nowhere_plugin", "--unknown"])


# The worked example, in one process because importing PyTorch takes seconds

PROGRAM = """
import contextlib, io, sys
sys.path.insert(0, {code!r})
import evaluate, prepare, tables, train

def call(entry, words):
    print("$", entry.__name__, words, flush=True)
    assert entry.main(words.split()) == 0, words

PLUGIN = "--plugin digits_plugin "
SMALL = "--gpu_ids cpu --workers 0 --use_tensorboard false --epochs 1 --batch_size 256 "
with contextlib.suppress(SystemExit):
    train.main([*PLUGIN.split(), "--help"])
assert "torch" not in sys.modules
call(prepare, "digits " + PLUGIN)
call(train, PLUGIN + SMALL + "--dataset digits --fusion max --method equal-norms --strength 0.5 --ckpt_path runs/a")
call(train, "--resume runs/a --epochs 2")
call(evaluate, "runs/a")
call(tables, "digits --dry_run --seeds 0 " + PLUGIN + "-- --epochs 2")
"""


def test_the_worked_example_registers_a_part_of_every_kind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(code=str(REPOSITORY / "code"))],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY / "examples/plugin"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    help_text = " ".join(done.stdout.partition("$ prepare")[0].split())
    for flag, name in (("dataset", "digits"), ("encoder", "gru"), ("fusion", "max"), ("method", "equal_norms")):
        assert re.search(rf"one of: [\w, -]*\b{name}\b", help_text.partition(f"--{flag} ")[2]), name
    config = json.loads((tmp_path / "runs/a/config.json").read_text())["arguments"]
    assert config["plugin"] == ["digits_plugin"] and config["options"] == {"strength": 0.5}
    assert config["recipe"] == "digits" and config["encoder"] == ["profile=mlp", "rows=gru"]
    assert "Equal norms (strength 0.5)" in done.stdout and "8 to run" in done.stdout
    assert len((tmp_path / "runs/a/metrics.jsonl").read_text().splitlines()) == 2
    assert (tmp_path / "runs/a/evaluation-test-best/metrics.json").is_file()
