"""Which optimizer trains which parameters, with which settings, and what it remembers of them.

hidden      the matrices inside the blocks, where the recipe says muon: Muon
matrices    all other matrices, the embeddings too: AdamW; decay pulls them towards 0, as it does the hidden ones
others      biases, and the scales of layer norms, which start at 1: AdamW, without decay
"""

from collections.abc import Collection, Mapping
from typing import Any, Protocol, TypeVar

from gpt_numpy.workshop.recipes import Recipe

MEMORY = ("exp_avg", "exp_avg_sq", "momentum_buffer")  # each an array in the shape of the parameter
REMEMBERED = {"hidden": MEMORY[2:], "matrices": MEMORY[:2], "others": MEMORY[:2]}


class Shaped(Protocol):
    @property
    def ndim(self) -> int: ...


P = TypeVar("P", bound=Shaped)


def grouped(parameters: Mapping[str, P], optimizer: str) -> dict[str, dict[str, P]]:
    """The parameters by group; no group is empty."""
    groups: dict[str, dict[str, P]] = {}
    for kind in REMEMBERED:
        if some := {name: p for name, p in parameters.items() if _group_of(name, p.ndim, optimizer) == kind}:
            groups[kind] = some
    return groups


def _group_of(name: str, ndim: int, optimizer: str) -> str:
    if ndim < 2:
        return "others"
    return "hidden" if optimizer == "muon" and name.startswith("blocks.") else "matrices"


def settings_at(recipe: Recipe, step: int) -> dict[str, dict[str, Any]]:
    """Of each group, in a step."""
    part = recipe.part_at(step)
    adamw = {"lr": recipe.lr * part, "betas": (recipe.beta1, recipe.beta2)}
    decay = recipe.weight_decay
    return {
        "hidden": {"lr": recipe.muon_lr * part, "momentum": recipe.momentum, "weight_decay": decay},
        "matrices": {**adamw, "weight_decay": decay},
        "others": {**adamw, "weight_decay": 0.0},
    }


def memory_shapes(shapes: Mapping[str, tuple[int, ...]], optimizer: str) -> dict[str, tuple[int, ...]]:
    """All arrays that are remembered for parameters of such shapes: KIND.NAME and the shape of each."""
    return {
        f"{kind}.{name}": shape
        for kind in MEMORY
        for name, shape in shapes.items()
        if kind in REMEMBERED[_group_of(name, len(shape), optimizer)]
    }


def optimizer_of(memory: Collection[str]) -> str:
    """Whose memory it is, by its names."""
    return "muon" if any(name.startswith("momentum_buffer.") for name in memory) else "adamw"
