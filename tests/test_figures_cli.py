"""The command line of figures.py: arguments, errors and output files."""

import subprocess
import sys
from pathlib import Path

import figures
import pytest
from conftest import REPOSITORY
from made_runs import accuracies, options_of, write_gradients, write_run
from matplotlib.figure import Figure
from mmpareto import cli
from mmpareto.analysis.plots import style
from mmpareto.errors import InputError
from PIL import Image

PLOTS_OF_RUNS = ("accuracy", "gap", "conflict", "magnitude", "weights")


def made(folder: Path, count: int = 2) -> list[Path]:
    folders = []
    for seed in range(count):
        options = {"method": "mmpareto", "variant": "per_tensor", "options": options_of()}
        folders.append(write_run(folder / f"seed{seed}", accuracies(seed), random_seed=seed, **options))
        write_gradients(folders[-1], seed)
    return folders


def test_help_loads_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys; sys.argv = ['figures.py', 'accuracy', '--help']; sys.path.insert(0, 'code'); import figures\n"
        "try: figures.main()\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'matplotlib', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: figures.py accuracy" in done.stdout and "--run" in done.stdout and "--out" in done.stdout


def test_help_lists_every_plot(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        figures.main(["-h"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert all(f"    {name}" in text for name in figures.PLOTS)
    assert {*PLOTS_OF_RUNS, "covariance", "sharpness", "landscape", "gradients", "refresh"} <= set(figures.PLOTS)
    assert {"integration", "cgmnist"} <= set(figures.PLOTS)


@pytest.mark.parametrize("name", ["accuracy", "weights"])
def test_a_plot_of_runs_is_written_as_png_and_pdf(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = made(tmp_path / "runs")
    out = tmp_path / "new" / "x"
    assert figures.main([name, "--run", *map(str, folders), "--out", str(out)]) == 0
    assert capsys.readouterr().out.split() == [f"{out}.{kind}" for kind in ("png", "pdf")]
    with Image.open(f"{out}.png") as picture:
        picture.load()
        assert picture.format == "PNG" and min(picture.size) > 500
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 50
    pdf = Path(f"{out}.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-") and pdf.rstrip().endswith(b"%%EOF")


def test_plots_are_written_to_the_run_or_to_the_parent_of_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    monkeypatch.setattr(style, "save", lambda figure, out, dpi=0: written.append(out))
    first, second = map(str, made(tmp_path / "runs"))
    for name in PLOTS_OF_RUNS:
        assert figures.main([name, "--run", first, "--run", second]) == 0
    assert figures.main(["gradients", "--run", first]) == 0
    assert written == [tmp_path / "runs" / f"{name}.png" for name in PLOTS_OF_RUNS] + [Path(first) / "gradients.png"]


def test_errors_are_one_sentence_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figure, "savefig", None)
    first, second = map(str, made(tmp_path))
    other = str(write_run(tmp_path / "other", accuracies(0), dataset="ave"))
    plain = str(write_run(tmp_path / "plain", accuracies(0)))
    for words, message in (
        (["acuracy"], "Did you mean 'accuracy'"),
        (["integratoin"], "Did you mean 'integration'"),
        (["accuracy"], "--run"),
        (["gradients"], "--run"),
        (["integration", "--run", first], "leave --run out"),
        (["gradients", "--run", first, second], "one run"),
        (["accuracy", "--run", str(tmp_path / "none")], "no run"),
        (["accuracy", "--run", first, other], "one plot per data set"),
        (["accuracy", "--run", first, first], "both MMPareto"),
        (["conflict", "--run", plain], "--record_gradients N"),
        (["accuracy", "--run", first, "--out", str(tmp_path / "x.svg")], "PNG and PDF"),
        (["accuracy", "--run", first, "--out", str(tmp_path)], "is a folder"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            figures.main(words)
        assert "\n" not in str(caught.value)
    assert not [*tmp_path.rglob("*.png"), *tmp_path.rglob("*.pdf")]


@pytest.mark.parametrize("words", ["accuracy", "nothing", "", "accuracy --no", "covariance --run x --batches 1"])
def test_bad_input_exits_with_status_2_and_prints_one_line(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["figures.py", *words.split()])
    monkeypatch.setattr("signal.signal", lambda *arguments: None)  # pytest's own handlers must stay
    with pytest.raises(SystemExit) as caught:
        cli.run(figures.main)
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and not out and "error: " in err.splitlines()[-1]


def test_dashes_in_flags_are_accepted(tmp_path: Path) -> None:
    given = figures.parser().parse_args(["landscape", "--run", "a", "--directions-seed", "3", "--gpu-ids=cpu"])
    assert (given.directions_seed, given.gpu_ids) == (3, "cpu")
