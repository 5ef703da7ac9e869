"""Linear algebra on the gradients of an encoder: lists of tensors, a list an objective.

Nothing here waits for the device. Products are taken in the gradients' type, float32 at least, and the numbers that
come of them are float64. On a GPU, where starting a kernel a tensor would cost more than the arithmetic, an objective's
tensors are laid into one vector (`_Grouped`); on the CPU they are gone through in pieces that stay in its cache.
"""

import functools
import itertools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

PIECE = 1 << 15  # elements; a sum of so many float32 products is right to a few units in the seventh digit


def grams_of(gradients: list[list[Tensor | None]], scale: Tensor) -> Tensor:
    """Inner products of the objectives' gradients, tensor by tensor.

    Arguments:
        gradients: n objectives' gradients of P parameter tensors; None counts as zero.
        scale: () a factor that all of them bear, and the result does not.

    Returns:
        (P, n, n) float64, on the device of `scale`.
    """
    count = len(gradients)
    found: dict[tuple[int, int], Tensor] = {}
    grouped = _Grouped.of(gradients)
    for i, j in itertools.combinations_with_replacement(range(count), 2):
        products = grouped.inner(i, j) if grouped else _inner(gradients[i], gradients[j], scale)
        found[i, j] = found[j, i] = products.to(scale.device)
    rows = [found[i, j] for i in range(count) for j in range(count)]
    return torch.stack(rows, 1).view(-1, count, count) / scale.double().square()


def norms_of(tensors: Sequence[Tensor | None], scale: Tensor) -> Tensor:
    """(P,) float64 Euclidean norms, without the factor `scale`; None counts as zero."""
    grouped = _Grouped.of([tensors])
    squares = grouped.inner(0, 0).to(scale.device) if grouped else _inner(tensors, tensors, scale)
    return squares.sqrt() / scale.double()


def norms_of_sum(gradients: list[list[Tensor | None]], scale: Tensor) -> Tensor:
    """(P,) float64 Euclidean norms of the sum of the objectives' gradients, without the factor `scale`."""
    grouped = _Grouped.of(gradients)
    squares = grouped.square_of_sum().to(scale.device) if grouped else _square_of_sum(gradients, scale)
    return squares.sqrt() / scale.double()


def combine(gradients: list[list[Tensor | None]], alpha: Tensor) -> list[Tensor | None]:
    """h = n Σ αᵢ gᵢ, tensor by tensor.

    Arguments:
        gradients: n objectives' gradients of P parameter tensors; emptied on the way, so that no more than one
            further copy of the gradients is held.
        alpha: (P, n) weights.

    Returns:
        New tensors, float32 at least; None where no objective reaches the parameter.
    """
    weights = alpha * len(gradients)
    grouped = _Grouped.of(gradients)
    if grouped:
        for objective in gradients:
            objective[:] = [None] * len(objective)
        return grouped.combined(weights)
    combined: list[Tensor | None] = []
    for index, own in enumerate(weights):
        h: Tensor | None = None
        for objective, weight in zip(gradients, own, strict=True):
            g, objective[index] = objective[index], None
            if g is not None:
                g = _working(g)
                h = g * weight.to(g) if h is None else h.addcmul_(g, weight.to(g))
        combined.append(h)
    return combined


def scaled(tensors: list[Tensor | None], factors: Tensor) -> list[Tensor | None]:
    """Tensors times their factors (P,); on the CPU, in place."""
    grouped = _Grouped.of([tensors])
    if grouped:
        return grouped.combined(factors.unsqueeze(1))
    return [t if t is None else t.mul_(factor.to(t)) for t, factor in zip(tensors, factors, strict=True)]


# --- on the CPU: tensor by tensor, a large one piece by piece ---


def _inner(first: Sequence[Tensor | None], second: Sequence[Tensor | None], scale: Tensor) -> Tensor:
    """(P,) float64 inner products."""
    zero = torch.zeros((), dtype=torch.float64, device=scale.device)
    pairs = zip(first, second, strict=True)
    return torch.stack([zero if a is None or b is None else _dot(a, b).to(zero) for a, b in pairs])


