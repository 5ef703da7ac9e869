"""Gradients are averaged over the processes of a group as DistributedDataParallel does, without a word of the user."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from every_method import CLASSES, FEATURE, Model, Outputs, assert_close, batch_of, losses_of, take_grads
from mmpareto import METHODS, MeanReducer, MMPareto, SumReducer
from mmpareto.integration.method import Method
from processes import in_processes
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

SIZE = 12
SHARES = {2: (8, 4), 4: (5, 4, 2, 1)}
STEPS = 3
NAMES = ["joint", "uniform", "pareto", "mmpareto", "dgl", "pcgrad", "gradnorm"]


class Partial(Model):
    """The model on a batch that may lack a modality: the fusion then adds up what is there."""

    def forward(self, inputs: Mapping[str, Tensor], hold: str | None = None) -> Outputs:
        features = {name: self.encoders[name](x) for name, x in inputs.items()}
        weights = dict(zip(self.encoders, self.fusion.weight.split(FEATURE, dim=1), strict=True))
        parts = {name: x @ weights[name].T for name, x in features.items()}
        joint = torch.stack([*parts.values()]).sum(0) + self.fusion.bias
        return Outputs(joint, {name: self.heads[name](x) for name, x in features.items()}, features, parts)


def step(
    method: Method, model: nn.Module, inputs: Mapping[str, Tensor], labels: Tensor, weight: float = 1.0
) -> tuple[dict[str, Tensor | None], Any]:
    """Take a step of gradient descent; return the gradients and the report."""
    outputs = model(inputs)
    joint, unimodal = losses_of(outputs, labels, weight)
    network = model.module if isinstance(model, DistributedDataParallel) else model
    report = method.backward(joint, unimodal, encoders=dict(network.encoders.items()), outputs=outputs, labels=labels)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    return take_grads(network), report


def mine(sizes: tuple[int, ...], seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """This process's share of a batch."""
    inputs, labels = batch_of(size=sum(sizes), seed=seed)
    start = sum(sizes[: dist.get_rank()])
    chosen = slice(start, start + sizes[dist.get_rank()])
    return {name: x[chosen] for name, x in inputs.items()}, labels[chosen]


def shares_of_a_batch(sizes: tuple[int, ...], **options: Any) -> dict[str, list[Any]]:
    """Method → gradients of every step, under DistributedDataParallel, with unequal shares."""
    weight = sizes[dist.get_rank()] * dist.get_world_size() / sum(sizes)
    results: dict[str, list[Any]] = {}
    for name in NAMES:
        model, method = DistributedDataParallel(Model(), **options), METHODS[name]()
        results[name] = [step(method, model, *mine(sizes, seed), weight)[0] for seed in range(STEPS)]
    return results


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_unequal_shares_weighted_by_the_user_give_the_update_of_the_whole_batch(count: int, tmp_path: Path) -> None:
    processes = in_processes(count, shares_of_a_batch, tmp_path, SHARES[count])
    for name in NAMES:
        model, method = Model(), METHODS[name]()
        for number in range(STEPS):
            wanted, _ = step(method, model, *batch_of(size=SIZE, seed=number))
            for results in processes:
                assert_close(results[name][number], wanted | {k: g for k, g in results[name][number].items() if g is None})
            everyone = [results[name][number] for results in processes]
            assert all(
                g is None or torch.equal(g, everyone[0][key]) for grads in everyone[1:] for key, g in grads.items()
            )
        unreached = {key for key, g in take_and_none(name).items() if g is None}
        assert unreached == {key for key, g in processes[0][name][0].items() if g is None}


def take_and_none(name: str) -> dict[str, Tensor | None]:
    model = Model()
    return step(METHODS[name](), model, *batch_of(size=SIZE))[0]
