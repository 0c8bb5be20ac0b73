"""linear: every row x of the input becomes x W^T + b.

    y_no     = sum_i x_ni W_oi + b_o         N rows, I inputs, O outputs
    dx_ni    = sum_o dy_no W_oi              dx = dy W
    dW_oi    = sum_n dy_no x_ni              dW = dy^T x
    db_o     = sum_n dy_no                   the bias is added to every row

The weight is (O, I), as in torch. Leading axes (batch, time) are only more rows: W is the same for all of them, so
its gradient is one product over all rows, not a product for each sequence and then a sum.
"""

from minitensor.arrays import Array, as_rows, sum_of_rows
from minitensor.core import Op, Saved


def linear_forward(x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, Saved]:
    y = as_rows(x) @ weight.T  # (N, O)
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], len(weight)), (x, weight, bias is not None)


def linear_backward(dy: Array, x: Array, weight: Array, has_bias: bool) -> tuple[Array, Array, Array | None]:
    dy = as_rows(dy)  # (N, O)
    # y += bias
    dbias = sum_of_rows(dy) if has_bias else None
    # y = x @ weight.T
    dweight = dy.T @ as_rows(x)
    dx = (dy @ weight).reshape(x.shape)
    return dx, dweight, dbias


linear = Op("linear", linear_forward, linear_backward)
