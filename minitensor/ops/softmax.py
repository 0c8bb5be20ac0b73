"""softmax: scores in, weights out that are positive and sum to one; log_softmax: their logarithms.

softmax      y_i       = e^x_i / sum_k e^x_k                 along one axis
             ∂y_i/∂x_j = y_i (1[i = j] - y_j)
             dx_j      = sum_i dy_i ∂y_i/∂x_j
                       = y_j (dy_j - sum_i dy_i y_i)         one sum a row instead of a matrix

log_softmax  z_i       = x_i - log sum_k e^x_k
             ∂z_i/∂x_j = 1[i = j] - e^z_j
             dx_j      = dz_j - e^z_j sum_i dz_i

In both, dx sums to zero along the axis: adding a constant to all scores changes nothing.
"""

import numpy as np

from minitensor.arrays import Array
from minitensor.core import Op, Saved


def softmax_forward(x: Array, *, axis: int = -1) -> tuple[Array, Saved]:
    y = x - _largest(x, axis)  # the largest exponent is 0: nothing overflows
    np.exp(y, out=y)
    y /= y.sum(axis, keepdims=True)
    return y, (y, axis)


def softmax_backward(dy: Array, y: Array, axis: int) -> tuple[Array]:
    # y = exp(x) / sum(exp(x))
    return (y * (dy - (dy * y).sum(axis, keepdims=True)),)


def log_softmax_forward(x: Array, *, axis: int = -1) -> tuple[Array, Saved]:
    z = x - _largest(x, axis)
    z -= np.log(np.exp(z).sum(axis, keepdims=True))
    return z, (z, axis)


def log_softmax_backward(dz: Array, z: Array, axis: int) -> tuple[Array]:
    # z = x - log(sum(exp(x)))
    return (dz - np.exp(z) * dz.sum(axis, keepdims=True),)


def _largest(x: Array, axis: int) -> Array:
    return x.max(axis, keepdims=True, initial=-np.inf)  # type: ignore[no-any-return]  # the initial value serves empty rows


softmax = Op("softmax", softmax_forward, softmax_backward)
log_softmax = Op("log_softmax", log_softmax_forward, log_softmax_backward)
