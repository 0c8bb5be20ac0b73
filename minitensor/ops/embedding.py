"""embedding: a table of rows, read by id.

    y_n      = W[id_n]                       V rows of C numbers; N ids
    dW_v     = sum over n with id_n = v of dy_n

Reading row v is a product with a one-hot row, y = onehot(ids) W, so dW = onehot(ids)^T dy: a row gathers the
gradients of all the places that read it. Sorted by id those places stand together, and each row is one sum.
"""

import numpy as np

from minitensor.arrays import Array
from minitensor.core import Op, Saved


def embedding_forward(ids: Array, weight: Array, *, padding_idx: int | None = None) -> tuple[Array, Saved]:
    vocabulary = len(weight)
    if ids.size and (ids.min() < 0 or ids.max() >= vocabulary):  # NumPy alone would let -1 read the last row
        wrong = ids[(ids < 0) | (ids >= vocabulary)][0]
        raise IndexError(f"embedding: id {wrong} is outside the table, which has rows 0 to {vocabulary - 1}")
    return weight[ids], (ids, weight.shape, padding_idx)


def embedding_backward(dy: Array, ids: Array, shape: tuple[int, ...], padding_idx: int | None) -> tuple[None, Array]:
    dweight = np.zeros(shape, dy.dtype)
    # y = weight[ids]
    order = ids.argsort(None, kind="stable")
    used, starts = np.unique(ids.reshape(-1)[order], return_index=True)
    dweight[used] = np.add.reduceat(dy.reshape(ids.size, shape[-1])[order], starts)
    if padding_idx is not None:
        dweight[padding_idx] = 0.0
    return None, dweight


embedding = Op("embedding", embedding_forward, embedding_backward)
