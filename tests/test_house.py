"""The rules of the house that a person would otherwise have to keep in mind."""

import ast
import functools
import graphlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

CODE = REPOSITORY / "code"
ENTRY_POINTS = sorted(path.name for path in CODE.glob("*.py"))
GROUND = ("integration", "models", "data")
# Floor → what it may import of this project, beside itself. The files below all floors are named by their module.
BASE = {"progress", "errors", "files", "registry", "cli"}
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
def imports(name: str) -> frozenset[str]:
    """The modules that a module imports, wherever in the file; of this project, the file and not the name in it."""
    found = set()
    path = modules()[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            whole = {f"{origin}.{alias.name}" for alias in node.names}
            found |= {module if module in modules() else origin for module in whole}
    return frozenset(found)


def own(name: str) -> set[str]:
    return {module for module in imports(name) if module.split(".")[0] == "mmpareto"}


def floor(name: str) -> str:
    parts = name.split(".")
    return parts[1] if parts[0] == "mmpareto" and len(parts) > 1 else "entry point"


def test_every_floor_imports_only_what_lies_below_it() -> None:
    upward = [
        f"{name} imports {module}"
        for name in modules()
        if name != "mmpareto"
        for module in own(name)
        if floor(module) != floor(name) and floor(module) not in ALLOWED[floor(name)]
    ]
    assert not upward
    assert {floor(name) for name in modules()} <= set(ALLOWED)


def test_the_package_itself_imports_nothing_of_the_floors() -> None:
    assert not own("mmpareto")
    assert not any("mmpareto" in own(name) for name in modules())  # what it has, it has from elsewhere


def test_integration_imports_torch_and_itself_only() -> None:
    for name in modules():
        if floor(name) == "integration":
            roots = {module.split(".")[0] for module in imports(name)}
            assert not roots - set(sys.stdlib_module_names) - {"torch", "mmpareto"}, name
            assert all(floor(module) == "integration" for module in own(name)), name


def test_what_data_sets_share_knows_none_of_them() -> None:
    rooms = ("raw", "generated", "preparation", "loading")
    inside = {name for name in modules() if name.startswith(tuple(f"mmpareto.data.{room}" for room in rooms))}
    assert len(inside) > 20
    allowed = inside | {"mmpareto.data.dataset_builder", "mmpareto.data.workers"}
    for name in inside:
        assert {module for module in own(name) if module.startswith("mmpareto.data.")} <= allowed, name


def test_no_import_goes_in_a_circle() -> None:
    order = graphlib.TopologicalSorter({name: own(name) - {name} for name in modules()})
    order.prepare()


def test_code_is_no_package() -> None:
    assert not (CODE / "__init__.py").exists()  # the standard library has a module of that name
    assert (CODE / "script").resolve() == REPOSITORY / "script"


def probe(entry: str, arguments: list[str]) -> str:
    """What an entry point prints, and on the last line the modules of note that it has loaded."""
    program = (
        "import atexit, sys\n"
        "def report():\n"
        "    heavy = {'torch', 'torchvision', 'torchaudio', 'matplotlib', 'numpy', 'av', 'PIL', 'tqdm'}\n"
        "    print('loaded', sorted(heavy & set(sys.modules)), flush=True)\n"
        "atexit.register(report)\n"
        "import runpy\n"
        f"sys.argv = {[entry, *arguments]!r}\n"
        f"sys.path.insert(0, {str(CODE)!r})\n"
        f"runpy.run_path({str(CODE / entry)!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_help_needs_no_torch(entry: str) -> None:
    text = probe(entry, ["--help"])
    assert text.startswith(f"usage: {entry}")
    loaded = text.splitlines()[-1]
    assert "torch" not in loaded and "matplotlib" not in loaded


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_entry_points_are_thin(entry: str) -> None:
    """They parse, call the package and print: at most a screen or two, and no class."""
    text = (CODE / entry).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 100
    assert not any(isinstance(node, ast.ClassDef) for node in ast.walk(ast.parse(text)))


def test_every_registered_name_resolves() -> None:
    import mmpareto
    from mmpareto.data import DATASETS
    from mmpareto.integration import METHODS
    from mmpareto.models import ENCODERS, FUSIONS

    for registry in (DATASETS, METHODS, ENCODERS, FUSIONS):
        assert len(registry)
        for name in registry:
            if name != "tiny":  # what tests add
                assert isinstance(registry[name], type), name
                assert registry[name].__doc__, name
    for name in mmpareto.__all__:
        assert getattr(mmpareto, name) is not None
    for name in DATASETS:
        assert DATASETS[name].name == name and DATASETS[name].title


def test_every_data_set_has_recipes() -> None:
    from mmpareto.data import DATASETS
    from mmpareto.training.recipes import recipe

    for name in DATASETS:
        for kind in ("released", "paper"):
            assert all(value.source for value in recipe(name, kind).values())


# The README


README = REPOSITORY / "README.md"
needs_readme = pytest.mark.skipif(not README.exists(), reason="there is no README.md yet")


def readme() -> str:
    return README.read_text(encoding="utf-8")


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", readme(), re.M | re.S)


def prose() -> str:
    """The README without its code."""
    text = re.sub(r"^```.*?^```", "", readme(), flags=re.M | re.S)
    return re.sub(r"`[^`]+`", "", re.sub(r"^    .*", "", text, flags=re.M))


def commands() -> list[str]:
    """The command lines of the README: indented, in a fence of a shell, or within a sentence."""
    text = re.sub(r"^```.*?^```", "", readme(), flags=re.M | re.S)
    indented = re.findall(r"^    (\S.*)", text, re.M)
    inline = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", re.sub(r"^    .*", "", text, flags=re.M))]
    fenced = "\n".join(examples("(?:sh|bash|console)")).replace("\\\n", " ").splitlines()
    lines = [line.partition(" #")[0] for line in [*indented, *inline, *fenced]]
    return [line for line in lines if re.match(r"(\$ |[\w./-]*python |sh |cd )", line)]


@needs_readme
@pytest.mark.parametrize("script", sorted(path.name for path in (REPOSITORY / "script").glob("*.sh")))
def test_the_readme_names_every_script(script: str) -> None:
    assert f"script/{script}" in readme()


@needs_readme
def test_what_the_readme_points_to_is_there() -> None:
    links = re.findall(r"\]\(([^)\s]+)", prose()) + re.findall(r"""(?:src|href)=["']([^"']+)""", prose())
    relative = {link.partition("#")[0] for link in links if not re.match(r"[a-z]+:", link)} - {""}
    named = set(re.findall(r"(?<![\w./-])((?:script|code|tests)/[\w./-]*\w\.(?:sh|py|md))", readme()))
    absent = [path for path in sorted(relative | named) if not (REPOSITORY / path).exists()]
    assert not absent


@needs_readme
def test_the_links_within_the_readme_lead_somewhere() -> None:
    titles = re.findall(r"^#+ +(.+?) *$", readme(), re.M)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    assert not set(re.findall(r"\]\(#([^)]+)\)", prose())) - anchors


@functools.cache
def help_of(entry: str, *first: str) -> str:
    return probe(entry, [*first, "--help"])


@needs_readme
def test_the_commands_of_the_readme_use_flags_that_exist() -> None:
    assert any("script/mmpareto.sh" in line for line in commands())
    for line in commands():
        if not (entry := re.search(r"(?:code/(\w+\.py)|script/(?!test|setup)\w+\.sh)(.*)", line)):
            continue
        name, words = entry[1] or ("tables.py" if "script/table_" in line else "train.py"), entry[2].split()
        # Each data set that is prepared, and each figure, has options of its own.
        named = name in ("prepare.py", "figures.py") and words and not words[0].startswith("-")
        first = words[:1] if named else []
        for flag in (word.partition("=")[0] for word in words if re.match(r"--\w", word)):
            assert re.search(rf"{flag}\b", help_of(name, *first)), f"{name} has no {flag}: {line}"


@needs_readme
def test_the_python_examples_of_the_readme_run(tmp_path: Path) -> None:
    assert any("MMPareto" in example for example in examples("python"))
    environment = dict(os.environ, PYTHONPATH=str(CODE))
    for example in examples("python"):
        done = subprocess.run(
            [sys.executable, "-c", example],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, f"{example}\n{done.stderr}"


# What is in git


@functools.cache
def tracked() -> list[Path]:
    """Files that git tracks, and those that it would: new ones that it does not ignore."""
    command = ["git", "-C", str(REPOSITORY), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not in a git repository")
    return [path for name in names if name and (path := REPOSITORY / name).is_file()]


def test_no_file_in_git_is_large() -> None:
    assert not [f"{path} has {path.stat().st_size} bytes" for path in tracked() if path.stat().st_size > 1 << 20]


def test_no_file_in_git_names_a_place_on_one_machine() -> None:
    places = re.compile(rb"(?<![\w.~$}*-])/(?:home|root|Users|work|mnt|media)/\w")
    found = [
        f"{path.relative_to(REPOSITORY)}: {hit[0].decode()}"
        for path in tracked()
        if path.suffix not in (".md", ".png", ".jpg") and (hit := places.search(path.read_bytes()))
    ]
    assert not found


def test_only_the_readme_of_data_is_in_git() -> None:
    assert {path.name for path in tracked() if path.parent == REPOSITORY / "data"} <= {"README.md"}
    assert not [path for path in tracked() if path.suffix in (".pt", ".pth", ".npy", ".wav", ".flv")]
