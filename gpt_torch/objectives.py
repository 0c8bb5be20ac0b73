"""What a training step minimizes; gpt_numpy/objectives.py has the same functions, with their gradients by hand."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, minimum
from torch.nn import functional as F

from gpt_numpy.workshop.engine import AnyBatch, Batch, Examples
from gpt_torch.head import PIECE
from gpt_torch.model import GPT


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
        log_p = logits.log_softmax(-1)
        loss = loss + ((log_p.exp() * (log_p - log_r)).sum(-1) * kl_weights).sum()
    return loss


def preference(model: GPT, ids: Tensor, targets: Tensor, answer_mask: Tensor, reference: Tensor, beta: float) -> Tensor:
    """ids, targets and answer_mask: (P, 2, T), the chosen answer first; reference: (P, 2)."""
    P, _, T = ids.shape
    logits, _ = model(ids.reshape(2 * P, T))
    log_p = (log_probability(logits, targets.reshape(2 * P, T)).reshape(P, 2, T) * answer_mask).sum(-1)  # (P, 2)
    return F.cross_entropy((log_p - reference) * beta, torch.zeros(P, dtype=torch.int64, device=ids.device))


def log_probability(logits: Tensor, targets: Tensor) -> Tensor:
    """Of each target (B, T), from (B, T, V)."""
    losses = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), reduction="none")
    return -losses.reshape(*targets.shape)


def rows_at_once(batch: AnyBatch, classes: int) -> int:
    """As many as may have all their logits at once, for objectives that do not take them in pieces; 0: any number."""
    if isinstance(batch, Batch | Examples):
        return 0
    return max(1, PIECE // (batch.length * classes))


OBJECTIVES: dict[str, Callable[..., Any]] = {
    "cross_entropy": cross_entropy, "policy": policy, "preference": preference,
}  # fmt: skip
