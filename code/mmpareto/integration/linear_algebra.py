"""Linear algebra on the gradients of an encoder: one list of tensors per objective.

Nothing here waits for the device. Products are computed in the gradients' dtype, at least float32, and their sums are
float64. On a GPU, where launching one kernel per tensor would cost more than the arithmetic, the tensors of an
objective are concatenated to one vector (`_Concatenated`); on the CPU they are processed in chunks that fit into its
cache. Gradients of any size that float32 has are integrated alike: products are taken in float64 where float32 would
lose them.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

CHUNK = 1 << 15  # elements; PyTorch would split a longer sum over threads, which takes longer than the sum


def gramians(gradients: list[list[Tensor | None]], scale: Tensor) -> Tensor:
    """Inner products of the objectives' gradients, per tensor.

    Arguments:
        gradients: gradients of n objectives with respect to P parameter tensors; None counts as zero.
        scale: () factor that all gradients carry and the result does not.

    Returns:
        (P, n, n) float64, on the device of `scale`.
    """
    count = len(gradients)
    concatenated = _Concatenated.of(gradients)
    products = concatenated.products() if concatenated else _products(gradients, scale.device)
    upper = torch.triu_indices(count, count, device=products.device)
    result = products.new_zeros(len(products), count, count)
    result[:, upper[0], upper[1]] = result[:, upper[1], upper[0]] = products
    return result.to(scale.device) / scale.double().square()


def combine_and_release(gradients: list[list[Tensor | None]], alpha: Tensor) -> list[Tensor | None]:
    """h = n Σ αᵢ gᵢ, per tensor. Empties `gradients` on the way, so that only one further copy of them is ever held.

    Arguments:
        gradients: gradients of n objectives with respect to P parameter tensors. All entries are None afterwards.
        alpha: (P, n) weights.

    Returns:
        New tensors, at least float32; None where no objective reaches the parameter.
    """
    weights = alpha * len(gradients)
    concatenated = _Concatenated.of(gradients)
    if concatenated:
        _release(gradients)
        return concatenated.combined(weights)
    return [_weighted_sum(terms) if terms else None for terms in _release_terms(gradients, weights)]


def combine_measure_and_release(
    gradients: list[list[Tensor | None]], alpha: Tensor, scale: Tensor
) -> tuple[list[Tensor | None], Tensor, Tensor]:
    """`combine_and_release`, and also the Euclidean norms ‖h‖ and ‖Σ gᵢ‖ per tensor.

    Returns:
        The result of `combine_and_release`, and the norms, each (P,) float64, without the factor `scale`.
    """
    weights = alpha * len(gradients)
    concatenated = _Concatenated.of(gradients)
    if concatenated:
        _release(gradients)
        combined, squares = concatenated.combined_and_squares(weights)
    else:
        combined, sums = [], _Sums()
        for index, terms in enumerate(_release_terms(gradients, weights)):
            combined.append(_weighted_sum(terms, (sums, 2 * index)) if terms else None)
        squares = sums.result(2 * len(combined), scale.device).view(-1, 2)
    norms = squares.to(scale.device).sqrt() / scale.double()
    return combined, norms[:, 0], norms[:, 1]


def scale_(tensors: list[Tensor | None], factors: Tensor) -> list[Tensor | None]:
    """Tensors times their factors (P,). In place on the CPU; on a GPU, `tensors` are unchanged."""
    concatenated = _Concatenated.of([tensors])
    if concatenated:
        return concatenated.combined(factors.unsqueeze(1))
    for tensor, factor in zip(tensors, factors, strict=True):
        if tensor is not None:
            value = factor.to(tensor)
            for chunk in _chunks(tensor) if tensor.is_contiguous() else [tensor]:
                chunk.mul_(value)
    return tensors


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in the dtype of the arithmetic: float32, or a wider one."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def jacobian_of(gradients: list[list[Tensor | None]], scale: Tensor) -> Tensor:
    """Gradients as the rows of a matrix (n, elements of the tensors that an objective reaches).

    At least float32, without the factor `scale`.
    """
    columns = [torch.zeros(len(gradients), 0, device=scale.device)]  # float32: cat promotes to the widest dtype
    for tensors in zip(*gradients, strict=True):
        reached = [g for g in tensors if g is not None]
        if reached:
            zero = torch.zeros_like(reached[0])
            rows = [(zero if g is None else g).flatten() for g in tensors]
            columns.append(torch.stack(rows).to(scale.device))
    jacobian = torch.cat(columns, dim=1)
    return jacobian / scale.to(jacobian)


def as_tensors(vector: Tensor, gradients: list[list[Tensor | None]]) -> list[Tensor | None]:
    """A row of the Jacobian as tensors of the parameters' shapes; None where no objective reaches."""
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
    """Shortest c (n,) for which Σ cᵢ gᵢ is nearest to h, from the products ⟨gᵢ, h⟩ (n,)."""
    lengths = gramian.diagonal().sqrt()
    inverse = torch.where(lengths == 0, 0.0, 1 / lengths)
    cosines = gramian * inverse.outer(inverse)
    return inverse * (torch.linalg.pinv(cosines, rtol=1e-6, hermitian=True) @ (inverse * products.to(gramian)))


