"""Embeddings whose gradient is the same, bit for bit, each time.

    x[i]  = W[ids[i]]
    dW[v] = sum over all i with ids[i] = v of dx[i]

On a GPU, PyTorch and what it compiles let thousands of threads add their dx[i] to one row as they come, in any order,
and in float32 another order is another sum. Here a row is the product of ones and zeros with dx, or, where there are
many rows, a sum over neighbours after sorting; both add in one order.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST = 1024  # rows up to which the product is cheap: N ones and zeros for each


class Embedding(nn.Embedding):
    def forward(self, ids: Tensor) -> Tensor:
        x: Tensor = Rows.apply(ids, self.weight)
        return x


class Rows(torch.autograd.Function):
    @staticmethod
    def forward(ids: Tensor, weight: Tensor) -> Tensor:
        return F.embedding(ids, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ids, weight = inputs
        ctx.save_for_backward(ids)
        ctx.rows = len(weight)

    @staticmethod
    def backward(ctx: Any, dx: Tensor) -> tuple[None, Tensor]:
        (ids,) = ctx.saved_tensors
        with torch.autocast(dx.device.type, enabled=False):  # a sum, not to be rounded to 16 bits
            return None, summed_by_row(ids.flatten(), dx.reshape(-1, dx.shape[-1]), ctx.rows)


def summed_by_row(ids: Tensor, dx: Tensor, rows: int) -> Tensor:
    """From ids (N,) and dx (N, C): dW (rows, C)."""
    if rows <= MOST:
        return (torch.arange(rows, device=ids.device)[:, None] == ids).to(dx.dtype) @ dx
    ids, order = ids.sort(stable=True)
    ends = torch.searchsorted(ids, torch.arange(rows, device=ids.device), right=True)
    return torch.segment_reduce(dx[order], "sum", lengths=ends.diff(prepend=ends.new_zeros(1)), unsafe=True)
