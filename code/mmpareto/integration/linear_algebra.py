"""Linear algebra on the gradients of an encoder: lists of tensors, a list an objective.

Nothing here waits for the device. Products are taken in the gradients' type, float32 at least, and the numbers that
come of them are float64.
"""

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor


def grams_of(gradients: list[list[Tensor | None]], scale: Tensor) -> Tensor:
    """Inner products of the objectives' gradients, tensor by tensor.

    Arguments:
        gradients: n objectives' gradients of P parameter tensors; None counts as zero.
        scale: () a factor that all of them bear, and the result does not.

    Returns:
        (P, n, n) float64, on the device of `scale`.
    """
    zero = torch.zeros((), dtype=torch.float64, device=scale.device)
    rows = []
    for tensors in zip(*gradients, strict=True):
        products: dict[tuple[int, int], Tensor] = {}
        for (i, a), (j, b) in itertools.combinations_with_replacement(enumerate(tensors), 2):
            products[i, j] = products[j, i] = zero if a is None or b is None else _dot(a, b).to(zero)
        rows += [products[i, j] for i in range(len(tensors)) for j in range(len(tensors))]
    return torch.stack(rows).view(-1, len(gradients), len(gradients)) / scale.double().square()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    # Summed pairwise: on the CPU, the error of vector_norm and dot grows with the size (4e-5 at 2 million elements).
    return (_working(a) * _working(b)).sum()


def norms_of(tensors: Iterable[Tensor | None], scale: Tensor) -> Tensor:
    """(P,) float64 Euclidean norms, without the factor `scale`; None counts as zero."""
    zero = torch.zeros((), dtype=torch.float64, device=scale.device)
    return torch.stack([zero if t is None else _dot(t, t).to(zero).sqrt() for t in tensors]) / scale.double()


def combine(gradients: list[list[Tensor | None]], alpha: Tensor) -> list[Tensor | None]:
    """h = n Σ αᵢ gᵢ, tensor by tensor.

    Arguments:
        gradients: n objectives' gradients of P parameter tensors; emptied on the way, so that no more than one
            further copy of the gradients is held.
        alpha: (P, n) weights.

    Returns:
        New tensors, float32 at least; None where no objective reaches the parameter.
    """
    combined: list[Tensor | None] = []
    count = len(gradients)
    for index, weights in enumerate(alpha * count):
        h: Tensor | None = None
        for objective, weight in zip(gradients, weights, strict=True):
            g, objective[index] = objective[index], None
            if g is not None:
                g = _working(g)
                h = add(h, g * weight.to(g))
        combined.append(h)
    return combined


def add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """a + b in a new tensor, where None is zero."""
    if a is None or b is None:
        return b if a is None else a
    return a + b


def jacobian_of(gradients: list[list[Tensor | None]], scale: Tensor) -> Tensor:
    """(n, elements of the tensors that an objective reaches), float32 at least, without the scaler's factor."""
    columns = [torch.zeros(len(gradients), 0, device=scale.device)]  # float32: cat takes the widest type
    for tensors in zip(*gradients, strict=True):
        reached = [g for g in tensors if g is not None]
        if reached:
            zero = torch.zeros_like(reached[0])
            rows = [(zero if g is None else g).flatten() for g in tensors]
            columns.append(torch.stack(rows).to(scale.device))
    jacobian = torch.cat(columns, dim=1)
    return jacobian / scale.to(jacobian)


def as_tensors(vector: Tensor, gradients: list[list[Tensor | None]]) -> list[Tensor | None]:
    """A row of the Jacobian as tensors in the parameters' shapes; None where no objective reaches."""
    parts: list[Tensor | None] = []
    for tensors in zip(*gradients, strict=True):
        like = next((g for g in tensors if g is not None), None)
        if like is None:
            parts.append(None)
        else:
            parts.append(vector[: like.numel()].view(like.shape).to(like.device, copy=True))
            vector = vector[like.numel() :]
    return parts


def nearest_coefficients(gramian: Tensor, products: Tensor) -> Tensor:
    """(n,) the shortest c for which Σ cᵢ gᵢ is nearest to h, from the products ⟨gᵢ, h⟩."""
    lengths = gramian.diagonal().sqrt()
    inverse = torch.where(lengths == 0, 0.0, 1 / lengths)
    cosines = gramian * inverse.outer(inverse)
    return inverse * (torch.linalg.pinv(cosines, rtol=1e-6, hermitian=True) @ (inverse * products.to(gramian)))


def _working(tensor: Tensor) -> Tensor:
    """In the type that the arithmetic is done in: float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def machine_epsilon(gradients: Iterable[Tensor | None]) -> float:
    """The largest ε of the types that the arithmetic on `gradients` is done in; 0 for none."""
    types = {torch.promote_types(g.dtype, torch.float32) for g in gradients if g is not None}
    return max((torch.finfo(dtype).eps for dtype in types), default=0.0)
