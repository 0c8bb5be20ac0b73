"""The judge is judged: backwards that are wrong on purpose, each of which every judge must reject.

For every operation and every input that has a gradient, the true gradient is spoilt in each of the ways below.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minitensor.arrays import Array
from minitensor.core import OPS
from tests.minitensor.cases import CASES
from tests.minitensor.judge import check_by_forward, compare, operation, rounded_to_float32, through_engine, upstream
from tests.minitensor.strategies import Example, Typical

Spoil = Callable[[Array, tuple[int, ...]], Array]  # a true gradient, and the shape of its input


def turned(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Transposed where that keeps the shape, else from back to front."""
    turned = gradient.swapaxes(-1, -2) if gradient.ndim > 1 else gradient[::-1]
    return turned if turned.shape == gradient.shape else np.flip(gradient)


def unsummed(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Of the entries to be summed over broadcast axes, the first alone."""
    for _ in range(gradient.ndim - len(shape)):
        gradient = gradient[0]
    firsts: tuple[slice, ...] = tuple(slice(n) for n in shape)
    return gradient[firsts]


SPOILS: dict[str, Spoil] = {
    "zero": lambda gradient, shape: np.zeros_like(gradient),
    "negated": lambda gradient, shape: -gradient,
    "times 1.001": lambda gradient, shape: gradient * 1.001,
    "turned": turned,
    "off by one position": lambda gradient, shape: np.roll(gradient, 1),
    "not summed": unsummed,
    "one entry off by 1 %": lambda gradient, shape: (
        gradient * np.where(np.abs(gradient) == np.abs(gradient).max(), 1.01, 1)
    ),
    "NaN in one entry": lambda gradient, shape: np.where(
        np.arange(gradient.size).reshape(gradient.shape) == 0, np.nan, gradient
    ),
}


def spoilt(name: str, position: int, spoil: Spoil, example: Example) -> tuple[Any, list[bool]]:
    """The operation with one of its gradients spoilt, and a list that says whether spoiling ever made a difference."""
    differs: list[bool] = []

    def backward(dy: Any, *saved: Any) -> tuple[Array | None, ...]:
        gradients = list(OPS[name].backward(dy, *saved))
        true = np.asarray(gradients[position])
        wrong = spoil(true, example.arrays[position].shape).astype(true.dtype)
        differs.append(wrong.shape != true.shape or not np.array_equal(wrong, true))
        gradients[position] = wrong
        return tuple(gradients)

    return SimpleNamespace(name=name, forward=OPS[name].forward, backward=backward), differs


def judgements(name: str, op: Any, example: Example) -> dict[str, Callable[[], Any]]:
    case, dy = CASES[name], upstream(1)
    narrow = rounded_to_float32(example)
    return {
        "torch, float64": lambda: compare(case, through_engine(operation(op)), example, dy),
        "torch, float32": lambda: compare(case, through_engine(operation(op), np.float32), narrow, dy, float32=True),
        "the forward alone": lambda: check_by_forward(case, op, example, dy),
    }


@pytest.mark.parametrize("name", list(CASES))
def test_every_judge_rejects_every_wrong_gradient(name: str) -> None:
    example = CASES[name].make(Typical(seed=11))
    for judge, judgement in judgements(name, OPS[name], example).items():
        judgement()  # the true gradients pass, so what is rejected below is rejected for its fault
        for position in floats_of(example):
            for how, spoil in SPOILS.items():
                if how == "not summed" and not is_summed(name, position, example):
                    continue
                op, differs = spoilt(name, position, spoil, example)
                accepted = is_accepted(judgements(name, op, example)[judge])
                assert all(differs), f"{name}: this example cannot tell a gradient that is {how}"
                assert not accepted, f"{judge}: gradient {position} of {name}, {how}, was accepted"


def is_accepted(judgement: Callable[[], Any]) -> bool:
    try:
        judgement()
    except AssertionError:
        return False
    return True


def floats_of(example: Example) -> list[int]:
    """The positions of the inputs that have gradients."""
    return [i for i, a in enumerate(example.arrays) if isinstance(a, np.ndarray) and a.dtype.kind == "f"]


def is_summed(name: str, position: int, example: Example) -> bool:
    """Whether the engine sums this gradient, because its input broadcast."""
    y, saved = OPS[name].forward(*example.arrays, **example.settings)
    ys = y if isinstance(y, tuple) else (y,)
    dy = tuple(upstream(i)[: part.size].reshape(part.shape) for i, part in enumerate(ys))
    gradient = OPS[name].backward(dy if isinstance(y, tuple) else dy[0], *saved)[position]
    assert gradient is not None
    return bool(gradient.shape != example.arrays[position].shape)


def test_broadcasting_is_among_what_was_judged() -> None:
    judged = set()
    for name, case in CASES.items():
        example = case.make(Typical(seed=11))
        if any(is_summed(name, position, example) for position in floats_of(example)):
            judged.add(name)
    assert judged >= {"add", "sub", "mul", "div", "pow", "maximum", "minimum", "where", "expand", "attention"}


def test_nan_is_right_only_where_torch_has_nan() -> None:
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


def test_a_backward_that_writes_into_what_it_was_given_is_caught() -> None:
    def greedy(dy: Array, y: Array) -> tuple[Array]:
        y *= dy
        return (y,)

    op = SimpleNamespace(name="exp", forward=OPS["exp"].forward, backward=greedy)
    with pytest.raises(ValueError, match="read-only"):
        compare(CASES["exp"], through_engine(operation(op)), Example([np.array([1.0, 2.0])]), upstream(0))
