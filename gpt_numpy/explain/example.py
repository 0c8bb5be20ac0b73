"""The worked example of the README: attention alone, with Q, K, V and dO given, small enough to follow on paper.

There is no model. dO is the gradient with respect to O of the loss L = sum of dO O, in which dO is a constant.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gpt_numpy.config import GPTConfig
from gpt_numpy.explain.checks import Torch
from gpt_numpy.explain.formulas import MASKED, Quantity, parsed, quantities
from gpt_numpy.explain.forward import ByHand, Note, Stages
from gpt_numpy.explain.subject import Subject
from gpt_numpy.workshop.cli.flags import Flags
from gpt_numpy.workshop.errors import UsageError
from minitensor import Tensor, no_grad
from minitensor.arrays import Array

EXAMPLES = ("paper",)
FLAGS = {"example", "entry", "show", "out", "differences"}  # the others are of a text
GIVEN = {
    "Q": math.sqrt(2) * np.array([[1.0, 0], [0, 1], [1, 1]]),
    "K": math.log(2) * np.array([[1.0, 0], [0, 1], [0, 0]]),
    "V": np.array([[1.0, 0], [0, 1], [1, 1]]),
    "dO": np.array([[1.0, 1], [2, -1], [1, 0]]),
}
T, D = GIVEN["Q"].shape
VALUES = ("Q", "K", "V", "S", "P", "O")
LABELS = ["a", "b", "c"]  # of the positions
ABOUT = (
    f"A worked example, of T = {T} positions and D = {D} channels: every number of attention's forward and backward "
    "pass as a sum of products. Q, K, V and dO are given, and chosen so that the numbers are fractions, some of them "
    "times √2 or ln 2. The loss is L = Σ dO O, whose gradient with respect to O is dO. There is no model."
)


class Example:
    """Its numbers, from minitensor's tape."""

    def __init__(self) -> None:
        self.quantities = _quantities()
        self.numbers = _numbers(ByHand(), lambda array: Tensor(array, requires_grad=True), lambda one: one.array)
        self.constants: Mapping[str, float] = {"c": 1 / math.sqrt(D)}
        self.visible = np.tri(T, dtype=bool)

    places = VALUES
    scene = {  # noqa: RUF012  # never changed
        "layer": 0, "head": 0, "heads": 1, "layers": 1, "width": D, "ofLoss": ["L"], "aboutLoss": "",
        "ids": [*range(T), None], "about": ABOUT,
    }  # fmt: skip

    def losses(self, name: str, changes: Array) -> Array:
        def note(one: str, value: Tensor) -> Tensor:
            return Tensor(value.array + changes) if one == name else value

        with no_grad():
            losses = _losses(ByHand(), {one: Tensor(array) for one, array in GIVEN.items()}, note)
        found: Array = losses.array.sum(-1)
        return found

    def by_torch(self) -> dict[str, Array]:
        try:
            import torch
        except ImportError:
            return {}

        def variable(array: Array) -> Any:
            return torch.tensor(array, requires_grad=True)

        return _numbers(Torch(), variable, lambda one: one.detach().numpy())


def _losses(stages: Stages, given: Mapping[str, Any], note: Note) -> Any:
    """The loss at each position."""
    q, k, v = (note(name, given[name]) for name in "QKV")
    S = note("S", stages.scores(q, k))
    P = note("P", stages.weights(S))
    O = note("O", stages.values(P, v))  # noqa: E741
    return (O * given["dO"]).sum(-1)


def _numbers(stages: Stages, variable: Any, array_of: Any) -> dict[str, Array]:
    """The numbers of every quantity, by one of the two libraries."""
    values: dict[str, Any] = {}

    def note(name: str, value: Any) -> Any:
        value.retain_grad()
        values[name] = value
        return value

    losses = _losses(stages, {name: variable(array) for name, array in GIVEN.items()}, note)
    losses.sum().backward()
    numbers = {"l": array_of(losses), "L": array_of(losses).sum()}
    for name, value in values.items():
        numbers |= {name: array_of(value), f"d{name}": array_of(value.grad)}
    for name in MASKED:
        numbers[name] = np.where(np.tri(T, dtype=bool), numbers[name], -np.inf if name == "S" else 0.0)
    return numbers


def _quantities() -> dict[str, Quantity]:
    """Those of the attention of a model, and the loss."""
    known = quantities(GPTConfig(vocab_size=T, block_size=T, n_layer=1, n_head=1, n_embd=D), 0)
    for name in GIVEN:
        known[name] = replace(known[name], formula="", kind="given", terms=())
    known["dO"] = replace(known["dO"], meaning="the gradient of the loss with respect to this head's output")
    own, total = "Σ_d dO[i,d] O[i,d]", "Σ_i l[i]"
    known["l"] = Quantity("l", ("i",), "the part of the loss that comes from a position", own, terms=parsed(own))
    known["L"] = Quantity("L", (), "the loss: its gradient with respect to O is dO", total, terms=parsed(total))
    return {name: known[name] for name in (*VALUES, "l", "L", "dO", "dP", "dV", "dS", "dQ", "dK")}


def example_subject(program: str, flags: Flags) -> Subject:
    for name in flags:
        if name == "text":
            raise UsageError("--example has numbers of its own, and takes no TEXT")
        if name not in FLAGS:
            raise UsageError(f"--example has numbers of its own; --{name.replace('_', '-')} is for a TEXT")
    command = f"{program} explain --example {flags['example']}"
    said = [f"worked example: T = {T}, D = {D}; Q, K, V and dO are given, and the loss is the sum of dO O"]
    return Subject("a worked example", LABELS, LABELS, [], "", "", said, (command, ""), program, "")
