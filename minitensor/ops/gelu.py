"""gelu: x times the probability that a standard normal number lies below x.

    exact    y = x c(x)           c(x) = (1 + erf(x / sqrt 2)) / 2            c'(x) = e^(-x^2/2) / sqrt(2 pi)
    tanh     y = x c(x)           c(x) = (1 + tanh(s)) / 2                    c'(x) = 2 s'(x) c(x) (1 - c(x))
                                  s(x) = sqrt(2/pi) (x + 0.044715 x^3)        s'(x) = sqrt(2/pi) (1 + 3 0.044715 x^2)

    dx = dy (c(x) + x c'(x))      by the product rule, in both forms

"tanh" is the older form, GPT-2's. What dy is multiplied by depends on x alone, so the forward, which has c(x), computes
it too, and gelu saves nothing else. It goes piece by piece, since its formulas take two dozen steps.

NumPy has no erf. But the probability below -|x| is e^(-x^2/2) r(|x|), where r falls slowly from 1/2, much like a
quotient of polynomials, and the exponential is that of c'(x). Far below 0 this keeps digits that 1 + erf(x / sqrt 2)
loses.
(erf.py has to be right to the last digits near 0: for that it needs a tanh.)

The coefficients of r: for float64 by interpolation, computed with 60 digits, where |x| / (|x| + 3) is a Chebyshev node
of [0, 1] (largest error of c 2e-17, relative 2e-15); for float32 by least squares, reweighted until the largest error
of c, or of x c where |x| > 1, fell no further (1e-7; rounding makes it 2e-7).
"""

import math

import numpy as np

from minitensor.arrays import Array, pieces
from minitensor.core import Op, Saved
from minitensor.ops.erf import Coefficients, polynomial

_CUBE = 0.044715
_ROOT = math.sqrt(2.0 / math.pi)

# numerator and denominator of r, lowest power of |x| first
_R32: tuple[Coefficients, Coefficients] = (
    (4.87693066, 2.13505011, 0.40514641),
    (9.75385953, 12.0526746, 5.54874606, 1.0),
)
_R64: tuple[Coefficients, Coefficients] = (
    (
        125245.41778949672, 197381.17481559685, 153521.19148351507, 75818.462156936382, 25960.324306695451,
        6367.1053289214378, 1118.7474686305793, 136.29476926392524, 10.529608923302479, 0.39894228040143206,
    ),
    (
        250490.83557899345, 594625.11996228089, 656239.16786102063, 444548.38800636538, 205335.40645396318,
        67824.378668997262, 16299.60658208927, 2830.6778522910946, 342.64032232263973, 26.393815447953216, 1.0,
    ),
)  # fmt: skip


def gelu_forward(x: Array, *, approximate: str = "none") -> tuple[Array, Saved]:
    if approximate not in ("none", "tanh"):
        raise ValueError(f'gelu: approximate is "none" or "tanh", not {approximate!r}')
    y, slope = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
    for x_, y_, slope_ in pieces([x], [y, slope]):
        c, dc = _exact(x_) if approximate == "none" else _tanh(x_)
        np.multiply(x_, c, out=y_)
        # y = x * c(x)
        dc *= x_
        np.add(c, dc, out=slope_)
    return y, (slope,)


def gelu_backward(dy: Array, slope: Array) -> tuple[Array]:
    return (dy * slope,)


def _exact(x: Array) -> tuple[Array, Array]:
    """c(x) and c'(x)."""
    numerator, denominator = _R32 if x.dtype == np.float32 else _R64
    x = x.clip(-40.0, 40.0)  # where the exponential is 0: beyond, powers of x would overflow
    e = x * x
    e *= -0.5
    np.exp(e, out=e)
    size = _absolute(x)
    c = polynomial(numerator, size)
    c /= polynomial(denominator, size)
    c *= e
    c = _absolute((x >= 0) - c)  # the probability below -|x|, or 1 minus it: without a branch, which takes longer
    e *= 1.0 / math.sqrt(2.0 * math.pi)
    return c, e


def _absolute(x: Array) -> Array:
    """|x|; of complex numbers, x or -x, whichever continues it."""
    return np.abs(x) if x.dtype.kind == "f" else np.where(x.real < 0, -x, x)


def _tanh(x: Array) -> tuple[Array, Array]:
    """c(x) and c'(x)."""
    square = x * x
    s = square * (_CUBE * _ROOT)
    s += _ROOT
    s *= x
    c = np.tanh(s, out=s)
    c += 1.0
    c *= 0.5
    dc = square * (6.0 * _CUBE * _ROOT)
    dc += 2.0 * _ROOT
    # c' = 2 s' c (1 - c)
    dc *= c
    dc *= 1.0 - c
    return c, dc


gelu = Op("gelu", gelu_forward, gelu_backward)
