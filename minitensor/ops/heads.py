"""split_heads, merge_heads: from one row of numbers for each token to H heads of D numbers, and back.

    split_heads     q_bhtd = x_bt(hD + d)               dx_bt(hD + d)      = dq_bhtd
                    k_bhtd = x_bt(C + hD + d)           dx_bt(C + hD + d)  = dk_bhtd         C = H D
                    v_bhtd = x_bt(2C + hD + d)          dx_bt(2C + hD + d) = dv_bhtd
    merge_heads     y_bt(hD + d) = x_bhtd               dx_bhtd = dy_bt(hD + d)

B sequences of T tokens. Numbers change places, and a gradient goes back to the place of its number.
"""

import numpy as np

from minitensor.arrays import Array
from minitensor.core import Op, Saved


def split_heads_forward(x: Array, *, n_head: int) -> tuple[tuple[Array, ...], Saved]:
    B, T, C3 = x.shape
    return tuple(x.reshape(B, T, 3, n_head, C3 // (3 * n_head)).transpose(2, 0, 3, 1, 4)), ()  # each (B, H, T, D)


def split_heads_backward(dys: tuple[Array, ...]) -> tuple[Array]:
    B, H, T, D = dys[0].shape
    dx = np.empty((B, T, 3, H, D), dys[0].dtype)
    for i, dy in enumerate(dys):
        dx[:, :, i] = dy.swapaxes(1, 2)
    return (dx.reshape(B, T, 3 * H * D),)


def merge_heads_forward(x: Array) -> tuple[Array, Saved]:
    B, H, T, D = x.shape
    return x.swapaxes(1, 2).reshape(B, T, H * D), (H,)


def merge_heads_backward(dy: Array, n_head: int) -> tuple[Array]:
    B, T, C = dy.shape
    return (dy.reshape(B, T, n_head, C // n_head).swapaxes(1, 2),)


split_heads = Op("split_heads", split_heads_forward, split_heads_backward)
merge_heads = Op("merge_heads", merge_heads_forward, merge_heads_backward)
