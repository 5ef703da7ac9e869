"""Time and memory of a training step with each method, measured side by side."""

import dataclasses
import functools
import os
import platform
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from mmpareto.analysis.speed import OF_IMAGES
from mmpareto.analysis.speed.released_step import ReleasedStep
from mmpareto.analysis.speed.rounds import summarise, summary_text
from mmpareto.analysis.speed.tensor_memory import peak_memory
from mmpareto.data.modalities import FEATURES
from mmpareto.errors import InputError
from mmpareto.integration import METHODS, TORCHJD
from mmpareto.integration.hooks import Trial
from mmpareto.integration.methods.torchjd import TorchJD
from mmpareto.models.building import build_network
from mmpareto.models.network import MultimodalNetwork, Outputs
from mmpareto.progress import progress
from mmpareto.registry import normalised
from mmpareto.training.devices import Precision, allow_tf32, choose_devices, seed_everything, wrap_model
from mmpareto.training.losses import losses
from mmpareto.training.method_options import make_method, method_name, read_options, variant_name
from mmpareto.training.optimisation import is_fused
from mmpareto.training.schema import ALLOW, Number, PlainDict

BASELINE = "uniform"
RELEASED = "released code"
MGDA = TORCHJD + "MGDA"
CHANNELS = {"audio": 1, "visual": 3}
FREQUENCIES, CLASSES = 128, 6
MADE_UP = "made up"  # the path of a trained network, in place of which a contender's own is used
# Methods that with their default options need convolutions, or encoders with stages, and do not apply to MLPs.
FOR_CONVOLUTIONS = ("greedy", "ogm", "ogm_ge")


@dataclasses.dataclass(frozen=True)
class Conditions:
    """The conditions of every step; fields are named like the flags.

    Arguments:
        batch_size: number of samples.
        image_size: height and width in pixels of each of a sample's `frames` images.
        audio_frames: time steps of a sample's filterbank.
        modalities: number of modalities, vectors for encoders `mlp`; None for sound and images, for ResNet-18.
        gpu_ids: as for `choose_devices`; "auto" is the first GPU, or the CPU if there is none.
        amp: None, "bf16" or "fp16".
        tf32: whether a GPU may round the factors of float32 products to TF32.
        channels_last: whether images and feature maps have their channels last in memory.
        fused: whether the optimizer's step is one kernel; with fp16 it always is.
        compile: whether the network is compiled.
        blocks: the kind of blocks between the encoders of methods without blocks of their own; None for none.
        cross_terms: "included", as with `--cross_terms included`; None where they are left out.
    """

    batch_size: int = 16
    image_size: int = 96
    audio_frames: int = 256
    frames: int = 2
    modalities: int | None = None
    gpu_ids: str = "auto"
    amp: str | None = None
    tf32: bool = False
    channels_last: bool = False
    fused: bool = False
    compile: bool = False
    blocks: str | None = None
    cross_terms: str | None = None


# The methods that are measured


def contender_names(spellings: Sequence[str] | None, conditions: Conditions | None = None) -> list[str]:
    """Names of the contenders, the baseline first.

    Arguments:
        spellings: methods, each with a variant after a colon if wanted ("mmpareto:paper"); "released code" is
            `ReleasedStep`. None for all methods, the released code, and TorchJD's MGDA if the library is installed.
        conditions: with blocks, "all methods" are those whose encoders may exchange information; with `modalities`,
            those that apply to MLPs.

    Raises:
        InputError: an unknown method or variant.
    """
    if spellings is None:
        mgda = [MGDA] if MGDA.removeprefix(TORCHJD) in TorchJD.known() else []
        with_blocks = conditions is not None and conditions.blocks is not None
        left_out = FOR_CONVOLUTIONS if conditions is not None and conditions.modalities is not None else ()
        methods = [
            name for name in METHODS if name not in left_out and not (with_blocks and METHODS[name].no_interaction)
        ]
        names = [*methods, RELEASED, *mgda]
    else:
        names = [_contender_name(spelling) for spelling in spellings]
    return list(dict.fromkeys([BASELINE, *names]))


