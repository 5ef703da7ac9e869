"""Speed of loading training samples in one process, compared with the released loader."""

import random
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from mmpareto.data.clip_dataset_builder import ClipDatasetBuilder
from mmpareto.data.loading import layout
from mmpareto.data.loading.batches import make_loader
from mmpareto.data.loading.options import InputOptions
from mmpareto.data.loading.sources import IMAGENET
from mmpareto.data.preparation.clip_preparation import write_frames
from mmpareto.data.raw.media import encode_jpeg
from mmpareto.progress import progress

WIDTH, HEIGHT, FRAMES = 480, 360, 3  # as in CREMA-D at 1 frame per second
BATCH = 16
LOADERS = ("released loader", "this loader", "this loader, --cache")


class ReleasedDataset(Dataset[Any]):
    """Loads training samples as the released MMPareto code does: torch.load, and PIL for every frame."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.names = folder, layout.read_names(folder, "train")
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(224),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET.mean, IMAGENET.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Any:
        """Audio, frames and label of a sample."""
        feature = torch.load(self.folder / "audio" / f"{self.names[index]}.pt", weights_only=True)
        images = []
        for number in random.sample(range(1, FRAMES + 1), 2):
            with Image.open(layout.frame_path(self.folder, self.names[index], number)) as image:
                images.append(self.transform(image.convert("RGB")))
        return feature.unsqueeze(0), torch.stack(images, 1), 0


def compare(clips: int, rounds: int) -> dict[str, Any]:
    """Measure all loaders in turn on made-up clips.

    Returns:
        "clips", "rounds", and by loader the medians of "seconds" (CPU seconds per sample) and "speed" (relative to the
        released loader in the same round).
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = _write_clips(Path(temporary) / "clips", clips)
        ours = [
            ClipDatasetBuilder.open(folder, "train", training=True, options=InputOptions(audio="fbank", cache=cache))
            for cache in (False, True)
        ]
        loaders: list[Any] = [DataLoader(ReleasedDataset(folder), batch_size=BATCH)]
        loaders += [make_loader(dataset, batch_size=BATCH) for dataset in ours]
        seconds: dict[str, list[float]] = {name: [] for name in LOADERS}
        with progress(total=len(LOADERS) * (rounds + 1), desc="rounds", leave=False, disable=None) as bar:
            for number in range(rounds + 1):
                for name, loader in zip(LOADERS, loaders, strict=True):
                    start = time.process_time()
                    for _ in loader:
                        pass
                    if number > 0:  # the first round is a warm-up
                        seconds[name].append((time.process_time() - start) / clips)
                    bar.update()
    released = seconds[LOADERS[0]]
    return {
        "clips": clips,
        "rounds": rounds,
        "seconds": {name: statistics.median(own) for name, own in seconds.items()},
        "speed": {
            name: statistics.median(a / b for a, b in zip(released, own, strict=True)) for name, own in seconds.items()
        },
    }


def table(measured: Mapping[str, Any]) -> str:
    """The measurements as text."""
    lines = [
        f"one process, one thread; {measured['clips']} clips of {FRAMES} frames {WIDTH}×{HEIGHT}, two frames per "
        f"sample at 224×224, filterbank 1024×128; median of {measured['rounds']} rounds",
        f"{'':24}{'CPU ms per sample':>18}{'samples/s':>12}{'× released':>12}",
    ]
    for name, seconds in measured["seconds"].items():
        lines.append(f"{name:24}{1000 * seconds:18.2f}{1 / seconds:12.0f}{measured['speed'][name]:12.2f}")
    return "\n".join(lines)


def _write_clips(folder: Path, clips: int) -> Path:
    """Write a prepared folder of textured images and random audio features."""
    generator = np.random.default_rng(0)
    (folder / "audio").mkdir(parents=True)
    for number in range(clips):
        frames = [encode_jpeg(_image(generator)) for _ in range(FRAMES)]
        write_frames(folder / "visual", f"clip{number}", frames)
        torch.save(torch.randn(1024, 128), folder / "audio" / f"clip{number}.pt")
    (folder / "stat.csv").write_text("a\n")
    (folder / "train.csv").write_text("".join(f"clip{number},a\n" for number in range(clips)))
    return folder


def _image(generator: np.random.Generator) -> np.ndarray:
    coarse = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT))
    noise = generator.normal(0, 6, (HEIGHT, WIDTH, 1))
    return np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)
