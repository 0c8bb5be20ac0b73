"""Reductions: many entries in, one out, along some axes (all of them by default).

    sum         y = sum_i x_i                        dx_i = dy
    mean        y = 1/n sum_i x_i                    dx_i = dy / n
    var         y = 1/(n-c) sum_i (x_i - mean)^2     dx_i = dy 2/(n-c) (x_i - mean)
    std         y = sqrt(var)                        dx_i = dy 1/(n-c) (x_i - mean) / y, 0 where y = 0
    max, min    y = the largest, the smallest        dx_i = dy / (how many attain it), 0 for the others
    logsumexp   y = log sum_i e^x_i                  dx_i = dy e^(x_i - y), the softmax

n is how many entries go into one, c the correction (1 for the variance of a sample). In var's Jacobian the mean's own
dependence on x drops out, because the deviations sum to zero.

Each forward keeps the reduced axes as axes of size 1 and drops them last. The backward puts them back (`reduced` is
the shape with them), and then dy and y broadcast against x.
"""

import math

import numpy as np

from minitensor.arrays import Array, total
from minitensor.core import Op, Saved

Shape = tuple[int, ...]
Axis = int | tuple[int, ...] | None


def _result(y: Array, axis: Axis, keepdims: bool) -> Array:
    return y if keepdims else np.squeeze(y, axis)


def sum_forward(x: Array, *, axis: Axis = None, keepdims: bool = False) -> tuple[Array, Saved]:
    y = x.sum(axis, np.int64, keepdims=True) if x.dtype.kind in "biu" else total(x, axis, keepdims=True)
    return _result(y, axis, keepdims), (x.shape, y.shape)


def sum_backward(dy: Array, shape: Shape, reduced: Shape) -> tuple[Array]:
    return (np.broadcast_to(dy.reshape(reduced), shape),)


def mean_forward(x: Array, *, axis: Axis = None, keepdims: bool = False) -> tuple[Array, Saved]:
    y = total(x, axis, keepdims=True)
    y /= _count(x.shape, y.shape)
    return _result(y, axis, keepdims), (x.shape, y.shape)


def mean_backward(dy: Array, shape: Shape, reduced: Shape) -> tuple[Array]:
    return (np.broadcast_to(dy.reshape(reduced) / (_count(shape, reduced) or 1), shape),)


def _count(shape: Shape, reduced: Shape) -> int:
    """How many entries of x went into one of y."""
    return math.prod(n for n, k in zip(shape, reduced, strict=True) if k != n)


def var_forward(x: Array, *, axis: Axis = None, correction: float = 1, keepdims: bool = False) -> tuple[Array, Saved]:
    variance, mean, n = _variance(x, axis, correction)
    return _result(variance.astype(x.dtype), axis, keepdims), (x, mean.astype(x.dtype), n)


def _variance(x: Array, axis: Axis, correction: float) -> tuple[Array, Array, float]:
    """In float64: float32 has too few digits if the mean is large, and its squares may vanish or overflow."""
    x = x.astype(np.result_type(x, np.float64))
    mean = x.mean(axis, keepdims=True)
    squares = np.square(x - mean).sum(axis, keepdims=True)
    n = _count(x.shape, mean.shape) - correction
    return squares / (n if n > 0 else 0.0), mean, n


def var_backward(dy: Array, x: Array, mean: Array, n: float) -> tuple[Array]:
    return (dy.reshape(mean.shape) * (2.0 / n if n else math.inf) * (x - mean),)


def std_forward(x: Array, *, axis: Axis = None, correction: float = 1, keepdims: bool = False) -> tuple[Array, Saved]:
    variance, mean, n = _variance(x, axis, correction)
    y = np.sqrt(variance).astype(x.dtype)
    return _result(y, axis, keepdims), (x, mean.astype(x.dtype), n, y)


def std_backward(dy: Array, x: Array, mean: Array, n: float, y: Array) -> tuple[Array]:
    # y = sqrt(var)
    dvar = dy.reshape(mean.shape) / np.where(y == 0, math.inf, 2.0 * y)
    return var_backward(dvar, x, mean, n)


def max_forward(x: Array, *, axis: Axis = None, keepdims: bool = False) -> tuple[Array, Saved]:
    y = x.max(axis, keepdims=True)
    return _result(y, axis, keepdims), (x, y)


def min_forward(x: Array, *, axis: Axis = None, keepdims: bool = False) -> tuple[Array, Saved]:
    y = x.min(axis, keepdims=True)
    return _result(y, axis, keepdims), (x, y)


def max_backward(dy: Array, x: Array, y: Array) -> tuple[Array]:
    attained = x == y
    axes = tuple(i for i, n in enumerate(y.shape) if n != x.shape[i])
    count = attained.sum(axes, keepdims=True).astype(dy.dtype)
    return (attained * (dy.reshape(y.shape) / count),)


min_backward = max_backward  # the same rule: the entries that attain y share its gradient


def logsumexp_forward(x: Array, *, axis: Axis = None, keepdims: bool = False) -> tuple[Array, Saved]:
    m = x.max(axis, keepdims=True, initial=-math.inf)
    m = np.where(np.isinf(m), 0.0, m)  # all -inf, or one inf: nothing to shift by
    y = m + np.log(total(np.exp(x - m), axis, keepdims=True))
    return _result(y, axis, keepdims), (x, y)


def logsumexp_backward(dy: Array, x: Array, y: Array) -> tuple[Array]:
    return (dy.reshape(y.shape) * np.exp(x - y),)


sum = Op("sum", sum_forward, sum_backward)
mean = Op("mean", mean_forward, mean_backward)
var = Op("var", var_forward, var_backward)
std = Op("std", std_forward, std_backward)
max = Op("max", max_forward, max_backward)
min = Op("min", min_forward, min_backward)
logsumexp = Op("logsumexp", logsumexp_forward, logsumexp_backward)
