import copy
import math

import pytest
import torch
from mmpareto.models.building import initialise
from mmpareto.models.transformer import DROPOUT, HEADS, LAYERS, WIDTH, SequenceTransformer
from torch import nn

CHANNELS = 5


def sequences(lengths, steps, *, dtype=torch.float64, seed=0):
    """(B, steps, CHANNELS + 1): random features, zeros and a mask of 0 after the lengths."""
    torch.manual_seed(seed)
    x = torch.randn(len(lengths), steps, CHANNELS + 1, dtype=dtype)
    for row, length in zip(x, lengths, strict=True):
        row[:, -1] = 1
        row[length:] = 0
    return x


@pytest.fixture
def encoder():
    torch.manual_seed(1)
    made = SequenceTransformer(CHANNELS).double()
    initialise(made, "mmpareto")
    for parameter in made.parameters():  # including norms and biases, so that a missing one would be noticed
        with torch.no_grad():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def reference(encoder, sequence):
    """Features of one sequence without padding, from PyTorch's layers and the formula of the positions."""
    layers = nn.ModuleList(
        [
            nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, DROPOUT, batch_first=True, norm_first=True)
            for _ in range(LAYERS)
        ]
    ).double()
    for theirs, ours in zip(layers, encoder.layers, strict=True):
        theirs.self_attn.in_proj_weight, theirs.self_attn.in_proj_bias = ours.project_in.weight, ours.project_in.bias
        theirs.self_attn.out_proj = ours.project_out
        theirs.linear1, theirs.linear2, theirs.norm1, theirs.norm2 = ours.linear1, ours.linear2, ours.norm1, ours.norm2
    positions = torch.tensor(
        [
            [wave(step / 10000 ** (2 * i / WIDTH)) for wave in (math.sin, math.cos) for i in range(WIDTH // 2)]
            for step in range(len(sequence))
        ],
        dtype=torch.float64,
    )
    x = encoder.embed_norm(sequence[:, :-1] @ encoder.embed.weight.T + encoder.embed.bias) + positions
    x = x.unsqueeze(0)
    for layer in layers.train():  # train mode avoids PyTorch's fast path; dropout is turned off:
        layer.dropout.p = layer.dropout1.p = layer.dropout2.p = layer.self_attn.dropout = 0.0
        x = layer(x)
    return encoder.norm(x)[0].mean(dim=0)


def test_agrees_with_pytorchs_layers_on_each_sequence(encoder):
    lengths = [4, 9, 1]
    x = sequences(lengths, 9)
    result = encoder(x)
    assert result.shape == (3, encoder.feature_size)
    for row, length, feature in zip(x, lengths, result, strict=True):
        # The constants of the positions are float32.
        torch.testing.assert_close(feature, reference(encoder, row[:length]), rtol=1e-5, atol=1e-6)


def test_padding_changes_nothing(encoder):
    lengths = [3, 6, 0]
    short = sequences(lengths, 6)
    long = torch.cat([short, torch.zeros(3, 500 - 6, CHANNELS + 1, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(encoder(long), encoder(short), rtol=1e-12, atol=1e-12)
    alone = torch.cat([encoder(short[i : i + 1, : max(length, 1)]) for i, length in enumerate(lengths)])
    torch.testing.assert_close(encoder(short), alone, rtol=1e-12, atol=1e-12)


def test_padded_values_have_no_effect_and_no_gradient(encoder):
    x = sequences([3, 6, 0], 6)
    garbage = x + (1 - x[:, :, -1:]) * torch.cat(
        [1e4 * torch.randn(3, 6, CHANNELS).double(), torch.zeros(3, 6, 1)], dim=2
    )
    torch.testing.assert_close(encoder(garbage), encoder(x), rtol=1e-12, atol=1e-12)
    garbage.requires_grad_()
    encoder(garbage).square().sum().backward()
    reached = garbage.grad[:, :, :-1].abs().sum(dim=2) > 0
    assert torch.equal(reached, x[:, :, -1] > 0)


def test_order_matters_and_gaps_are_masked(encoder):
    x = sequences([5], 5)
    assert not torch.allclose(encoder(x), encoder(x.flip(1)))
    gap = x.clone()
    gap[0, 2] = 0
    assert torch.isfinite(encoder(gap)).all() and not torch.allclose(encoder(gap), encoder(x))


@pytest.mark.parametrize("training", [True, False])
def test_a_removed_modality_gives_zeros_and_finite_gradients(encoder, training):
    """AGM replaces a modality, including its mask, by zeros."""
    encoder.train(training)
    x = torch.zeros(4, 7, CHANNELS + 1, dtype=torch.float64)
    result = encoder(x)
    assert torch.count_nonzero(result) == 0
    mixed = torch.cat([x, sequences([7, 2], 7)])
    encoder(mixed).square().sum().backward()
    for parameter in encoder.parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0


def test_no_softmax_is_over_an_empty_sequence(encoder):
    """Such a softmax is NaN in some kernels and zero in others."""
    masks = []
    encoder.layers[0].register_forward_pre_hook(lambda layer, given: masks.append(given[1]))
    encoder(sequences([3, 6, 0], 6))
    assert masks[0].shape == (3, 1, 1, 6) and masks[0].sum(dim=3).flatten().tolist() == [3, 6, 6]


def test_a_second_backward_pass_gives_the_same_gradients(encoder):
    result = encoder(sequences([3, 6], 6))
    gradients = []
    for _ in range(2):
        encoder.zero_grad()
        result.square().sum().backward(retain_graph=True)
        gradients.append([parameter.grad.clone() for parameter in encoder.parameters()])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


def test_evaluation_is_deterministic_and_the_same_with_and_without_gradients(encoder):
    x = sequences([3, 6, 0], 6)
    first = encoder(x)
    with torch.no_grad():
        assert torch.equal(encoder(x), first)
    with torch.inference_mode():
        assert torch.equal(encoder(x), first)
    encoder.train()
    assert not torch.equal(encoder(x), encoder(x))  # dropout


def test_long_sequences_in_float32_with_large_features():
    torch.manual_seed(0)
    encoder = SequenceTransformer(CHANNELS)
    x = sequences([500, 1, 0], 500, dtype=torch.float32)
    x[:, :, :-1] *= 1e4
    result = encoder(x)
    result.sum().backward()
    assert torch.isfinite(result).all() and all(torch.isfinite(p.grad).all() for p in encoder.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_the_compiled_encoder_equals_the_eager_one(encoder, training, monkeypatch):
    for part in encoder.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    monkeypatch.setattr("mmpareto.models.transformer.DROPOUT", 0.0)
    encoder.train(training)
    compiled = torch.compile(copy.deepcopy(encoder), backend="aot_eager", fullgraph=True)
    x = sequences([3, 6, 0], 6)
    with torch._functorch.config.patch(donated_buffer=False):  # as in the README, for retain_graph
        result, expected = compiled(x), encoder(x)
        torch.testing.assert_close(result, expected)
        for output in (result, expected):
            output.square().sum().backward(retain_graph=True)
            output.square().sum().backward()
    for ours, theirs in zip(compiled.parameters(), encoder.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_forward_does_not_depend_on_tensor_values(encoder):
    """Tensors on the meta device have no values: a branch on one would raise."""
    assert encoder.to("meta").train()(torch.empty(2, 6, CHANNELS + 1, device="meta").double()).shape == (2, WIDTH)


def test_bf16_autocast_stays_close(encoder):
    encoder.float()
    x = sequences([3, 6, 0], 6, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        result = encoder(x)
    torch.testing.assert_close(result.float(), encoder(x), rtol=0.05, atol=0.1)


def test_the_state_dict_holds_exactly_the_parameters():
    state = SequenceTransformer(CHANNELS).state_dict()
    assert set(state) == {name for name, _ in SequenceTransformer(CHANNELS).named_parameters()}


@pytest.mark.parametrize("shape", [(2, 6, CHANNELS), (2, CHANNELS + 1), (2, 1, 6, CHANNELS + 1)])
def test_other_shapes_are_refused(encoder, shape):
    with pytest.raises(ValueError, match=r"\(B, T, 6\) expected"):
        encoder(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.gpu
def test_runs_on_a_gpu_without_synchronising():
    encoder = SequenceTransformer(CHANNELS).cuda()
    x = sequences([3, 6, 0], 6, dtype=torch.float32).cuda()
    encoder(x).sum().backward()  # libraries load on first use
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = encoder(x)
        result.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    on_cpu = copy.deepcopy(encoder).cpu().eval()(x.cpu())
    torch.testing.assert_close(encoder.eval()(x).cpu(), on_cpu, rtol=1e-3, atol=1e-4)
    with torch.autocast("cuda", torch.float16):
        assert torch.isfinite(encoder(x)).all()
