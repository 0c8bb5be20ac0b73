"""Gradients from the forward alone: two numerical derivatives that share nothing with any backward.

    central difference    (f(x + h) - f(x - h)) / 2h        any f; error about h^2 f''' / 6 + 1e-16 f / h
    complex step          Im f(x + ih) / h                  f that NumPy extends to complex numbers: nothing is
                                                            subtracted, so all digits are right (h = 1e-30)

Both differentiate sum(dy * f(*arrays)) for a given upstream gradient dy. Take a random one: a plain sum hides errors
(the weights of a softmax sum to one, so any multiple of its true gradient, 0, passes).

    >>> from minitensor.gradcheck import gradcheck
    >>> gradcheck(lambda x, w: (x @ w).tanh(), (np.random.rand(2, 3), np.random.rand(3, 4)))
    True
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from minitensor.arrays import Array
from minitensor.core import grad
from minitensor.tensor import Operand, Tensor

STEP = 6e-6  # the cube root of 2e-16: there the two errors of a central difference are about equal


class GradcheckError(AssertionError):
    """A gradient that the forward does not bear out."""


def central_difference(
    function: Callable[..., Array], arrays: Sequence[Array], dy: Array, step: float = STEP
) -> list[Array | None]:
    """d sum(dy * function(*arrays)) / d array, for each array of float64 (None for the others)."""

    def slope(array: Array, i: Any) -> float:
        h = step * max(1.0, abs(array[i]))
        x = array[i]
        array[i] = high = x + h
        above = np.sum(dy * function(*work))
        array[i] = low = x - h
        below = np.sum(dy * function(*work))
        array[i] = x
        return float((above - below) / (high - low))

    work = [np.array(array) if _is_float(array) else array for array in arrays]
    return list(_slopes(work, slope))


def complex_step(
    function: Callable[..., Array], arrays: Sequence[Array], dy: Array, step: float = 1e-30
) -> list[Array | None]:
    """The same by complex numbers; `function` must be analytic (no abs, max, comparison)."""

    def slope(array: Array, i: Any) -> float:
        x = array[i]
        array[i] = x + 1j * step
        above = np.sum(dy * function(*work))
        array[i] = x
        return float(above.imag / step)

    work = [np.array(array, np.complex128) if _is_float(array) else array for array in arrays]
    return list(_slopes(work, slope))


def _is_float(array: Any) -> bool:
    if isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.dtype != np.float64:
        raise TypeError(f"a difference in {array.dtype} is mostly rounding; pass float64 arrays")
    return isinstance(array, np.ndarray) and array.dtype == np.float64


def _slopes(work: list[Any], slope: Callable[[Array, Any], float]) -> Iterator[Array | None]:
    for array in work:
        if isinstance(array, np.ndarray) and array.dtype in (np.float64, np.complex128):
            slopes = np.empty(array.shape)
            for i in np.ndindex(array.shape):
                slopes[i] = slope(array, i)
            yield slopes
        else:
            yield None


def gradcheck(
    func: Callable[..., Tensor],
    inputs: Operand | Sequence[Operand],
    *,
    eps: float = STEP,
    atol: float = 1e-8,
    rtol: float = 1e-6,
    seed: int = 0,
    raise_exception: bool = True,
) -> bool:
    """Whether the gradients of func, a function of tensors, agree with central differences of step eps.

    Inputs are float64 arrays or tensors; integers and booleans pass through. An entry may be off by atol + rtol times
    itself, and by the rounding of a central difference; the upstream gradient is random.
    """
    given = inputs if isinstance(inputs, tuple | list) else (inputs,)
    arrays = [np.array(x.array if isinstance(x, Tensor) else x) for x in given]
    leaves = [Tensor(array, requires_grad=_is_float(array)) for array in arrays]
    wanted = [x for x in leaves if x.requires_grad]
    if not wanted:
        raise ValueError("gradcheck: give at least one float64 array")
    y = func(*leaves)
    if not isinstance(y, Tensor) or y.dtype != np.float64:
        kind = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"gradcheck: the function takes float64 tensors and returns one, not {kind}")
    dy = np.random.default_rng(seed).standard_normal(y.shape)
    rounding = 1e-15 * float(np.abs(dy * y.array).sum()) / eps
    tape = iter(grad(y, wanted, dy, allow_unused=True))
    numeric = central_difference(lambda *xs: func(*(Tensor(x) for x in xs)).array, arrays, dy, eps)
    for position, expected in enumerate(numeric):
        if expected is None:
            continue
        found = next(tape)
        got = np.zeros_like(expected) if found is None else found.array
        right = np.abs(got - expected) <= atol + rtol * np.abs(expected) + rounding  # NaN is never right
        right &= np.isfinite(expected)
        if not right.all():
            if not raise_exception:
                return False
            i = tuple(int(n) for n in np.argwhere(~right)[0])
            raise GradcheckError(
                f"gradcheck: input {position} at {i}: backward gives {got[i]:.10g}, the difference quotient "
                f"{expected[i]:.10g} (step {eps:g}; {(~right).sum()} of {right.size} entries are wrong)"
            )
    return True
