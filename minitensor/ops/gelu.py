"""gelu: x times the chance that a standard normal number lies below x.

    exact    y = x c(x)           c(x) = (1 + erf(x / sqrt 2)) / 2            c'(x) = e^(-x^2/2) / sqrt(2 pi)
    tanh     y = x c(x)           c(x) = (1 + tanh(s)) / 2                    c'(x) = s'(x) (1 - tanh(s)^2) / 2
                                  s(x) = sqrt(2/pi) (x + 0.044715 x^3)        s'(x) = sqrt(2/pi) (1 + 3 0.044715 x^2)

    dx = dy (c(x) + x c'(x))      by the product rule, in both forms

"tanh" is the older form, GPT-2's. gelu saves x and c. It goes piece by piece, since its formulas take a dozen steps.
"""

import math

import numpy as np

from minitensor.arrays import Array, pieces
from minitensor.core import Op, Saved
from minitensor.ops.erf import erf_of

_CUBE = 0.044715
_ROOT = math.sqrt(2.0 / math.pi)


def gelu_forward(x: Array, *, approximate: str = "none") -> tuple[Array, Saved]:
    if approximate not in ("none", "tanh"):
        raise ValueError(f'gelu: approximate is "none" or "tanh", not {approximate!r}')
    y, c = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
    for x_, y_, c_ in pieces([x], [y, c]):
        t = erf_of(x_ * math.sqrt(0.5)) if approximate == "none" else np.tanh(_s(x_))
        # c = (1 + t) / 2
        t += 1.0
        np.multiply(t, 0.5, out=c_)
        np.multiply(x_, c_, out=y_)
    return y, (x, c, approximate)


def gelu_backward(dy: Array, x: Array, c: Array, approximate: str) -> tuple[Array]:
    dx = np.empty(x.shape, x.dtype)
    for dy_, x_, c_, dx_ in pieces([dy, x, c], [dx]):
        if approximate == "none":
            slope = x_ * x_
            slope *= -0.5
            np.exp(slope, out=slope)
            slope *= 1.0 / math.sqrt(2.0 * math.pi)
        else:
            t = 2.0 * c_ - 1.0  # tanh(s)
            slope = 0.5 * (1.0 - t * t) * _ROOT * (1.0 + 3.0 * _CUBE * x_ * x_)
        # y = x * c(x)
        slope *= x_
        slope += c_
        np.multiply(slope, dy_, out=dx_)
    return (dx,)


def _s(x: Array) -> Array:
    return _ROOT * (x + _CUBE * x * x * x)


gelu = Op("gelu", gelu_forward, gelu_backward)
