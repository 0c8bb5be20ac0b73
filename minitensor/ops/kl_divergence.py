"""kl_divergence: how far the distribution that logits stand for is from a fixed one, exact over all V classes.

    p_v      = e^z_v / sum_k e^z_k                   z the logits; r the fixed distribution, given as log r
    y        = KL(p, r) = sum_v p_v log(p_v / r_v)   one number for each row; 0 where p = r, above 0 elsewhere

    ∂y/∂p_v  = log(p_v / r_v) + 1
    ∂p_v/∂z_u = p_v (1[u = v] - p_u)                 as in softmax.py
    dz_u     = dy sum_v ∂y/∂p_v ∂p_v/∂z_u
             = dy p_u (log(p_u / r_u) - y)           since sum_v p_v = 1, both ones cancel

The two distributions may not be swapped: KL(r, p) has the gradient p - r, that of a cross-entropy with r as its target.
KL(p, r) is the expectation of log(p / r) under p, so it asks a policy that draws from p to stay where r is likely.
"""

import numpy as np

from minitensor.arrays import Array
from minitensor.core import Op, Saved


def kl_divergence_forward(z: Array, *, log_r: Array) -> tuple[Array, Saved]:
    """z and log_r: (..., V)."""
    log_p = z - z.max(-1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    p, difference = np.exp(log_p), log_p - np.asarray(log_r, z.dtype)
    y = (p * difference).sum(-1)
    return y, (p, difference, y)


def kl_divergence_backward(dy: Array, p: Array, difference: Array, y: Array) -> tuple[Array]:
    return (dy[..., None] * p * (difference - y[..., None]),)


kl_divergence = Op("kl_divergence", kl_divergence_forward, kl_divergence_backward)
