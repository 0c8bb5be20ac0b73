"""Tensor: the engine's tensor with torch's operators and methods, thin over the operations in ops/.

The array inside a tensor is its own and read-only. An operation may therefore save its inputs without a copy: whatever
tries to change them gets an error at once. A tensor changes its value by taking another array: `x.data = new`,
`x -= step` under no_grad, an optimizer's step.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn, Self, TypeAlias, Union, cast

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple
from numpy.typing import ArrayLike, DTypeLike

from minitensor import core
from minitensor.arrays import Array, owned
from minitensor.convert import (
    as_array,
    as_axis,
    as_dim,
    as_dtype,
    as_index,
    as_mask,
    as_number,
    as_numbers,
    as_sizes,
    check_floats,
    kind,
    no_booleans,
    numpy_names,
    pair,
    to_float,
)  # fmt: skip
from minitensor.core import Node, apply, wrap
from minitensor.grad_mode import is_grad_enabled
from minitensor.ops import elementwise, erf, matmul, reduce, shape, softmax
from minitensor.ops.reduce import Axis

Operand = Union["Tensor", ArrayLike]  # what may stand beside a tensor
Real: TypeAlias = float  # inside Tensor, `float` is the method

# ---- methods that are all alike ---------------------------------------------------------------------------------


def _of_entries(op: core.Op) -> "Callable[[Tensor], Tensor]":
    """The method of an operation on each entry; integers become floats first."""

    def method(self: "Tensor") -> "Tensor":
        return apply(op, to_float(self))

    method.__name__ = op.name
    return method


def _comparison(ufunc: np.ufunc) -> "Callable[[Tensor, Any], Tensor]":
    def method(self: "Tensor", other: Any) -> "Tensor":
        try:
            x, y = pair(self, other)
        except (TypeError, ValueError):  # no numbers: Python then compares by identity
            return NotImplemented  # type: ignore[no-any-return]
        return Tensor(ufunc(x.array, y.array))

    return method


# ---- the tensor -------------------------------------------------------------------------------------------------


class Tensor(core.Tensor, of_results=True):
    """A NumPy array with a gradient."""

    __slots__ = ()
    __array_ufunc__ = None  # array + tensor is our __radd__; array += tensor, which would make a tensor, is an error

    def __init__(self, data: Operand, dtype: DTypeLike | None = None, requires_grad: bool = False) -> None:
        shared = isinstance(data, Tensor) and dtype in (None, data.dtype)
        values: Any = data.array if isinstance(data, Tensor) else data
        self.array = owned(values) if shared else as_array(values, dtype)
        self.node = None
        if requires_grad is not False:
            self.requires_grad_(requires_grad)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A new leaf. The values are shared, unless somebody may still change them."""
        if self.grad_fn is not None:
            raise RuntimeError("deepcopy: this tensor is the result of an operation; copy x.detach()")
        copy = memo[id(self)] = object.__new__(type(self))
        copy.array, copy.node = owned(self.array), None
        copy.requires_grad_(self.requires_grad)
        copy.grad = None if self.grad is None else self.grad.detach()
        return copy

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a tensor is not pickled, since opening a pickle can run code; save x.detach().numpy(), or copy it with "
            "copy.deepcopy(x) or x.clone()"
        )

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

    @numpy_names
    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[as_dim(dim)]

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
        if self.dtype.kind not in "biu":
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
        if not isinstance(requires_grad, bool):
            raise TypeError(f"requires_grad is True or False, not {requires_grad!r}")
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
        if isinstance(value, Tensor) and value.dtype != self.dtype:
            raise RuntimeError(
                f"data: a tensor of {self.dtype} cannot take values of {value.dtype}; convert them, .to()"
            )
        array = Tensor(value, self.dtype).array
        if array.shape != self.shape:
            raise RuntimeError(f"data: a tensor of shape {self.shape} cannot take values of shape {array.shape}")
        self.array = array

    # -- in place --

    def _assign(self, result: "Tensor", symbol: str) -> Self:
        """`x += y`: x takes the array of the result, and its history if there is one."""
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
                result.node.keeps_grad, result.node.grad = True, self.node.grad
            self.node = result.node
        self.array = result.array
        return self

    def __iadd__(self, other: Operand) -> Self:
        return self._assign(self + other, "+")

    def __isub__(self, other: Operand) -> Self:
        return self._assign(self - other, "-")

    def __imul__(self, other: Operand) -> Self:
        return self._assign(self * other, "*")

    def __itruediv__(self, other: Operand) -> Self:
        return self._assign(self / other, "/")

    def __ipow__(self, other: Operand) -> Self:
        return self._assign(self**other, "**")

    def __iand__(self, other: Operand) -> Self:
        return self._assign(self & other, "&")

    def __ior__(self, other: Operand) -> Self:
        return self._assign(self | other, "|")

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise TypeError(
            "the values of a tensor are read-only, because a backward may need them; make a new tensor with where, "
            "masked_fill or cat, or give it another array: x.data = array"
        )

    # -- arithmetic --

    def __add__(self, other: Operand) -> "Tensor":
        return apply(elementwise.add, *pair(self, other))

    __radd__ = __add__

    def add(self, other: Operand, *, alpha: Real = 1) -> "Tensor":
        return self + self._scaled(other, alpha)

    def __sub__(self, other: Operand) -> "Tensor":
        no_booleans("sub", self, other)
        return apply(elementwise.sub, *pair(self, other))

    def __rsub__(self, other: Operand) -> "Tensor":
        no_booleans("sub", self, other)
        return apply(elementwise.sub, *pair(self, other)[::-1])

    def sub(self, other: Operand, *, alpha: Real = 1) -> "Tensor":
        no_booleans("sub", self, other)
        return self - self._scaled(other, alpha)

    def _scaled(self, other: Operand, alpha: Real) -> "Tensor":
        x, y = pair(self, other)
        if isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise TypeError(f"alpha is a number, not {alpha!r}")
        if isinstance(alpha, float) and "f" not in (x.dtype.kind, y.dtype.kind):
            raise TypeError(f"alpha is a whole number for integers, not {alpha}")
        return y if alpha == 1 else (y * alpha).to((x if kind(x.dtype) > kind(y.dtype) else y).dtype)

    def __mul__(self, other: Operand) -> "Tensor":
        if isinstance(other, (int, float)) and self.dtype.kind == "f":
            return apply(elementwise.mul_number, self, number=float(other))
        return apply(elementwise.mul, *pair(self, other))

    __rmul__ = __mul__

    def __truediv__(self, other: Operand) -> "Tensor":
        if isinstance(other, (int, float)):
            return apply(elementwise.div_number, to_float(self), number=float(other))
        return apply(elementwise.div, *map(to_float, pair(self, other)))

    def __rtruediv__(self, other: Operand) -> "Tensor":
        return apply(elementwise.div, *pair(to_float(self), other)[::-1])

    def __pow__(self, other: Operand) -> "Tensor":
        if isinstance(other, Tensor) or self.dtype.kind == "b":
            no_booleans("pow", other)
        if self.dtype.kind == "b":
            return self.to(pair(self, other)[1].dtype) ** other
        if isinstance(other, int):
            return apply(elementwise.pow_number, self, number=other)
        if isinstance(other, float):
            return apply(elementwise.pow_number, to_float(self), number=float(other))
        return apply(elementwise.pow, *pair(self, other))

    def __rpow__(self, other: Operand) -> "Tensor":
        if self.dtype.kind == "b":
            no_booleans("pow", other)
        return apply(elementwise.pow, *pair(self, other)[::-1])

    def __matmul__(self, other: Operand) -> "Tensor":
        no_booleans("matmul", self)
        if isinstance(other, Tensor) and other.dtype != self.dtype:
            raise TypeError(
                f"matmul: inputs are {self.dtype} and {other.dtype}; convert one, x.to({str(self.dtype)!r})"
            )
        return apply(matmul.matmul, *pair(self, other))

    def __rmatmul__(self, other: Operand) -> "Tensor":
        return apply(matmul.matmul, *pair(self, other)[::-1])

    def __neg__(self) -> "Tensor":
        return apply(elementwise.neg, self)

    def __pos__(self) -> "Tensor":
        no_booleans("pos", self)
        return self

    def __abs__(self) -> "Tensor":
        no_booleans("abs", self)
        return apply(elementwise.abs, self)

    def pow(self, exponent: Operand) -> "Tensor":
        return self**exponent

    mul, div, matmul = __mul__, __truediv__, __matmul__
    neg, abs = __neg__, __abs__

    # -- comparisons: boolean tensors, without gradient --

    __lt__ = _comparison(np.less)
    __le__ = _comparison(np.less_equal)
    __gt__ = _comparison(np.greater)
    __ge__ = _comparison(np.greater_equal)
    __eq__ = _comparison(np.equal)  # type: ignore[assignment]  # entry by entry, as in torch
    __ne__ = _comparison(np.not_equal)  # type: ignore[assignment]
    __hash__ = object.__hash__

    def __invert__(self) -> "Tensor":
        return Tensor(~self.array)

    def __and__(self, other: Operand) -> "Tensor":
        x, y = pair(self, other)
        return Tensor(x.array & y.array)

    def __or__(self, other: Operand) -> "Tensor":
        x, y = pair(self, other)
        return Tensor(x.array | y.array)

    __rand__, __ror__ = __and__, __or__

    @numpy_names
    def all(self, dim: Axis = None, keepdim: bool = False) -> "Tensor":
        return self._truth(np.all, dim, keepdim)

    @numpy_names
    def any(self, dim: Axis = None, keepdim: bool = False) -> "Tensor":
        return self._truth(np.any, dim, keepdim)

    def _truth(self, reduction: Any, dim: Any, keepdim: bool) -> "Tensor":
        axis = () if dim in ((), []) else as_axis(self, dim)
        found = reduction(self.array, axis, keepdims=keepdim)
        return Tensor(found, np.uint8 if self.dtype == np.uint8 else np.bool_)

    # -- functions, entry by entry --

    exp = _of_entries(elementwise.exp)
    log = _of_entries(elementwise.log)
    sqrt = _of_entries(elementwise.sqrt)
    tanh = _of_entries(elementwise.tanh)
    erf = _of_entries(erf.erf)
    sigmoid = _of_entries(elementwise.sigmoid)

    def relu(self) -> "Tensor":
        no_booleans("relu", self)
        return apply(elementwise.relu, self)

    def square(self) -> "Tensor":
        return self**2

    def maximum(self, other: Operand) -> "Tensor":
        return apply(elementwise.maximum, *pair(self, other))

    def minimum(self, other: Operand) -> "Tensor":
        return apply(elementwise.minimum, *pair(self, other))

    def clip(self, min: "Tensor | Real | None" = None, max: "Tensor | Real | None" = None) -> "Tensor":
        if self.dtype.kind == "b":
            no_booleans("clip", min, max)
        tensors = [bound for bound in (min, max) if isinstance(bound, Tensor)]
        if not any(bound.ndim or bound.requires_grad for bound in tensors):
            min, max = (bound.item() if isinstance(bound, Tensor) else bound for bound in (min, max))
        if isinstance(min, Tensor) or isinstance(max, Tensor):
            if not all(bound is None or isinstance(bound, Tensor) for bound in (min, max)):
                raise TypeError("clip: min and max are two numbers or two tensors")
            above = self if min is None else self.maximum(min)
            return above if max is None else above.minimum(max)
        bounds = {name: bound for name, bound in (("min", min), ("max", max)) if bound is not None}
        if not bounds:
            raise TypeError("clip: give min, max or both")
        x = self
        for bound in bounds.values():
            x, _ = pair(x, bound)
        return apply(elementwise.clip, x, **bounds)

    clamp = clip

    def where(self, condition: Operand, other: Operand) -> "Tensor":
        """self where the condition holds, other elsewhere."""
        chosen: Tensor = as_mask("where", condition)
        return apply(elementwise.where, chosen, *pair(self, other))

    def masked_fill(self, mask: Operand, value: "Tensor | Real") -> "Tensor":
        chosen: Tensor = as_mask("masked_fill", mask)
        if isinstance(value, Tensor):
            if value.requires_grad and self.dtype.kind != "f":
                raise TypeError(f"masked_fill: {self.dtype} has no gradient for the value; pass it detached")
            if value.ndim:
                raise ValueError(f"masked_fill: a value is a number or a 0-d tensor, not of shape {value.shape}")
            if self.dtype.kind == "b":
                return self.masked_fill(mask, bool(value.item()))
            return apply(elementwise.where, chosen, *pair(self, value)[::-1])
        number = value if isinstance(value, (int, float, np.generic)) else float(value)
        if self.dtype.kind in "iu" and not np.iinfo(self.dtype).min <= number <= np.iinfo(self.dtype).max:
            raise ValueError(f"masked_fill: {number} is not within {self.dtype}")
        number = number if self.dtype.kind == "f" else self.dtype.type(number).item()
        return apply(shape.masked_fill, self, chosen, value=number)

    def tril(self, diagonal: int = 0) -> "Tensor":
        return apply(shape.tril, _matrices("tril", self), diagonal=as_number("diagonal", diagonal))

    def triu(self, diagonal: int = 0) -> "Tensor":
        return apply(shape.triu, _matrices("triu", self), diagonal=as_number("diagonal", diagonal))

    # -- reductions --

    @numpy_names
    def sum(self, dim: Axis = None, keepdim: bool = False) -> "Tensor":
        return apply(reduce.sum, self, axis=as_axis(self, dim), keepdims=keepdim)

    @numpy_names
    def mean(self, dim: Axis = None, keepdim: bool = False) -> "Tensor":
        check_floats("mean", self)
        return apply(reduce.mean, self, axis=as_axis(self, dim), keepdims=keepdim)

    @numpy_names
    def var(
        self, dim: Axis = None, unbiased: bool | None = None, keepdim: bool = False, *, correction: Real | None = None
    ) -> "Tensor":
        """`correction` (1, or 0 where not unbiased) is what is taken off the number of entries."""
        return self._variance(reduce.var, dim, unbiased, keepdim, correction)

    @numpy_names
    def std(
        self, dim: Axis = None, unbiased: bool | None = None, keepdim: bool = False, *, correction: Real | None = None
    ) -> "Tensor":
        return self._variance(reduce.std, dim, unbiased, keepdim, correction)

    def _variance(
        self, op: core.Op, dim: Any, unbiased: bool | None, keepdim: bool, correction: Real | None
    ) -> "Tensor":
        check_floats(op.name, self)
        if isinstance(dim, bool) and unbiased is None:  # x.var(False)
            dim, unbiased = None, dim
        if not isinstance(unbiased, bool | None):
            raise TypeError(f"{op.name}: unbiased is True or False, not {unbiased!r}")
        if unbiased is not None and correction is not None:
            raise TypeError(f"{op.name}: unbiased and correction are two names for one thing; give one")
        correction = (0 if unbiased is False else 1) if correction is None else correction
        return apply(op, self, correction=correction, axis=as_axis(self, dim), keepdims=keepdim)

    @numpy_names
    def amax(self, dim: Axis = None, keepdim: bool = False) -> "Tensor":
        return apply(reduce.max, self, axis=as_axis(self, dim), keepdims=keepdim)

    @numpy_names
    def amin(self, dim: Axis = None, keepdim: bool = False) -> "Tensor":
        return apply(reduce.min, self, axis=as_axis(self, dim), keepdims=keepdim)

    @numpy_names
    def max(self, dim: "Tensor | int | None" = None, keepdim: bool | None = None) -> Any:
        """The largest entry; along `dim` torch's pair (values, indices); of two tensors, the larger entries."""
        if isinstance(dim, Tensor):
            return self.maximum(dim)
        return self._extreme("max", np.argmax, dim, keepdim)

    @numpy_names
    def min(self, dim: "Tensor | int | None" = None, keepdim: bool | None = None) -> Any:
        """The smallest entry; along `dim` torch's pair (values, indices); of two tensors, the smaller entries."""
        if isinstance(dim, Tensor):
            return self.minimum(dim)
        return self._extreme("min", np.argmin, dim, keepdim)

    def _extreme(self, name: str, where: Any, dim: int | None, keepdim: bool | None) -> Any:
        if dim is None:
            if keepdim is not None:
                raise TypeError(f"{name}: keepdim goes with a dim")
            return self.amax() if name == "max" else self.amin()
        dim = as_dim(dim)
        if as_axis(self, dim) == ():
            return Extreme(self[()], Tensor(where(self.array)))
        indices = Tensor(where(self.array, dim, keepdims=True))
        grid = list(np.ogrid[tuple(slice(n) for n in self.shape)])
        grid[dim] = indices.array
        values = self[tuple(grid)]
        return Extreme(values, indices) if keepdim else Extreme(values.squeeze(dim), indices.squeeze(dim))

    @numpy_names
    def logsumexp(self, dim: Axis, keepdim: bool = False) -> "Tensor":
        if dim is None or (self.ndim and not isinstance(dim, int) and not len(dim)):
            raise TypeError("logsumexp: give dim, a whole number or several")
        return apply(reduce.logsumexp, to_float(self), axis=as_axis(self, dim), keepdims=keepdim)

    @numpy_names
    def argmax(self, dim: int | None = None, keepdim: bool = False) -> "Tensor":
        no_booleans("argmax", self)
        axis = None if dim is None or as_axis(self, as_dim(dim)) == () else as_dim(dim)
        return Tensor(np.argmax(self.array, axis, keepdims=keepdim))

    @numpy_names
    def argmin(self, dim: int | None = None, keepdim: bool = False) -> "Tensor":
        no_booleans("argmin", self)
        axis = None if dim is None or as_axis(self, as_dim(dim)) == () else as_dim(dim)
        return Tensor(np.argmin(self.array, axis, keepdims=keepdim))

    @numpy_names
    def softmax(self, dim: int) -> "Tensor":
        return self._along("softmax", softmax.softmax, dim)

    @numpy_names
    def log_softmax(self, dim: int) -> "Tensor":
        return self._along("log_softmax", softmax.log_softmax, dim)

    def _along(self, name: str, op: core.Op, dim: int) -> "Tensor":
        check_floats(name, self)
        dim = as_dim(dim)
        if as_axis(self, dim) == ():
            return self.reshape(1)._along(name, op, 0).reshape(())
        return apply(op, self, axis=dim)

    # -- shape --

    def __getitem__(self, where: Any) -> "Tensor":
        first, then = as_index(where, self.ndim)
        part = apply(shape.getitem, self, index=first)
        return part if then is None else apply(shape.getitem, part, index=then)

    def __iter__(self) -> "Iterator[Tensor]":
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d tensor")
        return (self[i] for i in range(len(self)))

    def reshape(self, *shape_: Any) -> "Tensor":
        return apply(shape.reshape, self, shape=as_sizes(shape_, least=-1))

    view = reshape

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> "Tensor":
        first, last = (normalize_axis_index(as_dim(dim), max(self.ndim, 1)) for dim in (start_dim, end_dim))
        if first > last:
            raise ValueError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}")
        return self.reshape(*self.shape[:first], math.prod(self.shape[first : last + 1]), *self.shape[last + 1 :])

    def permute(self, *dims: Any) -> "Tensor":
        return apply(shape.permute, self, axes=as_numbers("dims", dims))

    def transpose(self, dim0: int, dim1: int) -> "Tensor":
        dim0, dim1 = as_dim(dim0), as_dim(dim1)
        if not self.ndim and {dim0, dim1} <= {0, -1}:
            return self.permute()
        return apply(shape.transpose, self, axis0=dim0, axis1=dim1)

    @property
    def T(self) -> "Tensor":
        return self.permute(*reversed(range(self.ndim)))

    @property
    def mT(self) -> "Tensor":
        return self.transpose(-2, -1)

    def expand(self, *sizes: Any) -> "Tensor":
        """Size-1 axes, and new ones in front, repeated to these sizes; -1 leaves an axis as it is."""
        sizes = as_sizes(sizes, least=-1)
        new = len(sizes) - self.ndim
        wanted = tuple(self.shape[i - new] if n == -1 and i >= new else n for i, n in enumerate(sizes))
        return apply(shape.expand, self, shape=wanted)

    @numpy_names
    def squeeze(self, dim: Axis = None) -> "Tensor":
        """Without its axes of size 1, or without those of `dim` that are."""
        if dim is None or as_axis(self, dim) == ():
            return apply(shape.squeeze, self)
        dims = normalize_axis_tuple(dim, self.ndim)
        return apply(shape.squeeze, self, axis=tuple(d for d in dims if self.shape[d] == 1))

    @numpy_names
    def unsqueeze(self, dim: int) -> "Tensor":
        return apply(shape.unsqueeze, self, axis=as_dim(dim))

    @numpy_names
    def split(self, split_size: int | Sequence[int], dim: int = 0) -> "tuple[Tensor, ...]":
        """Parts of split_size (the last may be smaller), or of each size in a list."""
        n = self.shape[normalize_axis_index(as_dim(dim), self.ndim)]
        if isinstance(split_size, int):
            split_size = as_number("split_size", split_size)
            if split_size == n == 0:
                return (self,)
            if split_size < 1:
                raise ValueError(f"split: a part needs a size of at least 1, not {split_size}")
            sizes = [split_size] * max(1, -(-n // split_size))  # the last takes what is left
        else:
            sizes = list(split_size)
            if not sizes or sum(sizes) != n or min(sizes) < 0:
                raise ValueError(f"split: sizes {sizes} do not add up to {n}, the size of axis {dim}")
        return cast("tuple[Tensor, ...]", apply(shape.split, self, sizes=tuple(sizes), axis=dim))

    @numpy_names
    def chunk(self, chunks: int, dim: int = 0) -> "tuple[Tensor, ...]":
        if as_number("chunks", chunks) < 1:
            raise ValueError(f"chunk: into at least 1 part, not {chunks}")
        n = self.shape[dim]
        return self.split(-(-n // chunks) if n else [0] * chunks, dim)

    def contiguous(self) -> "Tensor":
        """Itself: NumPy's arrays need no such step."""
        return self

    def clone(self) -> "Tensor":
        """A new tensor in the graph. The values are shared, unless somebody may still change them."""
        copy = self.reshape(self.shape)
        copy.array = owned(copy.array)
        return copy

    def to(self, dtype: DTypeLike) -> "Tensor":
        dtype = as_dtype(dtype)
        if self.dtype == dtype:
            return self
        return apply(elementwise.cast, self, dtype=dtype) if dtype.kind == "f" else Tensor(self.array, dtype)

    def float(self) -> "Tensor":
        return self.to(np.float32)

    def double(self) -> "Tensor":
        return self.to(np.float64)

    def long(self) -> "Tensor":
        return self.to(np.int64)


class Extreme(NamedTuple):
    """What max and min along an axis return: the values, and where they stand."""

    values: Tensor
    indices: Tensor


def _matrices(name: str, x: Tensor) -> Tensor:
    if x.ndim < 2:
        raise ValueError(f"{name}: takes matrices, not shape {x.shape}")
    return x
