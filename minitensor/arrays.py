"""Arrays that cannot change: what a tensor holds, and how an array from outside becomes one."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from minitensor.op import Array


def read_only(array: Array) -> Array:
    array.setflags(write=False)
    return array


def from_outside(data: ArrayLike, dtype: DTypeLike | None = None) -> Array:
    """A read-only array; a copy, unless what is given cannot change either. Python's floats become float32."""
    if isinstance(data, np.ndarray) and _cannot_change(data) and dtype in (None, data.dtype):
        return data
    array = np.array(data, dtype)
    if dtype is None and array.dtype == np.float64 and not isinstance(data, np.ndarray | np.generic):
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"a tensor holds floats, integers or booleans, not {array.dtype} (given: {data!r:.60})")
    return read_only(array)


def _cannot_change(array: Any) -> bool:
    """Read-only, and so is every array that it is a view of."""
    while isinstance(array, np.ndarray):
        if array.flags.writeable:
            return False
        array = array.base
    return array is None
