"""gelu: x times the chance that a standard normal number lies below x.

    exact    y = x c(x)           c(x) = (1 + erf(x / sqrt 2)) / 2            c'(x) = e^(-x^2/2) / sqrt(2 pi)
    tanh     y = x c(x)           c(x) = (1 + tanh(s)) / 2                    c'(x) = s'(x) (1 - tanh(s)^2) / 2
                                  s(x) = sqrt(2/pi) (x + 0.044715 x^3)        s'(x) = sqrt(2/pi) (1 + 3 0.044715 x^2)

    dx = dy (c(x) + x c'(x))      by the product rule, in both forms

"tanh" is the older form, GPT-2's. Only x is kept; the backward computes c again, which costs less than the memory.
"""

import math

import numpy as np

from minitensor.op import Array, Op
from minitensor.ops.erf import erf_of

_CUBE = 0.044715
_ROOT = math.sqrt(2.0 / math.pi)


def gelu_forward(x: Array, *, approximate: str = "none") -> tuple[Array, tuple[Array, str]]:
    return x * _chance(x, approximate), (x, approximate)


def gelu_backward(dy: Array, x: Array, approximate: str) -> tuple[Array]:
    c = _chance(x, approximate)
    if approximate == "none":
        slope = np.exp(-0.5 * x * x) * (1.0 / math.sqrt(2.0 * math.pi))
    else:
        t = 2.0 * c - 1.0  # tanh(s)
        slope = 0.5 * (1.0 - t * t) * _ROOT * (1.0 + 3.0 * _CUBE * x * x)
    # y = x * c(x)
    return (dy * (c + x * slope),)


def _chance(x: Array, approximate: str) -> Array:
    """c(x), the part of x that passes."""
    if approximate == "none":
        return 0.5 + 0.5 * erf_of(x * math.sqrt(0.5))
    if approximate == "tanh":
        return 0.5 + 0.5 * np.tanh(_ROOT * (x + _CUBE * x * x * x))
    raise ValueError(f'gelu: approximate is "none" or "tanh", not {approximate!r}')


gelu = Op("gelu", gelu_forward, gelu_backward)
