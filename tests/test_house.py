"""Rules of the architecture, the wording of docstrings, and the files in git."""

import ast
import functools
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

CODE = REPOSITORY / "code"
ENTRY_POINTS = sorted(path.name for path in CODE.glob("*.py"))
SCRIPTS = sorted((REPOSITORY / "script").glob("*.sh"))
GROUND = ("integration", "models", "data")
# Layer → the parts of this project that it may import besides itself. Modules below all layers are listed by name.
BASE = {"progress", "errors", "files", "registry", "validation", "cli", "plugins"}
ALLOWED = {
    "integration": set(),
    "models": BASE,
    "data": BASE,
    "training": BASE | set(GROUND),
    "analysis": BASE | set(GROUND) | {"training"},
    "entry point": BASE | set(GROUND) | {"training", "analysis"},
} | dict.fromkeys(BASE, BASE)


def module_name(path: Path) -> str:
    parts = path.relative_to(CODE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def modules() -> dict[str, Path]:
    return {module_name(path): path for path in sorted(CODE.rglob("*.py"))}


@functools.cache
def tree(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text(encoding="utf-8"))


@functools.cache
def imports(name: str) -> frozenset[str]:
    """All modules imported anywhere in a module's file; a name imported from this project counts as its module."""
    imported = set()
    package = name if modules()[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            full_names = {f"{origin}.{alias.name}" for alias in node.names}
            imported |= {module if module in modules() else origin for module in full_names}
    return frozenset(imported)


def project_imports(name: str) -> set[str]:
    return {module for module in imports(name) if module.split(".")[0] == "mmpareto"}


def layer(name: str) -> str:
    parts = name.split(".")
    return parts[1] if parts[0] == "mmpareto" and len(parts) > 1 else "entry point"


# Architecture


def test_every_layer_imports_only_from_below() -> None:
    upward = [
        f"{name} imports {module}"
        for name in modules()
        if name != "mmpareto"
        for module in project_imports(name)
        if layer(module) != layer(name) and layer(module) not in ALLOWED[layer(name)]
    ]
    assert not upward
    assert {layer(name) for name in modules()} <= set(ALLOWED)


def test_the_top_package_imports_integration_alone() -> None:
    loading = {"mmpareto.analysis.trained"}  # for type checkers only
    assert project_imports("mmpareto") == {"mmpareto.integration"} | loading
    assert not any("mmpareto" in project_imports(name) for name in modules())  # it only re-exports names


def test_integration_imports_torch_and_itself_only() -> None:
    for name in modules():
        if layer(name) == "integration":
            roots = {module.split(".")[0] for module in imports(name)}
            assert not roots - set(sys.stdlib_module_names) - {"torch", "mmpareto"}, name
            assert all(layer(module) == "integration" for module in project_imports(name)), name


def test_code_shared_by_data_sets_imports_none_of_them() -> None:
    packages = ("raw", "generated", "preparation", "loading")
    inside = {name for name in modules() if name.startswith(tuple(f"mmpareto.data.{folder}" for folder in packages))}
    assert len(inside) > 15
    allowed = inside | {"mmpareto.data.dataset_builder", "mmpareto.data.workers"}
    for name in inside:
        assert {module for module in project_imports(name) if module.startswith("mmpareto.data.")} <= allowed, name


def test_only_downloads_use_the_network() -> None:
    """prepare.py --download, which imports this module, is the one flag that fetches anything."""
    network = {"socket", "ssl", "http", "urllib.request", "ftplib", "requests", "httpx", "aiohttp", "huggingface_hub"}
    users = {
        name for name in modules() if any({module, module.partition(".")[0]} & network for module in imports(name))
    }
    assert users == {"mmpareto.data.preparation.downloading"}


def test_imports_form_no_cycle() -> None:
    graphlib.TopologicalSorter({name: project_imports(name) - {name} for name in modules()}).prepare()


def test_code_is_not_a_package() -> None:
    assert not (CODE / "__init__.py").exists()  # the standard library has a module of that name
    assert (CODE / "script").resolve() == REPOSITORY / "script"


def test_no_two_classes_share_a_name() -> None:
    classes: dict[str, list[str]] = {}
    for name in modules():
        for node in tree(name).body:
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, []).append(name)
    assert not {name: where for name, where in classes.items() if len(where) > 1}


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_entry_points_are_thin(entry: str) -> None:
    """They parse, call the package and print, in at most 100 lines and without a class."""
    text = (CODE / entry).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 100
    assert not any(isinstance(node, ast.ClassDef) for node in ast.walk(ast.parse(text)))


HELP = """
import contextlib, io, runpy, sys
sys.path.insert(0, {code!r})
for entry in {entries!r}:
    sys.argv = [entry, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as text:
        try:
            runpy.run_path({code!r} + "/" + entry, run_name="__main__")
        except SystemExit as end:
            assert not end.code, (entry, end.code)
    assert text.getvalue().startswith("usage: " + entry), (entry, text.getvalue())
    slow = {{"torch", "torchvision", "torchaudio", "matplotlib"}} & set(sys.modules)
    assert not slow, (entry, slow)
"""


def test_help_needs_no_torch() -> None:
    program = HELP.format(code=str(CODE), entries=ENTRY_POINTS)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_registered_name_resolves() -> None:
    import mmpareto
    from mmpareto.data import DATASETS
    from mmpareto.integration import METHODS
    from mmpareto.models import ENCODERS, FUSIONS

    for registry in (DATASETS, METHODS, ENCODERS, FUSIONS):
        assert len(registry)
        for name in registry:
            if name != "tiny":  # added by other tests
                assert isinstance(registry[name], type), name
                assert registry[name].__doc__, name
    for name in mmpareto.__all__:
        assert getattr(mmpareto, name) is not None
    for name in DATASETS:
        assert DATASETS[name].name == name and DATASETS[name].title


def test_every_data_set_of_a_paper_has_recipes() -> None:
    from mmpareto.data import DATASETS
    from mmpareto.training.recipes import RECIPES

    assert set(RECIPES) <= set(DATASETS)
    for recipes in RECIPES.values():
        for kind in ("released", "paper"):
            assert all(value.source for value in recipes[kind].values())


# Plain English


OPENING = re.compile(r"(What|Whether|Where|How|That|Say|Tell|Take up|Put together)\b")
# "one line an epoch" and "samples a second" should use "per".
UNITS = (
    "batch|class|clip|column|core|device|encoder|epoch|file|frame|GPU|head|layer|line|machine|method|modality|node|"
    "objective|parameter|process|rank|row|run|sample|second|seed|side|split|step|subclass|table|tensor|worker"
)
COUNTED = (
    r"(?:an?|one|\d+) (?:list|process|thread)|(?:forward|backward) pass(?:es)?|bytes|columns?|encoders?|frames?|GB|"
    "gradients?|heads?|images?|kernels?|lines?|losses|numbers?|objectives?|pixels|rows?|samples?|seconds|steps?|weights"
)
DISTRIBUTIVE = re.compile(rf"\b(?:{COUNTED}) an? (?:{UNITS})\b")


def docstrings(name: str) -> list[tuple[int, str]]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree(name)) if isinstance(node, kinds)]
    return [(getattr(node, "lineno", 1), text) for node in nodes if (text := ast.get_docstring(node))]


