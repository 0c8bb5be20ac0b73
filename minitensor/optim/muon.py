"""Muon, for matrices (m, n).

    p -= lr wd p
    b = mu b + (1 - mu) g                         mean of the gradient
    p -= lr scale newton_schulz(b)                scale = sqrt(max(1, m / n)), or as adjust_lr_fn says
                                                  with nesterov  newton_schulz(mu b + (1 - mu) g)

A gradient U S V' (its singular value decomposition) says little along most of its directions: few singular values
are large. newton_schulz() is about U V', which moves the matrix as far along each.
"""

import math
from typing import Any

import numpy as np

from minitensor.arrays import Array
from minitensor.optim.optimizer import Group, Optimizer, Params, State


class Muon(Optimizer):
    """In the dtype of its parameters, while torch's Muon computes newton_schulz() in bfloat16."""

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:
        if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
            raise ValueError(f'Muon: adjust_lr_fn is None, "original" or "match_rms_adamw", not {adjust_lr_fn!r}')
        super().__init__(
            params,
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "nesterov": nesterov,
                "ns_coefficients": ns_coefficients,
                "eps": eps,
                "ns_steps": ns_steps,
                "adjust_lr_fn": adjust_lr_fn,
            },
        )

    def add_param_group(self, param_group: Any) -> None:
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            if p.ndim != 2:
                raise ValueError(f"Muon: only matrices can be made orthogonal, not a parameter of shape {p.shape}")

    def update(self, p: Array, g: Array, state: State, group: Group) -> Array:
        momentum, lr, (m, n) = group["momentum"], group["lr"], p.shape
        b = momentum * state.get("momentum_buffer", 0.0) + (1.0 - momentum) * g
        state["momentum_buffer"] = b
        direction = momentum * b + (1.0 - momentum) * g if group["nesterov"] else b
        scale = 0.2 * math.sqrt(max(m, n)) if group["adjust_lr_fn"] == "match_rms_adamw" else math.sqrt(max(1.0, m / n))
        new: Array = (1.0 - lr * group["weight_decay"]) * p
        new -= lr * scale * newton_schulz(direction, group["ns_coefficients"], group["ns_steps"], group["eps"])
        return new


def newton_schulz(x: Array, coefficients: tuple[float, float, float], steps: int, eps: float) -> Array:
    """About U V' of a matrix U S V'.

    A step makes  a X + (b X X' + c (X X')^2) X  of X (Newton and Schulz), which leaves U and V alone and makes of each
    singular value s the number  a s + b s^3 + c s^5.  With Muon's a, b, c that is steep at 0 and then wavers about 1:
    five steps bring all from 0.003 to 1 between 0.68 and 1.21.
    """
    a, b, c = coefficients
    m, n = x.shape
    x = x if m <= n else x.T  # so that X X' is the smaller of the two products
    x = x / max(float(np.linalg.norm(x)), eps)  # no singular value above 1
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x if m <= n else x.T
