"""Adam and AdamW.

    AdamW    p -= lr wd p                         decoupled weight decay
    Adam     g += wd p                            weight decay as part of the gradient

    both     m = b1 m + (1 - b1) g                mean of the gradient
             v = b2 v + (1 - b2) g^2              mean of its square
             p -= lr m' / (sqrt(v') + eps)        m' = m / (1 - b1^t), v' = v / (1 - b2^t): both start at 0

A step moves each number of p by about lr: m' has the sign and sqrt(v') the size of its gradients.
"""

import math

import numpy as np

from minitensor.arrays import Array, pieces
from minitensor.optim.optimizer import Group, Optimizer, Params, State


class Adam(Optimizer):
    decoupled = False

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def update(self, p: Array, g: Array, state: State, group: Group) -> Array:
        (b1, b2), lr, decay = group["betas"], group["lr"], group["weight_decay"]
        if not state:
            state.update(step=0, exp_avg=np.zeros(p.shape, p.dtype), exp_avg_sq=np.zeros(p.shape, p.dtype))
        state["step"] += 1
        t = state["step"]
        if decay and not self.decoupled:
            g = g + decay * p

        # With c1 = 1 - b1^t and c2 = sqrt(1 - b2^t), the last rule at the top is p -= lr c2/c1 m / (sqrt(v) + c2 eps).
        c1, c2 = 1.0 - b1**t, math.sqrt(1.0 - b2**t)
        updated = np.empty(p.shape, p.dtype)
        for p_, g_, m, v, new in pieces([p, g], [state["exp_avg"], state["exp_avg_sq"], updated]):
            # intermediate results share the place of the last one: the cache then holds fewer arrays
            part = np.multiply(g_, 1.0 - b1, out=new)
            m *= b1
            m += part
            square = np.multiply(g_, g_, out=new)
            square *= 1.0 - b2
            v *= b2
            v += square
            size = np.sqrt(v, out=new)
            size += c2 * group["eps"]
            change = np.divide(m, size, out=new)
            change *= -lr * c2 / c1
            new += p_ * (1.0 - lr * decay if self.decoupled else 1.0)
        return updated


class AdamW(Adam):
    decoupled = True

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)
