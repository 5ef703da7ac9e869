"""Tiny trained runs for plots that open checkpoints, and plots that are not written to disk."""

import shutil
from pathlib import Path

import pytest
import train
from matplotlib.figure import Figure
from mmpareto.analysis.plots import style
from mmpareto.models import ENCODERS
from prepared_clips import write_prepared

ENCODERS.add("tiny", "tiny_encoder:TinyEncoder")
SMALL = (
    "--dataset cremad --encoder tiny --gpu_ids cpu --workers 0 --use_tensorboard false --batch_size 4 --epochs 2 "
    "--learning_rate 0.05 --frames 1 --image_size 24 --audio_frames 64 --val_fraction 0.3 --record_gradients 2"
)
RUNS = (("uniform", 0), ("uniform", 1), ("joint", 0), ("mmpareto", 0))


@pytest.fixture(scope="session")
def trained_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Finished runs on 18 generated clips: two seeds of uniform, then joint, then mmpareto.

    Tests must not change them; `runs` has copies.
    """
    folder = tmp_path_factory.mktemp("trained")
    data = write_prepared(folder / "cremad", train=18, test=6)
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for method, seed in RUNS:
            made.append(folder / f"{method}-{seed}")
            flags = ["--data", str(data), "--ckpt_path", str(made[-1]), "--method", method, "--random_seed", str(seed)]
            assert train.main([*SMALL.split(), *flags]) == 0
    return made


@pytest.fixture
def runs(trained_runs: list[Path], tmp_path: Path) -> list[Path]:
    """Copies of the trained runs, which a test may change."""
    return [Path(shutil.copytree(run, tmp_path / run.name)) for run in trained_runs]


@pytest.fixture
def unsaved(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures passed to `style.save`, which writes nothing here, because writing would take most of the time."""
    figures: list[Figure] = []
    monkeypatch.setattr(style, "save", lambda figure, out, dpi=0: figures.append(figure))
    return figures
