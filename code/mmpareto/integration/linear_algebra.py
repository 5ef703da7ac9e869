"""Linear algebra on the gradients of an encoder: lists of tensors, a list an objective.

Nothing here waits for the device. Products are taken in the gradients' type, float32 at least, and the numbers that
come of them are float64. On a GPU, where starting a kernel a tensor would cost more than the arithmetic, an objective's
tensors are laid into one vector (`_Grouped`); on the CPU they are gone through in pieces that stay in its cache.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

PIECE = 1 << 15  # elements; more would be shared out among threads, which takes longer than the sum


def gramians(gradients: list[list[Tensor | None]], scale: Tensor) -> Tensor:
    """Inner products of the objectives' gradients, tensor by tensor.

    Arguments:
        gradients: n objectives' gradients of P parameter tensors; None counts as zero.
        scale: () a factor that all of them bear, and the result does not.

    Returns:
        (P, n, n) float64, on the device of `scale`.
    """
    count = len(gradients)
    grouped = _Grouped.of(gradients)
    products = grouped.products() if grouped else _products(gradients, scale.device)
    upper = torch.triu_indices(count, count, device=products.device)
    grams = products.new_zeros(len(products), count, count)
    grams[:, upper[0], upper[1]] = grams[:, upper[1], upper[0]] = products
    return grams.to(scale.device) / scale.double().square()


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
        _empty(gradients)
        return grouped.combined(weights)
    return [_weighted_sum(terms) if terms else None for terms in _terms(gradients, weights)]


def combine_and_measure(
    gradients: list[list[Tensor | None]], alpha: Tensor, scale: Tensor
) -> tuple[list[Tensor | None], Tensor, Tensor]:
    """`combine`, and on the way the Euclidean norms ‖h‖ and ‖Σ gᵢ‖ of every tensor.

    Returns:
        What `combine` does, and the norms, (P,) float64 each, without the factor `scale`, on its device.
    """
    weights = alpha * len(gradients)
    grouped = _Grouped.of(gradients)
    if grouped:
        _empty(gradients)
        combined, squares = grouped.combined_and_squares(weights)
    else:
        combined, sums = [], _Sums()
        for place, terms in enumerate(_terms(gradients, weights)):
            combined.append(_weighted_sum(terms, (sums, 2 * place)) if terms else None)
        squares = sums.of(2 * len(combined), scale.device).view(-1, 2)
    norms = squares.to(scale.device).sqrt() / scale.double()
    return combined, norms[:, 0], norms[:, 1]


def _empty(gradients: list[list[Tensor | None]]) -> None:
    for objective in gradients:
        objective[:] = [None] * len(objective)


def scaled(tensors: list[Tensor | None], factors: Tensor) -> list[Tensor | None]:
    """Tensors times their factors (P,); on the CPU, in place."""
    grouped = _Grouped.of([tensors])
    if grouped:
        return grouped.combined(factors.unsqueeze(1))
    for tensor, factor in zip(tensors, factors, strict=True):
        if tensor is not None:
            own = factor.to(tensor)
            for piece in _pieces(tensor) if tensor.is_contiguous() else [tensor]:
                piece.mul_(own)
    return tensors


# --- on the CPU: tensor by tensor, a large one piece by piece ---


def _products(gradients: list[list[Tensor | None]], device: torch.device) -> Tensor:
    """(P, n(n+1)/2) inner products of the pairs i ≤ j, float64."""
    pairs = [*itertools.combinations_with_replacement(range(len(gradients)), 2)]
    sums = _Sums()
    for index, tensors in enumerate(zip(*gradients, strict=True)):
        reached = {place: _pieces(g) for place, g in enumerate(tensors) if g is not None}
        found = [(index * len(pairs) + number, *pair) for number, pair in enumerate(pairs) if reached.keys() >= {*pair}]
        for pieces in zip(*reached.values(), strict=True):
            own = dict(zip(reached, pieces, strict=True))
            for place, i, j in found:
                sums.add(place, (own[i] * own[j]).sum())
    return sums.of(len(gradients[0]) * len(pairs), device).view(-1, len(pairs))


class _Sums:
    """Many () tensors, added up in float64 by the place that each belongs to."""

    def __init__(self) -> None:
        self._places: list[int] = []
        self._values: list[Tensor] = []

    def add(self, place: int, value: Tensor) -> None:
        self._places.append(place)
        self._values.append(value)

    def of(self, places: int, device: torch.device) -> Tensor:
        """(places,) float64."""
        sums = torch.zeros(places, dtype=torch.float64, device=device)
        if not self._values:
            return sums
        values = torch.stack([value.to(device) for value in self._values]).double()
        return sums.index_add_(0, torch.tensor(self._places, device=device), values)


def _terms(gradients: list[list[Tensor | None]], weights: Tensor) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """The gradients of one tensor after another that are not None, with their () weights; taken out of their lists."""
    for index, own in enumerate(weights):
        reached = []
        for objective, weight in zip(gradients, own, strict=True):
            g, objective[index] = objective[index], None
            if g is not None:
                reached.append((g, weight))
        yield reached
        del reached


def _weighted_sum(terms: Sequence[tuple[Tensor, Tensor]], squares: "tuple[_Sums, int] | None" = None) -> Tensor:
    """h = Σ w·g of gradients of one shape and their () weights, in a new tensor.

    Arguments:
        squares: takes ‖h‖² at that place, and ‖Σ g‖² at the next.
    """
    first, weights = _working(terms[0][0]), [weight.to(_working(g)) for g, weight in terms]
    in_pieces = all(g.is_contiguous() for g, _ in terms)
    if in_pieces:
        h = torch.empty_like(first)
    else:  # channels last, say: h lies in memory as they do
        h = first * weights[0]
        for (g, _), weight in zip(terms[1:], weights[1:], strict=True):
            h.addcmul_(_working(g), weight)
    if in_pieces or squares is not None:
        for place, *pieces in zip(_pieces(h), *(_pieces(g) for g, _ in terms), strict=True):
            if in_pieces:
                torch.mul(pieces[0], weights[0], out=place)
                for piece, weight in zip(pieces[1:], weights[1:], strict=True):
                    place.addcmul_(piece, weight)
            if squares is not None:
                total = functools.reduce(torch.add, pieces)
                for number, vector in enumerate((place, total), start=squares[1]):
                    squares[0].add(number, (vector * vector).sum())
    return h


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

    def products(self) -> Tensor:
        """(P, n(n+1)/2) inner products of the pairs i ≤ j, float64."""
        pairs = itertools.combinations_with_replacement([vector.double() for vector in self._vectors], 2)
        return torch.stack([self._sums(a * b) for a, b in pairs], 1)

    def combined(self, weights: Tensor) -> list[Tensor | None]:
        """Σᵢ wᵢ gᵢ for weights (P, n), as parts of one vector."""
        return self._parts(self._combined(weights))

    def combined_and_squares(self, weights: Tensor) -> tuple[list[Tensor | None], Tensor]:
        """`combined`, and (P, 2) float64: ‖Σᵢ wᵢ gᵢ‖² and ‖Σᵢ gᵢ‖²."""
        h, total = self._combined(weights), functools.reduce(torch.add, self._vectors)
        return self._parts(h), torch.stack([self._sums(vector.double().square()) for vector in (h, total)], 1)

    def _combined(self, weights: Tensor) -> Tensor:
        total = self._vectors[0] * self._spread(weights[:, 0])
        for vector, own in zip(self._vectors[1:], weights.T[1:], strict=True):
            total.addcmul_(vector, self._spread(own))
        return total

    def _parts(self, vector: Tensor) -> list[Tensor | None]:
        parts = iter(vector.split([size for size, g in zip(self._sizes, self._like, strict=True) if g is not None]))
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
