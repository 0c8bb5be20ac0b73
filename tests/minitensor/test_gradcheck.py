"""gradcheck: correct gradients pass, wrong ones are reported."""

from typing import Any

import numpy as np
import pytest

from minitensor import Tensor, apply
from minitensor import functional as F
from minitensor.arrays import Array
from minitensor.core import OPS, Op
from minitensor.gradcheck import GradcheckError, central_difference, complex_step, gradcheck

rng = np.random.default_rng(0)
X, W = rng.standard_normal((2, 3)), rng.standard_normal((3, 4))


def test_correct_gradients_pass() -> None:
    assert gradcheck(lambda x, w: (x @ w).tanh().softmax(-1), (X, W))
    assert gradcheck(lambda x: F.gelu(x), X)
    assert gradcheck(lambda x, ids: F.embedding(ids, x), (X, np.array([1, 0, 1])))
    assert gradcheck(lambda x, unused: x * 2.0, (X, W))


def test_wrong_gradient_is_reported() -> None:
    wrong = Op("wrong", lambda x: (x**3, (x,)), lambda dy, x: (dy * 3 * x * x * (1 + 1e-5 * (x == x.max())),))
    try:

        def cube(x: Tensor) -> Tensor:
            return apply(wrong, x)

        i, j = np.unravel_index(X.argmax(), X.shape)
        with pytest.raises(GradcheckError, match=rf"input 0 at \({i}, {j}\).*1 of 6 entries are wrong"):
            gradcheck(cube, X)
        assert not gradcheck(cube, X, raise_exception=False)
    finally:
        del OPS["wrong"]


def test_random_upstream_reveals_wrong_softmax_gradient() -> None:
    """The gradient of sum(softmax(x)) is zero, and so is one with the wrong sign."""
    softmax = OPS["softmax"]

    def negated(dy: Array, y: Array, axis: int) -> tuple[Array]:
        (dx,) = softmax.backward(dy, y, axis)
        assert dx is not None
        return (-dx,)

    flipped = Op("flipped", softmax.forward, negated)
    try:
        assert gradcheck(lambda x: apply(flipped, x).sum(), X)
        with pytest.raises(GradcheckError):
            gradcheck(lambda x: apply(flipped, x), X)
    finally:
        del OPS["flipped"]


def test_every_input_is_checked() -> None:
    second = Op("second", lambda x, w: (x * w, (x, w)), lambda dy, x, w: (dy * w, -dy * x))
    try:
        with pytest.raises(GradcheckError, match="input 1 at"):
            gradcheck(lambda x, w: apply(second, x, w), (X, X + 1.0))
    finally:
        del OPS["second"]


def test_step_can_be_set() -> None:
    with pytest.raises(GradcheckError, match=r"step 0\.1"):
        gradcheck(lambda x: x**3, X, eps=0.1)


def test_float32_is_refused() -> None:
    with pytest.raises(TypeError, match="pass float64"):
        gradcheck(lambda x: x * 2.0, X.astype(np.float32))


def test_nan_is_rejected() -> None:
    with np.errstate(all="ignore"), pytest.raises(GradcheckError):
        gradcheck(lambda x: (x - 100.0).log() * 0.0 + x, X)


def test_central_difference_matches_complex_step() -> None:
    def forward(x: Array, w: Array) -> Array:
        y: Array = np.tanh(x @ w)
        return y

    dy = rng.standard_normal((2, 4))
    for a, b in zip(central_difference(forward, (X, W), dy), complex_step(forward, (X, W), dy), strict=True):
        assert a is not None
        assert b is not None
        np.testing.assert_allclose(a, b, 1e-8, 1e-9)


def test_wrong_gradients_beside_large_or_infinite_ones_are_noticed() -> None:
    def checked(forward: Any, backward: Any, *x: float) -> bool:
        op = Op("test", forward, backward)
        with np.errstate(all="ignore"):
            return gradcheck(lambda t: apply(op, t), np.array(x), raise_exception=False)

    scale = np.array([1e8, 1.0])
    assert checked(lambda x: (x * scale, ()), lambda dy: (dy * scale,), 1.0, 2.0)
    assert not checked(lambda x: (x * scale, ()), lambda dy: (dy * scale * [1, -1],), 1.0, 2.0)
    assert not checked(lambda x: (1.0 / x, ()), lambda dy: (dy * 12345.0,), 6e-6, 1.0, 2.0)  # a difference over 1/0


def test_gradcheck_needs_float64() -> None:
    with pytest.raises(ValueError, match="at least one float64 array"):
        gradcheck(lambda x: x * 2.0, np.array([1, 2]))
    with pytest.raises(TypeError, match="returns one, not float32"):
        gradcheck(lambda x: x.float(), np.ones(2))
