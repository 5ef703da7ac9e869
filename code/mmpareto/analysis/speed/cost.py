"""What a training step costs by each method, measured side by side."""

import dataclasses
import os
import platform
import re
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmpareto.analysis.speed.released_step import ReleasedStep
from mmpareto.analysis.speed.tensor_memory import peak_memory
from mmpareto.errors import InputError
from mmpareto.integration import METHODS, TORCHJD
from mmpareto.integration.hooks import Trial
from mmpareto.integration.methods.torchjd import TorchJD
from mmpareto.models.network import MultimodalNetwork, Outputs, build_network
from mmpareto.progress import progress
from mmpareto.registry import normalised
from mmpareto.training.devices import Precision, allow_tf32, choose_devices, wrap_model
from mmpareto.training.losses import losses
from mmpareto.training.method_options import make_method, method_name, read_options
from mmpareto.training.optimisation import is_fused

BASELINE = "uniform"
RELEASED = "released code"
MGDA = TORCHJD + "MGDA"
CHANNELS = {"audio": 1, "visual": 3}
FREQUENCIES, CLASSES = 128, 6


@dataclasses.dataclass(frozen=True)
class Conditions:
    """Under which every step is taken; fields are named as the flags.

    Arguments:
        batch_size: samples.
        image_size: pixels a side of each of a sample's `frames` images.
        audio_frames: steps of time of a sample's filterbank.
        gpu_ids: as `choose_devices` takes it; "auto" for the first GPU, or else the CPU.
        amp: None, "bf16" or "fp16".
        tf32: whether a GPU may round the factors of float32 products to TF32.
        channels_last: whether images, and the maps made of them, lie with their channels last in memory.
        fused: whether the optimiser's step is one kernel; under fp16 it is.
    """

    batch_size: int = 16
    image_size: int = 96
    audio_frames: int = 256
    frames: int = 2
    gpu_ids: str = "auto"
    amp: str | None = None
    tf32: bool = False
    channels_last: bool = False
    fused: bool = False


def chosen(names: Sequence[str] | None) -> list[str]:
    """The contenders to measure, the baseline first.

    Arguments:
        names: of methods, in any spelling; a variant's after a colon ("mmpareto:paper"). "released code" is
            `ReleasedStep`. None for all methods, the released code, and TorchJD's MGDA where the library is installed.

    Raises:
        InputError: an unknown name or variant.
    """
    if names is None:
        there = [MGDA] if MGDA.removeprefix(TORCHJD) in TorchJD.known() else []
        picked = [*METHODS, RELEASED, *there]
    else:
        picked = [_contender_name(name) for name in names]
    return [BASELINE, *(name for name in dict.fromkeys(picked) if name != BASELINE)]


def _contender_name(spelling: str) -> str:
    if normalised(spelling) == normalised(RELEASED):
        return RELEASED
    if spelling.lower().startswith(TORCHJD):
        return method_name(spelling)
    base, colon, variant = spelling.partition(":")
    name = method_name(base)
    if colon:
        read_options(name, variant, [], [])
    return name + colon + variant


def _made(name: str, modalities: Iterable[str]) -> Any:
    """A new contender's method."""
    if name == RELEASED:
        return ReleasedStep()
    base, colon, variant = name.partition(":")
    if base == "unimodal":
        return make_method(base, {"modality": next(iter(modalities))})
    if not colon or name.startswith(TORCHJD):
        return make_method(name, {})
    return make_method(base, read_options(base, variant, [], [])[1])


