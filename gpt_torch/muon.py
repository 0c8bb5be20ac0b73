"""AdamW, with Muon for the matrices inside the blocks. The mathematics is in minitensor/optim.

torch.optim.Muon takes one matrix at a time, always in bfloat16, and has to wait for the device before it can leave a
step out. Here matrices of one shape are one product, in the numbers that the engine multiplies in, and a step that is
not sound is left out on the device, as AdamW does it.

Where each process has some rows of every matrix, it keeps and changes those alone. Only the direction needs all rows:
they are gathered, once for all matrices of a shape.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from gpt_torch.distributed import all_rows, mine, own_rows


class MuonAdamW(AdamW):
    """Muon for the groups of the kind "hidden", AdamW for all others."""

    def __init__(self, groups: Iterable[dict[str, Any]], dtype: torch.dtype) -> None:
        super().__init__(groups, fused=True)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            if group["kind"] == "hidden":
                for _, alike in groupby(sorted(group["params"], key=_shape), _shape):
                    self._turn(list(alike), group["lr"], group["momentum"], group["weight_decay"])
        return super().step(closure)  # a parameter without a gradient is none of its business

    def _turn(self, parameters: Sequence[Tensor], lr: float, momentum: float, decay: float) -> None:
        """A step of Muon for matrices (m, n) of one shape, with Nesterov's momentum."""
        one, (m, n) = parameters[0], parameters[0].shape
        gradients = stacked(p.grad for p in parameters)  # (K, m, n), or this process's part of the m rows
        before = stacked(self._memory(p) for p in parameters)
        weights = stacked(parameters)
        buffers = before.lerp(gradients, 1.0 - momentum)
        direction = newton_schulz(all_rows(gradients.lerp(buffers, momentum), one), self.dtype)
        stepped = weights * (1.0 - lr * decay) - lr * math.sqrt(max(1.0, m / n)) * own_rows(direction, one)
        if (not_sound := getattr(self, "found_inf", None)) is not None:
            stepped = torch.where(not_sound > 0, weights, stepped)
            buffers = torch.where(not_sound > 0, before, buffers)
        for p, weight, buffer in zip(parameters, stepped, buffers, strict=True):
            mine(p).copy_(weight)
            mine(self._memory(p)).copy_(buffer)
            p.grad = None  # used up

    def _memory(self, parameter: Tensor) -> Tensor:
        kept = self.state[parameter]
        if not kept:
            kept["momentum_buffer"] = torch.zeros_like(parameter)
        memory: Tensor = kept["momentum_buffer"]
        return memory


def newton_schulz(x: Tensor, dtype: torch.dtype) -> Tensor:
    """About U V' of each matrix U S V' (K, m, n): see minitensor/optim/muon.py."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = x if x.shape[1] <= x.shape[2] else x.mT
    y = (wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)).to(dtype)
    for _ in range(5):
        gram = y @ y.mT
        y = torch.baddbmm(y, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    y = y.to(x.dtype)
    turned: Tensor = y if wide is x else y.mT
    return turned


def stacked(tensors: Iterable[Any]) -> Tensor:
    return torch.stack([mine(tensor) for tensor in tensors])


def _shape(parameter: Tensor) -> tuple[int, ...]:
    return tuple(parameter.shape)
