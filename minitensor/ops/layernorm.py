"""layer_norm: each row made mean 0 and variance 1, then scaled and shifted by learned numbers.

    mean           = 1/C sum_c x_c                          one row of C numbers
    rstd           = 1 / sqrt(1/C sum_c (x_c - mean)^2 + eps)
    x_hat_c        = (x_c - mean) rstd
    y_c            = x_hat_c w_c + b_c

    dx_hat_c       = dy_c w_c
    ∂x_hat_c/∂x_j  = rstd (1[c = j] - 1/C - 1/C x_hat_c x_hat_j)      through x itself, the mean, and rstd
    dx_j           = sum_c dx_hat_c ∂x_hat_c/∂x_j
                   = rstd (dx_hat_j - mean(dx_hat) - x_hat_j mean(dx_hat x_hat))
    dw_c           = sum over rows of dy_c x_hat_c
    db_c           = sum over rows of dy_c

The row is the last axis, or the last `axes` of them taken together. Every sum here, along a row or over rows, is a
product with a vector, for which BLAS needs one pass over memory: mean(dx_hat x_hat) = (dy x_hat) w / C.
"""

import numpy as np

from minitensor.arrays import Array, as_rows, sum_of_rows
from minitensor.core import Op, Saved

FAR = 1e4  # from 0: a hundred standard deviations, squared


def layer_norm_forward(
    x: Array, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5, axes: int = 1
) -> tuple[Array, Saved]:
    rows = as_rows(x, axes)  # (N, C)
    C = rows.shape[1]
    ones = np.ones(C, x.dtype)
    mean = rows @ ones / C  # (N,)
    x_hat = rows - mean[:, None]
    variance = np.square(x_hat) @ ones / C + eps
    if (np.square(mean) > FAR * variance).any():  # the mean's rounding error is not small beside the deviations
        x_hat -= (x_hat @ ones / C)[:, None]
        variance = np.square(x_hat) @ ones / C + eps
    rstd = 1.0 / np.sqrt(variance)[:, None]  # (N, 1)
    x_hat *= rstd
    y = x_hat if weight is None else x_hat * weight.ravel()
    if bias is not None:
        y = y + bias.ravel() if y is x_hat else np.add(y, bias.ravel(), out=y)
    return y.reshape(x.shape), (x_hat, rstd, weight, bias is not None, axes)


def layer_norm_backward(
    dy: Array, x_hat: Array, rstd: Array, weight: Array | None, has_bias: bool, axes: int
) -> tuple[Array, Array | None, Array | None]:
    shape, row, dy = dy.shape, dy.shape[dy.ndim - axes :], as_rows(dy, axes)
    C = x_hat.shape[1]
    w = np.ones(C, x_hat.dtype) if weight is None else weight.ravel()
    # y = x_hat * weight + bias
    dy_x_hat = dy * x_hat
    dbias = sum_of_rows(dy).reshape(row) if has_bias else None
    dweight = None if weight is None else sum_of_rows(dy_x_hat).reshape(row)
    # x_hat = (x - mean) * rstd, where mean and rstd depend on x too
    mean_dx_hat, mean_dx_hat_x_hat = (dy @ w / C)[:, None], (dy_x_hat @ w / C)[:, None]
    dx = dy * w
    dx -= mean_dx_hat
    dx -= np.multiply(x_hat, mean_dx_hat_x_hat, out=dy_x_hat)
    dx *= rstd
    return dx.reshape(shape), dweight, dbias


layer_norm = Op("layer_norm", layer_norm_forward, layer_norm_backward)
