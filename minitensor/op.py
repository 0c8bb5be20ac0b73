"""What an operation is: a forward and a backward, two plain functions on NumPy arrays, registered as a pair.

    x_forward(*arrays, **settings)  ->  y, saved      y: an array, or a tuple of arrays (split alone)
    x_backward(dy, *saved)          ->  one gradient for each input array, in order; None where there is none

`saved` is exactly what the backward takes: its signature is the memory bill. A gradient is called `d` + the name
of its value. No function here knows of tensors or graphs: call them on arrays, from a notebook as well as a test.

    >>> from minitensor.ops.softmax import softmax_forward, softmax_backward
    >>> y, saved = softmax_forward(np.array([1.0, 2.0, 3.0]))
    >>> (dx,) = softmax_backward(np.array([1.0, 0.0, 0.0]), *saved)

What a backward may rely on: the engine adds up what broadcasting repeated, so a backward need not. What it must
keep to: `dy` and `saved` are read, never written; the arrays decide the dtype (constants are Python floats). What a
forward returns becomes read-only.
"""

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
Axis = int | tuple[int, ...] | None

OPS: dict[str, "Op"] = {}


class Op:
    """A forward and its backward under one name. Making one registers it in OPS."""

    __slots__ = ("backward", "forward", "name")

    def __init__(
        self, name: str, forward: Callable[..., Any], backward: Callable[..., tuple[Array | None, ...]]
    ) -> None:
        if not (callable(forward) and callable(backward)):
            raise TypeError(f"Op {name!r} needs a forward and a backward, two functions on arrays")
        if name in OPS:
            raise ValueError(f"Op {name!r} is registered already: choose another name, or first `del OPS[{name!r}]`")
        self.name, self.forward, self.backward = name, forward, backward
        OPS[name] = self

    def __repr__(self) -> str:
        return f"Op({self.name!r})"
