"""MMPareto's step on one page, in plain PyTorch. `methods/mmpareto.py` is tested against it, in all variants."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn


def mmpareto_step(
    joint: Tensor,
    unimodal: Mapping[str, Tensor],
    encoders: Mapping[str, nn.Module],
    *,
    gamma: float = 1.5,
    weights: str = "parameter",
    rescale: str = "parameter",
    boost: str = "conflict",
    zero_is_conflict: bool = False,
) -> None:
    """Fill `.grad`, which is None before: the plain sum of all losses, and MMPareto's gradient in the encoders.

    Every encoder has two objectives, the joint loss and the unimodal loss of its modality (Wei & Hu, ICML 2024,
    section 3.4 and algorithm 1). One process; no gradient accumulation, no loss scaling, float32 or float64.

    Arguments:
        joint: () loss of the fused prediction.
        unimodal: modality → () loss of its own head.
        encoders: modality → its encoder.
        gamma, weights, rescale, boost, zero_is_conflict: variant, as in `MMPareto`.
    """
    gradients = {}
    for modality, encoder in encoders.items():
        parameters = [p for p in encoder.parameters() if p.requires_grad]
        g_m = torch.autograd.grad(joint, parameters, retain_graph=True, materialize_grads=True)
        g_u = torch.autograd.grad(unimodal[modality], parameters, retain_graph=True, materialize_grads=True)
        gradients[modality] = (parameters, g_m, g_u)
    torch.stack([joint, *unimodal.values()]).sum().backward()  # fusion and heads keep this plain sum

    for parameters, g_m, g_u in gradients.values():
        everything = range(len(parameters))
        for group in [[i] for i in everything] if weights == "parameter" else [[*everything]]:
            # Conflict, and the weights that minimise ‖α_m g_m + α_u g_u‖ over α_m + α_u = 1.
            a, b, c = (_inner(x, y, group) for x, y in ((g_m, g_m), (g_u, g_u), (g_m, g_u)))
            conflict = bool(c < 0 or (zero_is_conflict and c == 0 and a > 0 and b > 0))
            alpha = (b - c) / (a + b - 2 * c) if conflict else 0.5  # within [0, 1], as c ≤ 0
            h = {i: 2 * alpha * g_m[i] + 2 * (1 - alpha) * g_u[i] for i in group}

            # The magnitude that the weights have taken, λ, and the boost γ.
            plain = {i: g_m[i] + g_u[i] for i in group}
            for part in [[i] for i in group] if rescale == "parameter" else [group]:
                norm, norm_m, norm_u = (_inner(x, x, part) ** 0.5 for x in (h, g_m, g_u))
                factor = gamma if conflict or boost == "always" else 1.0
                if conflict and norm < 32 * torch.finfo(norm.dtype).eps * (norm_m + norm_u):
                    factor = 0.0  # stationary: what is left of h is rounding
                elif conflict and norm > 0 and rescale != "none":
                    factor *= max(1.0, float(_inner(plain, plain, part) ** 0.5 / norm))
                for i in part:
                    if parameters[i].grad is not None:  # else no loss reaches it
                        parameters[i].grad = factor * h[i]


Tensors = Mapping[int, Tensor] | Sequence[Tensor]


def _inner(x: Tensors, y: Tensors, group: Iterable[int]) -> Tensor:
    """Inner product of two gradients over a group of tensors."""
    return torch.stack([(x[i] * y[i]).sum() for i in group]).sum()
