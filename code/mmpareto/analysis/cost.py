"""What a training step costs by each method, measured side by side."""

import dataclasses
import platform
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmpareto.integration import METHODS
from mmpareto.integration.hooks import Trial
from mmpareto.integration.method import Method
from mmpareto.models.network import MultimodalNetwork, Outputs, build_network
from mmpareto.progress import progress
from mmpareto.training.losses import losses
from mmpareto.training.method_options import make_method, method_name

BASELINE = "uniform"
CHANNELS = {"audio": 1, "visual": 3}
FREQUENCIES, FRAMES, CLASSES = 128, 2, 6


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of a batch: samples, pixels a side of its two images each, steps of time of its filterbank."""

    batch_size: int
    image_size: int
    audio_frames: int


def chosen(names: Sequence[str] | None) -> list[str]:
    """The methods to measure, the baseline among them.

    Raises:
        InputError: an unknown name.
    """
    picked = [method_name(name) for name in names or METHODS]
    return [BASELINE, *(name for name in dict.fromkeys(picked) if name != BASELINE)]


class Contender:
    """A method in a training step of its own: network, optimiser, and as much of a loop as methods ask for."""

    epoch, epochs = 2, 2

    def __init__(self, name: str, inputs: Mapping[str, Tensor], labels: Tensor) -> None:
        torch.manual_seed(0)
        self.method: Method = make_method(name, {"modality": next(iter(inputs))} if name == "unimodal" else {})
        self.inputs = {m: inputs[m] for m in self.method.modalities or inputs}
        self.labels = labels
        channels = {m: CHANNELS[m] for m in self.inputs}
        self.network: MultimodalNetwork = build_network(channels, CLASSES, **self.method.network).to(labels.device)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
        self.method.begin_training(self)
        self.method.begin_epoch(self)
        self.method.end_epoch(self)

    def respond(self, inputs: Mapping[str, Tensor]) -> Outputs:
        """Outputs in evaluation mode, without a graph."""
        self.network.eval()
        with torch.no_grad():
            outputs = self.network(inputs)
        self.network.train()
        return outputs

    def features(self, share: float) -> Iterable[tuple[Mapping[str, Tensor], Tensor]]:
        """The one batch that there is."""
        yield self.respond(self.inputs).features, self.labels

    def trial(self, loss: str, epochs: int) -> Trial:
        """No training, only figures: trials are not part of a step."""
        return Trial(2.0, 1.0, 2.0, 1.5)

    def step(self) -> float:
        """One training step; its seconds."""
        start = _seconds(self.labels.device)
        asked = self.method.before_forward(self, self.inputs, self.labels)
        outputs = self.network(self.inputs, **asked)
        joint, unimodal = losses(outputs, self.labels)
        self.method.backward(
            joint,
            unimodal,
            encoders=dict(self.network.encoders.items()),
            outputs=outputs,
            labels=self.labels,
            interaction=self.network.interaction,
        )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return _seconds(self.labels.device) - start


def measure(names: Sequence[str], sizes: Sizes, rounds: int, device: torch.device) -> dict[str, Any]:
    """Take `rounds` steps of each method, in turn, after one that is not counted.

    Returns:
        The machine, the sizes, and for every method seconds (median, minimum, maximum) and the ratio to the baseline's
        step of the same round (likewise).
    """
    generator = torch.Generator().manual_seed(0)
    audio = torch.randn(sizes.batch_size, 1, sizes.audio_frames, FREQUENCIES, generator=generator)
    visual = torch.randn(sizes.batch_size, FRAMES, 3, sizes.image_size, sizes.image_size, generator=generator)
    labels = torch.randint(CLASSES, (sizes.batch_size,), generator=generator).to(device)
    inputs = {"audio": audio.to(device), "visual": visual.to(device)}
    contenders = {name: Contender(name, inputs, labels) for name in names}
    taken: dict[str, list[float]] = {name: [] for name in names}
    with progress(total=(rounds + 1) * len(names), desc="steps", leave=False, disable=None) as bar:
        for _ in range(rounds + 1):
            for name, contender in contenders.items():
                taken[name].append(contender.step())
                bar.update()
    found = {}
    for name, seconds in taken.items():
        ratios = [own / base for own, base in zip(seconds[1:], taken[BASELINE][1:], strict=True)]
        found[name] = {"seconds": _spread(seconds[1:]), "ratio": _spread(ratios)}
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    machine = {"device": where, "python": platform.python_version(), "torch": torch.__version__}
    return {"machine": machine, "sizes": dataclasses.asdict(sizes), "rounds": rounds, "methods": found}


def table(figures: Mapping[str, Any]) -> str:
    """The figures as text."""
    sizes = ", ".join(f"{name} {value}" for name, value in figures["sizes"].items())
    kind = "CPU seconds" if "CPU" in figures["machine"]["device"] else "seconds"
    lines = [
        f"{figures['machine']['device']}, torch {figures['machine']['torch']}; {sizes}; {figures['rounds']} rounds",
        f"{'method':20}{kind + ' a step':>20}{'ratio to ' + BASELINE:>20}   (smallest – largest)",
    ]
    for name, found in figures["methods"].items():
        (middle, _, _), (ratio, low, high) = found["seconds"].values(), found["ratio"].values()
        lines.append(f"{name:20}{middle:20.3f}{ratio:20.2f}   ({low:.2f} – {high:.2f})")
    return "\n".join(lines)


def _seconds(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
