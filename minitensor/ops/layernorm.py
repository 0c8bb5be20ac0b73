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

The row is the last axis, or the last `axes` of them taken together.
"""

import numpy as np

from minitensor.op import Array, Op


def layer_norm_forward(
    x: Array, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5, axes: int = 1
) -> tuple[Array, tuple[Array, Array, Array | None, bool, int]]:
    row = tuple(range(-axes, 0))
    n = x - x.mean(row, keepdims=True)
    r = 1.0 / np.sqrt(np.square(n).mean(row, keepdims=True) + eps)
    n *= r
    y = n if weight is None else n * weight
    if bias is not None:
        y = y + bias if y is n else np.add(y, bias, out=y)
    return y, (n, r, weight, bias is not None, axes)


def layer_norm_backward(
    dy: Array, n: Array, r: Array, weight: Array | None, has_bias: bool, axes: int
) -> tuple[Array, Array | None, Array | None]:
    row = tuple(range(-axes, 0))
    others = tuple(range(dy.ndim - axes))
    # y = n * weight + bias
    dbias = dy.sum(others) if has_bias else None
    dweight = None if weight is None else (dy * n).sum(others)
    dn = dy if weight is None else dy * weight
    # n = (x - mean) * r, where mean and r depend on x too
    dx = dn - dn.mean(row, keepdims=True)
    dx -= n * (dn * n).mean(row, keepdims=True)
    dx *= r
    return dx, dweight, dbias


layer_norm = Op("layer_norm", layer_norm_forward, layer_norm_backward)
