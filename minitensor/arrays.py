"""Arrays that cannot change: what a tensor holds, and how numbers from outside become one."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from minitensor.op import Array


def read_only(array: Array) -> Array:
    """The array itself, read-only from now on, and so is what it is a view of."""
    part: Any = array
    while isinstance(part, np.ndarray):
        part.setflags(write=False)
        part = part.base
    return array


def from_outside(data: ArrayLike, dtype: DTypeLike | None = None) -> Array:
    """A read-only copy: whoever gave the data may change it later. Python's own floats become float32."""
    if dtype is None and _is_plain(data):
        array = np.array(data)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
    else:
        array = np.array(data, dtype)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"a tensor holds floats, integers or booleans, not {array.dtype} (given: {data!r:.60})")
    return read_only(array.astype(array.dtype.newbyteorder("="), copy=False))


def _is_plain(data: ArrayLike) -> bool:
    """Made of Python's numbers, and not of NumPy's, which bring their own dtype."""
    if isinstance(data, list | tuple):
        return all(map(_is_plain, data))
    return type(data) in (bool, int, float)
