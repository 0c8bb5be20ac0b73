"""linear_cross_entropy: logits and their loss in one, a few rows at a time, so that not all logits exist at once.

    z_nv   = sum_c x_nc W_vc                 x (N, C) hidden states, W (V, C)
    p_n    = softmax(z_n)
    loss_n = - sum_v q_nv log p_nv           q_n = onehot(target_n), or any distribution over the V classes
    y      = sum_n w_n loss_n                w_n the weight of a row: 1/N for the mean, 0 leaves a row out

    dz_nv  = dy w_n (p_nv - q_nv)            as in cross_entropy.py: sum_v q_nv = 1
    dx_nc  = sum_v dz_nv W_vc
    dW_vc  = sum_n dz_nv x_nc

y is one number, and so is dy: a factor of all gradients. So the forward can compute them for dy = 1 while it has the
logits of a piece, and the backward only multiplies. That takes N C + V C numbers; saved logits would take N V, which is
3 GB for 16,384 rows and 50,257 classes.
"""

import numpy as np

from minitensor.arrays import Array
from minitensor.core import Op, Saved

PIECE = 1 << 24  # logits at a time


def linear_cross_entropy_forward(
    x: Array, weight: Array, *, targets: Array, weights: Array | None = None, with_gradients: bool = True
) -> tuple[Array, Saved]:
    """targets: N ids, or (N, V) distributions. Without weights y is the mean; without gradients it has no backward."""
    (N, _), V, dtype = x.shape, len(weight), x.dtype
    w = np.ones(N, dtype) / N if weights is None else weights.astype(dtype, copy=False)
    by_id = targets.ndim == 1
    if by_id and ((targets < 0) | (targets >= V)).any():
        raise IndexError(f"linear_cross_entropy: a target is not one of the {V} classes, 0 to {V - 1}")
    y, ones = 0.0, np.ones(V, dtype)
    dx, dweight = (np.empty_like(x), np.zeros_like(weight)) if with_gradients else (None, None)
    rows = max(1, min(N, PIECE // V))
    logits = np.empty((rows, V), dtype)
    for start in range(0, N, rows):
        part = slice(start, start + rows)
        z = np.matmul(x[part], weight.T, out=logits[: N - start])  # (rows, V)
        z -= z.max(-1, keepdims=True)
        target = (np.arange(len(z)), targets[part]) if by_id else None
        expected = z[target] if target else np.einsum("nv,nv->n", targets[part], z)  # sum_v q_nv z_nv
        p = np.exp(z, out=z)
        sum_exp = p @ ones
        y += float(w[part] @ (np.log(sum_exp) - expected))
        if dx is not None and dweight is not None:
            dz = np.multiply(p, (w[part] / sum_exp)[:, None], out=p)  # w p
            if target:
                dz[target] -= w[part]
            else:
                dz -= w[part, None] * targets[part]
            np.matmul(dz, weight, out=dx[part])
            dweight += dz.T @ x[part]
    return np.asarray(y, dtype), (dx, dweight)


def linear_cross_entropy_backward(dy: Array, dx: Array, dweight: Array) -> tuple[Array, Array]:
    return dy * dx, dy * dweight


linear_cross_entropy = Op("linear_cross_entropy", linear_cross_entropy_forward, linear_cross_entropy_backward)
