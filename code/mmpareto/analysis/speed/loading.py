"""How fast one process loads training samples, beside the way of the released loader."""

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from mmpareto.data.clip_dataset_builder import ClipDatasetBuilder
from mmpareto.data.loading import layout
from mmpareto.data.loading.batches import make_loader
from mmpareto.data.loading.options import InputOptions
from mmpareto.data.loading.sources import IMAGENET
from mmpareto.data.preparation.clip_preparation import write_frames
from mmpareto.data.raw.media import encode_jpeg
from mmpareto.progress import progress

WIDTH, HEIGHT, FRAMES = 480, 360, 3  # of CREMA-D at 1 frame a second
BATCH = 16
WAYS = ("released loader", "this loader", "this loader, --cache")


class ReleasedLoader(torch.utils.data.Dataset[Any]):
    """What the released MMPareto code does for a training sample: torch.load, and PIL for every frame."""

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
        """(audio, frames, label)"""
        feature = torch.load(self.folder / "audio" / f"{self.names[index]}.pt", weights_only=True)
        images = []
        for number in random.sample(range(1, FRAMES + 1), 2):
            with Image.open(layout.frame_path(self.folder, self.names[index], number)) as picture:
                images.append(self.transform(picture.convert("RGB")))
        return feature.unsqueeze(0), torch.stack(images, 1), 0


def compare(clips: int, rounds: int) -> dict[str, Any]:
    """CPU seconds a sample of every way, in turn, on clips that are made up; speed in rounds taken after each other."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = _write(Path(temporary) / "clips", clips)
        ours = [
            ClipDatasetBuilder.open(folder, "train", training=True, options=InputOptions(audio="fbank", cache=cache))
            for cache in (False, True)
        ]
        loaders = dict(zip(WAYS, map(_batches, (ReleasedLoader(folder), *ours)), strict=True))
        taken: dict[str, list[float]] = {way: [] for way in WAYS}
        with progress(total=len(WAYS) * (rounds + 1), desc="rounds", leave=False, disable=None) as bar:
            for _ in range(rounds + 1):
                for way, load in loaders.items():
                    before = time.process_time()
                    load()
                    taken[way].append((time.process_time() - before) / clips)
                    bar.update()
    found = {way: seconds[1:] for way, seconds in taken.items()}
    return {
        "clips": clips,
        "rounds": rounds,
        "seconds": {way: statistics.median(seconds) for way, seconds in found.items()},
        "speed": {
            way: statistics.median(a / b for a, b in zip(found[WAYS[0]], seconds, strict=True))
            for way, seconds in found.items()
        },
    }


def table(figures: Mapping[str, Any]) -> str:
    """The figures as text."""
    lines = [
        f"one process, one thread; {figures['clips']} clips of {FRAMES} frames {WIDTH}×{HEIGHT}, two read a clip at "
        f"224×224, filterbank 1024×128; median of {figures['rounds']} rounds",
        f"{'':24}{'CPU ms a sample':>18}{'samples/s':>12}{'× released':>12}",
    ]
    for way, seconds in figures["seconds"].items():
        lines.append(f"{way:24}{1000 * seconds:18.2f}{1 / seconds:12.0f}{figures['speed'][way]:12.2f}")
    return "\n".join(lines)


def _batches(dataset: Any) -> Callable[[], None]:
    if isinstance(dataset, ReleasedLoader):
        loader: Any = torch.utils.data.DataLoader(dataset, batch_size=BATCH)
    else:
        loader = make_loader(dataset, batch_size=BATCH)

    def load() -> None:
        for _ in loader:
            pass

    return load


def _write(folder: Path, clips: int) -> Path:
    """A prepared folder of smooth pictures with some texture, and features of noise."""
    generator = np.random.default_rng(0)
    (folder / "audio").mkdir(parents=True)
    for number in range(clips):
        frames = [encode_jpeg(_picture(generator)) for _ in range(FRAMES)]
        write_frames(folder / "visual", f"clip{number}", frames)
        torch.save(torch.randn(1024, 128), folder / "audio" / f"clip{number}.pt")
    (folder / "stat.csv").write_text("a\n")
    (folder / "train.csv").write_text("".join(f"clip{number},a\n" for number in range(clips)))
    return folder


def _picture(generator: np.random.Generator) -> np.ndarray:
    coarse = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT))
    grain = generator.normal(0, 6, (HEIGHT, WIDTH, 1))
    return np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)
