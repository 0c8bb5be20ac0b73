"""What may stand beside a tensor, and how users write it: numbers, lists, arrays; dtypes, sizes, axes, indices."""

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from operator import index
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from minitensor.arrays import Array
from minitensor.core import Tensor, wrap
from minitensor.ops.reduce import Axis

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T", bound=Tensor)
FLOATS = np.dtype(np.float32), np.dtype(np.float64)

# ---- arrays -----------------------------------------------------------------------------------------------------


def as_array(data: Any, dtype: DTypeLike | None = None) -> Array:
    """A read-only copy: whoever gave the data may change it later. Python's own floats become float32."""
    array = np.array(data)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"a tensor holds floats, integers or booleans, not {array.dtype} (given: {data!r:.60})")
    if dtype is not None:
        wanted = as_dtype(dtype)
        if wanted.kind in "iu" and array.size and not isinstance(data, np.ndarray):  # of an array the low bits stay
            limits = np.iinfo(wanted)
            if not limits.min <= np.trunc(array.min()) <= np.trunc(array.max()) <= limits.max:
                raise ValueError(f"{data!r:.60} is not within {wanted}, {limits.min} to {limits.max}")
        array = array.astype(wanted, copy=False)
    elif array.dtype == np.float64 and not has_float64(data):
        array = array.astype(np.float32)
    array = array.astype(as_dtype(array.dtype).newbyteorder("="), copy=False)
    array.setflags(write=False)
    return array


def has_float64(data: Any) -> bool:
    """Whether a float64 of NumPy's, or such a tensor, is in it: Python's numbers bring no dtype."""
    if isinstance(data, list | tuple):
        return any(map(has_float64, data))
    return getattr(data, "dtype", None) == np.float64


def as_dtype(dtype: DTypeLike | None, usual: DTypeLike | None = None) -> np.dtype[Any]:
    """`usual` where no dtype is given."""
    dtype = usual if dtype is None else dtype
    try:
        if dtype is None:  # which is float64 to NumPy
            raise TypeError
        found = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"{dtype!r} is not a dtype; float32, float64, int64 and bool are") from None
    if found.kind not in "biu" and found.newbyteorder("=") not in FLOATS:
        raise TypeError(f"minitensor computes in float32 and float64, not in {found}; convert with .astype(float32)")
    if found == np.uint64:  # which NumPy adds to int64 as floats
        raise TypeError("minitensor's integers reach up to int64, not uint64; convert with .astype(int64)")
    return found


def as_tensor(data: Any) -> Any:
    return data if isinstance(data, Tensor) else wrap(as_array(data))


# ---- operands ---------------------------------------------------------------------------------------------------


def pair(a: T, b: Any) -> tuple[T, T]:
    """Both as tensors of a common dtype, as in torch. What is no tensor takes the tensor's dtype, and a 0-d tensor that
    of one with axes, unless it brings floats to integers, or integers to booleans; else integers become floats."""
    dtype = a.array.dtype
    if not isinstance(b, Tensor):
        array = as_array(np.asarray(b))
        if kind(array.dtype) <= kind(dtype):
            array = array.astype(dtype, copy=False)
        elif array.dtype.kind == "f":  # beside integers
            array = array.astype(np.float32)
        b = wrap(array)
    both: tuple[Any, Any] = a, b
    other = b.array.dtype
    if dtype is other or dtype == other:
        return both
    if (a.array.ndim == 0) != (b.array.ndim == 0) and kind(dtype) == kind(other):
        common = other if a.array.ndim == 0 else dtype
    elif kind(dtype) != kind(other) and 2 in (kind(dtype), kind(other)):
        common = dtype if kind(dtype) == 2 else other
    else:
        return both
    return both[0].to(common), both[1].to(common)


def kind(dtype: np.dtype[Any]) -> int:
    """0 for booleans, 1 for integers, 2 for floats."""
    return {"b": 0, "i": 1, "u": 1, "f": 2}[dtype.kind]


def no_booleans(name: str, *inputs: Any) -> None:
    for x in inputs:
        if isinstance(x, bool) or (isinstance(x, Tensor) and x.array.dtype.kind == "b"):
            raise TypeError(f"{name} takes numbers, not booleans; for masks there are ~, & and |, or convert, x.long()")


def promote(values: Sequence[Any]) -> list[Any]:
    """Tensors of one dtype, that of the first tensor with floats if there is one."""
    tensors = [x for x in values if isinstance(x, Tensor)]
    leader = next((x for x in tensors if x.array.dtype.kind == "f"), tensors[0] if tensors else as_tensor(values[0]))
    return [pair(leader, x)[1] for x in values]


def to_float(x: T) -> T:
    """Integers and booleans as float32, as torch's functions take them."""
    return x if x.array.dtype.kind == "f" else x.to(np.float32)  # type: ignore[attr-defined]


def check_floats(name: str, *inputs: Any) -> None:
    for x in inputs:
        if isinstance(x, Tensor) and x.array.dtype.kind != "f":
            raise TypeError(f"{name} takes floats, not {x.array.dtype}; convert with x.float()")


