"""Optimizers: SGD, AdamW and Muon with torch's arguments and defaults; clip_grad_norm_ and its two halves.

    SGD      g += wd p;   b = mu b + (1 - damp) g (the first time b = g);   p -= lr b
             (nesterov: p -= lr (g + mu b))

    AdamW    p -= lr wd p                                  decay, apart from the gradient
             m = b1 m + (1 - b1) g                         mean of the gradient
             v = b2 v + (1 - b2) g^2                       mean of its square
             p -= lr m' / (sqrt(v') + eps)                 m' = m / (1 - b1^t), v' = v / (1 - b2^t): both start at 0

    Muon     p -= lr wd p                                  for matrices (m, n)
             b = mu b + (1 - mu) g                         mean of the gradient
             p -= lr scale orthogonal(b)                   scale = sqrt(max(1, m / n)), or as adjust_lr_fn says
             (nesterov: orthogonal(mu b + (1 - mu) g))

    A gradient U S V' (its singular value decomposition) says little along most of its directions: few singular values
    are large. orthogonal() is about U V', which moves the matrix as far along each.

A step gives each parameter a new array: snapshots and graphs that hold the old one stay as they are.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from minitensor.arrays import pieces
from minitensor.core import Array, read_only, wrap
from minitensor.tensor import Tensor

Group = dict[str, Any]
Params = Iterable[Tensor] | Iterable[Group]


class Optimizer:
    """Groups of parameters, each with its own settings, and what the optimizer remembers of each parameter."""

    def __init__(self, params: Params, defaults: Group) -> None:
        self.defaults = defaults
        self.param_groups: list[Group] = []
        self.state: dict[Tensor, dict[str, Any]] = {}
        if not isinstance(params, Iterable):
            raise TypeError(
                f"{type(self).__name__}: give tensors or groups, as in model.parameters(), not {params!r:.40}"
            )
        given = list(params)
        if not given:
            raise ValueError(f"{type(self).__name__}: the list of parameters is empty")
        for group in given if isinstance(given[0], dict) else [{"params": given}]:
            self.add_param_group(group)

    def add_param_group(self, param_group: Any) -> None:
        if not isinstance(param_group, dict) or "params" not in param_group:
            raise ValueError(f'{type(self).__name__}: a group is a dict with "params" in it, not {param_group!r:.60}')
        params = param_group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        known = {p for group in self.param_groups for p in group["params"]}
        for p in params:
            if not isinstance(p, Tensor) or not p.is_leaf:
                raise ValueError(f"{type(self).__name__}: only leaf tensors can be trained, not {p!r:.60}")
            if p in known:
                raise ValueError(f"{type(self).__name__}: a parameter of shape {p.shape} is given twice")
            known.add(p)
        group = {**self.defaults, **param_group, "params": params}
        unknown = group.keys() - self.defaults.keys() - {"params"}
        if unknown:
            raise ValueError(f"{type(self).__name__}: no setting is called {sorted(unknown)[0]!r}")
        for name in ("lr", "weight_decay", "momentum", "eps"):
            if group.get(name, 0) < 0:
                raise ValueError(f"{type(self).__name__}: {name} cannot be negative, it is {group[name]}")
        if not all(0 <= beta < 1 for beta in group.get("betas", ())):
            raise ValueError(f"{type(self).__name__}: betas are at least 0 and below 1, not {group['betas']}")
        self.param_groups.append(group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None if set_to_none or p.grad is None else Tensor(np.zeros_like(p.array))

    def step(self) -> None:
        for group in self.param_groups:
            # A schedule may have set NumPy numbers, which would bring their own dtype into the arithmetic.
            settings = {name: _plain(value) for name, value in group.items() if name != "params"}
            for p in group["params"]:
                if p.grad is not None:
                    stepped = self._stepped(p.array, p.grad.array, self.state.setdefault(p, {}), settings)
                    p.array = read_only(np.asarray(stepped))

    def _stepped(self, p: Array, g: Array, state: dict[str, Any], group: Group) -> Array:
        """The parameter after a step, as a new array; `state` is updated."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What a run needs to go on, with parameters numbered in order; a snapshot."""
        number = {p: i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        return {
            "state": {number[p]: {k: np.copy(v) if isinstance(v, np.ndarray) else v for k, v in kept.items()}
                      for p, kept in self.state.items()},
            "param_groups": [{**group, "params": [number[p] for p in group["params"]]} for group in self.param_groups],
        }  # fmt: skip

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        groups = state_dict["param_groups"]
        sizes, given = [len(g["params"]) for g in self.param_groups], [len(g["params"]) for g in groups]
        if sizes != given:
            raise ValueError(f"{type(self).__name__}: its groups have {sizes} parameters, the state's have {given}")
        numbered = [p for group in self.param_groups for p in group["params"]]
        state = {}
        for number, kept in state_dict["state"].items():
            p = numbered[number]
            for name, value in kept.items():
                if isinstance(value, np.ndarray) and value.shape != p.shape:
                    raise ValueError(
                        f"{type(self).__name__}: {name} of parameter {number} is {value.shape}, not {p.shape}"
                    )
            state[p] = {k: np.array(v, p.dtype, order="C") if isinstance(v, np.ndarray) else v for k, v in kept.items()}
        self.state = state
        for own, other in zip(self.param_groups, groups, strict=True):
            own.update({name: value for name, value in other.items() if name != "params"})


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


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

    def _stepped(self, p: Array, g: Array, state: dict[str, Any], group: Group) -> Array:
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
        stepped: Array = p - group["lr"] * g
        return stepped


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


class Muon(Optimizer):
    """In the dtype of its parameters, while torch's Muon computes orthogonal() in bfloat16."""

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

    def _stepped(self, p: Array, g: Array, state: dict[str, Any], group: Group) -> Array:
        momentum, lr, (m, n) = group["momentum"], group["lr"], p.shape
        b = momentum * state.get("momentum_buffer", 0.0) + (1.0 - momentum) * g
        state["momentum_buffer"] = b
        direction = momentum * b + (1.0 - momentum) * g if group["nesterov"] else b
        scale = 0.2 * math.sqrt(max(m, n)) if group["adjust_lr_fn"] == "match_rms_adamw" else math.sqrt(max(1.0, m / n))
        stepped: Array = (1.0 - lr * group["weight_decay"]) * p
        stepped -= lr * scale * orthogonal(direction, group["ns_coefficients"], group["ns_steps"], group["eps"])
        return stepped


def orthogonal(x: Array, coefficients: tuple[float, float, float], steps: int, eps: float) -> Array:
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


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale all gradients together so that their norm is at most max_norm; the norm they had."""
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    total = get_total_norm([p.grad for p in parameters if p.grad is not None], norm_type, error_if_nonfinite)
    clip_grads_with_norm_(parameters, max_norm, total)
    return total


def get_total_norm(tensors: Iterable[Tensor], norm_type: float = 2.0, error_if_nonfinite: bool = False) -> Tensor:
    """The norm of all their numbers together."""
    norms = [np.linalg.norm(tensor.array.reshape(-1), norm_type) for tensor in tensors]
    total = np.linalg.norm(np.stack(norms), norm_type) if norms else 0.0
    if error_if_nonfinite and not np.isfinite(total):
        raise RuntimeError(f"the norm of the gradients is {total}")
    return Tensor(total)


def clip_grads_with_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float, total_norm: Tensor | float) -> None:
    """Scale gradients as is right where all of them together have this norm."""
    factor = float(max_norm / (float(total_norm) + 1e-6))
    if not factor >= 1:  # a factor that is NaN spreads, as in torch
        for p in [parameters] if isinstance(parameters, Tensor) else parameters:
            if p.grad is not None:
                p.grad = wrap(np.asarray(p.grad.array * factor))
