"""The Hessian of a loss, which is never formed: its products with vectors, and its largest eigenvalue."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmpareto.analysis.measurements.gradient_spread import flat

Vector = NDArray[np.float64]
TOLERANCE = 0.02
MOST_PRODUCTS = 60


class Hessian:
    """∇²L of a loss that is the sum of parts, as products H v: the gradient of ⟨∇L, v⟩ (Pearlmutter 1994).

    Of one part alone, the graph of the gradient is kept, and a product costs one backward pass over it; of several,
    each product goes through them one after the other, so that memory holds one part's graph.

    Arguments:
        parts: each computes its share of the loss, a () tensor with a graph.
        parameters: with respect to which it is taken; the loss reaches all of them.
    """

    def __init__(self, parts: Sequence[Callable[[], Tensor]], parameters: Sequence[Tensor]) -> None:
        self._parts, self.parameters = parts, list(parameters)
        self._kept = self._gradient(parts[0]) if len(parts) == 1 else None
        self.size = sum(p.numel() for p in self.parameters)
        self.products = 0

    def product(self, vector: Vector) -> Vector:
        """H v, (P,) float64; computed in the parameters' own type."""
        self.products += 1
        sizes = [p.numel() for p in self.parameters]
        whole = torch.from_numpy(np.ascontiguousarray(vector).reshape(-1))
        pieces = [x.view_as(p).to(p) for x, p in zip(whole.split(sizes), self.parameters, strict=True)]
        total = np.zeros(self.size)
        for part in self._parts:
            gradient = self._gradient(part) if self._kept is None else self._kept
            linear = [(g, v) for g, v in zip(gradient, pieces, strict=True) if g.requires_grad]
            if linear:  # else the loss is linear in all of them
                found = torch.autograd.grad(
                    [g for g, _ in linear],
                    self.parameters,
                    [v for _, v in linear],
                    retain_graph=self._kept is not None,
                    allow_unused=True,
                )
                total += flat(found, self.parameters).cpu().double().numpy()
        return total

    def _gradient(self, part: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention cannot be differentiated twice
            return torch.autograd.grad(part(), self.parameters, create_graph=True)


@dataclasses.dataclass(frozen=True)
class Eigenvalue:
    """An eigenvalue λ, the norm of H v − λ v for the unit vector v, and the products with H that it took."""

    value: float
    vector: Vector
    residual: float
    products: int


def largest_eigenvalue(
    product: Callable[[Vector], Vector], size: int, *, tolerance: float = TOLERANCE, seed: int = 0
) -> Eigenvalue:
    """The algebraically largest eigenvalue of a symmetric matrix, by Lanczos' method with full reorthogonalisation.

    It starts from a random vector that the seed chooses. In place of ARPACK, which looks at the residual after a fixed
    number of products only: a network's Hessian needs four or five, and each costs as much as several training steps.
    Vectors are kept in float64: inner products of millions of float32 numbers are off by a thousandth.

    Memory: a vector a product, and three.

    Arguments:
        product: H v for v (size,).
        tolerance: it ends when ‖H v − λ v‖ is below this share of |λ|. The eigenvalue itself is nearer by far: it is
            off by at most residual² over the distance to the next one.

    Returns:
        NaN in place of the eigenvalue where a product is not finite.

    Raises:
        ValueError: it has not ended after `MOST_PRODUCTS`.
    """
    start = np.random.default_rng(seed).standard_normal(size)
    basis = [start / np.linalg.norm(start)]
    diagonal: list[float] = []
    beside: list[float] = []
    for count in range(1, MOST_PRODUCTS + 1):
        rest = product(basis[-1])
        if not np.isfinite(rest).all():
            return Eigenvalue(math.nan, basis[-1], math.nan, count)
        diagonal.append(float(basis[-1] @ rest))
        for vector in [*basis, *basis]:  # twice is enough (Parlett, The symmetric eigenvalue problem, 6.9)
            rest = rest - (vector @ rest) * vector
        beside.append(float(np.linalg.norm(rest)))
        values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside[:-1], -1))  # it reads the lower half
        residual = beside[-1] * abs(float(vectors[-1, -1]))
        if residual <= tolerance * abs(values[-1]) or count == size:
            found = sum(share * vector for share, vector in zip(vectors[:, -1], basis, strict=True))
            return Eigenvalue(float(values[-1]), np.asarray(found), residual, count)
        basis.append(rest / beside[-1])
    raise ValueError(f"the largest eigenvalue was not found in {MOST_PRODUCTS} products with the Hessian")


def saved_bytes(compute: Callable[[], object], parameters: Sequence[Tensor]) -> int:
    """How many bytes autograd keeps of what `compute` does with a graph, beside the parameters themselves."""
    storages = {p.untyped_storage().data_ptr() for p in parameters}
    total = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in storages:
            storages.add(storage.data_ptr())
            total += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        held = compute()
    del held
    return total
