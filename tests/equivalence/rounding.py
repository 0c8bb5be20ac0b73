"""What float32 does to a result, found in float64: how far rounding may move each number, with no float32 computed.

A calculation is repeated in torch's float64, and after every operation, forwards and backwards, each number is moved up
or down, by lot, by half a unit of float32's last place. What the result moves by is what nobody who computes in float32
can avoid. Six throws are looked at, and the largest move of a tensor counts, but at least that of its own last place.

A result may be off by 8 times that: there are many orders in which to add, and the throws may be lucky. Where numbers
cancel, the moves are large by themselves, and so no tolerance needs to be widened for such cases. Layer norm, gelu and
cross-entropy are computed in small steps here, since rounding within them counts too.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tests.equivalence.problems import Arrays

HALF_A_UNIT = 2.0**-24  # of float32's last place
TIMES = 8.0
LOTS = 99_991  # drawn ahead, since one by one they take longer than the operations; then the same ones again


def moves(*ways: Callable[[], Arrays]) -> dict[str, float]:
    """By how much, in norm, rounding to float32 moves each tensor that is computed, in one way or in several."""
    found: dict[str, float] = {}
    for way in ways:
        with rounding(unit=0.0):
            exact = way()  # in the same small steps: what they differ by from torch's own is no rounding
        for seed in range(6 // len(ways)):
            with rounding(seed):
                moved = way()
            for name, value in exact.items():
                move, least = float(np.linalg.norm(moved[name] - value)), HALF_A_UNIT * float(np.linalg.norm(value))
                found[name] = max(found.get(name, 0.0), move, least)
    return found


@contextmanager
def rounding(seed: int = 0, unit: float = HALF_A_UNIT) -> Iterator[None]:
    in_steps = {"layer_norm": layer_norm, "gelu": gelu, "cross_entropy": cross_entropy}
    with ExitStack() as stack:
        for name, function in in_steps.items():
            stack.enter_context(patch.object(F, name, function))
        if unit:
            stack.enter_context(Rounding(seed, unit))
        yield


@lru_cache(maxsize=8)
def lots(seed: int) -> torch.Tensor:
    """1 or -1."""
    return torch.randint(0, 2, (LOTS,), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2.0 - 1.0


class Rounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, seed: int, unit: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.factors = 1.0 + unit * lots(seed)
        self.taken = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is compiled; to keep torch.compile away would load all of it, for seconds

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        if operation.is_view or operation.overloadpacket.__name__ in EXACT:
            return result
        if isinstance(result, tuple):
            return tuple(map(self.move, result))
        return self.move(result)

    def move(self, x: Any) -> Any:
        if not (isinstance(x, torch.Tensor) and x.dtype == torch.float64):
            return x
        if self.taken + x.numel() > LOTS:
            self.taken = 0
        begin, self.taken = self.taken, self.taken + x.numel()
        return x.mul_(self.factors.as_strided(x.shape, x.stride(), begin))


# Operations that only take numbers elsewhere.
EXACT = {"clone", "_to_copy", "copy_", "cat", "where", "masked_fill", "gather", "index", "embedding", "zeros"}
EXACT |= {"empty", "ones", "ones_like", "zeros_like", "new_zeros", "full", "fill_", "lift_fresh", "_unsafe_view"}


def layer_norm(x: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    centered = x - x.mean(-1, keepdim=True)
    n = centered / (centered.square().mean(-1, keepdim=True) + eps).sqrt()
    return n * weight if bias is None else n * weight + bias


def gelu(x: Any, approximate: str = "none") -> Any:
    if approximate == "none":
        return 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0)))
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def cross_entropy(logits: Any, targets: Any) -> Any:
    logits, targets = logits[targets >= 0], targets[targets >= 0]
    below = logits - logits.detach().amax(-1, keepdim=True)
    return (below.exp().sum(-1).log() - below.gather(-1, targets[:, None])[:, 0]).mean()
