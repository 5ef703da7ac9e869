"""Write tiny prepared folders for tests: random features, and smooth random pictures as frames."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmpareto.data.clip_dataset_builder import ClipDatasetBuilder
from mmpareto.data.loading.options import InputOptions
from mmpareto.data.loading.samples import PreparedDataset
from PIL import Image

OPTIONS = {field.name for field in dataclasses.fields(InputOptions)}
SHAPES = {
    "fbank": ("audio", (1024, 128)),
    "spectrogram": ("audio_spectrogram", (257, 188)),
    "waveform": ("audio_waveform", (40_000,)),  # 2.5 s
}


def open_clips(folder: Path, split: str, **given: Any) -> PreparedDataset:
    """Open a split of a prepared folder; the fields of `InputOptions` are accepted as keyword arguments."""
    options = InputOptions(**{name: given.pop(name) for name in OPTIONS & set(given)})
    return ClipDatasetBuilder.open(folder, split, options=options, **given)


def write_prepared(
    folder: Path,
    *,
    train: int = 6,
    test: int = 3,
    frames: int | Sequence[int] = 4,
    classes: Sequence[str] = ("SAD", "ANG", "HAP"),
    audio: Sequence[str] = ("fbank",),
    size: tuple[int, int] = (36, 48),
    prepared: Mapping[str, object] | None = None,
    seed: int = 0,
) -> Path:
    """Write `train` + `test` clips named clip_000, …, whose classes cycle through `classes`, and return `folder`.

    Arguments:
        frames: number of frames per clip; clips cycle through a sequence.
        classes: class names in the order of stat.csv, not necessarily sorted.
        size: (height, width) of the frames.
        prepared: content of prepared.json; {} writes no file, None writes a default that matches the arguments.
    """
    random = np.random.default_rng(seed)
    counts = [frames] if isinstance(frames, int) else list(frames)
    lines = []
    for number in range(train + test):
        clip = f"clip_{number:03d}"
        lines.append(f"{clip},{classes[number % len(classes)]}\n")
        for kind in audio:
            subfolder, shape = SHAPES[kind]
            (folder / subfolder).mkdir(parents=True, exist_ok=True)
            feature = torch.from_numpy(random.standard_normal(shape).astype(np.float32))
            feature = (3000 * feature).short() if kind == "waveform" else feature
            torch.save(feature, folder / subfolder / f"{clip}.pt")
        write_frames(folder / "visual" / clip, counts[number % len(counts)], size, random)
    (folder / "stat.csv").write_text("".join(f"{name}\n" for name in classes))
    (folder / "train.csv").write_text("".join(lines[:train]))
    (folder / "test.csv").write_text("".join(lines[train:]))
    content = {"dataset": "made", "synthetic": True, "audio": list(audio), "fps": 1} if prepared is None else prepared
    if content:
        (folder / "prepared.json").write_text(json.dumps(content))
    return folder


def write_frames(folder: Path, count: int, size: tuple[int, int], random: np.random.Generator) -> None:
    """Write frame_00001.jpg … frame_<count>.jpg: smooth colour gradients, which JPEG changes little."""
    folder.mkdir(parents=True)
    height, width = size
    for number in range(1, count + 1):
        coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"frame_{number:05d}.jpg", quality=95)
