"""cross_entropy: how surprised the model is by the right answers, from its raw scores (logits).

    p_nv     = e^x_nv / sum_k e^x_nk                         x the logits: N rows, V classes
    loss_n   = - sum_v q_nv log p_nv                         q_n = onehot(target_n), or smoothed by s:
             = log sum_k e^x_nk - sum_v q_nv x_nv            q_n = (1 - s) onehot(target_n) + s/V
    y        = sum_n share_n loss_n                          share = 1 for "sum", 1/N for "mean"

    dloss_n  = dy share_n
    dx_nv    = dloss_n (p_nv - q_nv)                         softmax and logarithm cancel to a difference

Rows whose target is `ignore_index` have share 0, and "mean" divides by the number of the others.
From all logits of a row the largest is subtracted, which changes neither p nor the loss: nothing overflows, and where
the logits are large no digits are lost. The logits and two numbers a row are kept; the backward computes p again.
"""

import numpy as np

from minitensor.core import Array, Op


def cross_entropy_forward(
    logits: Array,
    targets: Array,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> tuple[Array, tuple[Array, Array, Array, Array, Array, float]]:
    V = logits.shape[-1]
    counted = targets != ignore_index
    outside = counted & ((targets < 0) | (targets >= V))
    if outside.any():
        raise IndexError(f"cross_entropy: target {targets[outside][0]} is not one of the {V} classes, 0 to {V - 1}")
    target = np.where(counted, targets, 0)[..., None]  # (..., 1)

    largest = logits.max(-1, keepdims=True)  # (..., 1)
    total = (np.exp(logits - largest) @ np.ones(V, logits.dtype))[..., None]  # (..., 1); faster than a sum over rows
    losses = (np.log(total) - (1.0 - label_smoothing) * (np.take_along_axis(logits, target, -1) - largest))[..., 0]
    if label_smoothing:
        losses = losses - label_smoothing * (logits - largest).mean(-1)
    losses = np.where(counted, losses, 0.0)

    share = counted.astype(logits.dtype)  # of each row in y
    if reduction == "none":
        y = losses
    elif reduction == "sum":
        y = losses.sum()
    elif reduction == "mean":
        count = int(counted.sum())
        y = losses.sum() / count
        share /= count or 1
    else:
        raise ValueError(f'cross_entropy: reduction is "mean", "sum" or "none", not {reduction!r}')
    return y, (logits, largest, total, target, share, label_smoothing)


def cross_entropy_backward(
    dy: Array, logits: Array, largest: Array, total: Array, target: Array, share: Array, label_smoothing: float
) -> tuple[Array, None]:
    dlosses = (dy * share)[..., None]
    # losses = log(total) - (1 - s) (logits[target] - largest) - s mean(logits - largest), in which largest cancels
    dlogits = logits - largest
    np.exp(dlogits, out=dlogits)
    dlogits *= dlosses / total
    if label_smoothing:
        dlogits -= dlosses * (label_smoothing / logits.shape[-1])
    at_target = np.take_along_axis(dlogits, target, -1) - dlosses * (1.0 - label_smoothing)
    np.put_along_axis(dlogits, target, at_target, -1)
    return dlogits, None


cross_entropy = Op("cross_entropy", cross_entropy_forward, cross_entropy_backward)
