"""Arrays: read-only, with a shape or a dtype that fits, as matrices, and taken a piece at a time."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# ---- read-only --------------------------------------------------------------------------------------------------


def read_only(array: Any) -> Any:
    """The array itself, which cannot be written to any more, nor can the one that it is a view of."""
    array.setflags(write=False)
    if type(array.base) is np.ndarray:
        read_only(array.base)
    return array


def owned(array: Any) -> Any:
    """The array; or a copy, where it is in the memory of an array that from_numpy was given, and so may change."""
    base = array.base
    while type(base) is np.ndarray:
        base = base.base
    return array if base is None else read_only(array.copy())


def freeze(saved: Sequence[Any]) -> None:
    """Make the arrays in it read-only, so that a backward that writes to one is an error at once."""
    for part in saved:
        if type(part) is np.ndarray:
            part.setflags(write=False)
        elif type(part) in (tuple, list):
            freeze(part)


# ---- shapes and dtypes ------------------------------------------------------------------------------------------


def check_dtypes(name: str, arrays: Sequence[Array | None]) -> None:
    """An operation's floats are of one dtype."""
    first = None
    for array in arrays:
        if array is not None and array.dtype is not first and array.dtype.kind == "f":
            if first is not None and array.dtype != first:
                raise TypeError(f"{name}: inputs are {first} and {array.dtype}; convert one, x.to({str(first)!r})")
            first = array.dtype


def upstream(y: Array, gradient: Any) -> Array:
    """What a backward from y starts with: a copy of the gradient that is given, or 1 for a single number."""
    if gradient is None and y.size != 1:
        raise RuntimeError(
            f"backward: shape {y.shape} is not one number: reduce it, as by .sum(), or pass a gradient of that shape"
        )
    dy = np.array(1.0 if gradient is None else getattr(gradient, "array", gradient))
    if dy.dtype.kind not in "biuf":
        raise TypeError(f"backward: a gradient holds numbers, not {dy.dtype}")
    if gradient is not None and dy.shape != y.shape:
        raise RuntimeError(f"backward: the gradient has shape {dy.shape}, the tensor {y.shape}")
    return dy.astype(y.dtype).reshape(y.shape)


def unbroadcast(dx: Any, shape: tuple[int, ...], dtype: Any, name: str) -> Array:
    """The gradient of an array of this shape: summed over the axes along which broadcasting repeated it."""
    if dx is None:
        raise RuntimeError(f"{name} is None, but its input requires grad; pass it detached")
    dx = np.asarray(dx)  # NumPy turns results without axes into scalars
    if dx.dtype != dtype:
        raise RuntimeError(f"{name} is {dx.dtype}, its input is {dtype}")
    extra = dx.ndim - len(shape)
    if extra < 0 or any(n not in (1, m) for n, m in zip(shape, dx.shape[extra:], strict=True)):
        raise RuntimeError(f"{name} has shape {dx.shape}, its input has {shape}")
    repeated = tuple(i for i, m in enumerate(dx.shape) if i < extra or shape[i - extra] != m)
    return total(dx, repeated).reshape(shape)


def as_rows(x: Array, axes: int = 1) -> Array:
    """x as a matrix: the last `axes` axes are flattened into a row, and all others count the rows."""
    return x.reshape(math.prod(x.shape[: x.ndim - axes]), math.prod(x.shape[x.ndim - axes :]))


# ---- sums -------------------------------------------------------------------------------------------------------

ROWS = 4096  # that are added one after another


def total(x: Array, axis: int | tuple[int, ...] | None, keepdims: bool = False) -> Array:
    """The sum. NumPy adds neighbours in pairs, but rows one after another, which costs float32 a digit each time that
    there are ten times as many."""
    if x.dtype == np.float32 and x.size > ROWS:
        return np.asarray(x.sum(axis, np.float64, keepdims=keepdims).astype(np.float32))
    return np.asarray(x.sum(axis, keepdims=keepdims))


def sum_of_rows(x: Array) -> Array:
    """Of a matrix, by BLAS, which is faster."""
    if len(x) <= ROWS:
        return np.asarray(np.ones(len(x), x.dtype) @ x)
    return total(np.array([sum_of_rows(x[i : i + ROWS]) for i in range(0, len(x), ROWS)]), 0)


# ---- pieces -----------------------------------------------------------------------------------------------------

# Entries of a piece: few enough for a cache, but so many that there are few calls of NumPy. Threads take turns in
# beginning and ending a call, and where calls are short they wait for each other most of the time.
PIECE = 1 << 18


def pieces(read: Sequence[Array], written: Sequence[Array]) -> Iterator[tuple[Array, ...]]:
    """Arrays of one shape, some entries at a time: formulas of many steps then find each piece still in the cache."""
    if not all(array.flags.c_contiguous for array in written):
        raise ValueError("pieces: what is written to has to be contiguous, or a copy of it would be written to")
    flat = [array.reshape(-1) for array in (*read, *written)]
    for start in range(0, flat[0].size, PIECE):
        yield tuple(array[start : start + PIECE] for array in flat)
