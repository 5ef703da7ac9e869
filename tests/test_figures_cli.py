"""`python code/figures.py`: what it takes, refuses and writes."""

import subprocess
import sys
import time
from pathlib import Path

import figures
import numpy as np
import pytest
from conftest import REPOSITORY
from made_runs import accuracies, options_of, write_gradients, write_run
from mmpareto.errors import InputError
from mmpareto.models import ENCODERS
from mmpareto.training.run import train
from mmpareto.training.settings import parse
from PIL import Image
from prepared_clips import write_prepared

ENCODERS.add("tiny", "tiny_encoder:TinyEncoder")
SMALL = (
    "--dataset cremad --encoder tiny --gpu_ids cpu --workers 0 --use_tensorboard false --batch_size 4 --epochs 2 "
    "--frames 1 --image_size 24 --audio_frames 64 --protocol paper"
)
OF_RUNS = ("accuracy", "gap", "conflict", "magnitude", "weights")


def made(folder: Path, count: int = 2) -> list[Path]:
    folders = []
    for seed in range(count):
        options = {"method": "mmpareto", "variant": "per_tensor", "options": options_of()}
        folders.append(write_run(folder / f"seed{seed}", accuracies(seed), random_seed=seed, **options))
        write_gradients(folders[-1], seed)
    return folders


def assert_readable(png: Path) -> None:
    with Image.open(png) as picture:
        picture.load()
        assert picture.format == "PNG" and min(picture.size) > 500
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 50
    pdf = png.with_suffix(".pdf").read_bytes()
    assert pdf.startswith(b"%PDF-") and pdf.rstrip().endswith(b"%%EOF")


def test_help_is_quick_and_loads_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys; sys.argv = ['figures.py', *sys.argv[1:]]; sys.path.insert(0, 'code'); import figures\n"
        "try: figures.main()\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'matplotlib', 'numpy'} & set(sys.modules)"
    )
    for words in (["--help"], ["accuracy", "--help"]):
        before = time.monotonic()
        found = subprocess.run([sys.executable, "-c", code, *words], cwd=REPOSITORY, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        assert time.monotonic() - before < 5  # a second, but on a machine with other work
        assert "usage: figures.py" in found.stdout
    assert "--run" in found.stdout and "--out" in found.stdout


def test_help_lists_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        figures.main(["-h"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert all(f"    {name}" in text for name in figures.FIGURES)
    assert {*OF_RUNS, "covariance", "sharpness", "landscape", "integration", "cgmnist"} <= set(figures.FIGURES)


@pytest.mark.parametrize("name", OF_RUNS)
def test_a_figure_of_runs_is_written_twice(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = made(tmp_path / "runs")
    assert figures.main([name, "--run", *map(str, folders), "--out", str(tmp_path / "new" / "x")]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "new" / f"x.{kind}") for kind in ("png", "pdf")]
    assert_readable(tmp_path / "new" / "x.png")


def test_a_figure_lies_with_its_run_and_of_several_beside_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = map(str, made(tmp_path / "runs"))
    assert figures.main(["accuracy", "--run", first]) == 0
    assert capsys.readouterr().out.split()[0] == f"{first}/accuracy.png"
    assert figures.main(["gap", "--run", first, "--run", second]) == 0
    assert (tmp_path / "runs" / "gap.png").is_file() and not (Path(first) / "gap.png").exists()


def test_what_cannot_be_is_refused_in_a_sentence(tmp_path: Path) -> None:
    first, second = map(str, made(tmp_path))
    other = str(write_run(tmp_path / "other", accuracies(0), dataset="ave"))
    plain = str(write_run(tmp_path / "plain", accuracies(0)))
    for words, message in (
        (["acuracy"], "Did you mean 'accuracy'"),
        (["accuracy"], "give their folders by --run"),
        (["integration", "--run", first], "leave --run out"),
        (["gradients", "--run", first, second], "is of one run"),
        (["accuracy", "--run", str(tmp_path / "none")], "holds no run"),
        (["accuracy", "--run", first, other], "one figure a data set"),
        (["accuracy", "--run", first, first], "give one of them"),
        (["conflict", "--run", first, plain], "--record-gradients N"),
        (["accuracy", "--run", first, "--out", str(tmp_path / "x.svg")], "PNG and PDF"),
        (["accuracy", "--run", first, "--out", str(tmp_path)], "is a folder"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            figures.main(words)
        assert "\n" not in str(caught.value)
    assert not [*tmp_path.rglob("*.png"), *tmp_path.rglob("*.pdf")]


def test_bad_input_leaves_with_2_and_one_line() -> None:
    for words in (["accuracy"], ["nothing"], [], ["accuracy", "--no"]):
        found = subprocess.run(
            [sys.executable, "code/figures.py", *words], cwd=REPOSITORY, capture_output=True, text=True
        )
        assert found.returncode == 2 and not found.stdout
        assert "Traceback" not in found.stderr and "error: " in found.stderr.splitlines()[-1]


def test_real_runs_are_drawn(tmp_path: Path) -> None:
    data = write_prepared(tmp_path / "data")
    folders = [tmp_path / method for method in ("mmpareto", "uniform", "joint")]
    for folder in folders:
        words = f"{SMALL} --data {data} --ckpt_path {folder} --method {folder.name} --record-gradients 2"
        assert train(parse(words.split())) == 0
    for name in ("accuracy", "conflict", "weights"):
        assert figures.main([name, "--run", *map(str, folders)]) == 0
        assert_readable(tmp_path / f"{name}.png")
    steps = np.load(folders[0] / "gradients.npz")["step"]
    assert len(steps) > 1
