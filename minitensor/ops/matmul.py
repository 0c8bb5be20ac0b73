"""matmul: the product of matrices, in all of NumPy's shapes.

    y_ij     = sum_k a_ik b_kj
    da_ik    = sum_j dy_ij b_kj         da = dy b^T
    db_kj    = sum_i a_ik dy_ij         db = a^T dy

There are three indices; each of these products sums over the one that is missing on its left side. A vector on the
left stands for a matrix of one row, on the right for one of one column; leading axes are a batch and broadcast.

One matrix b for a whole batch of a is the common case: then the batch is only more rows, and each product is one.
"""

import numpy as np

from minitensor.arrays import Array, as_rows
from minitensor.core import Op, Saved


def matmul_forward(a: Array, b: Array) -> tuple[Array, Saved]:
    if not a.ndim or not b.ndim or a.shape[-1] != b.shape[max(b.ndim - 2, 0)]:
        raise ValueError(
            f"matmul: {a.shape} @ {b.shape} do not fit: the last axis of the first goes with the last but one of the "
            "second, or with its only one"
        )
    if b.ndim == 2:
        return (as_rows(a) @ b).reshape(*a.shape[:-1], b.shape[1]), (a, b)
    return np.matmul(a, b), (a, b)


def matmul_backward(dy: Array, a: Array, b: Array) -> tuple[Array, Array]:
    if a.ndim == 1:
        dy = np.expand_dims(dy, -2 if b.ndim > 1 else -1)
    if b.ndim == 1:
        dy = np.expand_dims(dy, -1)
    rows = a[None, :] if a.ndim == 1 else a  # (..., i, k)
    columns = b[:, None] if b.ndim == 1 else b  # (..., k, j)

    # y = rows @ columns
    if columns.ndim == 2:
        da = (as_rows(dy) @ columns.T).reshape(rows.shape)
        db = as_rows(rows).T @ as_rows(dy)
    else:
        da = dy @ columns.swapaxes(-1, -2)
        db = rows.swapaxes(-1, -2) @ dy
    return da[..., 0, :] if a.ndim == 1 else da, db[..., 0] if b.ndim == 1 else db


matmul = Op("matmul", matmul_forward, matmul_backward)