class Contender:
    """A method in a training step of its own: network, optimiser, and as much of a loop as methods ask for."""

    epoch, epochs = 2, 2

    def __init__(self, name: str, inputs: Mapping[str, Tensor], labels: Tensor, conditions: Conditions) -> None:
        torch.manual_seed(0)
        self.method = _made(name, inputs)
        self.inputs = {m: inputs[m] for m in self.method.modalities or inputs}
        self.labels, self.device = labels, labels.device
        channels = {m: CHANNELS[m] for m in self.inputs}
        self.network: MultimodalNetwork = build_network(channels, CLASSES, **self.method.network).to(self.device)
        if conditions.channels_last:
            self.network.to_channels_last()
        self.model = wrap_model(self.network, _devices(conditions)[1])
        self.precision = Precision(conditions.amp, self.device)
        fused = is_fused(conditions.fused, conditions.amp)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4, fused=fused
        )
        self.arithmetic = Arithmetic(self.method, self.device)
        self.method.begin_training(self)
        self.method.begin_epoch(self)
        self.method.end_epoch(self)

    def eval_forward(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """Outputs in evaluation mode, without a graph."""
        self.network.eval()
        with torch.no_grad(), self.precision.autocast():
            outputs = self.model(inputs)
        self.network.train()
        return outputs

    def features(self, share: float) -> Iterable[tuple[Mapping[str, Tensor], Tensor]]:
        """The one batch that there is."""
        yield self.eval_forward(self.inputs).features, self.labels

    def trial(self, loss: str, epochs: int) -> Trial:
        """No training, only figures: trials are not part of a step."""
        return Trial(2.0, 1.0, 2.0, 1.5)

    def step(self) -> None:
        """One training step."""
        asked = self.method.before_forward(self, self.inputs, self.labels)
        with self.precision.autocast():
            outputs = self.model(self.inputs, **asked)
            joint, unimodal = losses(outputs, self.labels)
        self.method.backward(
            joint,
            unimodal,
            encoders=dict(self.network.encoders.items()),
            outputs=outputs,
            labels=self.labels,
            scale=self.precision.scale(),
            interaction=self.network.interaction,
        )
        self.precision.step(self.optimizer, None)
        self.optimizer.zero_grad(set_to_none=True)

    def timed_step(self) -> tuple[float, float | None]:
        """One training step: its seconds, and the share of them that went into the arithmetic of integration."""
        self.arithmetic.seconds()
        start = _seconds(self.device)
        self.step()
        seconds = _seconds(self.device) - start
        arithmetic = self.arithmetic.seconds()
        return seconds, None if arithmetic is None else arithmetic / seconds


class Arithmetic:
    """Times a method's `_apply`: all that it does once the gradients of the step's losses are there, `.grad` included.

    CPU seconds on the CPU. On a GPU, the time between two marks in its queue, so that nothing waits for them.
    """

    def __init__(self, method: Any, device: torch.device) -> None:
        self._device = device
        self._spans: list[tuple[Any, Any]] = []
        self._inner = getattr(method, "_apply", None)
        if self._inner is not None:
            method._apply = self._timed

    def _timed(self, *arguments: Any) -> Any:
        assert self._inner is not None
        begin = self._mark()
        report = self._inner(*arguments)
        self._spans.append((begin, self._mark()))
        return report

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.process_time()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def seconds(self) -> float | None:
        """What was taken since the last call, by a GPU that is at rest now; None if the contender has no `_apply`."""
        spans, self._spans = self._spans, []
        if self._inner is None:
            return None
        if self._device.type == "cuda":
            return sum(begin.elapsed_time(end) for begin, end in spans) / 1000
        return sum(end - begin for begin, end in spans)


def measure(names: Sequence[str], conditions: Conditions, rounds: int, integration: bool = False) -> dict[str, Any]:
    """Take `rounds` steps of each contender, in turn, after one that is not counted and one whose memory is measured.

    Arguments:
        integration: whether the share of arithmetic is among the figures.

    Returns:
        The machine, the conditions, and for every contender seconds a step (median, minimum, maximum), the ratio to the
        baseline's step of the same round (likewise), the bytes that a step holds at most beside weights, momentum and
        batch (`peak_memory`), and how many copies of the encoders' gradients that is above the baseline's;
        with `integration`, the share of the step's seconds that `Arithmetic` times (None where it cannot).

    Raises:
        InputError: the device is not there, or does not have the precision.
    """
    device, _ = _devices(conditions)
    if conditions.tf32 and device.type != "cuda":
        raise InputError("--tf32 needs a GPU; on the CPU leave it out.")
    allow_tf32(conditions.tf32)
    inputs, labels = _batch(conditions, device)
    contenders = {name: Contender(name, inputs, labels, conditions) for name in names}
    taken: dict[str, list[tuple[float, float | None]]] = {name: [] for name in names}
    peaks: dict[str, int] = {}
    with progress(total=(rounds + 2) * len(names), desc="steps", leave=False, disable=None) as bar:
        for number in range(-2, rounds):
            for name, contender in contenders.items():
                if number == -2:
                    contender.step()
                elif number == -1:
                    peaks[name] = peak_memory(contender.step, device)
                else:
                    taken[name].append(contender.timed_step())
                bar.update()
    encoders = contenders[BASELINE].network.encoders
    copy = sum(p.numel() * p.element_size() for p in encoders.parameters() if p.requires_grad)
    found: dict[str, dict[str, Any]] = {}
    for name, steps in taken.items():
        seconds, shares = zip(*steps, strict=True)
        ratios = [own / base for own, (base, _) in zip(seconds, taken[BASELINE], strict=True)]
        found[name] = {
            "seconds": _spread(seconds),
            "ratio": _spread(ratios),
            "peak_bytes": peaks[name],
            "extra_copies": (peaks[name] - peaks[BASELINE]) / copy,
        }
        if integration:
            found[name]["arithmetic"] = None if shares[0] is None else _spread(shares)
    return {
        "machine": machine(device),
        "conditions": dataclasses.asdict(conditions),
        "rounds": rounds,
        "encoder_gradient_bytes": copy,
        "methods": found,
    }


def table(figures: Mapping[str, Any]) -> str:
    """The figures as text."""
    where, conditions = figures["machine"], figures["conditions"]
    told = [f"{name} {value}" for name, value in conditions.items() if value not in (None, False) and name != "gpu_ids"]
    device = where["gpu"] or f"{where['cpu']} ({where['threads']} of {where['cores']} cores)"
    kind = "seconds" if where["gpu"] else "CPU seconds"
    integration = any("arithmetic" in found for found in figures["methods"].values())
    lines = [
        f"{device}, torch {where['torch']}; {', '.join(told)}; {figures['rounds']} rounds",
        "medians (smallest – largest); copies: of the encoders' gradients, of "
        f"{figures['encoder_gradient_bytes'] / 2**20:.0f} MiB, at the step's peak of memory above {BASELINE}'s",
        f"{'method':18}{kind + ' a step':>26}{'ratio to ' + BASELINE:>22}{'peak MiB':>10}{'copies':>8}"
        + (f"{'arithmetic %':>20}" if integration else ""),
    ]
    for name, found in figures["methods"].items():
        line = f"{name:18}{_text(found['seconds'], 3):>26}{_text(found['ratio'], 2):>22}"
        line += f"{found['peak_bytes'] / 2**20:10.0f}{found['extra_copies']:z8.2f}"
        if integration:
            line += f"{_text(found['arithmetic'], 1, 100) if found['arithmetic'] else '–':>20}"
        lines.append(line)
    return "\n".join(lines)


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _cpu_name() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _devices(conditions: Conditions) -> tuple[torch.device, list[int]]:
    """The device that holds the model, and the GPUs that share a batch: one, unless several are named."""
    device, ids = choose_devices(conditions.gpu_ids)
    return device, ids[:1] if conditions.gpu_ids == "auto" else ids


def _batch(conditions: Conditions, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs by modality, and labels, at random."""
    generator = torch.Generator().manual_seed(0)
    size, side = conditions.batch_size, conditions.image_size
    audio = torch.randn(size, 1, conditions.audio_frames, FREQUENCIES, generator=generator)
    visual = torch.randn(size, conditions.frames, 3, side, side, generator=generator)
    labels = torch.randint(CLASSES, (size,), generator=generator)
    return {"audio": audio.to(device), "visual": visual.to(device)}, labels.to(device)


def _seconds(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _text(spread: Mapping[str, float], digits: int, factor: float = 1) -> str:
    middle, low, high = (f"{factor * spread[key]:.{digits}f}" for key in ("median", "min", "max"))
    return f"{middle} ({low} – {high})"
