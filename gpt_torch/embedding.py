"""Embeddings whose gradient is reproducible bit for bit.

    x[i]  = W[ids[i]]
    dW[v] = sum over all i with ids[i] = v of dx[i]

On a GPU, PyTorch's own kernels and compiled ones add dx[i] to a row by atomic operations, in an order that varies, and
the rounding of the sum varies with it. Here dW is a one-hot matrix times dx, or, if there are many rows, a segmented
sum after sorting by id; both add in a fixed order.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_ONE_HOT_ROWS = 1024  # rows up to which the product with a one-hot matrix (rows, N) is cheap


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
        with torch.autocast(dx.device.type, enabled=False):  # the sum stays in the dtype of dx
            return None, summed_by_row(ids.flatten(), dx.reshape(-1, dx.shape[-1]), ctx.rows)


def summed_by_row(ids: Tensor, dx: Tensor, rows: int) -> Tensor:
    """From ids (N,) and dx (N, C): dW (rows, C)."""
    if rows <= MAX_ONE_HOT_ROWS:
        return (torch.arange(rows, device=ids.device)[:, None] == ids).to(dx.dtype) @ dx
    ids, order = ids.sort(stable=True)
    ends = torch.searchsorted(ids, torch.arange(rows, device=ids.device), right=True)
    wide = dx[order].to(torch.promote_types(dx.dtype, torch.float32))  # a long sum in bfloat16 would lose most of it
    return torch.segment_reduce(wide, "sum", lengths=ends.diff(prepend=ends.new_zeros(1)), unsafe=True).to(dx.dtype)
