"""minitensor: reverse-mode differentiation on NumPy arrays, small enough to read, with torch's names.

    >>> import minitensor as mt
    >>> x = mt.tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4., 6.])

Reading order: core.py, ops/, tensor.py; README.md says more.
"""

from numpy import float32, float64, int64

from minitensor import functional, functions, nn, optim
from minitensor.core import OPS, Op, apply, grad
from minitensor.functions import *  # noqa: F403
from minitensor.grad_mode import enable_grad, is_grad_enabled, no_grad
from minitensor.random import manual_seed
from minitensor.tensor import Tensor

__all__ = [
    "OPS", "Op", "Tensor", "apply", "enable_grad", "float32", "float64", "functional", "grad", "int64",
    "is_grad_enabled", "manual_seed", "nn", "no_grad", "optim",
]  # fmt: skip
__all__ += functions.__all__
