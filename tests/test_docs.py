"""The README and the pages of docs/: their links, commands, examples and tables are correct."""

import contextlib
import functools
import importlib
import inspect
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

README = REPOSITORY / "README.md"
CODE = REPOSITORY / "code"
PAGES = [
    README,
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *(REPOSITORY / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "data/README.md")),
]
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
# Flags of torchrun, sbatch, srun and pre-commit.
EXTERNAL_FLAGS = {"--nproc-per-node", "--nodes", "--ntasks-per-node", "--hook-type"}
EXTERNAL_FLAGS |= {"--time", "--partition", "--gpus"}


@functools.cache
def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def examples(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text(page), re.M | re.S)


def without_fences(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", text(page), flags=re.M | re.S)


def prose(page: Path) -> str:
    """The page without its code."""
    return re.sub(r"`[^`]+`", "", re.sub(r"^    .*", "", without_fences(page), flags=re.M))


def inline_code(page: Path) -> list[str]:
    spans = re.findall(r"`([^`]+)`", re.sub(r"^    .*", "", without_fences(page), flags=re.M))
    return [" ".join(span.split()) for span in spans]


def commands(page: Path) -> list[str]:
    """The command lines of a page, in indented blocks or in inline code."""
    lines = re.findall(r"^    (\S.*)", without_fences(page).replace("\\\n", " "), re.M) + inline_code(page)
    return [line.partition(" #")[0] for line in lines if re.match(r"(python|sh|torchrun|sbatch) ", line)]


# Links and names


@functools.cache
def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ +(.+?) *$", without_fences(page), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pages
def test_links_have_targets(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)", prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pages
def test_named_files_exist(page: Path) -> None:
    named = set(re.findall(r"(?<![\w./-])((?:script|code|tests|docs|examples)/[\w./-]*\w\.\w+)", text(page)))
    paths = {REPOSITORY / name for name in named}
    inside = re.findall(r"(?<![\w./-])((?:integration|models|training|analysis|data)/[\w/]+\.py)", text(page))
    paths |= {CODE / "mmpareto" / name for name in inside}
    assert not [path for path in sorted(paths) if not path.exists()]


def test_every_script_is_documented() -> None:
    everything = "".join(map(text, PAGES))
    assert not [path.name for path in (REPOSITORY / "script").glob("*.sh") if f"script/{path.name}" not in everything]


def test_the_readme_is_short_and_links_to_every_page() -> None:
    assert len(text(README).splitlines()) <= 200
    for page in PAGES[1:-1]:
        assert f"({page.relative_to(REPOSITORY)})" in text(README)


# Commands and flags


@functools.cache
def help_of(entry: str, *first: str) -> str:
    """The help of an entry point, or of one of its subcommands, with words joined by underscores."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        importlib.import_module(entry).main([*first, "--help"])
    assert printed.getvalue().startswith("usage: "), (entry, first)
    return printed.getvalue().replace("-", "_")


@functools.cache
def subcommands(entry: str) -> list[str]:
    from mmpareto.data import DATASETS

    if entry == "prepare":
        return list(DATASETS)
    return list(importlib.import_module("figures").PLOTS) if entry == "figures" else []


@functools.cache
def method_flags() -> set[str]:
    """The options of all methods, which are flags of train.py too."""
    from mmpareto.training.method_options import methods_text

    return set(re.findall(r"--(\w+)", methods_text()))


def has_flag(flag: str, entry: str, *first: str) -> bool:
    name = flag.removeprefix("--").replace("-", "_")
    defined = re.search(rf"(?:^ +|\[|\| |, )__{name}\b", help_of(entry, *first), re.M)
    return defined is not None or (entry == "train" and name in method_flags())


@pages
def test_commands_use_flags_that_exist(page: Path) -> None:
    for line in commands(page):
        call = re.search(r"(?:code/(\w+)\.py|script/(?!test|setup)(\w+)\.sh)(.*)", line)
        if call is None:
            continue
        script = "tables" if "table" in (call[2] or "") else {"gpu_check": "benchmark"}.get(call[2], "train")
        entry, words = call[1] or script, call[3].split()
        first = words[:1] if words and words[0] in subcommands(entry) else []
        if words[:1] == ["NAME"]:
            first = subcommands(entry)[:1]
        for word in words:
            if word == "--":
                entry, first = "train", []  # tables.py passes the rest to train.py
            elif word.startswith("--"):
                flag = word.partition("=")[0]
                assert has_flag(flag, entry, *first), f"{entry}.py has no {flag}: {line}"


@pages
def test_flags_in_sentences_exist(page: Path) -> None:
    entries = [path.stem for path in CODE.glob("*.py")]
    calls = [(entry, *first) for entry in entries for first in [(), *((name,) for name in subcommands(entry))]]
    for span in inline_code(page):
        for flag in set(re.findall(r"(?<!\S)--\w[\w-]*", span)) - EXTERNAL_FLAGS:
            assert any(has_flag(flag, *call) for call in calls), f"no entry point has {flag}"


def test_the_readme_begins_with_the_two_commands() -> None:
    first, second = commands(README)[:2]
    assert (first.split(), second.split()) == (["sh", "script/mmpareto.sh"], ["sh", "script/test.sh"])


# Examples


def test_the_python_examples_run(tmp_path: Path) -> None:
    """Run in one process, which imports torch once, but each in its own namespace."""
    sources = [example for page in PAGES for example in examples(page)]
    assert any("MMPareto" in source for source in sources)
    program = f"for source in {sources!r}:\n    exec(compile(source, source, 'exec'), {{'__name__': '__main__'}})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(CODE)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


# Tables


def first_cells(page: Path) -> set[str]:
    """All names in backticks in the first column of the page's tables."""
    return {
        name for row in re.findall(r"^\| *(`[^|]*?) *\|", text(page), re.M) for name in re.findall(r"`([^`]+)`", row)
    }


def test_the_tables_name_every_method_data_set_and_plot() -> None:
    from mmpareto.data import DATASETS
    from mmpareto.integration import METHODS

    for page, names in (
        ("README.md", [*METHODS, *DATASETS]),
        ("docs/methods.md", METHODS),
        ("docs/data.md", DATASETS),
        ("docs/tables-and-plots.md", subcommands("figures")),
    ):
        assert not {*names} - {"tiny"} - first_cells(REPOSITORY / page), page


def test_the_table_of_methods_gives_their_defaults() -> None:
    from mmpareto.integration import METHODS

    page = text(REPOSITORY / "docs/methods.md")
    checked = 0
    for name, method in METHODS.items():
        row = re.search(rf"^\| `{name}` \|.*", page, re.M)
        assert row is not None
        options = row[0].split("|")[5].partition(";")[0]
        defaults = {option.name: option.default for option in inspect.signature(method).parameters.values()}
        defaults |= next(iter(method.variants.values()), {})
        for option, value in re.findall(r"(\w+) ([\w.]+)(?=,|$)", options.strip()):
            if option in defaults and value != "the":
                assert str(defaults[option]) in (value, f"{value}.0"), (name, option)
                checked += 1
    assert checked > 10


def test_the_table_of_variants_matches_the_class() -> None:
    from mmpareto import MMPareto

    rows = {
        option: [value.strip() for value in values.split("|")]
        for option, values in re.findall(
            r"^\| `--(weights|rescale|boost)` \|[^|]*\|(.*)\|$", text(REPOSITORY / "docs/methods.md"), re.M
        )
    }
    variants = [MMPareto.variants[name] for name in ("per_tensor", "paper", "released")]
    assert rows == {name: [variant[name] for variant in variants] for name in ("weights", "rescale", "boost")}


# Metadata of the project


def test_version_is_the_same_everywhere() -> None:
    import mmpareto

    assert f"## [{mmpareto.__version__}]" in text(REPOSITORY / "CHANGELOG.md")
    assert f"\nversion: {mmpareto.__version__}\n" in (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")


def test_every_way_of_testing_calls_the_same_script() -> None:
    for name in (".github/workflows/test.yml", ".pre-commit-config.yaml", "CONTRIBUTING.md", ".ci/run"):
        assert "script/test.sh" in (REPOSITORY / name).read_text(encoding="utf-8"), name
