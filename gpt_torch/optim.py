"""AdamW, with Muon for the matrices inside the blocks; minitensor/optim has the mathematics.

torch.optim.Muon updates one matrix at a time, always in bfloat16, and has to wait for the device before it can skip a
step. This one batches all matrices of a shape, in the engine's precision, and skips a step that is not finite on the
device, as AdamW does.

With FSDP each process holds some rows of every matrix and updates only those. The direction needs all rows: they are
gathered once for all matrices of a shape.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from gpt_torch.distributed import gather_rows, local_rows, shard_rows


class MuonAdamW(AdamW):
    """Muon for groups of kind "muon", AdamW for the others."""

    def __init__(self, groups: Iterable[dict[str, Any]], dtype: torch.dtype) -> None:
        super().__init__(groups, fused=True)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            if group["kind"] == "muon":
                for _, same_shape in groupby(sorted(group["params"], key=_shape), _shape):
                    self._muon_update(list(same_shape), group["lr"], group["momentum"], group["weight_decay"])
        return super().step(closure)  # AdamW skips parameters without a gradient

    def _muon_update(self, parameters: Sequence[Tensor], lr: float, momentum: float, decay: float) -> None:
        """Updates matrices of one shape (m, n), with Nesterov momentum."""
        first, (m, n) = parameters[0], parameters[0].shape
        gradients = stacked(p.grad for p in parameters)  # (K, m, n), or this process's rows
        old_buffers = stacked(self._momentum_buffer(p) for p in parameters)
        weights = stacked(parameters)
        buffers = old_buffers.lerp(gradients, 1.0 - momentum)
        direction = newton_schulz(gather_rows(gradients.lerp(buffers, momentum), first), self.dtype)
        updated = weights * (1.0 - lr * decay) - lr * math.sqrt(max(1.0, m / n)) * shard_rows(direction, first)
        if (nonfinite := getattr(self, "found_inf", None)) is not None:
            updated = torch.where(nonfinite > 0, weights, updated)
            buffers = torch.where(nonfinite > 0, old_buffers, buffers)
        for p, weight, buffer in zip(parameters, updated, buffers, strict=True):
            local_rows(p).copy_(weight)
            local_rows(self._momentum_buffer(p)).copy_(buffer)
            p.grad = None  # so that AdamW skips it

    def _momentum_buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


def newton_schulz(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Approximately U V' of each matrix U S V' in x (K, m, n): see minitensor/optim/muon.py."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = x if x.shape[1] <= x.shape[2] else x.mT
    y = (wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)).to(dtype)
    for _ in range(5):
        gram = y @ y.mT
        y = torch.baddbmm(y, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    y = y.to(x.dtype)
    result: Tensor = y if wide is x else y.mT
    return result


def stacked(tensors: Iterable[Any]) -> Tensor:
    return torch.stack([local_rows(tensor) for tensor in tensors])


def _shape(parameter: Tensor) -> tuple[int, ...]:
    return tuple(parameter.shape)
