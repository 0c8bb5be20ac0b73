"""layer_norm: each row made mean 0 and variance 1, then scaled and shifted by learned numbers.

    m        = 1/C sum_c x_c                          one row of C numbers
    r        = 1 / sqrt(1/C sum_c (x_c - m)^2 + eps)
    n_c      = (x_c - m) r                            the normalised row
    y_c      = n_c w_c + b_c

    dn_c     = dy_c w_c
    ∂n_c/∂x_j = r (1[c = j] - 1/C - 1/C n_c n_j)      through x itself, through m, through r
    dx_j     = sum_c dn_c ∂n_c/∂x_j
             = r (dn_j - mean(dn) - n_j mean(dn n))
    dw_c     = sum over rows of dy_c n_c
    db_c     = sum over rows of dy_c

The row is the last axis, or the last `axes` of them taken together. Every sum here, along a row or over rows, is a
product with a vector, for which BLAS needs one pass over memory: mean(dn n) = (dy n) w / C.
"""

import numpy as np

from minitensor.arrays import as_rows
from minitensor.core import Array, Op


def layer_norm_forward(
    x: Array, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5, axes: int = 1
) -> tuple[Array, tuple[Array, Array, Array | None, bool, int]]:
    rows = as_rows(x, axes)  # (N, C)
    C = rows.shape[1]
    along_row = np.ones(C, x.dtype)
    n = rows - (rows @ along_row / C)[:, None]
    r = 1.0 / np.sqrt(np.square(n) @ along_row / C + eps)[:, None]  # (N, 1)
    n *= r
    y = n if weight is None else n * weight.ravel()
    if bias is not None:
        y = y + bias.ravel() if y is n else np.add(y, bias.ravel(), out=y)
    return y.reshape(x.shape), (n, r, weight, bias is not None, axes)


def layer_norm_backward(
    dy: Array, n: Array, r: Array, weight: Array | None, has_bias: bool, axes: int
) -> tuple[Array, Array | None, Array | None]:
    shape, row, dy = dy.shape, dy.shape[dy.ndim - axes :], as_rows(dy, axes)
    w = np.ones(n.shape[1], n.dtype) if weight is None else weight.ravel()
    over_rows = np.ones(len(n), n.dtype)
    # y = n * weight + bias
    dy_n = dy * n
    dbias = (over_rows @ dy).reshape(row) if has_bias else None
    dweight = None if weight is None else (over_rows @ dy_n).reshape(row)
    # n = (x - mean) * r, where mean and r depend on x too
    mean_dn, mean_dn_n = (dy @ w / len(w))[:, None], (dy_n @ w / len(w))[:, None]
    dx = dy * w
    dx -= mean_dn
    dx -= np.multiply(n, mean_dn_n, out=dy_n)
    dx *= r
    return dx.reshape(shape), dweight, dbias


layer_norm = Op("layer_norm", layer_norm_forward, layer_norm_backward)