def _contender_name(spelling: str) -> str:
    if normalised(spelling) == normalised(RELEASED):
        return RELEASED
    if spelling.lower().startswith(TORCHJD):
        return method_name(spelling)
    method, colon, variant = spelling.partition(":")
    name = method_name(method)
    return f"{name}:{variant_name(name, variant)}" if colon else name


def _contender_method(name: str, modalities: Iterable[str]) -> Any:
    if name == RELEASED:
        return ReleasedStep()
    method, colon, variant = name.partition(":")
    if method == "unimodal":
        return make_method(method, {"modality": next(iter(modalities))})
    if method == "umt":
        return make_method(method, {"teachers": [MADE_UP]})
    if not colon or name.startswith(TORCHJD):
        return make_method(name, {})
    return make_method(method, read_options(method, variant, [], [])[1])


class Contender:
    """A method with a network and an optimizer of its own; also the `TrainingContext` that its hooks are passed."""

    epoch, epochs, steps = 2, 2, 1

    def __init__(self, name: str, inputs: Mapping[str, Tensor], labels: Tensor, conditions: Conditions) -> None:
        seed_everything(0)  # as in training, whose cuDNN is deterministic
        self.method = _contender_method(name, inputs)
        self.inputs = {m: inputs[m] for m in self.method.modalities or inputs}
        self.labels, self.device = labels, labels.device
        channels = {m: CHANNELS.get(m, FEATURES) for m in self.inputs}
        shape: dict[str, Any] = {**self.method.network, **({"encoder": "mlp"} if conditions.modalities else {})}
        self._unimodal = functools.partial(build_network, channels, CLASSES, **shape)
        if conditions.blocks and len(channels) > 1:
            shape = {"blocks": conditions.blocks} | shape
        self.network: MultimodalNetwork = build_network(channels, CLASSES, **shape).to(self.device)
        if self.network.interaction and self.method.no_interaction:
            raise InputError(f"method {name!r} {self.method.no_interaction}: leave it out, or leave --blocks out.")
        self.excludes_cross_terms = self.network.interaction and conditions.cross_terms is None
        if conditions.channels_last:
            self.network.to_channels_last()
        self.model = wrap_model(self.network, _devices(conditions)[1], compiled=conditions.compile)
        self.precision = Precision(conditions.amp, self.device)
        fused = is_fused(conditions.fused, conditions.amp)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4, fused=fused
        )
        self.arithmetic = ArithmeticTimer(self.method, self.device)
        try:
            with warnings.catch_warnings(action="ignore"):  # of a run that ends before the method acts
                self.method.begin_training(self)
        except ValueError as error:
            raise InputError(f"method {name!r}: {error}.") from error
        self.method.begin_epoch(self)
        self.method.end_epoch(self)

    def eval_forward(self, inputs: Mapping[str, Tensor], graph: bool = False, network: Any = None) -> Outputs:
        """Outputs in evaluation mode."""
        if network is not None:
            with torch.no_grad(), self.precision.autocast():
                return network(inputs)
        self.network.eval()
        with torch.set_grad_enabled(graph), self.precision.autocast():
            outputs = self.model(inputs)
        self.network.train()
        return outputs

    def features(self, share: float, samples: str = "training") -> Iterable[tuple[Mapping[str, Tensor], Tensor]]:
        """Features and labels of the only batch."""
        yield self.eval_forward(self.inputs).features, self.labels

    def indices(self, share: float) -> Tensor:
        """Indices of the samples of the only batch."""
        return torch.arange(len(self.labels))

    def load_network(self, path: str) -> MultimodalNetwork:
        """A frozen network that is not trained, but takes the same time; without blocks."""
        return self._unimodal().to(self.device).requires_grad_(False).eval()

    def cluster(self, features: Tensor, count: int) -> Tensor:
        """Made-up clusters, which are not part of a step."""
        return torch.arange(len(features)) % count

    def trial(self, loss: str, epochs: int) -> Trial:
        """Made-up losses instead of a training, which is not part of a step."""
        return Trial(2.0, 1.0, 2.0, 1.5)

    def step(self) -> None:
        """Take one training step, in all its turns."""
        for modalities in self.method.turns(self.network.modalities):
            self._turn({name: self.inputs[name] for name in modalities})

    def _turn(self, inputs: Mapping[str, Tensor]) -> None:
        extra = self.method.before_forward(self, inputs, self.labels)
        with self.precision.autocast():
            outputs = self.model(inputs, **extra)
            joint, unimodal = losses(outputs, self.labels)
        self.method.backward(
            joint,
            unimodal,
            encoders=dict(self.network.encoders.items()),
            outputs=outputs,
            labels=self.labels,
            scale=self.precision.scale(),
            interaction=self.excludes_cross_terms,
        )
        self.precision.step(self.optimizer, None)
        self.optimizer.zero_grad(set_to_none=True)

    def timed_step(self) -> tuple[float, float | None]:
        """Take one training step; return its seconds, and the share of them spent on integrating the gradients."""
        self.arithmetic.pop_seconds()
        start = _seconds(self.device)
        self.step()
        seconds = _seconds(self.device) - start
        arithmetic = self.arithmetic.pop_seconds()
        return seconds, None if arithmetic is None else arithmetic / seconds


