"""attention: each position attends to others, and takes a weighted mean of their values.

T queries, U keys and U values, D numbers each; leading axes (batch B, heads H) go along. Three stages:

    scores     S_ij = c sum_d Q_id K_jd, c = 1/sqrt(D)      dQ_id = c sum_j dS_ij K_jd
               plus the mask: -inf where i may not see j    dK_jd = c sum_i dS_ij Q_id
    weights    P_ij = e^S_ij / sum_k e^S_ik                 dS_ij = P_ij (dP_ij - sum_k dP_ik P_ik)
    values     O_id = sum_j P_ij V_jd                       dP_ij = sum_d dO_id V_jd
                                                            dV_jd = sum_i P_ij dO_id

A masked score has weight 0, and so gradient 0. A row that may see one key alone has weight 1 there whatever the score,
so its gradient is 0 too. A row that may see nothing at all has weights 0 and output 0.

Each stage is an operation of its own, so that dS or dP can be read from a graph. `attention` is the three of them, one
after the other. It saves Q, K, V and P, and the mask of the dropout between P and V if there is one. Models use the
same computation in blocks of queries, which is faster: attention_blocked.py.
"""

import math

import numpy as np

from minitensor.arrays import Array
from minitensor.core import Op, Saved
from minitensor.ops.dropout import dropout_backward, dropout_forward

# ---- scores -----------------------------------------------------------------------------------------------------


def attention_scores_forward(
    q: Array,
    k: Array,
    mask: Array | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    offset: int = 0,
) -> tuple[Array, Saved]:
    """`mask` is boolean, True where i may see j, or a number to add to each score; `is_causal` shows i only j <= i.

    The rows of q are the queries from i = `offset` on.
    """
    scale = default_scale(q.shape[-1]) if scale is None else scale
    scores = (q * scale) @ k.swapaxes(-1, -2)  # (..., T, U)
    *_, T, U = scores.shape
    visible: Array | None = np.arange(offset, offset + T)[:, None] >= np.arange(U) if is_causal else None
    additive = mask is not None and mask.dtype != bool
    if mask is not None and additive:
        scores = scores + mask
    elif mask is not None:
        visible = mask if visible is None else visible & mask
    if visible is not None:
        first = 0 if mask is not None and not additive else offset  # where causal alone, all see the keys before
        np.copyto(scores[..., first:], -np.inf, where=~visible[..., first:])
    return scores, (q, k, scale, additive, visible)


def attention_scores_backward(
    dscores: Array, q: Array, k: Array, scale: float, additive: bool, visible: Array | None
) -> tuple[Array, Array, Array | None]:
    # scores = where(visible, (q * scale) @ k^T + mask, -inf)
    if visible is not None:
        dscores = np.where(visible, dscores, 0.0)
    dmask = dscores if additive else None
    dq = dscores @ k * scale
    dk = dscores.swapaxes(-1, -2) @ (q * scale)
    return dq, dk, dmask


def default_scale(D: int) -> float:
    return 1.0 / math.sqrt(D) if D else 1.0


# ---- weights ----------------------------------------------------------------------------------------------------


def attention_weights_forward(scores: Array) -> tuple[Array, Saved]:
    """Subtracting the largest score of a row changes only rounding. It is done where an exponential overflows
    or all of them nearly vanish, by the sum of that row alone."""
    ones, number = np.ones(scores.shape[-1], scores.dtype), np.finfo(scores.dtype)
    with np.errstate(over="ignore"):
        weights = np.exp(scores)
        sum_exp = weights @ ones  # faster than a sum over rows
    if (again := ~((sum_exp > math.sqrt(number.tiny)) & (sum_exp < np.inf))).any():
        rows = scores[again]
        weights[again] = np.exp(rows - rows.max(-1, keepdims=True, initial=number.min))  # finite in any row
        sum_exp = weights @ ones
    weights /= np.maximum(sum_exp, number.tiny)[..., None]  # a row that sees nothing stays 0
    return weights, (weights,)


def attention_weights_backward(dweights: Array, weights: Array) -> tuple[Array]:
    # weights = softmax(scores)
    dscores = dweights - np.vecdot(dweights, weights)[..., None]
    dscores *= weights
    return (dscores,)


# ---- values -----------------------------------------------------------------------------------------------------


def attention_values_forward(weights: Array, v: Array) -> tuple[Array, Saved]:
    return weights @ v, (weights, v)  # (..., T, D)


def attention_values_backward(dy: Array, weights: Array, v: Array) -> tuple[Array, Array]:
    # y = weights @ v
    dweights = dy @ v.swapaxes(-1, -2)
    dv = weights.swapaxes(-1, -2) @ dy
    return dweights, dv


# ---- all three --------------------------------------------------------------------------------------------------


def attention_forward(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    keep: Array | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    p: float = 0.0,
) -> tuple[Array, Saved]:
    """`keep`, if given, is the dropout mask of the weights, with probability `p` to drop."""
    scores, of_scores = attention_scores_forward(q, k, mask, is_causal=is_causal, scale=scale)
    weights, of_weights = attention_weights_forward(scores)
    dropped, of_dropout = (weights, None) if keep is None else dropout_forward(weights, keep, p=p)
    y, of_values = attention_values_forward(dropped, v)
    return y, (of_scores, of_weights, of_dropout, of_values)


def attention_backward(
    dy: Array, of_scores: Saved, of_weights: Saved, of_dropout: Saved | None, of_values: Saved
) -> tuple[Array, Array, Array, Array | None, None]:
    # y = dropped @ v
    dweights, dv = attention_values_backward(dy, *of_values)
    # dropped = dropout(weights)
    if of_dropout is not None:
        dweights, _ = dropout_backward(dweights, *of_dropout)
    # weights = softmax(scores)
    (dscores,) = attention_weights_backward(dweights, *of_weights)
    # scores = where(visible, (q * scale) @ k^T + mask, -inf)
    dq, dk, dmask = attention_scores_backward(dscores, *of_scores)
    return dq, dk, dv, dmask, None


attention_scores = Op("attention_scores", attention_scores_forward, attention_scores_backward)
attention_weights = Op("attention_weights", attention_weights_forward, attention_weights_backward)
attention_values = Op("attention_values", attention_values_forward, attention_values_backward)
attention = Op("attention", attention_forward, attention_backward)
