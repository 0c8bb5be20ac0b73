"""Elementwise operations: each output entry depends on the input entries at its own place.

So the Jacobian is diagonal, and the backward is a product, entry by entry:

    y_i = f(a_i, b_i)        da_i = dy_i ∂f/∂a        db_i = dy_i ∂f/∂b

Inputs of different shapes broadcast as in NumPy; the engine sums the gradient over what broadcasting repeated.
At a corner the derivative is torch's choice: 0 for relu and abs at 0 (and abs at NaN) and for clip at its bounds, half
each where maximum's inputs tie. A plain number beside an array has its own operations, which need not keep the array.
"""

import math
from typing import Any

import numpy as np

from minitensor.arrays import Array
from minitensor.core import Op, Saved

# ---- arithmetic -------------------------------------------------------------------------------------------------


def add_forward(a: Array, b: Array) -> tuple[Array, Saved]:
    return a + b, ()


def add_backward(dy: Array) -> tuple[Array, Array]:
    return dy, dy


def sub_forward(a: Array, b: Array) -> tuple[Array, Saved]:
    return a - b, ()


def sub_backward(dy: Array) -> tuple[Array, Array]:
    return dy, -dy


def mul_forward(a: Array, b: Array) -> tuple[Array, Saved]:
    return a * b, (a, b)


def mul_backward(dy: Array, a: Array, b: Array) -> tuple[Array, Array]:
    return dy * b, dy * a


def mul_number_forward(x: Array, *, number: float) -> tuple[Array, Saved]:
    return x * number, (number,)


def mul_number_backward(dy: Array, number: float) -> tuple[Array]:
    return (dy * number,)


def div_forward(a: Array, b: Array) -> tuple[Array, Saved]:
    y = a / b
    return y, (y, b)


def div_backward(dy: Array, y: Array, b: Array) -> tuple[Array, Array]:
    # y = a / b:  ∂y/∂a = 1 / b,  ∂y/∂b = -a / b^2 = -y / b
    da = dy / b
    return da, -da * y


def div_number_forward(x: Array, *, number: float) -> tuple[Array, Saved]:
    return x / number, (number,)


def div_number_backward(dy: Array, number: float) -> tuple[Array]:
    return (dy / number,)


def cast_forward(x: Array, *, dtype: np.dtype[Any]) -> tuple[Array, Saved]:
    """From one float dtype to another; its gradient changes it back."""
    return x.astype(dtype), (x.dtype,)


def cast_backward(dy: Array, dtype: np.dtype[Any]) -> tuple[Array]:
    return (dy.astype(dtype),)


def neg_forward(x: Array) -> tuple[Array, Saved]:
    return -x, ()


def neg_backward(dy: Array) -> tuple[Array]:
    return (-dy,)


def pow_forward(a: Array, b: Array) -> tuple[Array, Saved]:
    y = a**b
    return y, (a, b, y)


def pow_backward(dy: Array, a: Array, b: Array, y: Array) -> tuple[Array, Array]:
    # y = a^b:  ∂y/∂a = b a^(b-1), which is 0 for b = 0 whatever a is;  ∂y/∂b = y log a, which is 0 at a = 0 <= b
    da = dy * np.where(b == 0, 0.0, b * a ** np.where(b == 0, 1.0, b - 1.0))
    flat = (a == 0) & (b >= 0)
    db = np.where(flat, 0.0, dy * y * np.log(np.where(flat, 1.0, a)))
    return da, db


def pow_number_forward(x: Array, *, number: float) -> tuple[Array, Saved]:
    return x**number, (x, number)


def pow_number_backward(dy: Array, x: Array, number: float) -> tuple[Array]:
    if number == 0:
        return (np.zeros_like(dy),)
    return (dy * (number * x ** (number - 1)),)


add = Op("add", add_forward, add_backward)
sub = Op("sub", sub_forward, sub_backward)
mul = Op("mul", mul_forward, mul_backward)
mul_number = Op("mul_number", mul_number_forward, mul_number_backward)
div = Op("div", div_forward, div_backward)
div_number = Op("div_number", div_number_forward, div_number_backward)
cast = Op("cast", cast_forward, cast_backward)
neg = Op("neg", neg_forward, neg_backward)
pow = Op("pow", pow_forward, pow_backward)
pow_number = Op("pow_number", pow_number_forward, pow_number_backward)