def passes_per_encoder(name: str, conditions: Conditions) -> dict[str, float]:
    """Count the forward and the backward passes of one step through each encoder, on average over the encoders.

    Arguments:
        name: of a contender.
        conditions: not compiled, and on at most one GPU.
    """
    contender, counts = Contender(name, *_random_batch(conditions, _devices(conditions)[0]), conditions), Counter[str]()

    def forward(module: nn.Module, inputs: Any, output: Tensor) -> None:
        counts["forward"] += 1
        if output.requires_grad:
            output.register_hook(lambda gradient: counts.update(["backward"]))

    encoders = contender.network.encoders.values()
    for encoder in encoders:
        first = next(part for part in encoder.modules() if any(True for _ in part.parameters(recurse=False)))
        first.register_forward_hook(forward)
    contender.step()
    return {kind: counts[kind] / len(encoders) for kind in ("forward", "backward")}


class ArithmeticTimer:
    """Times a method's `_integrate_all`: all that it does after differentiation, including writing `.grad`.

    CPU seconds on the CPU. On a GPU, the time between two events in its queue, so that nothing waits for them.
    """

    def __init__(self, method: Any, device: torch.device) -> None:
        self._device = device
        self._spans: list[tuple[Any, Any]] = []
        self._integrate_all = getattr(method, "_integrate_all", None)
        if self._integrate_all is not None:
            method._integrate_all = self._timed_integration

    def pop_seconds(self) -> float | None:
        """Seconds since the last call, on a GPU that is idle now; None if the contender has no `_integrate_all`."""
        spans, self._spans = self._spans, []
        if self._integrate_all is None:
            return None
        if self._device.type == "cuda":
            return sum(begin.elapsed_time(end) for begin, end in spans) / 1000
        return sum(end - begin for begin, end in spans)

    def _timed_integration(self, *arguments: Any, **options: Any) -> Any:
        assert self._integrate_all is not None
        begin = self._mark()
        report = self._integrate_all(*arguments, **options)
        self._spans.append((begin, self._mark()))
        return report

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.process_time()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


# Measuring


