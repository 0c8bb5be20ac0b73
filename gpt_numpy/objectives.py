"""What a training step minimizes. Each method of training is one of these, with other targets and weights.

z are the logits of a position, p = softmax(z), and onehot is 1 at its target. From each loss to d z:

    cross_entropy    sum_n w_n H(q_n, p_n), at temperature T
                     w_n (p_n - q_n) / T
    policy           - sum_n min(rho_n w_n, clip(rho_n) w_n)  +  sum_n v_n KL(p_n, r_n)
                     rho_n w_n (p_n - onehot_n), 0 where the clip holds  +  v_n p_n (log(p_n / r_n) - KL_n)
    preference       - log sigma(m), a mean over P pairs;  m = beta (log p/r of the chosen - log p/r of the rejected)
                     beta sigma(-m) (p - onehot) / P for the chosen, the negative of that for the rejected

In `policy`, rho_n = p_n[target] / its probability when the target was drawn. d rho = rho d log p[target], and
d log p[target] / d z = onehot - p; so where nothing is clipped d z = -w rho (onehot - p). The smaller of the two is the
clipped one, a constant, where rho > 1 + clip and w > 0, or rho < 1 - clip and w < 0.

In `preference`, the log of an answer's probability is a sum over its tokens, and -log sigma(m) = log(1 + e^-m) has the
derivative -sigma(-m). It is also the cross-entropy of two classes with the logits beta log(p/r), of which the first is
right; that is how it is computed.
"""

from collections.abc import Callable
from typing import Any

from gpt_numpy.model import GPT
from minitensor import Tensor, apply, minimum, zeros
from minitensor import functional as F
from minitensor.ops.kl_divergence import kl_divergence


def cross_entropy(
    model: GPT, ids: Tensor, targets: Tensor, weights: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    return model.loss(ids, targets, weights, temperature)


def policy(
    model: GPT, ids: Tensor, targets: Tensor, weights: Tensor, old: Tensor, clip: float,
    log_r: Tensor | None = None, kl_weights: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """ids, targets, weights, old and kl_weights: (B, T); log_r: (B, T, V)."""
    logits, _ = model(ids)
    ratio = (log_probability(logits, targets) - old).exp()
    loss = -minimum(ratio * weights, ratio.clamp(1.0 - clip, 1.0 + clip) * weights).sum()
    if log_r is not None:
        assert kl_weights is not None
        loss = loss + (apply(kl_divergence, logits, log_r=log_r.array) * kl_weights).sum()
    return loss


def preference(model: GPT, ids: Tensor, targets: Tensor, answer_mask: Tensor, reference: Tensor, beta: float) -> Tensor:
    """ids, targets and answer_mask: (P, 2, T), the chosen answer first; reference: (P, 2)."""
    P, _, T = ids.shape
    logits, _ = model(ids.reshape(2 * P, T))
    log_p = (log_probability(logits, targets.reshape(2 * P, T)).reshape(P, 2, T) * answer_mask).sum(-1)  # (P, 2)
    return F.cross_entropy((log_p - reference) * beta, zeros(P).long())


def log_probability(logits: Tensor, targets: Tensor) -> Tensor:
    """Of each target (B, T), from (B, T, V)."""
    losses = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), reduction="none")
    return -losses.reshape(*targets.shape)


OBJECTIVES: dict[str, Callable[..., Any]] = {
    "cross_entropy": cross_entropy, "policy": policy, "preference": preference,
}  # fmt: skip