def test_docstrings_open_with_a_noun_or_a_verb() -> None:
    odd = [
        f"{name}:{line}: {text.splitlines()[0]}"
        for name in modules()
        for line, text in docstrings(name)
        if OPENING.match(text)
    ]
    assert not odd, "\n".join(odd)


def test_rates_are_written_with_per() -> None:
    odd = [
        f"{path.relative_to(REPOSITORY)}:{number}: {match[0]}"
        for path in [*modules().values(), *REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *SCRIPTS]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if (match := DISTRIBUTIVE.search(line))
    ]
    assert not odd, "\n".join(odd)


# Files in git


@functools.cache
def tracked() -> list[Path]:
    """Files that git tracks, and new ones that it does not ignore."""
    command = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not in a git repository")
    return [path for name in names if name and (path := REPOSITORY / name).is_file()]


def test_no_file_in_git_is_large() -> None:
    assert not [f"{path} has {path.stat().st_size} bytes" for path in tracked() if path.stat().st_size > 1 << 20]


def test_no_file_in_git_names_a_path_of_one_machine() -> None:
    paths = re.compile(rb"(?<![\w.~$}*-])/(?:home|root|Users|work|mnt|media)/\w")
    named = [
        f"{path.relative_to(REPOSITORY)}: {match[0].decode()}"
        for path in tracked()
        if path.suffix not in (".png", ".jpg") and (match := paths.search(path.read_bytes()))
    ]
    assert not named


def test_only_the_readme_of_data_is_in_git() -> None:
    assert {path.name for path in tracked() if path.parent == REPOSITORY / "data"} <= {"README.md"}
    assert not [path for path in tracked() if path.suffix in (".pt", ".pth", ".npy", ".wav", ".flv")]
