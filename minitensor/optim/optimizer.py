"""What all optimizers share: groups of parameters with settings, and a state for each parameter.

A step gives each parameter a new array: snapshots and graphs that hold the old one stay as they are.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from minitensor.arrays import Array, read_only
from minitensor.tensor import Tensor

Group = dict[str, Any]  # settings by name, and "params"
State = dict[str, Any]  # arrays and numbers by name; empty before the first update
Params = Iterable[Tensor] | Iterable[Group]


class Optimizer:
    """Groups of parameters, each with its own settings, and the optimizer state of each parameter."""

    def __init__(self, params: Params, defaults: Group) -> None:
        self.defaults = defaults
        self.param_groups: list[Group] = []
        self.state: dict[Tensor, State] = {}
        if isinstance(params, Tensor) or not isinstance(params, Iterable):
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
        self._settings(group)
        self.param_groups.append(group)

    def _settings(self, group: Group) -> dict[str, Any]:
        """Those of a group, checked, as Python's numbers: a schedule may have set tensors or NumPy's, which would bring
        their own dtype into the arithmetic."""
        settings = {name: _plain(value) for name, value in group.items() if name != "params"}
        for name in ("lr", "weight_decay", "momentum", "eps", "dampening"):
            value = settings.get(name, 0)
            if not isinstance(value, int | float):
                raise TypeError(f"{type(self).__name__}: {name} is a number, not {value!r:.40}")
            if not (value >= 0 or name == "dampening"):
                raise ValueError(f"{type(self).__name__}: {name} cannot be negative, it is {value}")
        betas = settings.get("betas", (0, 0))
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"{type(self).__name__}: betas are two numbers at least 0 and below 1, not {betas}")
        return settings

    def zero_grad(self, set_to_none: bool = True) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None if set_to_none or p.grad is None else Tensor(np.zeros_like(p.array))

    def step(self) -> None:
        for group in self.param_groups:
            settings = self._settings(group)
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state.setdefault(p, {})
                    for name, value in state.items():
                        if isinstance(value, np.ndarray) and value.dtype != p.dtype:
                            raise RuntimeError(
                                f"{type(self).__name__}: {name} is {value.dtype}, its parameter {p.dtype}; make a new "
                                "optimizer after the model is converted"
                            )
                    p.array = read_only(np.asarray(self.update(p.array, p.grad.array, state, settings)))

    def update(self, p: Array, g: Array, state: State, group: Group) -> Array:
        """A new array for the parameter p with the gradient g; its state is changed in place."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """All that resuming needs, with the parameters numbered in order; a snapshot."""
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
            if number not in range(len(numbered)):
                raise ValueError(
                    f"{type(self).__name__}: there is no parameter {number}, only 0 to {len(numbered) - 1}"
                )
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
    if isinstance(value, tuple | list):
        return tuple(map(_plain, value))
    is_number = isinstance(value, Tensor | np.ndarray | np.generic) and value.ndim == 0
    return value.item() if is_number else value
