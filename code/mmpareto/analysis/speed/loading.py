"""Speed of loading training samples in one process, compared with the released loader, and in several processes."""

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
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from torchvision import transforms

from mmpareto.data.clip_dataset_builder import ClipDatasetBuilder
from mmpareto.data.loading import layout
from mmpareto.data.loading.batches import make_loader, stop_workers
from mmpareto.data.loading.options import InputOptions
from mmpareto.data.loading.sources import IMAGENET
from mmpareto.progress import progress

WIDTH, HEIGHT, FRAMES = 480, 360, 3  # as in CREMA-D at 1 frame per second
BATCH = 16
BATCHES_PER_WORKER, PARALLEL_ROUNDS = 4, 3
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


def compare(clips: int, rounds: int, workers: int = 0) -> dict[str, Any]:
    """Measure all loaders in turn on made-up clips.

    Arguments:
        workers: number of loader processes with which this loader is measured too; 0 leaves that out.

    Returns:
        "clips", "rounds", and by loader the medians of "seconds" (CPU seconds per sample) and "speed" (relative to the
        released loader in the same round); "workers", and by loader the median of "samples_per_second", elapsed, with
        that many processes.
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
        rates = {name: _rate(dataset, workers) for name, dataset in zip(LOADERS[1:], ours, strict=True) if workers}
    released = seconds[LOADERS[0]]
    return {
        "clips": clips,
        "rounds": rounds,
        "seconds": {name: statistics.median(own) for name, own in seconds.items()},
        "speed": {
            name: statistics.median(a / b for a, b in zip(released, own, strict=True)) for name, own in seconds.items()
        },
        "workers": workers,
        "samples_per_second": rates,
    }


def _rate(dataset: Any, workers: int) -> float:
    """Samples per elapsed second of a loader with worker processes: the median of `PARALLEL_ROUNDS` epochs."""
    samples = BATCHES_PER_WORKER * BATCH * workers
    repeated: ConcatDataset[Any] = ConcatDataset([dataset] * -(-samples // len(dataset)))
    loader = make_loader(repeated, batch_size=BATCH, workers=workers, pin_memory=torch.cuda.is_available())
    rates = []
    for _ in range(1 + PARALLEL_ROUNDS):
        start = time.perf_counter()
        for _ in loader:
            pass
        rates.append(len(repeated) / (time.perf_counter() - start))
    stop_workers(loader)
    return statistics.median(rates[1:])  # in the first epoch, the processes start


def table(measured: Mapping[str, Any]) -> str:
    """The measurements as text."""
    lines = [
        f"one process, one thread; {measured['clips']} clips of {FRAMES} frames {WIDTH}×{HEIGHT}, two frames per "
        f"sample at 224×224, filterbank 1024×128; median of {measured['rounds']} rounds",
        f"{'':24}{'CPU ms per sample':>18}{'samples/s':>12}{'× released':>12}",
    ]
    for name, seconds in measured["seconds"].items():
        lines.append(f"{name:24}{1000 * seconds:18.2f}{1 / seconds:12.0f}{measured['speed'][name]:12.2f}")
    lines += [
        f"{name}, --workers {measured['workers']}: {rate:.0f} samples/s, elapsed"
        for name, rate in measured["samples_per_second"].items()
    ]
    return "\n".join(lines)


def _write_clips(folder: Path, clips: int) -> Path:
    """Write a prepared folder of textured images and random audio features."""
    generator = np.random.default_rng(0)
    (folder / "audio").mkdir(parents=True)
    for number in range(clips):
        for frame in range(1, FRAMES + 1):
            path = layout.frame_path(folder, f"clip{number}", frame)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(_image(generator)).save(path, quality=95, subsampling="4:2:0")  # as `encode_jpeg`
        torch.save(torch.randn(1024, 128), folder / "audio" / f"clip{number}.pt")
    (folder / "stat.csv").write_text("a\n")
    (folder / "train.csv").write_text("".join(f"clip{number},a\n" for number in range(clips)))
    return folder


def _image(generator: np.random.Generator) -> np.ndarray:
    coarse = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT))
    noise = generator.normal(0, 6, (HEIGHT, WIDTH, 1))
    return np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)
