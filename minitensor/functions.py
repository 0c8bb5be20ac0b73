"""torch's top-level functions: creation, joining, and the methods as functions."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import DTypeLike

from minitensor.arrays import Array
from minitensor.convert import as_dim, as_dtype, as_mask, as_sizes, as_tensor, numpy_names, pair, promote
from minitensor.core import apply, wrap
from minitensor.grad_mode import is_grad_enabled
from minitensor.ops import shape
from minitensor.random import generator
from minitensor.tensor import Operand, Tensor

__all__ = [
    "abs", "add", "amax", "amin", "arange", "argmax", "argmin", "cat", "chunk", "clamp", "clip", "div", "erf", "exp",
    "flatten", "from_numpy", "full", "log", "log_softmax", "logsumexp", "masked_fill", "matmul", "max", "maximum",
    "mean", "min", "minimum", "mul", "neg", "ones", "ones_like", "permute", "pow", "randn", "relu", "reshape",
    "sigmoid", "softmax", "split", "sqrt", "square", "squeeze", "stack", "std", "sub", "sum", "tanh", "tensor",
    "transpose", "tril", "triu", "unsqueeze", "var", "where", "zeros", "zeros_like",
]  # fmt: skip

# ---- creation ---------------------------------------------------------------------------------------------------


def tensor(data: Operand, *, dtype: DTypeLike | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor from numbers, lists or an array. Python's floats become float32; an array keeps its dtype."""
    return Tensor(data, dtype, requires_grad)


def from_numpy(ndarray: Array) -> Tensor:
    """A tensor in the memory of the array: who writes to the array changes the tensor, as in torch.

    For memory that is filled step by step, a cache say. Only under no_grad, since a backward would find other numbers
    than the forward did.
    """
    if is_grad_enabled():
        raise RuntimeError("from_numpy: the array may change, so nothing made from it can be recorded; use no_grad()")
    if not isinstance(ndarray, np.ndarray):
        raise TypeError(f"from_numpy: takes an array, not {type(ndarray).__name__}")
    if not as_dtype(ndarray.dtype).isnative:
        raise TypeError(f"from_numpy: {ndarray.dtype} has its bytes in another order than this machine")
    # wrap makes its array read-only, and what that is a view of; through a memoryview the caller's stays writable.
    return cast(Tensor, wrap(np.asarray(memoryview(ndarray))))  # type: ignore[arg-type]


def zeros(*size: Any, dtype: DTypeLike | None = None, requires_grad: bool = False) -> Tensor:
    return _made(np.zeros(as_sizes(size, least=0), as_dtype(dtype, np.float32)), requires_grad)


def ones(*size: Any, dtype: DTypeLike | None = None, requires_grad: bool = False) -> Tensor:
    return _made(np.ones(as_sizes(size, least=0), as_dtype(dtype, np.float32)), requires_grad)


def full(
    size: Sequence[int], fill_value: float, *, dtype: DTypeLike | None = None, requires_grad: bool = False
) -> Tensor:
    if not isinstance(size, tuple | list):
        raise TypeError(f"full: size is a tuple, not {size!r}")
    if isinstance(fill_value, list | tuple):
        raise TypeError(f"full: a value is one number, not {fill_value!r}")
    value = Tensor(fill_value, dtype).array
    return _made(np.full(as_sizes((size,), least=0), value, value.dtype), requires_grad)


def zeros_like(input: Tensor) -> Tensor:
    return _made(np.zeros_like(input.array))


def ones_like(input: Tensor) -> Tensor:
    return _made(np.ones_like(input.array))


def arange(
    start: float, end: float | None = None, step: float | None = None, *, dtype: DTypeLike | None = None
) -> Tensor:
    if end is None and step is not None:
        raise TypeError("arange: a step goes with a start and an end")
    step = 1 if step is None else step
    if step == 0 or (end is None and start < 0):
        raise ValueError(
            f"arange: from {start if end is not None else 0} to {start if end is None else end} there are "
            f"no steps of {step}"
        )
    if end is not None and (end - start) * step < 0:
        raise ValueError(f"arange: from {start} to {end} there are no steps of {step}")
    numbers = np.arange(start) if end is None else np.arange(start, end, step)
    usual = np.float32 if numbers.dtype.kind == "f" else numbers.dtype
    return _made(numbers.astype(as_dtype(dtype, usual)))


