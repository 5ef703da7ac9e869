"""The network for several tasks, and its encoder."""

import pytest
import torch
from mmpareto.errors import InputError
from mmpareto.models.building import build_network
from mmpareto.models.lenet import LeNet, adaptive_max
from torch.nn import functional as F  # noqa: N812 (PyTorch's own name for it)

CHOICE = {"channels": {"image": 1}, "n_classes": 10, "encoder": "lenet"}


def test_lenet_on_28_by_28_is_that_of_the_literature() -> None:
    net, x = LeNet(1).double(), torch.randn(3, 1, 28, 28, dtype=torch.float64)
    hidden = F.relu(F.max_pool2d(F.conv2d(x, net.conv1.weight, net.conv1.bias), 2))
    hidden = F.relu(F.max_pool2d(F.conv2d(hidden, net.conv2.weight, net.conv2.bias), 2))
    assert hidden.shape == (3, 20, 4, 4)
    torch.testing.assert_close(net(x), F.relu(hidden.flatten(1) @ net.fc.weight.T + net.fc.bias))
    assert net.float()(torch.randn(2, 1, 28, 42)).shape == (2, 50)


def test_the_pooling_of_exported_networks_is_the_same() -> None:
    for size in ((8, 15), (15, 15), (4, 9)):
        x = torch.randn(2, 3, *size)
        torch.testing.assert_close(adaptive_max(x, 4), F.adaptive_max_pool2d(x, 4), rtol=0, atol=0)


def test_each_task_has_a_head_of_its_own_on_the_one_feature() -> None:
    network = build_network(**CHOICE, tasks=["left", "middle", "right"])
    x = torch.randn(4, 1, 28, 42)
    outputs = network({"image": x})
    assert outputs.joint is None and outputs.contributions == {} and not network.additive
    assert list(outputs.unimodal) == network.tasks == network.head_names == ["left", "middle", "right"]
    assert network.own_losses == {"image": ["left", "middle", "right"]} and network.n_classes == 10
    torch.testing.assert_close(outputs.features["image"], network.encoders["image"](x))
    for task, logits in outputs.unimodal.items():
        torch.testing.assert_close(logits, network.heads[task](outputs.features["image"]))
    assert len({id(head) for head in network.heads.values()}) == 3


def test_several_tasks_have_one_input() -> None:
    with pytest.raises(InputError, match="several tasks share one encoder, but the inputs are image and depth"):
        build_network(**CHOICE | {"channels": {"image": 1, "depth": 1}}, tasks=["left"])
    with pytest.raises(InputError, match="takes the modalities image but the batch has sound"):
        build_network(**CHOICE, tasks=["left"])({"sound": torch.zeros(1, 1, 28, 28)})
