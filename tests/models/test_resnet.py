import math

import pytest
import torch
import torchvision
from mmpareto.models import ENCODERS
from mmpareto.models.building import initialise
from mmpareto.models.resnet import ResNet18
from torch import nn


def parameters_by_formula(channels: int) -> int:
    """Counted from the architecture's table in He et al.: a 7x7 stem, then four stages of two 3x3-3x3 blocks."""
    total = 7 * 7 * channels * 64 + 2 * 64
    width = 64
    for out in (64, 128, 256, 512):
        for entering in (width, out):
            total += 9 * entering * out + 9 * out * out + 2 * (2 * out)
        if width != out:  # the 1x1 projection of the first block's shortcut, with its BatchNorm
            total += width * out + 2 * out
        width = out
    return total


@pytest.mark.parametrize(("channels", "count"), [(1, 11_170_240), (3, 11_176_512)])
def test_number_of_trainable_parameters(channels: int, count: int) -> None:
    encoder = ResNet18(channels)
    trainable = sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad)
    assert trainable == parameters_by_formula(channels) == count


@pytest.mark.parametrize("layers", [18, 50])
def test_agrees_with_torchvision_on_single_images(layers: int) -> None:
    reference = getattr(torchvision.models, f"resnet{layers}")(weights=None).eval()
    encoder = ENCODERS[f"resnet{layers}"](3).eval()
    state = {name: tensor for name, tensor in reference.state_dict().items() if not name.startswith("fc.")}
    encoder.load_state_dict(state)
    reference.fc = nn.Identity()
    images = torch.randn(2, 3, 40, 56)
    torch.testing.assert_close(encoder(images), reference(images))
    maps, widths = images, []
    for stage in encoder.stages():
        maps = stage(maps)
        widths.append(maps.shape[1])
    assert (*widths, encoder.feature_size) == (*encoder.widths, encoder.widths[-1])


def test_frames_are_averaged() -> None:
    encoder = ResNet18(3).eval()
    clips = torch.randn(2, 3, 3, 32, 48)
    expected = torch.stack([encoder(clip).mean(dim=0) for clip in clips])
    torch.testing.assert_close(encoder(clips), expected)


def test_the_initialisation_of_mmpareto_has_its_closed_form_statistics() -> None:
    torch.manual_seed(0)
    encoder = ResNet18(1)
    linear = nn.Linear(512, 6)
    kept = linear.weight.clone(), linear.bias.clone()
    for part in encoder.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.constant_(part.bias, 7.0)
    initialise(nn.ModuleList([encoder, linear]), "mmpareto")
    scales = []
    for part in encoder.modules():
        if isinstance(part, nn.Conv2d):
            fan_out = part.out_channels * part.kernel_size[0] * part.kernel_size[1]
            count = part.weight.numel()
            std = math.sqrt(2 / fan_out)
            # Five standard errors of a normal sample's mean (std/√n) and standard deviation (std/√2n).
            assert abs(part.weight.mean().item()) < 5 * std / math.sqrt(count)
            assert abs(part.weight.std().item() / std - 1) < 5 / math.sqrt(2 * count)
        elif isinstance(part, nn.BatchNorm2d):
            assert torch.count_nonzero(part.bias) == 0
            scales.append(part.weight.detach())
    values = torch.cat(scales)
    assert abs(values.mean().item() - 1) < 5 * 0.02 / math.sqrt(len(values))
    assert abs(values.std().item() / 0.02 - 1) < 5 / math.sqrt(2 * len(values))
    assert torch.equal(linear.weight, kept[0]) and torch.equal(linear.bias, kept[1])
