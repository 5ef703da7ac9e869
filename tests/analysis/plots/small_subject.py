"""A tiny network and training set, in place of a trained run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from mmpareto.analysis.plots.measured import Subject
from mmpareto.data.loading.samples import Sample
from mmpareto.integration.objectives import JOINT
from mmpareto.models.fusion import ConcatFusion
from mmpareto.models.network import MultimodalNetwork
from mmpareto.training.devices import Precision
from torch import Tensor, nn

CPU = torch.device("cpu")
CLASSES = 3
SIZES = {"sound": 4, "touch": 5}  # length of an input vector
FEATURE = 2


class Samples(list[Sample]):
    """A training set whose inputs are vectors."""

    normalisation: dict[str, Any] = {}  # noqa: RUF012 (never changed)


def linear_network(n_classes: int = CLASSES) -> MultimodalNetwork:
    """Encoders of one linear layer without bias, float64."""
    return network_of({name: nn.Linear(size, FEATURE, bias=False) for name, size in SIZES.items()}, n_classes)


def curved_network(batch_norm: bool = False) -> MultimodalNetwork:
    """Encoders with a tanh, preceded by BatchNorm if `batch_norm`."""
    norm = nn.BatchNorm1d if batch_norm else lambda size: nn.Identity()
    return network_of(
        {name: nn.Sequential(nn.Linear(size, FEATURE), norm(FEATURE), nn.Tanh()) for name, size in SIZES.items()}
    )


def network_of(encoders: dict[str, nn.Module], n_classes: int = CLASSES, seed: int = 0) -> MultimodalNetwork:
    """The encoders with a concatenation and heads, all with random weights, float64."""
    heads = {name: nn.Linear(FEATURE, n_classes) for name in encoders}
    network = MultimodalNetwork(encoders, ConcatFusion(dict.fromkeys(encoders, FEATURE), n_classes), heads).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for name, buffer in network.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand(buffer.shape, generator=generator, dtype=torch.float64) + 0.5)
            assert "running" in name or "tracked" in name
    return network


def subject_of(
    network: MultimodalNetwork, count: int = 30, *, scores: bool = False, heads: bool = True, batch_size: int = 4
) -> Subject:
    """The network with `count` random samples, labelled with classes or with scores."""
    generator = torch.Generator().manual_seed(1)
    samples = Samples()
    for number in range(count):
        inputs = {name: torch.randn(size, generator=generator, dtype=torch.float64) for name, size in SIZES.items()}
        label: Any = float(torch.randn((), generator=generator)) if scores else number % CLASSES
        samples.append(Sample(inputs, label, number, {}))
    settings: Any = SimpleNamespace(batch_size=batch_size)
    trained: Any = SimpleNamespace(heads={}, precision=lambda device: Precision(None, device))
    losses = [JOINT, *(network.modalities if heads else [])]
    given: Any = samples
    return Subject(Path("a-run"), settings, trained, network.eval(), given, CPU, losses, epoch=1)


def inputs_of(subject: Subject, indices: list[int]) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs and labels of these samples."""
    chosen = [subject.samples[index] for index in indices]
    inputs = {name: torch.stack([one.inputs[name] for one in chosen]) for name in SIZES}
    return inputs, torch.tensor([one.label for one in chosen])
