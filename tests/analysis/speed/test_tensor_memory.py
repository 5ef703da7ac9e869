"""Peak memory, compared with sums computed by hand."""

import pytest
import torch
from mmpareto.analysis.speed.tensor_memory import TensorMemory, peak_memory
from torch import Tensor

CPU = torch.device("cpu")


def test_only_tensors_that_live_at_the_same_time_count() -> None:
    def work() -> None:
        first = torch.zeros(1000)
        second = torch.zeros(500)
        del first
        third = torch.zeros(700)
        del second, third

    assert peak_memory(work, CPU) == 4 * 1500


def test_views_and_tensors_from_outside_do_not_count() -> None:
    outside = torch.zeros(1000)
    with TensorMemory() as memory:
        view = outside.view(10, 100).T
        view.add_(1)
        assert memory.peak == 0
        made = torch.ones(1000)
        rows = made.view(10, 100).unbind()
        del made
        assert memory.live == 4000  # a row keeps the whole storage alive
        del rows
        assert (memory.live, memory.peak) == (0, 4000)


def test_tensors_of_the_graph_count_until_it_is_freed() -> None:
    weight = torch.ones(1000, dtype=torch.float64, requires_grad=True)
    with TensorMemory() as memory:
        loss = weight.exp().sum()  # the graph keeps the exponentials
        assert memory.live == 8000 + 8
        loss.backward()
        assert memory.live == 8000 + 8  # the gradient has replaced them
        # In addition to both, at most the gradient of the sum exists, which is expanded from a single number.
        assert memory.peak <= 16000 + 16
        weight.grad = None
        assert memory.live == 8


def test_a_retained_graph_shows_in_the_peak() -> None:
    weight = torch.ones(10_000, requires_grad=True)

    def losses() -> tuple[Tensor, Tensor]:
        x = weight.exp()
        return x.sum(), x.square().sum()

    def together() -> None:
        torch.autograd.grad(sum(losses()), [weight])

    def apart() -> None:
        first, second = losses()
        kept = torch.autograd.grad(first, [weight], retain_graph=True)
        torch.autograd.grad(second, [weight])
        del kept

    assert peak_memory(apart, CPU) - peak_memory(together, CPU) == pytest.approx(40_000, abs=100)


@pytest.mark.gpu
def test_on_a_gpu_the_allocator_counts() -> None:
    device = torch.device("cuda", 0)
    outside = torch.zeros(1 << 20, device=device)

    def work() -> None:
        first = outside + 1
        second = first + 1
        del first, second

    # The allocator counts blocks, and leaves up to 1 MiB of a cached block unused.
    assert 8 << 20 <= peak_memory(work, device) <= 10 << 20
