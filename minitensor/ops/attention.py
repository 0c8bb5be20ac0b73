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
from collections.abc import Iterator

import numpy as np

from minitensor.core import Array, Op
from minitensor.ops.dropout import dropout_backward, dropout_forward

# ---- scores -----------------------------------------------------------------------------------------------------


def attention_scores_forward(
    q: Array,
    k: Array,
    mask: Array | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    first: int = 0,
) -> tuple[Array, tuple[Array, Array, float, bool, Array | None]]:
    """`mask` is boolean, True where i may see j, or a number to add to each score; `is_causal` shows i only j <= i.

    The rows of q are the queries from i = `first` on.
    """
    scale = usual_scale(q.shape[-1]) if scale is None else scale
    scores = (q * scale) @ k.swapaxes(-1, -2)  # (..., T, U)
    *_, T, U = scores.shape
    visible: Array | None = np.arange(first, first + T)[:, None] >= np.arange(U) if is_causal else None
    learned = False
    if mask is not None and mask.dtype == bool:
        visible = mask if visible is None else visible & mask
    elif mask is not None:
        learned = True
        scores = scores + mask
    if visible is not None:
        np.copyto(scores, -np.inf, where=~visible)
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


def usual_scale(D: int) -> float:
    return 1.0 / math.sqrt(D) if D else 1.0


# ---- weights ----------------------------------------------------------------------------------------------------


def attention_weights_forward(scores: Array, *, small: bool = False) -> tuple[Array, tuple[Array]]:
    """`small` says that no exponential of a score overflows, so that none needs to be made smaller first."""
    if small:
        weights = np.exp(scores)
    else:
        weights = scores - scores.max(-1, keepdims=True, initial=np.finfo(scores.dtype).min)  # finite in any row
        np.exp(weights, out=weights)
    total = (weights @ np.ones(weights.shape[-1], weights.dtype))[..., None]  # faster than a sum over rows
    weights /= np.maximum(total, np.finfo(total.dtype).tiny)  # a row that sees nothing stays 0
    return weights, (weights,)


def attention_weights_backward(dweights: Array, weights: Array) -> tuple[Array]:
    # weights = softmax(scores)
    dscores = dweights - np.vecdot(dweights, weights)[..., None]
    dscores *= weights
    return (dscores,)


# ---- values -----------------------------------------------------------------------------------------------------


def attention_values_forward(weights: Array, v: Array) -> tuple[Array, tuple[Array, Array]]:
    return weights @ v, (weights, v)  # (..., T, D)


def attention_values_backward(dy: Array, weights: Array, v: Array) -> tuple[Array, Array]:
    # y = weights @ v
    dweights = dy @ v.swapaxes(-1, -2)
    dv = weights.swapaxes(-1, -2) @ dy
    return dweights, dv


# ---- all three --------------------------------------------------------------------------------------------------
#
# The same stages, some queries at a time. It is faster, for three reasons that change nothing but rounding:
#
#   blocks     Causal queries up to i see no key after i: their products end there, and what is masked for all of
#              them is never computed.
#   small      |S_ij| <= c |Q_i| |K_j|. Where the longest of both are short, no e^S_ij can overflow, and the largest of
#              each row need not be looked for.
#   together   Where there are several blocks, what they give is put together with the heads of a token side by side,
#              as a model wants them next.


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
) -> tuple[Array, tuple[Array, Array, Array, list[Array], Array | None, float, float, bool, bool]]:
    """`keep`, if given, is the dropout mask of the weights, with chance `p` to drop."""
    (*_, T, D), (*_, U, _) = q.shape, k.shape
    scale = usual_scale(D) if scale is None else scale
    learned = mask is not None and mask.dtype != bool  # then dmask is made at once, without blocks
    small = T > 1 and not learned and _small(q, k, scale)  # in a single row the largest is found sooner
    weights, y = [], []  # of each block
    for i, j in _blocks(T, U, is_causal and not learned):
        mask_ij = None if mask is None else np.broadcast_to(mask, (*mask.shape[:-2], T, U))[..., i, j]
        scores, _ = attention_scores_forward(
            q[..., i, :], k[..., j, :], mask_ij, is_causal=is_causal, scale=scale, first=i.start
        )
        weights_ij, _ = attention_weights_forward(scores, small=small)
        kept = weights_ij if keep is None else dropout_forward(weights_ij, keep[..., i, j], p=p)[0]
        y_i, _ = attention_values_forward(kept, v[..., j, :])
        weights.append(weights_ij)
        y.append((i, y_i))
    return _together(y, T), (q, k, v, weights, keep, p, scale, learned, is_causal)


