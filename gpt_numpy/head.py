"""lm_head and its loss in one, a chunk at a time, so that the logits of all positions never exist at once."""

from minitensor import Tensor, apply, is_grad_enabled
from minitensor.ops.linear_cross_entropy import linear_cross_entropy as op


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """sum_n weights_n cross_entropy(weight x_n, targets_n), for x (N, C) and weight (V, C); without weights, the mean.

    targets: N ids, or (N, V) distributions.
    """
    w = None if weights is None else weights.array
    return apply(op, x, weight, targets=targets.array, weights=w, with_gradients=is_grad_enabled())
