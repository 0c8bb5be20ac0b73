"""Which optimizer updates which parameters, with which settings, and the names of its state.

muon        the matrices inside the blocks, if the recipe says muon: Muon
decay       all other matrices, the embeddings too: AdamW with weight decay
no_decay    biases, and the scales of layer norms, which start at 1: AdamW without
"""

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from gpt_numpy.workshop.recipes import Recipe

STATE_KEYS = ("exp_avg", "exp_avg_sq", "momentum_buffer")  # each an array in the shape of the parameter
KEYS_OF_GROUP = {"muon": STATE_KEYS[2:], "decay": STATE_KEYS[:2], "no_decay": STATE_KEYS[:2]}


class Shaped(Protocol):
    @property
    def ndim(self) -> int: ...


P = TypeVar("P", bound=Shaped)


def group_parameters(parameters: Mapping[str, P], optimizer: str) -> dict[str, dict[str, P]]:
    """The parameters by group; no group is empty."""
    groups: dict[str, dict[str, P]] = {}
    for group in KEYS_OF_GROUP:
        if members := {name: p for name, p in parameters.items() if _group_of(name, p.ndim, optimizer) == group}:
            groups[group] = members
    return groups


def _group_of(name: str, ndim: int, optimizer: str) -> str:
    if ndim < 2:
        return "no_decay"
    return "muon" if optimizer == "muon" and name.startswith("blocks.") else "decay"


def settings_at(recipe: Recipe, step: int) -> dict[str, dict[str, Any]]:
    """The optimizer settings of each group."""
    scale = recipe.lr_scale(step)
    adamw = {"lr": recipe.lr * scale, "betas": (recipe.beta1, recipe.beta2)}
    decay = recipe.weight_decay * (scale if recipe.decay_schedule == "falling" else 1.0)
    return {
        "muon": {"lr": recipe.muon_lr * scale, "momentum": recipe.momentum, "weight_decay": decay},
        "decay": {**adamw, "weight_decay": decay},
        "no_decay": {**adamw, "weight_decay": 0.0},
    }


def state_shapes(shapes: Mapping[str, tuple[int, ...]], optimizer: str) -> dict[str, tuple[int, ...]]:
    """The shape of each array of the optimizer state, KEY.NAME, for parameters of such shapes."""
    return {
        f"{key}.{name}": shape
        for key in STATE_KEYS
        for name, shape in shapes.items()
        if key in KEYS_OF_GROUP[_group_of(name, len(shape), optimizer)]
    }