def _dot(a: Tensor, b: Tensor) -> Tensor:
    x, y = _pieces(a), _pieces(b)
    return torch.stack([torch.dot(p, q) for p, q in zip(x, y, strict=True)]).double().sum()


def _square_of_sum(gradients: list[list[Tensor | None]], scale: Tensor) -> Tensor:
    """(P,) float64 squared norms of the sums."""
    squares = []
    for tensors in zip(*gradients, strict=True):
        pieces = [_pieces(g) for g in tensors if g is not None]
        sums = [functools.reduce(torch.add, parts) for parts in zip(*pieces, strict=True)]
        squares.append(torch.stack([torch.dot(s, s) for s in sums] or [scale.new_zeros(())]).double().sum())
    return torch.stack([square.to(scale.device) for square in squares])


def _pieces(tensor: Tensor) -> tuple[Tensor, ...]:
    return _working(tensor).reshape(-1).split(PIECE)


# --- on a GPU: one vector an objective ---


class _Grouped:
    """An encoder's gradients as one vector an objective, the tensors one after the other.

    Arguments:
        gradients: n objectives' gradients of P tensors, of one device; None counts as zero.
    """

    def __init__(self, gradients: Sequence[Sequence[Tensor | None]]) -> None:
        self._like = [next((g for g in tensors if g is not None), None) for tensors in zip(*gradients, strict=True)]
        reached = [g for g in self._like if g is not None]
        kind = functools.reduce(torch.promote_types, (g.dtype for g in reached), torch.float32)
        self._sizes = tuple(0 if g is None else g.numel() for g in self._like)
        self._lengths = _on_device(self._sizes, reached[0].device)
        self._vectors = [
            torch.cat(
                [
                    (torch.zeros_like(like) if g is None else g).reshape(-1).to(kind)
                    for g, like in zip(objective, self._like, strict=True)
                    if like is not None
                ]
            )
            for objective in gradients
        ]

    @classmethod
    def of(cls, gradients: Sequence[Sequence[Tensor | None]]) -> "_Grouped | None":
        """Those on a GPU; None on the CPU, or where nothing is reached."""
        reached = [g for objective in gradients for g in objective if g is not None]
        one_gpu = len({g.device for g in reached}) == 1 and reached[0].is_cuda
        return cls(gradients) if one_gpu else None

    def inner(self, i: int, j: int) -> Tensor:
        """(P,) float64 inner products of two objectives' tensors."""
        return self._sums(self._vectors[i].double() * self._vectors[j].double())

    def square_of_sum(self) -> Tensor:
        """(P,) float64 squared norms of the sums over objectives."""
        return self._sums(functools.reduce(torch.add, self._vectors).double().square())

    def combined(self, weights: Tensor) -> list[Tensor | None]:
        """Σᵢ wᵢ gᵢ for weights (P, n), as parts of one vector."""
        total = self._vectors[0] * self._spread(weights[:, 0])
        for vector, own in zip(self._vectors[1:], weights.T[1:], strict=True):
            total.addcmul_(vector, self._spread(own))
        parts = iter(total.split([size for size, g in zip(self._sizes, self._like, strict=True) if g is not None]))
        return [None if g is None else next(parts).view(g.shape) for g in self._like]

    def _spread(self, values: Tensor) -> Tensor:
        """A number a tensor (P,) as one an element."""
        vector = self._vectors[0]
        return values.to(vector).repeat_interleave(self._lengths, output_size=len(vector))

    def _sums(self, vector: Tensor) -> Tensor:
        # `unsafe` leaves out a check of the lengths that waits for the device.
        return torch.segment_reduce(vector, "sum", lengths=self._lengths, unsafe=True)


@functools.lru_cache(maxsize=64)
def _on_device(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(sizes, device=device)  # once an encoder: the copy waits for the device


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
