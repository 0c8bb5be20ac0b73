"""Tensor: the engine's tensor with torch's operators and methods, each a line over the operations in ops/.

The array inside a tensor is its own and read-only. An operation may therefore save its inputs without a copy: whatever
tries to change them gets an error at once. A tensor changes its value by taking another array: `x.data = new`,
`x -= step` under no_grad, an optimizer's step.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn, Self, TypeAlias, Union, cast

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple
from numpy.typing import ArrayLike, DTypeLike

from minitensor import core
from minitensor.arrays import from_outside
from minitensor.core import Array, Node, apply, is_grad_enabled, wrap
from minitensor.ops import elementwise, erf, matmul, reduce, shape, softmax
from minitensor.ops.reduce import Axis

Operand = Union["Tensor", ArrayLike]  # what may stand beside a tensor
Real: TypeAlias = float  # inside Tensor, `float` is the method

# ---- the tensor -------------------------------------------------------------------------------------------------


class Tensor(core.Tensor, of_results=True):
    """A NumPy array with a gradient."""

    __slots__ = ()
    __array_priority__ = 1000  # array + tensor is our __radd__, not NumPy's loop over entries

    def __init__(self, data: Operand, dtype: DTypeLike | None = None, requires_grad: bool = False) -> None:
        shared = isinstance(data, Tensor) and dtype in (None, data.dtype)
        self.array = _values(data) if shared else from_outside(_values(data), dtype)
        self.node = None
        if requires_grad:
            self.requires_grad_()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A leaf of its own. The values are shared: they never change."""
        if self.grad_fn is not None:
            raise RuntimeError("deepcopy: this tensor is the result of an operation; copy x.detach()")
        copy = memo[id(self)] = object.__new__(type(self))
        copy.array, copy.node = self.array, None
        copy.requires_grad_(self.requires_grad)
        copy.grad = None if self.grad is None else self.grad.detach()
        return copy

    def __reduce__(self) -> NoReturn:
        raise TypeError("a tensor is not pickled, since to open a pickle is to run it; save x.detach().numpy()")

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    def __repr__(self) -> str:
        values = np.array2string(self.array, precision=4, separator=", ", threshold=200, prefix="tensor(")
        usual = self.dtype in (np.float32, np.int64, np.bool_)
        notes = "" if usual else f", dtype={self.dtype}"
        if self.grad_fn is not None:
            notes += f", grad_fn={self.grad_fn}"
        elif self.requires_grad:
            notes += ", requires_grad=True"
        return f"tensor({values}{notes})"

    # -- what it is --

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    @property
    def ndim(self) -> int:
        return self.array.ndim

    def dim(self) -> int:
        return self.array.ndim

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        return self.array.size

    def __len__(self) -> int:
        return len(self.array)

    def item(self) -> Any:
        """The one number in it, as Python's."""
        if self.array.size != 1:
            raise RuntimeError(f"item: a tensor of shape {self.shape} is not one number")
        return self.array.item()

    def tolist(self) -> Any:
        return self.array.tolist()

    def numpy(self) -> Array:
        """The values as a read-only array; .copy() gives one to write to."""
        if self.requires_grad:
            raise RuntimeError("numpy: this tensor requires grad, which NumPy would lose; use .detach().numpy()")
        return self.array.view()  # an array of the caller's own: its shape can be set

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        return np.array(self.numpy(), dtype, copy=copy)

    def __bool__(self) -> bool:
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> Real:
        return float(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu":
            raise TypeError(f"only an integer tensor can be an index, not {self.dtype}")
        return int(self.item())

    # -- its gradient --

    @property
    def requires_grad(self) -> bool:
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        self.requires_grad_(wanted)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        if self.grad_fn is not None:
            if not requires_grad:
                raise RuntimeError("requires_grad: only a leaf can stop wanting its gradient; use .detach()")
        elif not requires_grad:
            self.node = None
        elif self.node is None:
            if self.dtype.kind != "f":
                raise RuntimeError(f"requires_grad: only floats have gradients, this tensor is {self.dtype}")
            self.node = Node(None, (), (), self.array)
        return self

    @property
    def is_leaf(self) -> bool:
        return self.grad_fn is None

    @property
    def grad_fn(self) -> Node | None:
        """The operation that made it; None for a leaf."""
        return self.node if self.node is not None and self.node.op is not None else None

    @property
    def grad(self) -> "Tensor | None":
        return None if self.node is None else self.node.grad

    @grad.setter
    def grad(self, value: "Tensor | None") -> None:
        if value is not None:
            if self.node is None or not self.node.keeps_grad:
                raise RuntimeError("grad: this tensor keeps no gradient; call requires_grad_() or retain_grad() first")
            value = value if isinstance(value, Tensor) else Tensor(value)
            if value.shape != self.shape or value.dtype != self.dtype:
                raise RuntimeError(
                    f"grad: {value.dtype} {value.shape} is no gradient for a tensor of {self.dtype} {self.shape}"
                )
        if self.node is not None:
            self.node.grad = value

    def retain_grad(self) -> None:
        """Keep the gradient of this result too: backward keeps only those of leaves."""
        if self.node is None:
            raise RuntimeError("retain_grad: this tensor does not require grad")
        self.node.keeps_grad = True

    def detach(self) -> "Tensor":
        """The same values, without the history."""
        return cast(Tensor, wrap(self.array))

    @property
    def data(self) -> "Tensor":
        return self.detach()

    @data.setter
    def data(self, value: Operand) -> None:
        array = Tensor(value, self.dtype).array
        if array.shape != self.shape:
            raise RuntimeError(f"data: a tensor of shape {self.shape} cannot take values of shape {array.shape}")
        self.array = array

    # -- in place --

    def _become(self, result: "Tensor", symbol: str) -> Self:
        """What `x += y` does: x takes the result's array, and its history if there is one."""
        if self.requires_grad and self.is_leaf and is_grad_enabled():
            raise RuntimeError(
                f"a leaf that requires grad cannot be changed in place: write x = x {symbol} ..., or, to update it "
                "without a record, use no_grad()"
            )
        if result.shape != self.shape or result.dtype != self.dtype:
            raise RuntimeError(
                f"{self.dtype} {self.shape} cannot become {result.dtype} {result.shape} in place; "
                f"write x = x {symbol} ..."
            )
        if is_grad_enabled():
            if self.node is not None and self.node.keeps_grad and result.node is not None:
                result.node.keeps_grad = True
            self.node = result.node
        self.array = result.array
        return self

    def __iadd__(self, other: Operand) -> Self:
        return self._become(self + other, "+")

    def __isub__(self, other: Operand) -> Self:
        return self._become(self - other, "-")

    def __imul__(self, other: Operand) -> Self:
        return self._become(self * other, "*")

    def __itruediv__(self, other: Operand) -> Self:
        return self._become(self / other, "/")

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise TypeError(
            "the values of a tensor are read-only, because a backward may need them; make a new tensor with where, "
            "masked_fill or cat, or give it another array: x.data = array"
        )

    # -- arithmetic --

    def __add__(self, other: Operand) -> "Tensor":
        return apply(elementwise.add, *_pair(self, other))

    __radd__ = __add__

    def __sub__(self, other: Operand) -> "Tensor":
        return apply(elementwise.sub, *_pair(self, other))

    def __rsub__(self, other: Operand) -> "Tensor":
        return apply(elementwise.sub, *_pair(self, other)[::-1])

    def __mul__(self, other: Operand) -> "Tensor":
        if isinstance(other, (int, float)) and self.dtype.kind == "f":
            return apply(elementwise.mul_number, self, number=float(other))
        return apply(elementwise.mul, *_pair(self, other))

    __rmul__ = __mul__

    def __truediv__(self, other: Operand) -> "Tensor":
        if isinstance(other, (int, float)):
            return apply(elementwise.div_number, _floats(self), number=float(other))
        return apply(elementwise.div, *map(_floats, _pair(self, other)))

    def __rtruediv__(self, other: Operand) -> "Tensor":
        return apply(elementwise.div, *map(_floats, _pair(self, other)[::-1]))

    def __pow__(self, other: Operand) -> "Tensor":
        if isinstance(other, int):
            return apply(elementwise.pow_number, self, number=other)
        if isinstance(other, float):
            return apply(elementwise.pow_number, _floats(self), number=float(other))
        return apply(elementwise.pow, *_pair(self, other))

    def __rpow__(self, other: Operand) -> "Tensor":
        return apply(elementwise.pow, *_pair(self, other)[::-1])

    def __matmul__(self, other: Operand) -> "Tensor":
        return apply(matmul.matmul, *_pair(self, other))

    def __rmatmul__(self, other: Operand) -> "Tensor":
        return apply(matmul.matmul, *_pair(self, other)[::-1])

    def __neg__(self) -> "Tensor":
        return apply(elementwise.neg, self)

    def __pos__(self) -> "Tensor":
        return self

    def __abs__(self) -> "Tensor":
        return apply(elementwise.abs, self)

    add, sub, mul, div, pow, matmul = __add__, __sub__, __mul__, __truediv__, __pow__, __matmul__
    neg, abs = __neg__, __abs__

    # -- comparisons: boolean tensors, without gradient --

    def __lt__(self, other: Operand) -> "Tensor":
        return _compared(np.less, self, other)

    def __le__(self, other: Operand) -> "Tensor":
        return _compared(np.less_equal, self, other)

    def __gt__(self, other: Operand) -> "Tensor":
        return _compared(np.greater, self, other)

    def __ge__(self, other: Operand) -> "Tensor":
        return _compared(np.greater_equal, self, other)

    def __eq__(self, other: object) -> "Tensor":  # type: ignore[override]  # entry by entry, as in torch
        return _compared(np.equal, self, other)

    def __ne__(self, other: object) -> "Tensor":  # type: ignore[override]
        return _compared(np.not_equal, self, other)

    __hash__ = object.__hash__

    def __invert__(self) -> "Tensor":
        return Tensor(~self.array)

    def __and__(self, other: Operand) -> "Tensor":
        return Tensor(self.array & _values(other))

    def __or__(self, other: Operand) -> "Tensor":
        return Tensor(self.array | _values(other))

    __rand__, __ror__ = __and__, __or__

    def all(self, dim: Axis = None, keepdim: bool = False) -> "Tensor":
        return Tensor(self.array.all(dim, keepdims=keepdim))

    def any(self, dim: Axis = None, keepdim: bool = False) -> "Tensor":
        return Tensor(self.array.any(dim, keepdims=keepdim))

    # -- functions, entry by entry --

    def exp(self) -> "Tensor":
        return apply(elementwise.exp, _floats(self))

    def log(self) -> "Tensor":
        return apply(elementwise.log, _floats(self))

    def sqrt(self) -> "Tensor":
        return apply(elementwise.sqrt, _floats(self))

    def tanh(self) -> "Tensor":
        return apply(elementwise.tanh, _floats(self))

    def erf(self) -> "Tensor":
        return apply(erf.erf, _floats(self))

    def sigmoid(self) -> "Tensor":
        return apply(elementwise.sigmoid, _floats(self))

    def relu(self) -> "Tensor":
        return apply(elementwise.relu, self)

    def square(self) -> "Tensor":
        return self**2

    def maximum(self, other: Operand) -> "Tensor":
        return apply(elementwise.maximum, *_pair(self, other))

    def minimum(self, other: Operand) -> "Tensor":
        return apply(elementwise.minimum, *_pair(self, other))

    def clip(self, min: Real | None = None, max: Real | None = None) -> "Tensor":
        bounds = {name: bound for name, bound in (("min", min), ("max", max)) if bound is not None}
        if not bounds or any(isinstance(bound, Tensor) for bound in bounds.values()):
            raise TypeError("clip: give min, max or both, as numbers; with tensors use maximum and minimum")
        return apply(elementwise.clip, self, **bounds)

    clamp = clip

    def where(self, condition: Operand, other: Operand) -> "Tensor":
        """self where the condition holds, other elsewhere."""
        return apply(elementwise.where, _mask("where", condition), *_pair(self, other))

    def masked_fill(self, mask: Operand, value: Real) -> "Tensor":
        number = value if isinstance(value, (int, float, np.generic)) else float(value)
        return apply(shape.masked_fill, self, _mask("masked_fill", mask), value=number)

    def tril(self, diagonal: int = 0) -> "Tensor":
        return apply(shape.tril, _matrices("tril", self), diagonal=diagonal)

    def triu(self, diagonal: int = 0) -> "Tensor":
        return apply(shape.triu, _matrices("triu", self), diagonal=diagonal)

    # -- reductions; NumPy's `axis` and `keepdims` are taken for `dim` and `keepdim` --

    def sum(self, dim: Axis = None, keepdim: bool = False, *, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        return apply(reduce.sum, self, axis=_axis(dim, axis), keepdims=keepdim or keepdims)

    def mean(self, dim: Axis = None, keepdim: bool = False, *, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        return apply(reduce.mean, _only_floats("mean", self), axis=_axis(dim, axis), keepdims=keepdim or keepdims)

    def var(
        self,
        dim: Axis = None,
        *,
        correction: Real = 1,
        keepdim: bool = False,
        axis: Axis = None,
        keepdims: bool = False,
    ) -> "Tensor":
        settings = {"correction": correction, "axis": _axis(dim, axis), "keepdims": keepdim or keepdims}
        return apply(reduce.var, _only_floats("var", self), **settings)

    def std(
        self,
        dim: Axis = None,
        *,
        correction: Real = 1,
        keepdim: bool = False,
        axis: Axis = None,
        keepdims: bool = False,
    ) -> "Tensor":
        settings = {"correction": correction, "axis": _axis(dim, axis), "keepdims": keepdim or keepdims}
        return apply(reduce.std, _only_floats("std", self), **settings)

    def amax(self, dim: Axis = None, keepdim: bool = False, *, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        return apply(reduce.max, self, axis=_axis(dim, axis), keepdims=keepdim or keepdims)

    def amin(self, dim: Axis = None, keepdim: bool = False, *, axis: Axis = None, keepdims: bool = False) -> "Tensor":
        return apply(reduce.min, self, axis=_axis(dim, axis), keepdims=keepdim or keepdims)

    def max(self, dim: Any = None, keepdim: bool = False, *, axis: Axis = None, keepdims: bool = False) -> Any:
        """With `dim` torch's pair (values, indices); with NumPy's `axis` the values, as amax; of two, the larger."""
        if isinstance(dim, Tensor):
            return self.maximum(dim)
        if dim is not None:
            return self._picked(self.array.argmax(dim, keepdims=True), dim, keepdim)
        return self.amax(axis=axis, keepdims=keepdims)

    def min(self, dim: Any = None, keepdim: bool = False, *, axis: Axis = None, keepdims: bool = False) -> Any:
        """With `dim` torch's pair (values, indices); with NumPy's `axis` the values, as amin; of two, the smaller."""
        if isinstance(dim, Tensor):
            return self.minimum(dim)
        if dim is not None:
            return self._picked(self.array.argmin(dim, keepdims=True), dim, keepdim)
        return self.amin(axis=axis, keepdims=keepdims)

    def _picked(self, places: Array, dim: int, keepdim: bool) -> "Picked":
        grid = list(np.ogrid[tuple(slice(n) for n in self.shape)])
        grid[dim] = places
        values, indices = self[tuple(grid)], Tensor(places)
        return Picked(values, indices) if keepdim else Picked(values.squeeze(dim), indices.squeeze(dim))

    def logsumexp(self, dim: Axis, keepdim: bool = False) -> "Tensor":
        return apply(reduce.logsumexp, _only_floats("logsumexp", self), axis=_axis(dim, None), keepdims=keepdim)

    def argmax(self, dim: int | None = None, keepdim: bool = False) -> "Tensor":
        return Tensor(np.argmax(self.array, dim, keepdims=keepdim))

    def argmin(self, dim: int | None = None, keepdim: bool = False) -> "Tensor":
        return Tensor(np.argmin(self.array, dim, keepdims=keepdim))

    def softmax(self, dim: int) -> "Tensor":
        return apply(softmax.softmax, _only_floats("softmax", self), axis=dim)

    def log_softmax(self, dim: int) -> "Tensor":
        return apply(softmax.log_softmax, _only_floats("log_softmax", self), axis=dim)

    # -- shape --

    def __getitem__(self, index: Any) -> "Tensor":
        return apply(shape.getitem, self, index=_index(index))

    def __iter__(self) -> "Iterator[Tensor]":
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d tensor")
        return (self[i] for i in range(len(self)))

    def reshape(self, *shape_: Any) -> "Tensor":
        return apply(shape.reshape, self, shape=flat(shape_))

    view = reshape

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> "Tensor":
        first, last = (normalize_axis_index(dim, max(self.ndim, 1)) for dim in (start_dim, end_dim))
        if first > last:
            raise ValueError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}")
        return self.reshape(*self.shape[:first], math.prod(self.shape[first : last + 1]), *self.shape[last + 1 :])

    def permute(self, *dims: Any) -> "Tensor":
        return apply(shape.permute, self, axes=flat(dims))

    def transpose(self, dim0: int, dim1: int) -> "Tensor":
        return apply(shape.transpose, self, axis0=dim0, axis1=dim1)

    @property
    def T(self) -> "Tensor":
        return self.permute(*reversed(range(self.ndim)))

    @property
    def mT(self) -> "Tensor":
        return self.transpose(-2, -1)

    def expand(self, *sizes: Any) -> "Tensor":
        """Size-1 axes, and new ones in front, repeated to these sizes; -1 leaves an axis as it is."""
        sizes = flat(sizes)
        new = len(sizes) - self.ndim
        wanted = tuple(self.shape[i - new] if n == -1 and i >= new else n for i, n in enumerate(sizes))
        return apply(shape.expand, self, shape=wanted)

    def squeeze(self, dim: int | tuple[int, ...] | None = None) -> "Tensor":
        """Without its axes of size 1, or without those of `dim` that are."""
        if dim is None:
            return apply(shape.squeeze, self)
        dims = normalize_axis_tuple(dim, self.ndim)
        return apply(shape.squeeze, self, axis=tuple(d for d in dims if self.shape[d] == 1))

    def unsqueeze(self, dim: int) -> "Tensor":
        return apply(shape.unsqueeze, self, axis=dim)

    def split(self, split_size: int | Sequence[int], dim: int = 0) -> "tuple[Tensor, ...]":
        """Parts of split_size (the last may be smaller), or of each size in a list."""
        n = self.shape[normalize_axis_index(dim, self.ndim)]
        if isinstance(split_size, int):
            if split_size < 1:
                raise ValueError(f"split: a part needs a size of at least 1, not {split_size}")
            sizes = [split_size] * max(1, -(-n // split_size))  # the last takes what is left
        else:
            sizes = list(split_size)
            if sum(sizes) != n or min(sizes) < 0:
                raise ValueError(f"split: sizes {sizes} do not add up to {n}, the size of axis {dim}")
        return cast("tuple[Tensor, ...]", apply(shape.split, self, sizes=tuple(sizes), axis=dim))

    def chunk(self, chunks: int, dim: int = 0) -> "tuple[Tensor, ...]":
        if chunks < 1:
            raise ValueError(f"chunk: into at least 1 part, not {chunks}")
        n = self.shape[dim]
        return self.split(-(-n // chunks) if n else [0] * chunks, dim)

    def contiguous(self) -> "Tensor":
        """Itself: NumPy's arrays need no such step."""
        return self

    def clone(self) -> "Tensor":
        """A tensor of its own in the graph. The values can be shared, since they never change."""
        return self.reshape(self.shape)

    def to(self, dtype: DTypeLike) -> "Tensor":
        dtype = np.dtype(dtype)
        if self.dtype == dtype:
            return self
        return apply(elementwise.cast, self, dtype=dtype) if dtype.kind == "f" else Tensor(self.array, dtype)

    def float(self) -> "Tensor":
        return self.to(np.float32)

    def double(self) -> "Tensor":
        return self.to(np.float64)

    def long(self) -> "Tensor":
        return self.to(np.int64)


class Picked(NamedTuple):
    """What max and min along an axis return: the values, and where they stand."""

    values: Tensor
    indices: Tensor


# ---- operands ---------------------------------------------------------------------------------------------------


def _pair(a: Tensor, b: Operand) -> tuple[Tensor, Tensor]:
    """Both as tensors. What is not a tensor takes the tensor's dtype; so do integers and booleans next to floats."""
    if isinstance(b, Tensor):
        if a.array.dtype is b.array.dtype:
            return a, b
    else:
        array = np.asarray(b)
        if "biuf".find(array.dtype.kind) <= "biuf".find(a.dtype.kind):
            b = Tensor(array, a.dtype)
        else:  # a float beside integers, a number beside booleans
            b = Tensor(array, np.float32 if array.dtype.kind == "f" else array.dtype)
    if a.dtype.kind != b.dtype.kind and "f" in (a.dtype.kind, b.dtype.kind):
        dtype = a.dtype if a.dtype.kind == "f" else b.dtype
        return a.to(dtype), b.to(dtype)
    return a, b


def _values(other: object) -> Any:
    return other.array if isinstance(other, Tensor) else other


def _compared(ufunc: np.ufunc, a: Tensor, b: Any) -> Tensor:
    if b is None or isinstance(b, str):
        return NotImplemented  # type: ignore[no-any-return]  # Python then compares by identity
    x, y = _pair(a, b)
    return Tensor(ufunc(x.array, y.array))


def _floats(x: Tensor) -> Tensor:
    """Integers and booleans as float32, as torch's functions take them."""
    return x.to(np.float32) if isinstance(x, Tensor) and x.array.dtype.kind != "f" else x


def _only_floats(name: str, x: Tensor) -> Tensor:
    if isinstance(x, Tensor) and x.array.dtype.kind != "f":
        raise TypeError(f"{name} takes floats, not {x.dtype}; convert with x.float()")
    return x


def _mask(name: str, mask: Operand) -> Tensor:
    mask = mask if isinstance(mask, Tensor) else Tensor(mask)
    if mask.dtype != np.bool_:
        raise TypeError(f"{name}: a mask holds booleans, not {mask.dtype}; compare, x != 0")
    return mask


def _matrices(name: str, x: Tensor) -> Tensor:
    if x.ndim < 2:
        raise ValueError(f"{name}: takes matrices, not shape {x.shape}")
    return x


def _axis(dim: Any, axis: Any) -> Axis:
    if dim is not None and axis is not None:
        raise TypeError(f"dim={dim} and axis={axis} are two names for one thing; give one")
    chosen = dim if axis is None else axis
    return tuple(chosen) if isinstance(chosen, list) else chosen


def together(values: Sequence[Operand]) -> list[Tensor]:
    """Tensors of one dtype, that of the first tensor with floats if there is one."""
    tensors = [x for x in values if isinstance(x, Tensor)]
    leader = next((x for x in tensors if x.dtype.kind == "f"), tensors[0] if tensors else Tensor(values[0]))
    return [_pair(leader, x)[1] for x in values]


def flat(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """(2, 3) from f(2, 3) as well as from f((2, 3))."""
    if len(sizes) == 1 and isinstance(sizes[0], Sequence):
        sizes = tuple(sizes[0])
    return sizes


def _index(index: Any) -> Any:
    """An index for NumPy: integers, slices, None and ... as they are, all else (lists, arrays) as read-only arrays."""
    return tuple(map(_index_part, index)) if isinstance(index, tuple) else _index_part(index)


def _index_part(part: Any) -> Any:
    if part is None or part is Ellipsis or isinstance(part, int | np.integer | slice):
        return part
    array = Tensor(part).array
    return array if array.size else array.astype(np.int64)  # an empty list picks nothing
