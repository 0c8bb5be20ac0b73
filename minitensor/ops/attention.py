"""attention: every position looks at others, and takes a weighted mean of what they hold.

T queries, U keys and U values, D numbers each; leading axes (batch B, heads H) go along. Three stages:

    scores     S_ij = c sum_d Q_id K_jd, c = 1/sqrt(D)      dQ_id = c sum_j dS_ij K_jd
               plus the mask: -inf where i may not see j    dK_jd = c sum_i dS_ij Q_id
    weights    P_ij = e^S_ij / sum_k e^S_ik                 dS_ij = P_ij (dP_ij - sum_k dP_ik P_ik)
    values     O_id = sum_j P_ij V_jd                       dP_ij = sum_d dO_id V_jd
                                                            dV_jd = sum_i P_ij dO_id

A masked score has weight 0, and so gradient 0. A row that may see one key alone has weight 1 there whatever the score,
so its gradient is 0 too. A row that may see nothing at all has weights 0 and output 0.

Each stage is an operation of its own, so that dS or dP can be read from a graph. `attention` does all three as one; it
keeps Q, K, V and P, and the mask of the dropout between P and V if there is one.
"""

import math

import numpy as np

from minitensor.op import Array, Op
from minitensor.ops.dropout import dropout_backward, dropout_forward
from minitensor.ops.softmax import softmax_backward

# ---- scores -----------------------------------------------------------------------------------------------------


def attention_scores_forward(
    q: Array, k: Array, mask: Array | None = None, *, is_causal: bool = False, scale: float | None = None
) -> tuple[Array, tuple[Array, Array, float, bool, Array | None]]:
    """`mask` is boolean, True where i may see j, or a number to add to each score; `is_causal` shows i only j <= i."""
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = (q * scale) @ k.swapaxes(-1, -2)  # (..., T, U)
    visible: Array | None = np.tri(*scores.shape[-2:], dtype=np.bool_) if is_causal else None
    learned = False
    if mask is not None and mask.dtype == bool:
        visible = mask if visible is None else visible & mask
    elif mask is not None:
        learned = True
        scores = scores + mask
    if visible is not None:
        scores = np.where(visible, scores, -np.inf)
    return scores, (q, k, scale, learned, visible)


def attention_scores_backward(
    dscores: Array, q: Array, k: Array, scale: float, learned: bool, visible: Array | None
) -> tuple[Array, Array, Array | None]:
    # scores = where(visible, (q * scale) @ k^T + mask, -inf)
    if visible is not None:
        dscores = np.where(visible, dscores, 0.0)
    dmask = dscores if learned else None
    dq = dscores @ k * scale
    dk = dscores.swapaxes(-1, -2) @ (q * scale)
    return dq, dk, dmask


# ---- weights ----------------------------------------------------------------------------------------------------


def attention_weights_forward(scores: Array) -> tuple[Array, tuple[Array]]:
    largest = scores.max(-1, keepdims=True, initial=-np.inf)
    weights = scores - np.where(largest == -np.inf, 0.0, largest)
    np.exp(weights, out=weights)
    total = weights.sum(-1, keepdims=True)
    weights /= np.where(total == 0, 1.0, total)  # a row that sees nothing stays 0
    return weights, (weights,)


def attention_weights_backward(dweights: Array, weights: Array) -> tuple[Array]:
    return softmax_backward(dweights, weights, -1)


# ---- values -----------------------------------------------------------------------------------------------------


def attention_values_forward(weights: Array, v: Array) -> tuple[Array, tuple[Array, Array]]:
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
) -> tuple[Array, tuple[Array, Array, Array, Array, Array | None, float, float, bool]]:
    """`keep`, if given, is the dropout mask of the weights, with chance `p` to drop."""
    scores, (_, _, scale, learned, _) = attention_scores_forward(q, k, mask, is_causal=is_causal, scale=scale)
    weights, _ = attention_weights_forward(scores)
    kept = weights if keep is None else dropout_forward(weights, keep, p=p)[0]
    y, _ = attention_values_forward(kept, v)
    return y, (q, k, v, weights, keep, p, scale, learned)


def attention_backward(
    dy: Array, q: Array, k: Array, v: Array, weights: Array, keep: Array | None, p: float, scale: float, learned: bool
) -> tuple[Array, Array, Array, Array | None, None]:
    kept = weights if keep is None else dropout_forward(weights, keep, p=p)[0]
    # y = kept @ v
    dkept, dv = attention_values_backward(dy, kept, v)
    # kept = dropout(weights)
    dweights = dkept if keep is None else dropout_backward(dkept, keep, p)[0]
    # weights = softmax(scores)
    (dscores,) = attention_weights_backward(dweights, weights)
    # scores = (q * scale) @ k^T + mask; where a score is masked its weight is 0, so dscores is 0 already
    dq, dk, dmask = attention_scores_backward(dscores, q, k, scale, learned, visible=None)
    return dq, dk, dv, dmask, None


attention_scores = Op("attention_scores", attention_scores_forward, attention_scores_backward)
attention_weights = Op("attention_weights", attention_weights_forward, attention_weights_backward)
attention_values = Op("attention_values", attention_values_forward, attention_values_backward)
attention = Op("attention", attention_forward, attention_backward)