def machine_epsilon(gradients: Iterable[Tensor | None]) -> float:
    """Largest ε of the dtypes in which the arithmetic on `gradients` is done; 0 for no gradient."""
    dtypes = {torch.promote_types(g.dtype, torch.float32) for g in gradients if g is not None}
    return max((torch.finfo(dtype).eps for dtype in dtypes), default=0.0)


# --- on the CPU: tensor by tensor, a large one in chunks ---


def _products(gradients: list[list[Tensor | None]], device: torch.device) -> Tensor:
    """(P, n(n+1)/2) inner products of the pairs i ≤ j, float64."""
    pairs = [*itertools.combinations_with_replacement(range(len(gradients)), 2)]
    sums = _Sums()
    for index, tensors in enumerate(zip(*gradients, strict=True)):
        chunks_of = {i: _chunks(g) for i, g in enumerate(tensors) if g is not None}
        reached = [(index * len(pairs) + k, i, j) for k, (i, j) in enumerate(pairs) if {i, j} <= chunks_of.keys()]
        for chunks in zip(*chunks_of.values(), strict=True):
            squares = dict(zip(chunks_of, map(_square_sum, chunks), strict=True))
            dtype = functools.reduce(torch.promote_types, (square.dtype for square in squares.values()))
            chunk = {i: values.to(dtype) for i, values in zip(chunks_of, chunks, strict=True)}
            for slot, i, j in reached:
                sums.add(slot, squares[i] if i == j else (chunk[i] * chunk[j]).sum())
    return sums.result(len(gradients[0]) * len(pairs), device).view(-1, len(pairs))


class _Sums:
    """Sums of many () tensors in float64, each added to one of several slots."""

    def __init__(self) -> None:
        self._slots: list[int] = []
        self._values: list[Tensor] = []

    def add(self, slot: int, value: Tensor) -> None:
        self._slots.append(slot)
        self._values.append(value)

    def result(self, slots: int, device: torch.device) -> Tensor:
        """(slots,) float64."""
        sums = torch.zeros(slots, dtype=torch.float64, device=device)
        if not self._values:
            return sums
        values = torch.stack([value.to(device) for value in self._values]).double()
        return sums.index_add_(0, torch.tensor(self._slots, device=device), values)


def _square_sum(chunk: Tensor) -> Tensor:
    """‖x‖² () of a chunk on the CPU; a float64 where float32 would lose digits by underflow, or overflow."""
    square = (chunk * chunk).sum()
    # Above the lower bound, what underflows (1e-38 per element at most) is below the rounding error of the sum.
    in_range = square.dtype == torch.float64 or square.is_meta or 1e-24 < float(square) < 1e36
    return square if in_range else chunk.double().square().sum()


def _release(gradients: list[list[Tensor | None]]) -> None:
    for objective in gradients:
        objective[:] = [None] * len(objective)


