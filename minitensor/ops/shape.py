"""Operations that move entries without changing them: a backward moves each gradient back to where its entry was.

    reshape, squeeze, unsqueeze     dy in the old shape
    transpose, permute              dy with the axes put back
    expand                          dy as it is: the engine sums what expanding repeated
    getitem                         dy in the places that were read, 0 elsewhere; a place read twice gets both
    cat, stack, split               dy cut up, or joined
    masked_fill, tril, triu         dy where the entry was kept, 0 elsewhere

Where NumPy can give a view, both directions are views, and nothing is copied.
"""

import itertools
from typing import Any

import numpy as np

from minitensor.arrays import Array
from minitensor.core import Op, Saved

Shape = tuple[int, ...]

# ---- the same entries in the same order -------------------------------------------------------------------------


def reshape_forward(x: Array, *, shape: Shape) -> tuple[Array, Saved]:
    return x.reshape(shape), (x.shape,)


def squeeze_forward(x: Array, *, axis: int | Shape | None = None) -> tuple[Array, Saved]:
    return np.squeeze(x, axis), (x.shape,)


def unsqueeze_forward(x: Array, *, axis: int) -> tuple[Array, Saved]:
    return np.expand_dims(x, axis), (x.shape,)


def reshape_backward(dy: Array, shape: Shape) -> tuple[Array]:
    return (dy.reshape(shape),)


squeeze_backward = unsqueeze_backward = reshape_backward

reshape = Op("reshape", reshape_forward, reshape_backward)
squeeze = Op("squeeze", squeeze_forward, squeeze_backward)
unsqueeze = Op("unsqueeze", unsqueeze_forward, unsqueeze_backward)

# ---- the same entries, axes in another order --------------------------------------------------------------------


def transpose_forward(x: Array, *, axis0: int, axis1: int) -> tuple[Array, Saved]:
    return x.swapaxes(axis0, axis1), (axis0, axis1)


def transpose_backward(dy: Array, axis0: int, axis1: int) -> tuple[Array]:
    return (dy.swapaxes(axis0, axis1),)


def permute_forward(x: Array, *, axes: Shape) -> tuple[Array, Saved]:
    return x.transpose(axes), (tuple(a % x.ndim for a in axes),)


def permute_backward(dy: Array, axes: Shape) -> tuple[Array]:
    # axis i of y is axis axes[i] of x, so the way back is the inverse permutation
    return (dy.transpose(np.argsort(axes)),)


transpose = Op("transpose", transpose_forward, transpose_backward)
permute = Op("permute", permute_forward, permute_backward)

# ---- repeating and picking --------------------------------------------------------------------------------------


def expand_forward(x: Array, *, shape: Shape) -> tuple[Array, Saved]:
    return np.broadcast_to(x, shape), ()


def expand_backward(dy: Array) -> tuple[Array]:
    return (dy,)


def getitem_forward(x: Array, *, index: Any) -> tuple[Array, Saved]:
    return x[index], (x.shape, index)


def getitem_backward(dy: Array, shape: Shape, index: Any) -> tuple[Array]:
    dx = np.zeros(shape, dy.dtype)
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(part, np.ndarray) and part.dtype != bool for part in parts):
        np.add.at(dx, index, dy)  # an array of indices may name a place twice: += for each
    else:
        dx[index] = dy
    return (dx,)


expand = Op("expand", expand_forward, expand_backward)
getitem = Op("getitem", getitem_forward, getitem_backward)

# ---- joining and cutting ----------------------------------------------------------------------------------------


def cat_forward(*xs: Array, axis: int = 0) -> tuple[Array, Saved]:
    return np.concatenate(xs, axis), (tuple(x.shape[axis] for x in xs), axis)


def cat_backward(dy: Array, sizes: Shape, axis: int) -> tuple[Array, ...]:
    return _cut(dy, sizes, axis)


def split_forward(x: Array, *, sizes: Shape, axis: int = 0) -> tuple[tuple[Array, ...], Saved]:
    return _cut(x, sizes, axis), (axis,)


def split_backward(dys: tuple[Array, ...], axis: int) -> tuple[Array]:
    return (np.concatenate(dys, axis),)


def _cut(x: Array, sizes: Shape, axis: int) -> tuple[Array, ...]:
    """x in parts of these sizes along an axis."""
    ends = itertools.pairwise(itertools.accumulate(sizes, initial=0))
    before = (slice(None),) * (axis % x.ndim)
    return tuple(x[*before, start:end] for start, end in ends)


def stack_forward(*xs: Array, axis: int = 0) -> tuple[Array, Saved]:
    return np.stack(xs, axis), (axis,)


def stack_backward(dy: Array, axis: int) -> tuple[Array, ...]:
    return tuple(np.moveaxis(dy, axis, 0))


cat = Op("cat", cat_forward, cat_backward)
split = Op("split", split_forward, split_backward)
stack = Op("stack", stack_forward, stack_backward)

# ---- blanking out -----------------------------------------------------------------------------------------------


def masked_fill_forward(x: Array, mask: Array, *, value: float) -> tuple[Array, Saved]:
    return np.where(mask, value, x), (mask,)


def masked_fill_backward(dy: Array, mask: Array) -> tuple[Array, None]:
    return np.where(mask, 0.0, dy), None


def tril_forward(x: Array, *, diagonal: int = 0) -> tuple[Array, Saved]:
    return np.tril(x, diagonal), (diagonal,)


def tril_backward(dy: Array, diagonal: int) -> tuple[Array]:
    return (np.tril(dy, diagonal),)


def triu_forward(x: Array, *, diagonal: int = 0) -> tuple[Array, Saved]:
    return np.triu(x, diagonal), (diagonal,)


def triu_backward(dy: Array, diagonal: int) -> tuple[Array]:
    return (np.triu(dy, diagonal),)


masked_fill = Op("masked_fill", masked_fill_forward, masked_fill_backward)
tril = Op("tril", tril_forward, tril_backward)
triu = Op("triu", triu_forward, triu_backward)
