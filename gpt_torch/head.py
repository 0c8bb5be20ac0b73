"""lm_head and its loss in one, a chunk at a time, so that the logits of all positions never exist at once."""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

PIECE = 1 << 24  # logits at a time


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """sum_n weights_n cross_entropy(weight x_n, targets_n), for x (N, C) and weight (V, C); without weights, the mean.

    targets: N ids, or (N, V) distributions. Where there are several pieces, the backward computes their logits again.
    """
    rows = max(1, PIECE // len(weight))
    if len(x) <= rows:
        return piece(x, weight, targets, weights)
    if weights is None:
        dtype = torch.promote_types(x.dtype, torch.float32)
        weights = torch.full((len(x),), 1.0 / len(x), dtype=dtype, device=x.device)
    # A view, since autocast would add up the gradients of a parameter in 16 bits.
    weight = weight.view_as(weight).to(torch.promote_types(weight.dtype, torch.float32))
    parts = zip(*(torch.split(a, rows) for a in (x, targets, weights)), strict=True)
    recomputed = partial(checkpoint, piece, use_reentrant=False, preserve_rng_state=False)
    return torch.stack([recomputed(x, weight, targets, w) for x, targets, w in parts]).sum()


def piece(x: Tensor, weight: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    logits = F.linear(x, weight)
    if weights is None:
        return F.cross_entropy(logits, targets)
    return (F.cross_entropy(logits, targets, reduction="none") * weights).sum()
