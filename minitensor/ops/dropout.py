"""dropout: each entry kept with chance 1 - p and then enlarged, so that its mean stays; else set to 0.

    y_i      = x_i k_i / (1 - p)             k_i = 1 kept, 0 dropped
    dx_i     = dy_i k_i / (1 - p)

The mask comes in: the op draws nothing, so the same mask gives the same result, here and in torch.
"""

from minitensor.core import Array, Op


def dropout_forward(x: Array, keep: Array, *, p: float) -> tuple[Array, tuple[Array, float]]:
    return x * keep * _enlarge(p), (keep, p)


def dropout_backward(dy: Array, keep: Array, p: float) -> tuple[Array, None]:
    # y = x * keep / (1 - p)
    return dy * keep * _enlarge(p), None


def _enlarge(p: float) -> float:
    return 1.0 / (1.0 - p) if p < 1 else 0.0


dropout = Op("dropout", dropout_forward, dropout_backward)
