"""The gradients of a training step, computed as the released MMPareto code does, to compare its cost with ours."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor, nn

from mmpareto.integration.hooks import Hooks, TrainingContext


class ReleasedStep(Hooks):
    """The part of GeWu-Lab/MMPareto_ICML2024's training step between forward pass and optimizer, at the same cost.

    It is called like a method. For n modalities it mimics, in this order:

    1. each loss is read on the host;
    2. one backward pass per loss, each retaining the graph and writing to `.grad` of every parameter, which is cleared
       afterwards; an encoder's gradients are copied tensor by tensor, and once more as one vector;
    3. for each encoder, the cosine of the two vectors is compared with 0 on the host; unless it is positive, the inner
       products are computed tensor by tensor (and of the vectors, which are among the tensors in that code: this
       doubles all products and so changes no weight), each copied to the host before it is added;
    4. one more backward pass, of the sum of the losses, which frees the graph;
    5. for each tensor of an encoder, λ = ‖gradient of that sum‖/‖h‖ is compared with 1 on the host, and a new tensor
       γ·max(1, λ)·h replaces `.grad`; all other parameters keep the gradient of the sum;
    6. the sum is read on the host.

    The gradients are those of `MMPareto.released()`, except for that code's edge cases: a zero gradient gives the
    weights 0.999 and 0.001, and a direction that is lost in rounding gives NaN or noise. Unlike in that code, the
    caller assigns parameters to encoders, and not their names do. `.grad` must be clear before, and every loss must
    reach all of its encoder.

    Arguments:
        gamma: γ, the boost.
    """

    def __init__(self, gamma: float = 1.5) -> None:
        self.gamma = gamma
        self._parameters: list[Tensor] = []

    def begin_training(self, loop: TrainingContext) -> None:
        """Store the parameters whose `.grad` is cleared after each backward pass."""
        self._parameters = list(loop.network.parameters())

    def backward(
        self,
        joint: Tensor,
        unimodal: Mapping[str, Tensor],
        *,
        encoders: Mapping[str, nn.Module],
        outputs: Any = None,
        labels: Any = None,
        scale: Tensor | None = None,
        interaction: bool = False,
    ) -> None:
        """Write the integrated gradient to `.grad` of the encoders, and the plain sum to that of all other parameters.

        The arguments are those of `Method.backward`; `outputs`, `labels` and `interaction` are ignored.

        Raises:
            ValueError: a loss does not reach a parameter of its encoder.
        """
        for loss in (joint, *unimodal.values()):
            loss.item()
        parameters = {name: [p for p in e.parameters() if p.requires_grad] for name, e in encoders.items()}
        gradients: dict[str, list[list[Tensor]]] = {name: [] for name in encoders}
        for modality, loss in [(None, joint), *unimodal.items()]:
            _scaled(loss, scale).backward(retain_graph=True)
            for name in encoders if modality is None else [modality]:
                copies = [_gradient(p).clone() for p in parameters[name]]
                gradients[name].append([*copies, torch.cat([g.flatten() for g in copies])])
            for parameter in self._parameters:
                parameter.grad = None
        weights = {name: _weights(*pair) for name, pair in gradients.items()}

        total = sum(unimodal.values(), joint)
        _scaled(total, scale).backward()
        for name, (alpha_m, alpha_u) in weights.items():
            tensors = (copies[:-1] for copies in gradients[name])
            for parameter, g_m, g_u in zip(parameters[name], *tensors, strict=True):
                h = 2 * alpha_m * g_m + 2 * alpha_u * g_u
                rescale = torch.linalg.vector_norm(_gradient(parameter).clone()) / torch.linalg.vector_norm(h)
                parameter.grad = rescale * h * self.gamma if bool(rescale > 1) else h * self.gamma
        total.item()


def _scaled(loss: Tensor, scale: Tensor | None) -> Tensor:
    return loss if scale is None else loss * scale


def _gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        raise ValueError(f"a loss does not reach an encoder's parameter of shape {tuple(parameter.shape)}")
    return parameter.grad


def _weights(joint: list[Tensor], unimodal: list[Tensor]) -> tuple[float, float]:
    """α_m and α_u of an encoder, from the copies of its two gradients: tensors, and last all of them as one vector."""
    if bool(F.cosine_similarity(joint[-1], unimodal[-1], dim=0) > 0):
        return 0.5, 0.5
    a, b, c = _on_host(joint, joint), _on_host(unimodal, unimodal), _on_host(joint, unimodal)
    if c >= a:
        alpha = 0.999
    elif c >= b:
        alpha = 0.001
    else:
        alpha = float((b - c) / (a + b - 2 * c))
    return alpha, 1 - alpha


def _on_host(x: list[Tensor], y: list[Tensor]) -> Tensor:
    products = [(a * b).sum().cpu() for a, b in zip(x, y, strict=True)]
    return torch.stack(products).sum()
