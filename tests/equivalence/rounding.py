"""The rounding errors of float32, estimated in float64 without computing in float32.

A computation is repeated in torch's float64, and after every operation, in forward and backward, each number is moved
up or down, at random, by half a unit in the last place of float32. The change of the result is an error that float32
cannot avoid. The largest of six such changes counts for each tensor, or the rounding of its own entries if larger.

A result may be off by 8 times that, since sums can be taken in any order, and six random changes may be small by
chance. Where numbers cancel, the changes are large, so that no tolerance has to be widened for these cases. Layer norm,
gelu and cross-entropy are computed in elementary steps, since rounding errors within them count too.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, lru_cache
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tests.equivalence.problems import Arrays

HALF_ULP = 2.0**-24  # half a unit in the last place of float32, relative
TOLERANCE = 8.0  # in rounding errors
SIGNS = 99_991  # drawn in advance, since drawing them one by one would dominate the run time, and reused in a cycle


def rounding_errors(*computations: Callable[[], Arrays]) -> dict[str, float]:
    """The norm of the rounding error of each tensor in float32, the largest over one or several computations of it."""
    found: dict[str, float] = {}
    for i, compute in enumerate(computations):
        with rounding(unit=0.0):
            exact = compute()  # in the same elementary steps, so that only rounding differs
        for seed in range(i, 6, len(computations)):  # others for each, since two may be the same computation
            with rounding(seed):
                rounded = compute()
            for name, value in exact.items():
                error, least = float(np.linalg.norm(rounded[name] - value)), HALF_ULP * float(np.linalg.norm(value))
                found[name] = max(found.get(name, 0.0), error, least)
    return found


@contextmanager
def rounding(seed: int = 0, unit: float = HALF_ULP) -> Iterator[None]:
    replacements = {"layer_norm": layer_norm, "gelu": gelu, "cross_entropy": cross_entropy}
    with ExitStack() as stack:
        for name, function in replacements.items():
            stack.enter_context(patch.object(F, name, function))
        if unit:
            stack.enter_context(Rounding(seed, unit))
        yield


@lru_cache(maxsize=8)
def random_factors(seed: int, unit: float) -> torch.Tensor:
    """Each 1 + unit or 1 - unit."""
    signs = (
        torch.randint(0, 2, (SIGNS,), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2.0 - 1.0
    )
    return 1.0 + unit * signs


@cache
def is_exact(operation: Any) -> bool:
    """Whether it only copies numbers."""
    return operation.is_view or operation.overloadpacket.__name__ in EXACT


class Rounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, seed: int, unit: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.factors = random_factors(seed, unit)
        self.taken = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and skipping would import torch.compile, which takes seconds

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        if is_exact(operation):
            return result
        if isinstance(result, tuple):
            return tuple(map(self.perturb, result))
        return self.perturb(result)

    def perturb(self, x: Any) -> Any:
        if not (isinstance(x, torch.Tensor) and x.dtype == torch.float64):
            return x
        if self.taken + x.numel() > SIGNS:
            self.taken = 0
        begin, self.taken = self.taken, self.taken + x.numel()
        return x.mul_(self.factors.as_strided(x.shape, x.stride(), begin))


# Operations that only copy numbers.
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
