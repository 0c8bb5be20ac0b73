"""Inputs of operations.

A case describes its inputs once, by asking a Source for sizes, values and choices. There are two sources:

    Drawn      hypothesis chooses: edge cases, and small failing examples
    Typical    a seeded generator chooses: no size below 2, no special values, no symmetry. Such an example reveals an
               error in any entry of a gradient, as test_judge.py requires.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol, TypeVar

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minitensor.arrays import Array

T = TypeVar("T")
Shape = tuple[int, ...]


@dataclass
class Example:
    """Inputs of one call: arrays by position (None for an omitted optional one), settings by name."""

    arrays: list[Any]
    settings: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        arrays = ", ".join(_format(a) for a in self.arrays)
        return f"Example([{arrays}], {self.settings})"


def _format(array: Any) -> str:
    if not isinstance(array, np.ndarray):
        return repr(array)
    layout = "" if array.flags.c_contiguous else f" (strides {array.strides})"
    return f"{array.dtype.name} {array.shape}{layout} {array.tolist()}"


class Source(Protocol):
    def integer(self, low: int, high: int) -> int: ...

    def choice(self, options: Sequence[T]) -> T: ...

    def shape(self, min_dims: int = 0, max_dims: int = 3, min_side: int = 0) -> Shape: ...

    def shapes(self, count: int) -> list[Shape]:
        """Broadcastable shapes."""
        ...

    def values(self, shape: Shape, low: float = -8.0, high: float = 8.0) -> Array: ...

    def integers(self, shape: Shape, low: int, high: int) -> Array: ...

    def booleans(self, shape: Shape) -> Array: ...


class Typical:
    """Ordinary values from a seeded generator."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def choice(self, options: Sequence[T]) -> T:
        return options[0]

    def shape(self, min_dims: int = 0, max_dims: int = 3, min_side: int = 0) -> Shape:
        return tuple(self.rng.permutation([2, 3, 4])[: max(min_dims, min(2, max_dims))].tolist())

    def shapes(self, count: int) -> list[Shape]:
        return [(2, 3), (3,), (2, 1)][:count]

    def values(self, shape: Shape, low: float = -8.0, high: float = 8.0) -> Array:
        return self.rng.uniform(max(low, -2.0), min(high, 2.0), shape)

    def integers(self, shape: Shape, low: int, high: int) -> Array:
        return self.rng.integers(low, high, shape, endpoint=True)

    def booleans(self, shape: Shape) -> Array:
        return np.asarray(self.rng.random(shape) < 0.6)


# Cached, since constructing a strategy takes hypothesis longer than drawing from it.
INTEGERS, ARRAYS = cache(st.integers), cache(hnp.arrays)
SHAPES, BROADCASTABLE = cache(hnp.array_shapes), cache(hnp.mutually_broadcastable_shapes)
LAYOUTS = st.sampled_from(["contiguous", "contiguous", "fortran", "strided", "reversed"])


@cache
def floats(low: float, high: float) -> st.SearchStrategy[float]:
    special = [x for x in (0.0, -0.0, 1.0, -1.0, 0.5, 2.0, -3.0, 1e-8, -1e-8, 1e-30, low, high) if low <= x <= high]
    return st.sampled_from(special) | st.floats(low, high, allow_subnormal=False)


class Drawn:
    """Drawn by hypothesis, with likely edge cases: ties, zeros of both signs, large and tiny values, sizes 0 and 1, and
    non-contiguous arrays."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw

    def integer(self, low: int, high: int) -> int:
        return int(self.draw(INTEGERS(low, high)))

    def choice(self, options: Sequence[T]) -> T:
        chosen: T = self.draw(st.sampled_from(options))
        return chosen

    def shape(self, min_dims: int = 0, max_dims: int = 3, min_side: int = 0) -> Shape:
        return tuple(self.draw(SHAPES(min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=4)))

    def shapes(self, count: int) -> list[Shape]:
        return list(self.draw(BROADCASTABLE(num_shapes=count, min_side=0, max_side=4, max_dims=3)).input_shapes)

    def values(self, shape: Shape, low: float = -8.0, high: float = 8.0) -> Array:
        equal = self.draw(INTEGERS(0, 7)) == 0  # all entries are the same
        if equal:
            return np.full(shape, self.draw(floats(low, high)), np.float64)
        return self._with_layout(self.draw(ARRAYS(np.float64, shape, elements=floats(low, high), fill=st.nothing())))

    def integers(self, shape: Shape, low: int, high: int) -> Array:
        array: Array = self.draw(ARRAYS(np.int64, shape, elements=INTEGERS(low, high), fill=st.nothing()))
        return array

    def booleans(self, shape: Shape) -> Array:
        array: Array = self.draw(ARRAYS(np.bool_, shape))
        return array

    def _with_layout(self, array: Array) -> Array:
        """The same values in a random memory layout."""
        layout = self.draw(LAYOUTS)
        if layout == "fortran":
            return np.asfortranarray(array) if array.ndim else array
        if layout == "strided" and array.ndim:
            return np.repeat(array, 2, axis=-1)[..., ::2]
        if layout == "reversed" and array.ndim:
            return np.ascontiguousarray(array[..., ::-1])[..., ::-1]
        return array