def measure(names: Sequence[str], conditions: Conditions, rounds: int, integration: bool = False) -> dict[str, Any]:
    """Measure `rounds` steps of each contender in turn, after one warm-up step and one whose memory is measured.

    Arguments:
        names: from `contender_names`.
        integration: whether to include the share of arithmetic.

    Returns:
        The machine, the conditions, and for each contender: "seconds" per step and "ratio" to the baseline's step of
        the same round (median, minimum, maximum each); "work", the multiplications and additions of a step over those
        of a forward pass (absent with `compile`, which hides them); "peak_bytes", which a step holds at most in
        addition to weights, momentum and batch (`peak_memory`); "extra_copies", the difference of that to the
        baseline's in copies of the encoders' gradients; with `integration`, "arithmetic", the share of the step that
        `ArithmeticTimer` measures (None where it cannot).

    Raises:
        InputError: the device does not exist, or does not have the precision; or cross terms are included without
            blocks.
    """
    device, _ = _devices(conditions)
    if conditions.tf32 and device.type != "cuda":
        raise InputError("--tf32 needs a GPU; leave it out on the CPU.")
    if conditions.cross_terms and not conditions.blocks:
        raise InputError("--cross_terms has no effect without --blocks: the encoders exchange nothing; leave it out.")
    allow_tf32(conditions.tf32)
    inputs, labels = _random_batch(conditions, device)
    contenders = {name: Contender(name, inputs, labels, conditions) for name in names}
    steps: dict[str, list[tuple[float, float | None]]] = {name: [] for name in names}
    peaks: dict[str, int] = {}
    work: dict[str, float] = {}
    unit = 0 if conditions.compile else _flops(lambda: contenders[BASELINE].eval_forward(inputs))
    with progress(total=(rounds + 2) * len(names), desc="steps", leave=False, disable=None) as bar:
        for number in range(-2, rounds):
            for name, contender in contenders.items():
                if number == -2 and unit:
                    work[name] = _flops(contender.step) / unit
                elif number == -2:
                    contender.step()
                elif number == -1:
                    peaks[name] = peak_memory(contender.step, device)
                else:
                    steps[name].append(contender.timed_step())
                bar.update()
    encoders = contenders[BASELINE].network.encoders
    copy = sum(p.numel() * p.element_size() for p in encoders.parameters() if p.requires_grad)
    measured: dict[str, dict[str, Any]] = {}
    for name in names:
        seconds, shares = zip(*steps[name], strict=True)
        measured[name] = {
            "seconds": summarise(seconds),
            "ratio": summarise([own / base for own, (base, _) in zip(seconds, steps[BASELINE], strict=True)]),
            "peak_bytes": peaks[name],
            "extra_copies": (peaks[name] - peaks[BASELINE]) / copy,
        }
        if name in work:
            measured[name]["work"] = work[name]
        if integration:
            measured[name]["arithmetic"] = None if shares[0] is None else summarise(shares)
    return {
        "machine": machine(device),
        "conditions": dataclasses.asdict(conditions),
        "rounds": rounds,
        "encoder_gradient_bytes": copy,
        "methods": measured,
    }


def machine(device: torch.device) -> dict[str, Any]:
    """The hardware and the versions that a measurement was made with."""
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
        name = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
    except OSError:
        name = None
    return name[1].strip() if name else platform.processor() or platform.machine()


def _devices(conditions: Conditions) -> tuple[torch.device, list[int]]:
    """The device of the model, and the GPUs that share a batch: one, unless several are named."""
    device, ids = choose_devices(conditions.gpu_ids)
    return device, ids[:1] if conditions.gpu_ids == "auto" else ids


