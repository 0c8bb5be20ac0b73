"""Arrays that cannot change, which is what a tensor holds; arrays as matrices, and taken a piece at a time."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from minitensor.core import Array


def from_outside(data: ArrayLike, dtype: DTypeLike | None = None) -> Array:
    """A read-only copy: whoever gave the data may change it later. Python's own floats become float32."""
    if dtype is None and _is_plain(data):
        array = np.array(data)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
    else:
        array = np.array(data, dtype)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"a tensor holds floats, integers or booleans, not {array.dtype} (given: {data!r:.60})")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    array.setflags(write=False)
    return array


def _is_plain(data: ArrayLike) -> bool:
    """Made of Python's numbers, and not of NumPy's, which bring their own dtype."""
    if isinstance(data, list | tuple):
        return all(map(_is_plain, data))
    return type(data) in (bool, int, float)


def as_rows(x: Array, axes: int = 1) -> Array:
    """x as a matrix: its last axis, or the last `axes` of them taken together, is a row, and all others count rows."""
    return x.reshape(math.prod(x.shape[: x.ndim - axes]), math.prod(x.shape[x.ndim - axes :]))


def pieces(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """Arrays of one shape, some entries at a time: formulas of many steps then find each piece still in the cache.

    What is written to must be contiguous, or it would be a copy that is written to.
    """
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, PIECE):
        yield tuple(array[start : start + PIECE] for array in flat)


# Entries of a piece: few enough for a cache, but so many that there are few calls of NumPy. Threads take turns in
# beginning and ending a call, and where calls are short they wait for each other most of the time.
PIECE = 1 << 18
