"""matmul: the product of matrices, in all of NumPy's shapes.

    Y_ij     = sum_k A_ik B_kj
    dA_ik    = sum_j dY_ij B_kj         dA = dY B^T
    dB_kj    = sum_i A_ik dY_ij         dB = A^T dY

Of the three indices, each product sums over the one that its result does not have. A vector on the left stands for
a matrix of one row, on the right of one column; leading axes are a batch and broadcast.
"""

import math

import numpy as np

from minitensor.op import Array, Op


def matmul_forward(a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    return np.matmul(a, b), (a, b)


def matmul_backward(dy: Array, a: Array, b: Array) -> tuple[Array, Array]:
    if a.ndim == 1:
        dy = np.expand_dims(dy, -2 if b.ndim > 1 else -1)
    if b.ndim == 1:
        dy = np.expand_dims(dy, -1)
    rows = a[None, :] if a.ndim == 1 else a  # (..., i, k)
    columns = b[:, None] if b.ndim == 1 else b  # (..., k, j)

    da = dy @ columns.swapaxes(-1, -2)
    if columns.ndim == 2:  # one matrix for the whole batch: the batch is only more rows
        n = math.prod(rows.shape[:-1])
        db = rows.reshape(n, rows.shape[-1]).T @ dy.reshape(n, dy.shape[-1])
    else:
        db = rows.swapaxes(-1, -2) @ dy
    return da[..., 0, :] if a.ndim == 1 else da, db[..., 0] if b.ndim == 1 else db


matmul = Op("matmul", matmul_forward, matmul_backward)