def randn(*size: Any, dtype: DTypeLike | None = None, requires_grad: bool = False) -> Tensor:
    wanted = as_dtype(dtype, np.float32)
    if wanted.kind != "f":
        raise TypeError(f"randn: draws floats, not {wanted}")
    return _made(np.asarray(generator().standard_normal(as_sizes(size, least=0)), wanted), requires_grad)


def _made(array: Any, requires_grad: bool = False) -> Tensor:
    """Around an array of our own, which need not be copied."""
    made: Tensor = wrap(array)
    return made.requires_grad_(requires_grad)


# ---- several into one -------------------------------------------------------------------------------------------


@numpy_names
def cat(tensors: Sequence[Operand], dim: int = 0) -> Tensor:
    if not tensors:
        raise ValueError("cat: the list of tensors is empty")
    parts: list[Tensor] = promote(tensors)
    if any(x.ndim != 1 for x in parts):  # torch lets an empty list stand beside anything
        parts = [x for x in parts if x.shape != (0,)]
    return apply(shape.cat, *parts, axis=as_dim(dim))


@numpy_names
def stack(tensors: Sequence[Operand], dim: int = 0) -> Tensor:
    if not tensors:
        raise ValueError("stack: the list of tensors is empty")
    parts: list[Tensor] = promote(tensors)
    return apply(shape.stack, *parts, axis=as_dim(dim))


def where(condition: Operand, input: Operand, other: Operand) -> Tensor:
    """input where the condition holds, other elsewhere."""
    if not isinstance(input, Tensor) and isinstance(other, Tensor):
        return other.where(~as_mask("where", condition), input)
    made: Tensor = as_tensor(input)
    return made.where(condition, other)


# ---- the methods as functions -----------------------------------------------------------------------------------

F = TypeVar("F", bound=Callable[..., Any])
ARITHMETIC = {Tensor.add, Tensor.sub, Tensor.mul, Tensor.div, Tensor.pow}  # a number may come first


def _function(method: F) -> F:
    """A method as a function, whose first argument is called `input`, as in torch."""

    @wraps(method)
    def function(input: Any, *others: Any, **settings: Any) -> Any:
        other = others[0] if others else settings.get("other", settings.get("exponent"))
        if isinstance(input, int | float) and method in ARITHMETIC and isinstance(other, Tensor):
            input = pair(other, input)[1]
        if not isinstance(input, Tensor):
            kind = type(input).__name__
            raise TypeError(f"{method.__name__}: its inputs are tensors, not {kind}; make one, tensor(x)")
        return method(input, *others, **settings)

    return function  # type: ignore[return-value]


add = _function(Tensor.add)
sub = _function(Tensor.sub)
mul = _function(Tensor.mul)
div = _function(Tensor.div)
neg = _function(Tensor.neg)
pow = _function(Tensor.pow)
matmul = _function(Tensor.matmul)
abs = _function(Tensor.abs)
exp = _function(Tensor.exp)
log = _function(Tensor.log)
sqrt = _function(Tensor.sqrt)
square = _function(Tensor.square)
tanh = _function(Tensor.tanh)
erf = _function(Tensor.erf)
sigmoid = _function(Tensor.sigmoid)
relu = _function(Tensor.relu)
maximum = _function(Tensor.maximum)
minimum = _function(Tensor.minimum)
clip = clamp = _function(Tensor.clip)
sum = _function(Tensor.sum)
mean = _function(Tensor.mean)
var = _function(Tensor.var)
std = _function(Tensor.std)
max = _function(Tensor.max)
min = _function(Tensor.min)
amax = _function(Tensor.amax)
amin = _function(Tensor.amin)
logsumexp = _function(Tensor.logsumexp)
argmax = _function(Tensor.argmax)
argmin = _function(Tensor.argmin)
softmax = _function(Tensor.softmax)
log_softmax = _function(Tensor.log_softmax)
reshape = _function(Tensor.reshape)
flatten = _function(Tensor.flatten)
permute = _function(Tensor.permute)
transpose = _function(Tensor.transpose)
squeeze = _function(Tensor.squeeze)
unsqueeze = _function(Tensor.unsqueeze)
split = _function(Tensor.split)
chunk = _function(Tensor.chunk)
tril = _function(Tensor.tril)
triu = _function(Tensor.triu)
masked_fill = _function(Tensor.masked_fill)
