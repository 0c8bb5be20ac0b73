"""cross_entropy: how surprised the model is by the right answers, from its raw scores (logits).

    p_nv     = e^x_nv / sum_k e^x_nk                         x the logits: N rows, V classes
    loss_n   = - sum_v q_nv log p_nv                         q_n = onehot(target_n), or smoothed by s:
             = log sum_k e^x_nk - sum_v q_nv x_nv            q_n = (1 - s) onehot(target_n) + s/V
    y        = sum_n scale_n loss_n                          scale = 1 for "sum", 1/N for "mean"

    dloss_n  = dy scale_n
    dx_nv    = dloss_n (p_nv - q_nv)                         softmax and logarithm cancel to a difference

Rows whose target is `ignore_index` have scale 0, and "mean" divides by the number of the others.
The largest logit of a row is subtracted from all, which changes neither p nor the loss: nothing overflows, and where
the logits are large no digits are lost. cross_entropy saves the logits and two numbers a row; its backward computes p
again.
"""

import numpy as np

from minitensor.arrays import Array
from minitensor.core import Op, Saved


def cross_entropy_forward(
    logits: Array,
    targets: Array,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> tuple[Array, Saved]:
    V = logits.shape[-1]
    mask = targets != ignore_index
    outside = mask & ((targets < 0) | (targets >= V))
    if outside.any():
        raise IndexError(f"cross_entropy: target {targets[outside][0]} is not one of the {V} classes, 0 to {V - 1}")
    target = np.where(mask, targets, 0)[..., None]  # (..., 1)

    max_logit = logits.max(-1, keepdims=True)  # (..., 1)
    # a product with ones is faster than a sum over rows
    sum_exp = (np.exp(logits - max_logit) @ np.ones(V, logits.dtype))[..., None]  # (..., 1)
    losses = (np.log(sum_exp) - (1.0 - label_smoothing) * (np.take_along_axis(logits, target, -1) - max_logit))[..., 0]
    if label_smoothing:
        losses = losses - label_smoothing * (logits - max_logit).mean(-1)
    losses = np.where(mask, losses, 0.0)

    scale = mask.astype(logits.dtype)  # of each row in y
    if reduction == "none":
        y = losses
    elif reduction == "sum":
        y = losses.sum()
    elif reduction == "mean":
        count = int(mask.sum())
        y = losses.sum() / count
        scale /= count or 1
    else:
        raise ValueError(f'cross_entropy: reduction is "mean", "sum" or "none", not {reduction!r}')
    return y, (logits, max_logit, sum_exp, target, scale, label_smoothing)


def cross_entropy_backward(
    dy: Array, logits: Array, max_logit: Array, sum_exp: Array, target: Array, scale: Array, label_smoothing: float
) -> tuple[Array, None]:
    dlosses = (dy * scale)[..., None]
    # losses = log(sum_exp) - (1 - s) (logits[target] - max_logit) - s mean(logits - max_logit): max_logit cancels
    dlogits = logits - max_logit
    np.exp(dlogits, out=dlogits)
    dlogits *= dlosses / sum_exp
    if label_smoothing:
        dlogits -= dlosses * (label_smoothing / logits.shape[-1])
    at_target = np.take_along_axis(dlogits, target, -1) - dlosses * (1.0 - label_smoothing)
    np.put_along_axis(dlogits, target, at_target, -1)
    return dlogits, None


cross_entropy = Op("cross_entropy", cross_entropy_forward, cross_entropy_backward)