# ---- functions of one array -------------------------------------------------------------------------------------


def exp_forward(x: Array) -> tuple[Array, Saved]:
    y = np.exp(x)
    return y, (y,)


def exp_backward(dy: Array, y: Array) -> tuple[Array]:
    return (dy * y,)


def log_forward(x: Array) -> tuple[Array, Saved]:
    return np.log(x), (x,)


def log_backward(dy: Array, x: Array) -> tuple[Array]:
    return (dy / x,)


def sqrt_forward(x: Array) -> tuple[Array, Saved]:
    y = np.sqrt(x)
    return y, (y,)


def sqrt_backward(dy: Array, y: Array) -> tuple[Array]:
    return (dy / (2.0 * y),)


def tanh_forward(x: Array) -> tuple[Array, Saved]:
    y = np.tanh(x)
    return y, (y,)


def tanh_backward(dy: Array, y: Array) -> tuple[Array]:
    return (dy * (1.0 - y * y),)


def sigmoid_forward(x: Array) -> tuple[Array, Saved]:
    # 1 / (1 + e^-x), written with e^-|x| so that nothing overflows and small results keep their digits
    e = np.exp(-np.abs(x))
    y = np.where(x >= 0, 1.0, e) / (1.0 + e)
    return y, (y,)


def sigmoid_backward(dy: Array, y: Array) -> tuple[Array]:
    return (dy * (y * (1.0 - y)),)


exp = Op("exp", exp_forward, exp_backward)
log = Op("log", log_forward, log_backward)
sqrt = Op("sqrt", sqrt_forward, sqrt_backward)
tanh = Op("tanh", tanh_forward, tanh_backward)
sigmoid = Op("sigmoid", sigmoid_forward, sigmoid_backward)

# ---- functions with a corner ------------------------------------------------------------------------------------


def relu_forward(x: Array) -> tuple[Array, Saved]:
    y = np.maximum(x, 0)
    return y, (y,)


def relu_backward(dy: Array, y: Array) -> tuple[Array]:
    return (np.where(y <= 0, 0, dy),)


def abs_forward(x: Array) -> tuple[Array, Saved]:
    return np.abs(x), (x,)


def abs_backward(dy: Array, x: Array) -> tuple[Array]:
    return (dy * np.nan_to_num(np.sign(x)),)


def maximum_forward(a: Array, b: Array) -> tuple[Array, Saved]:
    return np.maximum(a, b), (a, b)


def maximum_backward(dy: Array, a: Array, b: Array) -> tuple[Array, Array]:
    shared = np.where(a == b, 0.5 * dy, dy)
    return np.where(a < b, 0.0, shared), np.where(a > b, 0.0, shared)


def minimum_forward(a: Array, b: Array) -> tuple[Array, Saved]:
    return np.minimum(a, b), (a, b)


def minimum_backward(dy: Array, a: Array, b: Array) -> tuple[Array, Array]:
    shared = np.where(a == b, 0.5 * dy, dy)
    return np.where(a > b, 0.0, shared), np.where(a < b, 0.0, shared)


def where_forward(condition: Array, a: Array, b: Array) -> tuple[Array, Saved]:
    return np.where(condition, a, b), (condition,)


def where_backward(dy: Array, condition: Array) -> tuple[None, Array, Array]:
    # A choice, not a product with 0 and 1: what the branch not taken holds, NaN included, does not matter.
    return None, np.where(condition, dy, 0.0), np.where(condition, 0.0, dy)


def clip_forward(x: Array, *, min: float = -math.inf, max: float = math.inf) -> tuple[Array, Saved]:
    inside = (x > min) & (x < max)
    y = x if min == -math.inf else np.maximum(x, min)
    return y if max == math.inf else np.minimum(y, max), (inside,)


def clip_backward(dy: Array, inside: Array) -> tuple[Array]:
    return (np.where(inside, dy, 0.0),)


relu = Op("relu", relu_forward, relu_backward)
abs = Op("abs", abs_forward, abs_backward)
maximum = Op("maximum", maximum_forward, maximum_backward)
minimum = Op("minimum", minimum_forward, minimum_backward)
where = Op("where", where_forward, where_backward)
clip = Op("clip", clip_forward, clip_backward)
