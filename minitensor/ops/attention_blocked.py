"""attention, some queries at a time: the stages of attention.py, faster for reasons that change nothing but rounding.

blocks     Causal queries up to i see no key after i: their products end there, and no score is computed that is
           masked for all queries of a block.
memory     The weights of all blocks take memory of T^2 / 2. Above 512 queries the backward computes them again, block
           by block: then all that grows with T grows like T. A dropout mask is drawn again, too.
layout     Where there are several blocks, their results are put together with the heads of a token side by side,
           which is the order that a model needs next. Gradients are added up in the order that they come in.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from minitensor.arrays import Array
from minitensor.core import Op, Saved
from minitensor.ops.attention import (
    attention_scores_backward,
    attention_scores_forward,
    attention_values_backward,
    attention_values_forward,
    attention_weights_backward,
    attention_weights_forward,
    default_scale,
)  # fmt: skip
from minitensor.ops.dropout import Draws, dropout_backward, dropout_forward

BLOCK = 64  # queries
SAVED = 512  # queries, up to which the weights are saved; for more the backward computes them again


def attention_blocked_forward(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    keep: Array | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    p: float = 0.0,
    draws: Draws | None = None,
) -> tuple[Array, Saved]:
    """`keep` is the dropout mask of the weights, with probability `p` to drop; `draws` draws it by blocks instead."""
    (*_, T, D), (*_, U, _) = q.shape, k.shape
    scale = default_scale(D) if scale is None else scale
    additive = mask is not None and mask.dtype != bool  # then dmask is made at once, without blocks
    how = mask, is_causal, scale
    random = draws.generator if draws else None
    weights: list[Array | None] = []  # of each block
    y = None
    for i, j in _blocks(T, U, is_causal and not additive):
        weights_ij = _weights(q, k, i, j, *how)
        keep_ij = _keep(keep, random, i, j, weights_ij, p)
        dropped = weights_ij if keep_ij is None else dropout_forward(weights_ij, keep_ij, p=p)[0]
        y_i, _ = attention_values_forward(dropped, v[..., j, :])
        weights.append(weights_ij if T <= SAVED else None)
        y = _put(y, i, y_i, T)
    assert y is not None
    return y, (q, k, v, weights, keep, draws, p, how, additive)


def attention_blocked_backward(
    dy: Array,
    q: Array,
    k: Array,
    v: Array,
    weights: list[Array | None],
    keep: Array | None,
    draws: Draws | None,
    p: float,
    how: tuple[Any, ...],
    additive: bool,
) -> tuple[Array | None, Array | None, Array | None, Array | None, None]:
    T, U, (_, is_causal, scale) = q.shape[-2], k.shape[-2], how
    random = draws.again() if draws else None
    dq = dk = dv = dmask = None
    for (i, j), kept in zip(_blocks(T, U, is_causal and not additive), weights, strict=True):
        weights_ij = _weights(q, k, i, j, *how) if kept is None else kept
        keep_ij = _keep(keep, random, i, j, weights_ij, p)
        dropped = weights_ij if keep_ij is None else dropout_forward(weights_ij, keep_ij, p=p)[0]
        # y = dropped @ v
        ddropped, dv_j = attention_values_backward(dy[..., i, :], dropped, v[..., j, :])
        # dropped = dropout(weights)
        dweights = ddropped if keep_ij is None else dropout_backward(ddropped, keep_ij, p)[0]
        # weights = softmax(scores)
        (dscores,) = attention_weights_backward(dweights, weights_ij)
        # scores = (q * scale) @ k^T + mask; where a score is masked its weight is 0, so dscores is 0 already
        dq_i, dk_j, dmask = attention_scores_backward(
            dscores, q[..., i, :], k[..., j, :], scale, additive, visible=None
        )
        dq, dk, dv = _add(dq, i, dq_i, T), _add(dk, j, dk_j, U), _add(dv, j, dv_j, U)
    return dq, dk, dv, dmask, None


def _weights(q: Array, k: Array, i: slice, j: slice, mask: Array | None, is_causal: bool, scale: float) -> Array:
    """Of queries i for keys j; the same numbers in the backward as in the forward."""
    T, U = q.shape[-2], k.shape[-2]
    mask_ij = None if mask is None else np.broadcast_to(mask, (*mask.shape[:-2], T, U))[..., i, j]
    scores, _ = attention_scores_forward(
        q[..., i, :], k[..., j, :], mask_ij, is_causal=is_causal, scale=scale, offset=i.start
    )
    weights, _ = attention_weights_forward(scores)
    return weights


def _keep(
    keep: Array | None, random: np.random.Generator | None, i: slice, j: slice, weights: Array, p: float
) -> Array | None:
    """Which weights of a block dropout keeps."""
    if random is not None:
        return random.random(weights.shape, np.float32) >= p
    return None if keep is None else keep[..., i, j]


def _blocks(T: int, U: int, is_causal: bool) -> Iterator[tuple[slice, slice]]:
    """Blocks of queries i, and the keys j that at least one of them may see."""
    size = BLOCK if is_causal else max(T, 1)
    for start in range(0, max(T, 1), size):
        end = min(start + size, T)
        yield slice(start, end), slice(0, min(end, U) if is_causal else U)


def _put(total: Array | None, block: slice, part: Array, rows: int) -> Array:
    """Write `part` into the rows `block` of the total (B, H, rows, D); in memory it is (B, rows, H, D)."""
    *batch, some, D = part.shape
    if some == rows:
        return part
    if total is None:
        total = np.empty((*batch[:-1], rows, *batch[-1:], D), part.dtype)
        total = total.swapaxes(-2, -3) if batch else total
    total[..., block, :] = part
    return total


def _add(total: Array | None, block: slice, part: Array, rows: int) -> Array:
    """Add `part` to the rows `block` of the total (B, H, rows, D)."""
    *batch, some, D = part.shape
    if total is None and some == rows:
        return part
    total = np.zeros((*batch, rows, D), part.dtype) if total is None else total
    total[..., block, :] += part
    return total


attention_blocked = Op("attention_blocked", attention_blocked_forward, attention_blocked_backward)
