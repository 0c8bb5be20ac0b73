"""AdamW.

p -= lr wd p                                  decay, apart from the gradient
m = b1 m + (1 - b1) g                         mean of the gradient
v = b2 v + (1 - b2) g^2                       mean of its square
p -= lr m' / (sqrt(v') + eps)                 m' = m / (1 - b1^t), v' = v / (1 - b2^t): both start at 0
"""

import math
from typing import Any

import numpy as np

from minitensor.arrays import pieces
from minitensor.core import Array
from minitensor.optim.optimizer import Group, Optimizer, Params


class AdamW(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _stepped(self, p: Array, g: Array, state: dict[str, Any], group: Group) -> Array:
        (b1, b2), lr = group["betas"], group["lr"]
        if not state:
            state.update(step=0, exp_avg=np.zeros(p.shape, p.dtype), exp_avg_sq=np.zeros(p.shape, p.dtype))
        state["step"] += 1
        t = state["step"]

        stepped = np.empty(p.shape, p.dtype)
        for p_, g_, m, v, new in pieces([p, g], [state["exp_avg"], state["exp_avg_sq"], stepped]):
            m *= b1
            m += (1.0 - b1) * g_
            square = g_ * g_
            square *= 1.0 - b2
            v *= b2
            v += square
            size = np.sqrt(v)
            size /= math.sqrt(1.0 - b2**t)
            size += group["eps"]
            change = m * (lr / (1.0 - b1**t))
            change /= size
            np.multiply(p_, 1.0 - lr * group["weight_decay"], out=new)
            new -= change
        return stepped
