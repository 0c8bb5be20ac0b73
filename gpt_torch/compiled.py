"""torch.compile: where its code is kept, its result against the eager one, and its errors."""

import math
import os
from collections.abc import Mapping
from contextlib import suppress

from torch import Tensor

from gpt_numpy.workshop.data.corpus import cache_folder
from gpt_numpy.workshop.errors import RunFailed


class CompiledWrongly(Exception):
    pass


def use_cache_folder() -> None:
    """Of the user, for compiled code. The compiler's own choice is a temporary folder, which a restart may empty."""
    with suppress(OSError, RunFailed):
        folder = cache_folder() / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def is_from_compiler(error: Exception) -> bool:
    """Whether torch.compile failed, rather than the model."""
    modules = CompiledWrongly.__module__, "torch._dynamo", "torch._inductor", "triton"
    return any(kind.__module__.startswith(modules) for kind in type(error).__mro__)


def first_difference(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], other: Mapping[str, Tensor], allowed: float
) -> str | None:
    """The first tensor whose error exceeds `allowed` times its norm plus three times the error of the other result.
    An expected tensor that is not finite is ignored: the loss scale of float16 may still be too large."""
    total = math.hypot(*(float(x.norm()) for name, x in expected.items() if x.ndim))
    for name, x in expected.items():
        size, error = float(x.norm()), float((found[name] - x).norm())
        limit = allowed * size + 3.0 * float((other[name] - x).norm()) + 1e-6 * total
        if math.isfinite(limit) and not error <= limit:
            return (
                f"{f'the gradient of {name}' if x.ndim else name} has a relative error of {error / (size or total):.1e}"
            )
    return None


def first_line(error: Exception) -> str:
    return [*str(error).strip().splitlines(), type(error).__name__][0]
