"""Arrays as matrices, and taken a piece at a time."""

import math
from collections.abc import Iterator, Sequence

from minitensor.core import Array


def as_rows(x: Array, axes: int = 1) -> Array:
    """x as a matrix: its last axis, or the last `axes` of them taken together, is a row, and all others count rows."""
    return x.reshape(math.prod(x.shape[: x.ndim - axes]), math.prod(x.shape[x.ndim - axes :]))


def pieces(read: Sequence[Array], written: Sequence[Array]) -> Iterator[tuple[Array, ...]]:
    """Arrays of one shape, some entries at a time: formulas of many steps then find each piece still in the cache."""
    if not all(array.flags.c_contiguous for array in written):
        raise ValueError("pieces: what is written to has to be contiguous, or a copy of it would be written to")
    flat = [array.reshape(-1) for array in (*read, *written)]
    for start in range(0, flat[0].size, PIECE):
        yield tuple(array[start : start + PIECE] for array in flat)


# Entries of a piece: few enough for a cache, but so many that there are few calls of NumPy. Threads take turns in
# beginning and ending a call, and where calls are short they wait for each other most of the time.
PIECE = 1 << 18
