import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY
from mmpareto.cli import ArgumentParser


def parser() -> ArgumentParser:
    made = ArgumentParser(prog="program")
    made.add_argument("--batch_size")
    made.add_argument("--several_names", nargs="+", default=[])
    made.add_argument("rest", nargs="*")
    return made


@pytest.mark.parametrize("words", [["--batch-size", "a-b"], ["--batch_size", "a-b"], ["--batch-size=a-b"]])
def test_dashes_and_underscores_name_the_same_flag(words: list[str]) -> None:
    assert parser().parse_args(words).batch_size == "a-b"


def test_values_are_not_rewritten() -> None:
    given = parser().parse_args(["--several-names", "a-b", "-1", "--batch-size=--c-d", "--", "--e-f", "g-h"])
    assert given.several_names == ["a-b", "-1"] and given.batch_size == "--c-d" and given.rest == ["--e-f", "g-h"]


def test_unknown_flags_are_returned_with_underscores() -> None:
    assert parser().parse_known_args(["--un-known=a-b", "--other-one"])[1] == ["--un_known=a-b", "--other_one"]


def test_subparsers_follow_the_same_rules(capsys: pytest.CaptureFixture[str]) -> None:
    made = ArgumentParser(prog="program")
    below = made.add_subparsers().add_parser("name")
    below.add_argument("--batch_size")
    assert made.parse_args(["name", "--batch-size", "a-b"]).batch_size == "a-b"
    for words in (["name", "--batch", "3"], ["--na"]):
        with pytest.raises(SystemExit) as error:
            made.parse_args(words)
        assert error.value.code == 2 and words[-2 if len(words) > 1 else 0] in capsys.readouterr().err


@pytest.mark.parametrize("lines", [1, 10_000])
def test_a_reader_that_leaves_early_gets_no_traceback(lines: int) -> None:
    """The output fails at exit if it fits into a buffer, and before that otherwise."""
    reader, writer = os.pipe()
    os.close(reader)
    program = f"from mmpareto.cli import run\nrun(lambda words: [print('a line') for _ in range({lines})] and 0)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY / "code", stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
