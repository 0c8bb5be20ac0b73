"""minitensor: reverse-mode differentiation on NumPy arrays, small enough to read, with torch's names.

    >>> import minitensor as mt
    >>> x = mt.tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4., 6.])

Reading order: core.py, ops/, tensor.py; README.md says more.
"""

# isort: off
from numpy import float32, float64, int64

from minitensor import functional, nn, optim
from minitensor.functions import (
    abs, add, amax, amin, arange, argmax, argmin, cat, chunk, clamp, clip, div, erf, exp, flatten, from_numpy, full,
    log, log_softmax, logsumexp, masked_fill, matmul, max, maximum, mean, min, minimum, mul, neg, ones, ones_like,
    permute, pow, randn, relu, reshape, sigmoid, softmax, split, sqrt, square, squeeze, stack, std, sub, sum, tanh,
    tensor, transpose, tril, triu, unsqueeze, var, where, zeros, zeros_like,
)  # fmt: skip

# isort: on
from minitensor.core import OPS, Op, apply, grad
from minitensor.grad_mode import enable_grad, is_grad_enabled, no_grad
from minitensor.random import manual_seed
from minitensor.tensor import Tensor

__all__ = [
    "OPS", "Op", "Tensor", "abs", "add", "amax", "amin", "apply", "arange", "argmax", "argmin", "cat", "chunk",
    "clamp", "clip", "div", "enable_grad", "erf", "exp", "flatten", "float32", "float64", "from_numpy", "full",
    "functional", "grad", "int64", "is_grad_enabled", "log", "log_softmax", "logsumexp", "manual_seed", "masked_fill",
    "matmul", "max", "maximum", "mean", "min", "minimum", "mul", "neg", "nn", "no_grad", "ones", "ones_like", "optim",
    "permute", "pow", "randn", "relu", "reshape", "sigmoid", "softmax", "split", "sqrt", "square", "squeeze", "stack",
    "std", "sub", "sum", "tanh", "tensor", "transpose", "tril", "triu", "unsqueeze", "var", "where", "zeros",
    "zeros_like",
]  # fmt: skip
