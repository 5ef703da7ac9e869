"""Trace and largest eigenvalue of the covariance of many long vectors, of which few are in memory at a time."""

import math
import tempfile
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mmpareto.errors import InputError

PIECE = 4096
COLUMNS = 1 << 20  # of all vectors, in memory at once: 256 MiB of 64 in float32


class Spread:
    """The sample covariance C = Σᵢ (gᵢ − ḡ)(gᵢ − ḡ)ᵀ / (N − 1) of N vectors of P numbers, without its P × P entries.

    Its trace comes of the stream of vectors, by Welford's update (Technometrics 1962) of the mean and of
    M = Σᵢ ‖gᵢ − ḡ‖²: tr C = M / (N − 1). Its largest eigenvalue is that of the N × N Gram matrix of the centred vectors
    over N − 1, as X Xᵀ and Xᵀ X have the same eigenvalues but zeros; it is summed over blocks of columns.

    Memory: three vectors, and `COLUMNS` numbers of each of the N. Disk: all N · P numbers, in a file without a name
    among the system's temporary ones (TMPDIR) that is gone with this object.

    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed with this object, see `close`)
        self._mean: Tensor | None = None
        self._step: Tensor | None = None  # kept: fresh memory costs more than the subtraction
        self._squares = 0.0
        self._norms = 0.0
        self.count = 0

    def add(self, vector: Tensor) -> None:
        """Take up one more vector, (P,) of any floating-point type.

        Raises:
            InputError: the disk is full.
        """
        self.count += 1
        if self._mean is None or self._step is None:
            self._mean, self._step = torch.zeros_like(vector), torch.empty_like(vector)
        torch.sub(vector, self._mean, out=self._step)
        self._mean.add_(self._step, alpha=1 / self.count)
        # ⟨g − old mean, g − new mean⟩, as the latter is the former times (N − 1) / N.
        self._squares += _square(self._step) * (self.count - 1) / self.count
        self._norms += math.sqrt(_square(vector))
        try:
            self._file.write(vector.cpu().numpy().data)
        except OSError as error:
            raise InputError(
                f"the gradients do not fit into {tempfile.gettempdir()} ({error.strerror}): set TMPDIR to a folder "
                "with more room, or give fewer --batches."
            ) from error

    @property
    def mean_norm(self) -> float:
        """The mean of the vectors' norms."""
        return self._norms / self.count

    @property
    def trace(self) -> float:
        """The sum of the variances of all P numbers; needs N ≥ 2."""
        return self._squares / (self.count - 1)

    def largest_eigenvalue(self) -> float:
        """The variance along the direction in which it is largest, NaN of vectors that are not finite; needs N ≥ 2."""
        gram = self.gram()
        return float(np.linalg.eigvalsh(gram)[-1]) / (self.count - 1) if np.isfinite(gram).all() else math.nan

    def gram(self) -> np.ndarray:
        """(N, N) inner products of the centred vectors, float64; each block is multiplied in the vectors' own type."""
        assert self._mean is not None
        self._file.flush()
        size = len(self._mean)
        rows = np.memmap(self._file, dtype=_numpy_type(self._mean), mode="r", shape=(self.count, size))
        total = torch.zeros(self.count, self.count, dtype=torch.float64)
        for start in range(0, size, COLUMNS):
            block = torch.from_numpy(np.array(rows[:, start : start + COLUMNS]))
            block -= block.mean(0)
            total += block @ block.T
        return total.numpy()

    def close(self) -> None:
        """Give the disk's room back."""
        self._file.close()


def flat(tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    """(P,): one tensor after the other; zeros in place of None, in the shape of `like`."""
    pairs = zip(tensors, like, strict=True)
    return torch.cat([(torch.zeros_like(other) if one is None else one).detach().reshape(-1) for one, other in pairs])


def _square(vector: Tensor) -> float:
    """‖x‖², summed in float64 over pieces: over millions of numbers, float32 is off by a thousandth."""
    whole = len(vector) // PIECE * PIECE
    pieces = torch.linalg.vector_norm(vector[:whole].view(-1, PIECE), dim=1).double().square().sum()
    return (pieces + torch.linalg.vector_norm(vector[whole:]).double().square()).item()


def _numpy_type(tensor: Tensor) -> np.dtype:
    return torch.zeros((), dtype=tensor.dtype).numpy().dtype
