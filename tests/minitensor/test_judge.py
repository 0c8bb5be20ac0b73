"""Every check of gradients must reject wrong ones.

For every operation and every input that has a gradient, the true gradient is corrupted in each of the ways below.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minitensor.arrays import Array
from minitensor.core import OPS
from tests.minitensor.cases import CASES
from tests.minitensor.judge import check_numerically, compare, operation, rounded_to_float32, through_engine, upstream
from tests.minitensor.strategies import Example, Typical

Corruption = Callable[[Array, tuple[int, ...]], Array]  # from a true gradient and the shape of its input


def transposed(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Reversed if transposing changes the shape."""
    wrong = gradient.swapaxes(-1, -2) if gradient.ndim > 1 else gradient[::-1]
    return wrong if wrong.shape == gradient.shape else np.flip(gradient)


def unsummed(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Only the first of the entries that are to be summed over broadcast axes."""
    for _ in range(gradient.ndim - len(shape)):
        gradient = gradient[0]
    firsts: tuple[slice, ...] = tuple(slice(n) for n in shape)
    return gradient[firsts]


CORRUPTIONS: dict[str, Corruption] = {
    "zero": lambda gradient, shape: np.zeros_like(gradient),
    "negated": lambda gradient, shape: -gradient,
    "times 1.001": lambda gradient, shape: gradient * 1.001,
    "transposed": transposed,
    "shifted by one position": lambda gradient, shape: np.roll(gradient, 1),
    "not summed": unsummed,
    "one entry off by 1 %": lambda gradient, shape: (
        gradient * np.where(np.abs(gradient) == np.abs(gradient).max(), 1.01, 1)
    ),
    "NaN in one entry": lambda gradient, shape: np.where(
        np.arange(gradient.size).reshape(gradient.shape) == 0, np.nan, gradient
    ),
}


def corrupted(name: str, position: int, corrupt: Corruption, example: Example) -> tuple[Any, list[bool]]:
    """The operation with one gradient corrupted, and whether that gradient changed, for each call of its backward."""
    differs: list[bool] = []

    def backward(dy: Any, *saved: Any) -> tuple[Array | None, ...]:
        gradients = list(OPS[name].backward(dy, *saved))
        true = np.asarray(gradients[position])
        wrong = corrupt(true, example.arrays[position].shape).astype(true.dtype)
        differs.append(wrong.shape != true.shape or not np.array_equal(wrong, true))
        gradients[position] = wrong
        return tuple(gradients)

    return SimpleNamespace(name=name, forward=OPS[name].forward, backward=backward), differs


def checks(name: str, op: Any, example: Example) -> dict[str, Callable[[], Any]]:
    case, dy = CASES[name], upstream(1)
    narrow = rounded_to_float32(example)
    return {
        "torch, float64": lambda: compare(case, through_engine(operation(op)), example, dy),
        "torch, float32": lambda: compare(case, through_engine(operation(op), np.float32), narrow, dy, float32=True),
        "numerical": lambda: check_numerically(case, op, example, dy),
    }


@pytest.mark.parametrize("name", list(CASES))
def test_every_check_rejects_every_wrong_gradient(name: str) -> None:
    example = CASES[name].make(Typical(seed=11))
    for kind, check in checks(name, OPS[name], example).items():
        check()  # the true gradients pass, so the rejections below are due to the corruption
        for position in float_inputs(example):
            for how, corrupt in CORRUPTIONS.items():
                if how == "not summed" and not is_summed(name, position, example):
                    continue
                op, differs = corrupted(name, position, corrupt, example)
                accepted = is_accepted(checks(name, op, example)[kind])
                assert all(differs), f"{name}: this example does not change if its gradient is {how}"
                assert not accepted, f"{kind}: gradient {position} of {name}, {how}, was accepted"


def is_accepted(check: Callable[[], Any]) -> bool:
    try:
        check()
    except AssertionError:
        return False
    return True


def float_inputs(example: Example) -> list[int]:
    """The positions of inputs that have gradients."""
    return [i for i, a in enumerate(example.arrays) if isinstance(a, np.ndarray) and a.dtype.kind == "f"]


def is_summed(name: str, position: int, example: Example) -> bool:
    """Whether the engine sums this gradient because its input was broadcast."""
    y, saved = OPS[name].forward(*example.arrays, **example.settings)
    ys = y if isinstance(y, tuple) else (y,)
    dy = tuple(upstream(i)[: part.size].reshape(part.shape) for i, part in enumerate(ys))
    gradient = OPS[name].backward(dy if isinstance(y, tuple) else dy[0], *saved)[position]
    assert gradient is not None
    return bool(gradient.shape != example.arrays[position].shape)


def test_examples_include_broadcasting() -> None:
    broadcast = set()
    for name, case in CASES.items():
        example = case.make(Typical(seed=11))
        if any(is_summed(name, position, example) for position in float_inputs(example)):
            broadcast.add(name)
    assert broadcast >= {"add", "sub", "mul", "div", "pow", "maximum", "minimum", "where", "expand", "attention"}


def test_nan_is_accepted_only_where_torch_has_nan() -> None:
    case = CASES["log"]
    run = through_engine(operation(OPS["log"]))
    with np.errstate(all="ignore"):
        compare(case, run, Example([np.array([-1.0, 2.0])]), upstream(0))
        for bad in (np.nan, np.inf, -np.inf):
            op = SimpleNamespace(
                name="log", forward=lambda x, bad=bad: (np.log(x) * [1, bad], (x,)), backward=OPS["log"].backward
            )
            with pytest.raises(AssertionError, match="output"):
                compare(case, through_engine(operation(op)), Example([np.array([-1.0, 2.0])]), upstream(0))


def test_backward_that_writes_to_saved_array_is_rejected() -> None:
    def backward_in_place(dy: Array, y: Array) -> tuple[Array]:
        y *= dy
        return (y,)

    op = SimpleNamespace(name="exp", forward=OPS["exp"].forward, backward=backward_in_place)
    with pytest.raises(ValueError, match="read-only"):
        compare(CASES["exp"], through_engine(operation(op)), Example([np.array([1.0, 2.0])]), upstream(0))