def _random_batch(conditions: Conditions, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    """Random inputs by modality, and random labels."""
    generator = torch.Generator().manual_seed(0)
    size, side = conditions.batch_size, conditions.image_size
    if conditions.modalities is not None:
        vectors = torch.randn(conditions.modalities, size, FEATURES, generator=generator).to(device)
        labels = torch.randint(CLASSES, (size,), generator=generator)
        return {f"m{k}": x for k, x in enumerate(vectors, 1)}, labels.to(device)
    audio = torch.randn(size, 1, conditions.audio_frames, FREQUENCIES, generator=generator)
    visual = torch.randn(size, conditions.frames, 3, side, side, generator=generator)
    labels = torch.randint(CLASSES, (size,), generator=generator)
    return {"audio": audio.to(device), "visual": visual.to(device)}, labels.to(device)


def _flops(function: Callable[[], Any]) -> int:
    """Floating-point operations of a function's matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def _seconds(device: torch.device) -> float:
    """CPU seconds of this process; on a GPU, elapsed seconds when it has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


# Measurements as text


def table(costs: Mapping[str, Any]) -> str:
    """The measurements as a table of text."""
    baseline = costs["methods"][BASELINE]["seconds"]["median"]
    integration = any("arithmetic" in measured for measured in costs["methods"].values())
    lines = [
        conditions_text(costs),
        "work: multiplications and additions of a step, as a multiple of a forward pass's",
        f"medians (minimum – maximum); copies: peak memory above {BASELINE}'s, in copies of the encoders' gradients of "
        f"{costs['encoder_gradient_bytes'] / 2**20:.0f} MiB",
        f"limit of two backward passes per encoder, each as expensive as two forward passes: 5/3 of {BASELINE}, "
        f"{5 / 3 * baseline:.4f} s",
        f"{'method':18}{unit_of(costs) + ' per step':>28}{'ratio to ' + BASELINE:>22}{'work':>7}{'peak MiB':>10}"
        f"{'copies':>8}" + (f"{'arithmetic %':>20}" if integration else ""),
    ]
    for name, measured in costs["methods"].items():
        line = f"{name:18}{summary_text(measured['seconds'], 4):>28}{summary_text(measured['ratio'], 2):>22}"
        line += f"{measured['work']:7.2f}" if "work" in measured else f"{'–':>7}"
        line += f"{measured['peak_bytes'] / 2**20:10.0f}{measured['extra_copies']:z8.2f}"
        if integration:
            line += f"{summary_text(measured['arithmetic'], 1, 100) if measured['arithmetic'] else '–':>20}"
        lines.append(line)
    return "\n".join(lines)


class Spread(TypedDict):
    """Of measurements in several rounds."""

    median: Number
    min: Number
    max: Number


class Measured(TypedDict):
    """Measurements of a method's step."""

    seconds: Spread
    ratio: Spread
    peak_bytes: Number
    extra_copies: Number
    passes: NotRequired[dict[Literal["forward", "backward"], Number]]


class Machine(TypedDict):
    """The machine that they were made on."""

    __pydantic_config__ = ALLOW  # type: ignore[misc]
    gpu: str | None
    cpu: str
    threads: int
    cores: int
    torch: str


class Costs(TypedDict):
    """A file of measured steps (`measure`)."""

    __pydantic_config__ = ALLOW  # type: ignore[misc]
    machine: Machine
    conditions: PlainDict
    rounds: int
    methods: Annotated[dict[str, Measured], Field(min_length=1)]


CostsByCount = Annotated[dict[Annotated[str, Field(pattern="^[1-9][0-9]{0,3}$")], Costs], Field(min_length=1)]
"""Number of modalities → measured steps."""


def unit_of(costs: Mapping[str, Any]) -> str:
    """The unit of the measured seconds."""
    return "seconds" if costs["machine"]["gpu"] else "CPU seconds"


def conditions_text(costs: Mapping[str, Any]) -> str:
    """Device, version and all conditions that are set."""
    where = costs["machine"]
    device = where["gpu"] or f"{where['cpu']} ({where['threads']} of {where['cores']} cores)"
    unused = ("gpu_ids", *(OF_IMAGES if costs["conditions"].get("modalities") else ()))
    conditions = ", ".join(
        f"{name} {value}"
        for name, value in costs["conditions"].items()
        if value not in (None, False) and name not in unused
    )
    return f"{device}, torch {where['torch']}; {conditions}; {costs['rounds']} rounds"
