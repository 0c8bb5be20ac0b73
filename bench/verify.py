"""The check before any timing: the subjects compute the same numbers."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gpt_numpy.workshop.errors import RunFailed

CLOSE = 1e-4  # float32, with different orders of summation
STEPS = 2


def same_steps(subjects: Mapping[str, Callable[[], tuple[float, float]]]) -> None:
    """The same losses and gradient norms, step by step, from the same weights on the same batches."""
    reports = {name: [subject() for _ in range(STEPS)] for name, subject in subjects.items()}
    (first, expected), *others = reports.items()
    for name, found in others:
        for step, (a, b) in enumerate(zip(expected, found, strict=True)):
            if not all(math.isclose(x, y, rel_tol=CLOSE) for x, y in zip(a, b, strict=True)):
                raise RunFailed(f"step {step + 1} of {name} and of {first} differ, (loss, gradient norm): {b} and {a}")


def same_arrays(what: str, ours: Any, theirs: Any) -> None:
    """Equal in norm, within the precision of float32."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        raise RunFailed(f"{what} differs from torch's: {ours.shape}, and torch's {theirs.shape}")
    distance, size = float(np.linalg.norm(ours - theirs)), float(np.linalg.norm(theirs))
    if not distance <= CLOSE * size:
        raise RunFailed(f"{what} differs from torch's by {distance:.1e} in norm, where torch's norm is {size:.1e}")