def attention_backward(
    dy: Array,
    q: Array,
    k: Array,
    v: Array,
    weights: list[Array],
    keep: Array | None,
    p: float,
    scale: float,
    learned: bool,
    is_causal: bool,
) -> tuple[Array, Array, Array, Array | None, None]:
    T, U = q.shape[-2], k.shape[-2]
    dq, dk, dv, dmask = [], [], [], None
    for (i, j), weights_ij in zip(_blocks(T, U, is_causal and not learned), weights, strict=True):
        keep_ij = None if keep is None else keep[..., i, j]
        kept = weights_ij if keep_ij is None else dropout_forward(weights_ij, keep_ij, p=p)[0]
        # y = kept @ v
        dkept, dv_j = attention_values_backward(dy[..., i, :], kept, v[..., j, :])
        # kept = dropout(weights)
        dweights = dkept if keep_ij is None else dropout_backward(dkept, keep_ij, p)[0]
        # weights = softmax(scores)
        (dscores,) = attention_weights_backward(dweights, weights_ij)
        # scores = (q * scale) @ k^T + mask; where a score is masked its weight is 0, so dscores is 0 already
        dq_i, dk_j, dmask = attention_scores_backward(dscores, q[..., i, :], k[..., j, :], scale, learned, visible=None)
        dq.append((i, dq_i))
        dk.append((j, dk_j))
        dv.append((j, dv_j))
    return _together(dq, T), _together(dk, U), _together(dv, U), dmask, None


def _blocks(T: int, U: int, is_causal: bool) -> Iterator[tuple[slice, slice]]:
    """Queries i that are taken together, and the keys j that one of them at least may see."""
    size = BLOCK if is_causal else max(T, 1)
    for start in range(0, max(T, 1), size):
        end = min(start + size, T)
        yield slice(start, end), slice(0, min(end, U) if is_causal else U)


BLOCK = 64  # queries


def _together(parts: list[tuple[slice, Array]], rows: int) -> Array:
    """The sum of parts, each for some of so many rows: (B, H, rows, D), in memory (B, rows, H, D)."""
    *batch, some, D = parts[0][1].shape
    if len(parts) == 1 and some == rows:
        return parts[0][1]
    whole = np.zeros((*batch[:-1], rows, *batch[-1:], D), parts[0][1].dtype)
    whole = whole.swapaxes(-2, -3) if batch else whole
    for place, part in parts:
        whole[..., place, :] += part
    return whole


def _small(q: Array, k: Array, scale: float) -> bool:
    """Whether no score is so large that a sum of exponentials could overflow."""
    number, U, D = np.finfo(q.dtype), *k.shape[-2:]
    with np.errstate(over="ignore"):  # infinite lengths are not small
        squares = [float(np.vecdot(x, x).max(initial=0.0)) + D * float(number.tiny) for x in (q, k)]
    return abs(scale) * math.sqrt(math.prod(squares)) <= math.log(number.max) - math.log(max(U, 1)) - 1.0


attention_scores = Op("attention_scores", attention_scores_forward, attention_scores_backward)
attention_weights = Op("attention_weights", attention_weights_forward, attention_weights_backward)
attention_values = Op("attention_values", attention_values_forward, attention_values_backward)
attention = Op("attention", attention_forward, attention_backward)
