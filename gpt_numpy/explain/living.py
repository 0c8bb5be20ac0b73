"""The data of a page that holds the model: it computes all numbers itself, for any text, layer and head.

model       the weights, in base64, and what the model consists of
tables      for each layer the formula and the terms of every quantity, without numbers
digests     of each matrix of the model, on the text that the page begins with: its largest number and two
            projections, by minitensor and by torch. The page compares its own with them.
"""

from collections.abc import Mapping

import numpy as np

from gpt_numpy.explain.checks import BEND, EXACT, torch_pass
from gpt_numpy.explain.differences import STEP
from gpt_numpy.explain.formulas import MASKED, quantities
from gpt_numpy.explain.objective import NEXT_TOKEN
from gpt_numpy.explain.page import Record, packed, record
from gpt_numpy.explain.problem import Problem
from gpt_numpy.explain.trace import Trace
from minitensor.arrays import Array

MOST_BYTES = 4_600_000  # of the weights in base64; a page with larger ones would open slowly


def can_live(problem: Problem, characters: list[str]) -> bool:
    """Whether a page can hold the model and read any text: a token is a character, and the loss needs nothing else."""
    is_small = sum(array.size for array in _stored(problem).values()) * 4 * 4 / 3 <= MOST_BYTES
    return is_small and problem.objective is NEXT_TOKEN and all(len(one) <= 1 for one in characters)


def living_contents(trace: Trace, about: Record) -> Record:
    problem, config = trace.problem, trace.problem.config
    weights = _stored(problem)
    values = {name: tensor.array for name, tensor in trace.tensors.items()}
    gradients = {name: tensor.grad.array for name, tensor in trace.tensors.items() if tensor.grad is not None}
    return about | trace.scene | {
        "model": {
            "config": {
                "layers": config.n_layer, "heads": config.n_head, "width": config.n_embd, "context": config.block_size,
                "vocabulary": config.vocab_size, "gelu": config.gelu, "isTied": config.tie_weights,
            },
            "weights": {name: packed(array) for name, array in weights.items()},
            "shapes": {name: array.shape for name, array in weights.items()},
        },
        "tables": [
            [record(quantity) for quantity in quantities(config, layer).values()] for layer in range(config.n_layer)
        ],
        "digests": {
            "minitensor": digests(problem, values, gradients),
            **({"torch": digests(problem, *found)} if all(found := torch_pass(problem)) else {}),
        },
        "step": STEP, "exact": EXACT, "bend": BEND, "masked": MASKED,
    }  # fmt: skip


def _stored(problem: Problem) -> Mapping[str, Array]:
    """The weights, one table once."""
    tied = problem.config.tie_weights
    return {name: array for name, array in problem.weights.items() if not (tied and name == "lm_head.weight")}


# ---- digests ----------------------------------------------------------------------------------------------------


def digests(problem: Problem, values: Mapping[str, Array], gradients: Mapping[str, Array]) -> dict[str, list[float]]:
    """By the names of the page: P0.3 is head 3 of layer 0."""
    visible, found = np.tri(len(problem.ids), dtype=bool), {}
    for mark, arrays in (("", values), ("d", gradients)):
        for name, array in arrays.items():
            if name in problem.weights:
                parts = {} if mark == "" else {name: array}
            elif array.ndim == 4:
                parts = {f"{name}.{head}": part for head, part in enumerate(array[0])}
            else:
                parts = {name: array[0]} if array.ndim > 1 else {}
            for part, numbers in parts.items():
                shown = np.where(visible, numbers, 0.0) if name[0] in "SP" and array.ndim == 4 else numbers
                found[f"{mark}{part}"] = _digest(shown.ravel())
    return found


def _digest(numbers: Array) -> list[float]:
    if not np.isfinite(numbers).all():
        return []  # of a model that has diverged there is nothing to compare
    return [float(np.abs(numbers).max()), *(float(numbers @ direction(numbers.size, seed)) for seed in (1, 2))]


def direction(count: int, seed: int) -> Array:
    """Numbers from -1 to 1 that look random, the same as in page/trace.js: bits that are multiplied and shifted."""
    bits = (np.arange(1, count + 1, dtype=np.uint32) * np.uint32(0x9E3779B1)) ^ np.uint32(seed * 0x85EBCA6B % 2**32)
    for shift, factor in ((15, 0x2C1B3C6D), (12, 0x297A2D39)):
        bits = (bits ^ (bits >> np.uint32(shift))) * np.uint32(factor)
    uniform: Array = (bits ^ (bits >> np.uint32(15))) / 2.0**31 - 1.0
    return uniform
