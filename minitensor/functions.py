"""torch's top-level functions: tensors out of nothing, several tensors into one, and the methods as functions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minitensor.core import apply
from minitensor.ops import shape
from minitensor.random import generator
from minitensor.tensor import Operand, Tensor, flat, together

# ---- out of nothing ---------------------------------------------------------------------------------------------


def tensor(data: Operand, dtype: DTypeLike | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor from numbers, lists or an array. Python's floats become float32; an array keeps its dtype."""
    return Tensor(data, dtype, requires_grad)


def zeros(*size: Any, dtype: DTypeLike = np.float32, requires_grad: bool = False) -> Tensor:
    return Tensor(np.zeros(flat(size), dtype), requires_grad=requires_grad)


def ones(*size: Any, dtype: DTypeLike = np.float32, requires_grad: bool = False) -> Tensor:
    return Tensor(np.ones(flat(size), dtype), requires_grad=requires_grad)


def full(size: Sequence[int], fill_value: float, dtype: DTypeLike = np.float32, requires_grad: bool = False) -> Tensor:
    return Tensor(np.full(size, fill_value, dtype), requires_grad=requires_grad)


def zeros_like(input: Tensor) -> Tensor:
    return Tensor(np.zeros_like(input.array))


def ones_like(input: Tensor) -> Tensor:
    return Tensor(np.ones_like(input.array))


def arange(start: int, end: int | None = None, step: int = 1) -> Tensor:
    return Tensor(np.arange(start, end, step) if end is not None else np.arange(start))


def randn(*size: Any, dtype: DTypeLike = np.float32, requires_grad: bool = False) -> Tensor:
    return Tensor(generator().standard_normal(flat(size)).astype(dtype), requires_grad=requires_grad)


# ---- several into one -------------------------------------------------------------------------------------------


def cat(tensors: Sequence[Operand], dim: int = 0) -> Tensor:
    return apply(shape.cat, *together(tensors), axis=dim)


def stack(tensors: Sequence[Operand], dim: int = 0) -> Tensor:
    return apply(shape.stack, *together(tensors), axis=dim)


def where(condition: Operand, input: Operand, other: Operand) -> Tensor:
    """input where the condition holds, other elsewhere."""
    if not isinstance(input, Tensor):
        if not isinstance(other, Tensor):
            return Tensor(input).where(condition, other)
        return other.where(~Tensor(condition, np.bool_), input)
    return input.where(condition, other)


# ---- the methods as functions -----------------------------------------------------------------------------------

add = Tensor.add
sub = Tensor.sub
mul = Tensor.mul
div = Tensor.div
neg = Tensor.neg
pow = Tensor.pow
matmul = Tensor.matmul
abs = Tensor.abs
exp = Tensor.exp
log = Tensor.log
sqrt = Tensor.sqrt
square = Tensor.square
tanh = Tensor.tanh
erf = Tensor.erf
sigmoid = Tensor.sigmoid
relu = Tensor.relu
maximum = Tensor.maximum
minimum = Tensor.minimum
clip = clamp = Tensor.clip
sum = Tensor.sum
mean = Tensor.mean
var = Tensor.var
std = Tensor.std
max = Tensor.max
min = Tensor.min
amax = Tensor.amax
amin = Tensor.amin
logsumexp = Tensor.logsumexp
argmax = Tensor.argmax
argmin = Tensor.argmin
softmax = Tensor.softmax
log_softmax = Tensor.log_softmax
reshape = Tensor.reshape
flatten = Tensor.flatten
permute = Tensor.permute
transpose = Tensor.transpose
squeeze = Tensor.squeeze
unsqueeze = Tensor.unsqueeze
split = Tensor.split
chunk = Tensor.chunk
tril = Tensor.tril
triu = Tensor.triu
masked_fill = Tensor.masked_fill