def as_mask(name: str, mask: Any) -> Any:
    mask = as_tensor(mask)
    if mask.array.dtype != np.bool_:
        raise TypeError(f"{name}: a mask holds booleans, not {mask.array.dtype}; compare, x != 0")
    return mask


# ---- sizes, axes, indices ---------------------------------------------------------------------------------------


def as_sizes(sizes: tuple[Any, ...], least: int) -> tuple[int, ...]:
    """(2, 3) from f(2, 3) as well as from f((2, 3)); none is below `least`, which is -1 where -1 has a meaning."""
    found = as_numbers("sizes", sizes)
    if found and min(found) < least:
        raise ValueError(f"sizes are at least {least}, not {min(found)}")
    return found


def as_numbers(name: str, numbers: tuple[Any, ...]) -> tuple[int, ...]:
    """Whole numbers, given as several or as one tuple or list."""
    given = numbers[0] if len(numbers) == 1 and isinstance(numbers[0], tuple | list) else numbers
    return tuple(as_number(name, number) for number in given)


def as_number(name: str, number: Any) -> int:
    if type(number) is not int and (isinstance(number, bool) or not hasattr(number, "__index__")):
        raise TypeError(f"{name}: takes whole numbers, not {number!r}")
    return index(number)


def numpy_names(method: F) -> F:
    """Also take NumPy's `axis` and `keepdims` for `dim` and `keepdim`, as torch does."""

    names = list(signature(method).parameters)
    where = names.index("keepdim") if "keepdim" in names else len(names)

    @wraps(method)
    def call(*inputs: Any, **settings: Any) -> Any:
        for name, alias in (("dim", "axis"), ("keepdim", "keepdims")):
            if alias in settings:
                if name in settings:
                    raise TypeError(f"{method.__name__}: {name} and {alias} are two names for one thing; give one")
                settings[name] = settings.pop(alias)
        keepdim = inputs[where] if len(inputs) > where else settings.get("keepdim", False)
        if not isinstance(keepdim, bool):
            raise TypeError(f"{method.__name__}: keepdim is True or False, not {keepdim!r}")
        return method(*inputs, **settings)

    return call  # type: ignore[return-value]


def as_axis(x: Any, dim: Any) -> Axis:
    """NumPy's axis for `dim`. An empty dim means all axes; a 0-d tensor takes 0 and -1."""
    if dim is None or (type(dim) is int and x.array.ndim):
        return dim
    dims = tuple(dim) if isinstance(dim, tuple | list) else (as_dim(dim),)
    if any(isinstance(d, bool) for d in dims):
        raise TypeError(f"dim is a whole number or several, not {dim!r}")
    if not x.array.ndim and set(dims) <= {0, -1}:
        if len(dims) > 1:
            raise ValueError(f"dim names one axis twice: {dim!r}")
        return ()
    return dims or None


def as_dim(dim: Any) -> int:
    """One axis."""
    if isinstance(dim, bool) or not isinstance(dim, int | np.integer):
        raise TypeError(f"dim is one axis, a whole number, not {dim!r}")
    return int(dim)


def as_index(where: Any, ndim: int) -> tuple[Any, Any]:
    """An index for NumPy, in two steps if need be: where numbers and lists of them meet, torch takes the numbers first,
    and NumPy would take them for lists, which changes the order of the axes."""
    if isinstance(where, list) and not all(map(np.isscalar, where)):
        raise TypeError("index: a list of lists may mean a tuple or an array; write (a, b) or np.array([a, b])")
    if not isinstance(where, tuple):
        return as_index_part(where), None
    parts = tuple(map(as_index_part, where))
    if sum(axes_of(part) for part in parts) == ndim:  # ... stands for no axis, but would part lists for NumPy
        parts = tuple(part for part in parts if part is not Ellipsis)
    numbers = [type(part) is int for part in parts]
    if not (any(numbers) and any(isinstance(part, np.ndarray) for part in parts)):
        return parts, None
    everything = slice(None)
    first, then = list[Any](), list[Any]()
    for part, is_number in zip(parts, numbers, strict=True):
        if isinstance(part, np.ndarray):
            first += [everything] * axes_of(part)
            then.append(part)
        else:
            first.append(part)
            then += [] if is_number else [Ellipsis if part is Ellipsis else everything]
    return tuple(first), tuple(then)


def axes_of(part: Any) -> int:
    """How many axes it picks from."""
    if part is None or part is Ellipsis:
        return 0
    return part.ndim if isinstance(part, np.ndarray) and part.dtype == bool else 1


def as_index_part(part: Any) -> Any:
    """Numbers, slices, None and ... as they are, all else (lists, arrays) as read-only arrays."""
    if part is None or part is Ellipsis or isinstance(part, slice):
        return part
    if isinstance(part, int | np.integer) and not isinstance(part, bool):
        return int(part)
    array = part.array if isinstance(part, Tensor) else as_array(part)
    if array.dtype == np.uint8:  # a mask in torch, though deprecated
        raise TypeError("index: uint8 may mean a mask or places; convert with .to(bool) or .to(int64)")
    if not array.size and array.dtype != bool and not isinstance(part, Tensor):
        array = array.astype(np.int64)  # an empty list picks nothing
    return int(array) if array.ndim == 0 and array.dtype.kind in "iu" else array
