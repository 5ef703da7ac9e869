"""Tiny trained runs, for the figures that measure runs at a checkpoint."""

from pathlib import Path

import pytest
import train
from mmpareto.models import ENCODERS
from prepared_clips import write_prepared

ENCODERS.add("tiny", "tiny_encoder:TinyEncoder")
SMALL = (
    "--dataset cremad --encoder tiny --gpu_ids cpu --workers 0 --use_tensorboard false --batch_size 4 --epochs 2 "
    "--learning_rate 0.05 --frames 1 --image_size 24 --audio_frames 64 --val_fraction 0.3"
)


def train_runs(folder: Path, *methods: str, seeds: int = 1) -> list[Path]:
    """A finished run a method and seed on 18 made-up clips: <folder>/<method>-<seed>."""
    data = folder / "cremad"
    if not data.exists():
        write_prepared(data, train=18, test=6)
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for method in methods:
            for seed in range(seeds):
                place = folder / f"{method}-{seed}"
                own = ["--data", str(data), "--ckpt_path", str(place), "--method", method, "--random_seed", str(seed)]
                assert train.main([*SMALL.split(), *own]) == 0
                made.append(place)
    return made
