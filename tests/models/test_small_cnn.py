import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from mmpareto.models.small_cnn import SmallCNN


@pytest.mark.parametrize("channels", [1, 3])
def test_number_of_parameters(channels: int) -> None:
    """The count follows from the published encoder's layers, one line per layer."""
    expected = (
        2 * channels  # BatchNorm
        + (5 * 5 * channels + 1) * 32
        + (3 * 3 * 32 + 1) * 32
        + (3 * 3 * 32 + 1) * 64
        + (3 * 3 * 64 + 1) * 64
        + (64 + 1) * 512
    )
    encoder = SmallCNN(channels)
    assert sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad) == expected
    assert encoder.feature_size == 512


@pytest.mark.parametrize("channels", [1, 3])
def test_equals_the_published_sequence_of_layers(channels: int) -> None:
    torch.manual_seed(0)
    encoder = SmallCNN(channels).double()
    state = encoder.state_dict()
    x = torch.randn(4, channels, 28, 28, dtype=torch.float64) * 3 + 1
    for training in (True, False):
        encoder.train(training)
        mean, var = (
            (x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False))
            if training
            else (encoder.norm.running_mean, encoder.norm.running_var)
        )
        y = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        y = y * state["norm.weight"][:, None, None] + state["norm.bias"][:, None, None]
        y = F.conv2d(y, state["conv1.weight"], state["conv1.bias"], padding=2).relu()
        assert y.shape[2:] == (28, 28)
        y = F.max_pool2d(y, 3, stride=2, padding=1)
        y = F.conv2d(y, state["conv2.weight"], state["conv2.bias"], padding=1).relu()
        assert y.shape[2:] == (14, 14)
        y = F.conv2d(y, state["conv3.weight"], state["conv3.bias"], stride=2, padding=1).relu()
        y = F.conv2d(y, state["conv4.weight"], state["conv4.bias"], padding=1).relu()
        assert y.shape[2:] == (7, 7)
        y = F.avg_pool2d(y, 7, stride=1).flatten(1)
        expected = y @ state["project.weight"].T + state["project.bias"]
        torch.testing.assert_close(encoder(x), expected)


def test_every_parameter_learns_and_other_sizes_work() -> None:
    encoder = SmallCNN(3)
    encoder(torch.randn(2, 3, 40, 32)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in encoder.parameters())