def _release_terms(gradients: list[list[Tensor | None]], weights: Tensor) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Per parameter tensor: the gradients that are not None with their () weights, removed from their lists."""
    for index, row in enumerate(weights):
        terms = []
        for objective, weight in zip(gradients, row, strict=True):
            g, objective[index] = objective[index], None
            if g is not None:
                terms.append((g, weight))
        yield terms
        del terms


def _weighted_sum(terms: Sequence[tuple[Tensor, Tensor]], squares: "tuple[_Sums, int] | None" = None) -> Tensor:
    """h = Σ w·g of gradients of one shape and their () weights, in a new tensor.

    Arguments:
        squares: receives ‖h‖² in the slot given and ‖Σ g‖² in the next one.
    """
    first, weights = at_least_float32(terms[0][0]), [weight.to(at_least_float32(g)) for g, weight in terms]
    in_chunks = all(g.is_contiguous() for g, _ in terms)
    if in_chunks:
        h = torch.empty_like(first)
    else:  # such as channels last: h has the same memory format
        h = first * weights[0]
        for (g, _), weight in zip(terms[1:], weights[1:], strict=True):
            h.addcmul_(at_least_float32(g), weight)
    if in_chunks or squares is not None:
        for out, *chunks in zip(_chunks(h), *(_chunks(g) for g, _ in terms), strict=True):
            if in_chunks:
                torch.mul(chunks[0], weights[0], out=out)
                for chunk, weight in zip(chunks[1:], weights[1:], strict=True):
                    out.addcmul_(chunk, weight)
            if squares is not None:
                sums, slot = squares
                total = functools.reduce(torch.add, chunks)
                sums.add(slot, _square_sum(out))
                sums.add(slot + 1, _square_sum(total))
    return h


def _chunks(tensor: Tensor) -> tuple[Tensor, ...]:
    return at_least_float32(tensor).reshape(-1).split(CHUNK)


# --- on a GPU: one vector per objective ---


class _Concatenated:
    """Gradients of an encoder as one vector per objective, one tensor after another.

    Arguments:
        gradients: gradients of n objectives with respect to P tensors, on one device; None counts as zero.
    """

    def __init__(self, gradients: Sequence[Sequence[Tensor | None]]) -> None:
        self._like = [next((g for g in tensors if g is not None), None) for tensors in zip(*gradients, strict=True)]
        reached = [g for g in self._like if g is not None]
        dtype = functools.reduce(torch.promote_types, (g.dtype for g in reached), torch.float32)
        self._sizes = tuple(0 if g is None else g.numel() for g in self._like)
        self._lengths = _on_device(self._sizes, reached[0].device)
        self._vectors = [
            torch.cat(
                [
                    (torch.zeros_like(like) if g is None else g).reshape(-1).to(dtype)
                    for g, like in zip(objective, self._like, strict=True)
                    if like is not None
                ]
            )
            for objective in gradients
        ]

    @classmethod
    def of(cls, gradients: Sequence[Sequence[Tensor | None]]) -> "_Concatenated | None":
        """The gradients concatenated if they are on one GPU; None on the CPU, or if no tensor is reached."""
        reached = [g for objective in gradients for g in objective if g is not None]
        on_one_gpu = len({g.device for g in reached}) == 1 and reached[0].is_cuda
        return cls(gradients) if on_one_gpu else None

    def products(self) -> Tensor:
        """(P, n(n+1)/2) inner products of the pairs i ≤ j, float64."""
        pairs = itertools.combinations_with_replacement([vector.double() for vector in self._vectors], 2)
        return torch.stack([self._sums_per_tensor(a * b) for a, b in pairs], 1)

    def combined(self, weights: Tensor) -> list[Tensor | None]:
        """Σᵢ wᵢ gᵢ for weights (P, n), as views of one vector."""
        return self._split(self._weighted_sum(weights))

    def combined_and_squares(self, weights: Tensor) -> tuple[list[Tensor | None], Tensor]:
        """`combined`, and (P, 2) float64: ‖Σᵢ wᵢ gᵢ‖² and ‖Σᵢ gᵢ‖²."""
        h, total = self._weighted_sum(weights), functools.reduce(torch.add, self._vectors)
        squares = [self._sums_per_tensor(vector.double().square()) for vector in (h, total)]
        return self._split(h), torch.stack(squares, 1)

    def _weighted_sum(self, weights: Tensor) -> Tensor:
        total = self._vectors[0] * self._per_element(weights[:, 0])
        for vector, column in zip(self._vectors[1:], weights.T[1:], strict=True):
            total.addcmul_(vector, self._per_element(column))
        return total

    def _split(self, vector: Tensor) -> list[Tensor | None]:
        parts = iter(vector.split([size for size, g in zip(self._sizes, self._like, strict=True) if g is not None]))
        return [None if g is None else next(parts).view(g.shape) for g in self._like]

    def _per_element(self, values: Tensor) -> Tensor:
        """Repeat one value per tensor (P,) for each of its elements."""
        vector = self._vectors[0]
        return values.to(vector).repeat_interleave(self._lengths, output_size=len(vector))

    def _sums_per_tensor(self, vector: Tensor) -> Tensor:
        # `unsafe` leaves out a check of the lengths that waits for the device.
        return torch.segment_reduce(vector, "sum", lengths=self._lengths, unsafe=True)


@functools.lru_cache(maxsize=64)
def _on_device(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(sizes, device=device)  # once per encoder: the copy waits for the device
