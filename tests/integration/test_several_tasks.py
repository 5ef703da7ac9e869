"""Several tasks on one encoder: which methods train them, and single-task training."""

import pytest
import torch
from mmpareto import METHODS
from mmpareto.integration.methods.unimodal import Unimodal
from torch import Tensor, nn

TASKS = ["left", "middle", "right"]


def problem() -> tuple[nn.Module, nn.ModuleDict, dict[str, Tensor]]:
    torch.manual_seed(0)
    encoder, heads = nn.Linear(5, 4).double(), nn.ModuleDict({task: nn.Linear(4, 1) for task in TASKS}).double()
    feature = encoder(torch.randn(6, 5, dtype=torch.float64)).tanh()
    return encoder, heads, {task: (head(feature) - 1).square().mean() for task, head in heads.items()}


@pytest.mark.parametrize("name", [name for name in METHODS if not METHODS[name].needs_fusion])
def test_methods_that_need_no_fusion_need_no_joint_loss(name: str) -> None:
    encoder, heads, losses = problem()
    method = Unimodal(task="middle") if name == "unimodal" else METHODS[name]()
    report = method.backward(None, losses, encoders={"shared": (encoder, TASKS)})
    assert encoder.weight.grad is not None and encoder.weight.grad.isfinite().all()
    trained = [task for task, head in heads.items() if head.weight.grad is not None]
    assert trained == (["middle"] if name == "unimodal" else TASKS)
    if "shared" in report:
        assert report["shared"].norms.shape == (3,)


def test_one_task_alone_has_the_gradient_of_its_loss() -> None:
    encoder, _, losses = problem()
    expected = torch.autograd.grad(losses["right"], encoder.weight, retain_graph=True)[0]
    Unimodal(task="right").backward(None, losses, encoders={"shared": (encoder, TASKS)})
    torch.testing.assert_close(encoder.weight.grad, expected)


@pytest.mark.parametrize(
    ("task", "message"), [(None, "left, middle, right: choose it by `task`"), ("top", "'top' is not among the tasks")]
)
def test_a_task_must_be_chosen_among_those_of_the_encoder(task: str | None, message: str) -> None:
    encoder, _, losses = problem()
    with pytest.raises(ValueError, match=message):
        Unimodal(task=task).backward(None, losses, encoders={"shared": (encoder, TASKS)})
    assert encoder.weight.grad is None
