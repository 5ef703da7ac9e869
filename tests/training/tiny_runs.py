"""Runs of a second or less for tests of the training loop: small images, small encoders, a dozen clips."""

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmpareto.models import ENCODERS
from mmpareto.training.loop import Trainer
from mmpareto.training.run import make_trainer, train
from mmpareto.training.settings import parse
from torch import Tensor, nn

ENCODERS.add("tiny", "tiny_encoder:TinyEncoder")
ENCODERS.add("plain", "tiny_runs:PlainEncoder")
ENCODERS.add("normed", "tiny_runs:NormedEncoder")
ENCODERS.add("staged", "tiny_runs:StagedEncoder")

SMALL = (
    "--dataset cremad --encoder tiny --gpu_ids cpu --workers 0 --use_tensorboard false --batch_size 4 --epochs 2 "
    "--learning_rate 0.05 --frames 1 --image_size 24 --audio_frames 64"
)
UNTIMED = (
    "seconds",
    "samples_per_second",
    "data_wait",
    "waited",
)  # may differ between two runs of the same computation


class PlainEncoder(nn.Module):
    """One linear layer and a tanh on averaged pixels: no BatchNorm, so that samples are independent."""

    feature_size = 6

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = nn.Linear(channels * 16, self.feature_size)

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean(1) if x.dim() == 5 else x
        x = x.to(self.layer.weight.dtype)  # a test may train in float64
        return self.layer(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)).tanh()


class NormedEncoder(PlainEncoder):
    """Adds BatchNorm on the feature: as in a ResNet whose last map is 1×1, a batch of one is too small."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.norm = nn.BatchNorm1d(self.feature_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class StagedEncoder(nn.Module):
    """Four convolutions in stages, between which blocks fit; no BatchNorm, so that samples are independent."""

    feature_size = 4
    widths = (4, 4, 4, 4)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(channels, 4, 4, stride=4), *(nn.Conv2d(4, 4, 1) for _ in range(3))])

    def stages(self) -> list[Callable[[Tensor], Tensor]]:
        return [self._first, *self.layers[1:]]

    def _first(self, x: Tensor) -> Tensor:
        x = (x.flatten(0, 1) if x.dim() == 5 else x).to(self.layers[0].weight.dtype)
        return self.layers[0](x).tanh()

    def pool(self, x: Tensor, batch: int) -> Tensor:
        return x.mean(dim=(2, 3)).unflatten(0, (batch, x.shape[0] // max(batch, 1))).mean(1)  # may be empty


def arguments(data: Path, folder: Path | None, *more: object) -> list[str]:
    """A command line for train.py; the last occurrence of a repeated flag is used."""
    target = [] if folder is None else ["--ckpt_path", str(folder)]
    return [*SMALL.split(), "--data", str(data), *target, *map(str, more)]


def run(data: Path, folder: Path, *more: object) -> int:
    """Train as train.py does, in this process; not all flags have an effect on all data."""
    return train(parse(arguments(data, folder, *more, "--allow_unused")))


def resume(folder: Path, *more: object) -> int:
    return train(parse(["--resume", str(folder), *map(str, more)]))


def needed(method: str, data: Path, encoder: str = "tiny") -> tuple[str, ...]:
    """The flags without which a method does not begin; trains the networks that they name, with these encoders."""
    if method != "umt":
        return ()
    folder = data.parent / f"{data.name}-teachers-{encoder}"
    if not folder.exists():
        assert run(data, folder, "--epochs", 1, "--method", "ensemble", "--encoder", encoder) == 0
    return ("--teachers", str(folder))


def trainer_of(data: Path, folder: Path, *more: object) -> Trainer:
    """A trainer that has not trained yet."""
    return make_trainer(parse(arguments(data, folder, *more)).settings)


def read(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def untimed(value: Any) -> Any:
    """Return the value without times and rates, at any depth."""
    if isinstance(value, dict):
        return {key: untimed(inner) for key, inner in value.items() if key not in UNTIMED}
    return [untimed(inner) for inner in value] if isinstance(value, list) else value


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Check that two values are bit-identical, at any depth."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}/{number}")
    elif isinstance(a, Tensor):
        # NaN marks the prototype of a class that PMR has not seen yet.
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, msg=where)
    else:
        assert a == b, where


def assert_same_run(a: Path, b: Path) -> None:
    """Check that two run folders hold the same weights, optimiser state, meter, history and metrics."""
    for name in ("last.pt", "best.pt"):
        assert_same(untimed(read(a / name)), untimed(read(b / name)), name)
    assert untimed(metrics(a)) == untimed(metrics(b))
    assert untimed(json.loads((a / "summary.json").read_text())) == untimed(
        json.loads((b / "summary.json").read_text())
    )


@contextlib.contextmanager
def acting(owner: Any, name: str, call: int, act: Callable[[], None], *, before: bool = False) -> Iterator[None]:
    """Call `act` after (or before) the `call`-th call, counted from 1, of the function `owner.name`."""
    original, calls = getattr(owner, name), 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if before and calls == call:
            act()
        result = original(*args, **kwargs)
        if not before and calls == call:
            act()
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, wrapped)
        yield


def send_signal() -> None:
    """Send SIGTERM to this process, as `kill` does."""
    os.kill(os.getpid(), signal.SIGTERM)
