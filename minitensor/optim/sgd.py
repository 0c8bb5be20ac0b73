"""Stochastic gradient descent, with momentum.

    g += wd p
    b = mu b + (1 - damp) g                       the first time b = g
    p -= lr b                                     with nesterov  p -= lr (g + mu b)

Without momentum, b is g.
"""

from minitensor.arrays import Array
from minitensor.optim.optimizer import Group, Optimizer, Params, State


class SGD(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("SGD: nesterov needs a momentum and no dampening")
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
            },
        )

    def update(self, p: Array, g: Array, state: State, group: Group) -> Array:
        momentum = group["momentum"]
        if group["weight_decay"]:
            g = g + group["weight_decay"] * p
        if momentum:
            if "momentum_buffer" in state:
                b = momentum * state["momentum_buffer"] + (1.0 - group["dampening"]) * g
            else:
                b = g
            state["momentum_buffer"] = b
            g = g + momentum * b if group["nesterov"] else b
        return p - group["lr"] * g  # type: ignore[no-any-return]
