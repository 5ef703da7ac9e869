import importlib
import os
import subprocess
import sys

import pytest
from conftest import REPOSITORY
from mmpareto.cli import ArgumentParser, nearest_flag
from mmpareto.errors import InputError, one_line


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


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--lr", "learning_rate"),
        ("--bs", "batch_size"),
        ("--seed", "random_seed"),
        ("--num_workers", "workers"),
        ("--lr_scheduler", "scheduler"),
        ("--gpu", "gpu_ids"),
        ("--optim", "optimizer"),
        ("--grad_clip", "clip_grad"),
        ("--batchsize", "batch_size"),
        ("--early_stopping_patience", "patience"),
        ("--xyz", None),
    ],
)
def test_the_flag_that_was_meant_is_suggested(flag: str, meant: str | None) -> None:
    from mmpareto.training.settings import parser as parser_of_training

    assert nearest_flag(flag, [action.dest for action in parser_of_training()._actions]) == meant


@pytest.mark.parametrize(
    ("program", "words", "meant"),
    [
        ("train", ["--dataset", "cremad", "--lr", "0.1"], "--learning_rate"),
        ("evaluate", ["run", "--bs", "3"], "--batch_size"),
        ("tables", ["main", "--seed", "3"], "--seeds"),
        ("benchmark", ["step", "--method", "joint"], "--methods"),
        ("figures", ["accuracy", "--runs", "a"], "--run"),
        ("prepare", ["cremad", "--raw_dir", "a"], "--raw"),
        ("replay", ["--step", "3", "--against", "."], "--steps"),
    ],
)
def test_every_program_suggests_it(
    program: str, words: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((SystemExit, InputError)) as stopped:
        importlib.import_module(program).main(words)
    said = str(stopped.value) if isinstance(stopped.value, InputError) else capsys.readouterr().err
    assert f"Did you mean {meant}?" in said
    assert isinstance(stopped.value, InputError) or stopped.value.code == 2


def test_errors_of_libraries_lose_their_colours() -> None:
    assert one_line("\x1b[96mFailed\x1b[0m to\nexport.") == "Failed to export"
