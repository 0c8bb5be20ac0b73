"""dropout: each entry kept with probability 1 - p and scaled so that its mean stays; else set to 0.

    y_i      = x_i k_i / (1 - p)             k_i = 1 kept, 0 dropped
    dx_i     = dy_i k_i / (1 - p)

The mask comes in: the op draws nothing, so the same mask gives the same result, here and in torch.
"""

import copy

import numpy as np

from minitensor.arrays import Array
from minitensor.core import Op, Saved


def dropout_forward(x: Array, keep: Array, *, p: float) -> tuple[Array, Saved]:
    return x * keep * _scale(p), (keep, p)


def dropout_backward(dy: Array, keep: Array, p: float) -> tuple[Array, None]:
    # y = x * keep / (1 - p)
    return dy * keep * _scale(p), None


def _scale(p: float) -> float:
    return 1.0 / (1.0 - p) if p < 1 else 0.0


class Draws:
    """The generator before the forward, which draws a mask part by part: the backward draws the same parts again."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator, self.before = generator, copy.deepcopy(generator)

    def again(self) -> np.random.Generator:
        return copy.deepcopy(self.before)


dropout = Op("dropout", dropout_forward, dropout_backward)
