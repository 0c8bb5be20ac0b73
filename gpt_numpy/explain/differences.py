"""Gradients from the loss alone, by central differences."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from gpt_numpy.explain.forward import ByHand, run
from gpt_numpy.explain.problem import Place, Problem
from gpt_numpy.explain.traced import Traced
from gpt_numpy.workshop.cores import available_cores
from minitensor import Tensor, no_grad
from minitensor import functional as F
from minitensor.arrays import Array

STEP = 1e-5  # balances the errors from curvature and from rounding, about 1e-10 each
AT_ONCE = 2048  # tokens in one forward pass

Progress = Callable[[int], None]  # called with the number of differences just taken


def differences(
    trace: Traced, name: str, indices: Array, progress: Progress = lambda count: None, step: float = STEP
) -> Array:
    """(L(x + h) - L(x - h)) / 2h for a step h, for the entries (N, axes) of the value or parameter of this name."""
    shape = trace.numbers[name].shape

    def slopes(indices: Array) -> Array:
        changes = np.zeros((2, len(indices), *shape))
        for row, index in enumerate(indices):
            changes[(0, row, *index)] = step
            changes[(1, row, *index)] = -step
        above, below = trace.losses(name, changes.reshape(-1, *shape)).reshape(2, -1)
        found: Array = (above - below) / (2 * step)
        return found

    at_once = max(1, AT_ONCE // (2 * len(trace.visible)))
    pieces = [indices[start : start + at_once] for start in range(0, len(indices), at_once)]
    taken = []
    with ThreadPoolExecutor(available_cores()) as pool:
        for found in pool.map(slopes, pieces):
            taken.append(found)
            progress(len(found))
    return np.concatenate(taken)


def extrapolated(trace: Traced, name: str, indices: Array, slopes: Array) -> Array:
    """From the differences of step h and those of h / 2, whose error h^2 / 6 L''' is a quarter: an error of h^4."""
    found: Array = (4.0 * differences(trace, name, indices, step=STEP / 2) - slopes) / 3.0
    return found


def resolution(trace: Traced) -> float:
    """The smallest slope that a difference can resolve: some rounding errors of the loss, over its step."""
    largest = max(abs(float(trace.numbers["L"])), float(np.abs(trace.numbers["l"]).mean()))  # L may have cancelled
    return 16 * float(np.spacing(largest)) / (2 * STEP)


def losses(problem: Problem, name: str, changes: Array) -> Array:
    """The loss for each of the changes (B, ...), added to the value or parameter of this name. What comes before it is
    the same for all of them, and computed once.
    """
    place, B = problem.places[name], len(changes)
    weights = dict(problem.weights)
    if place.is_parameter:
        weights[place.name] = _changed(weights[place.name][None], changes, place)

    def note(name: str, value: Tensor) -> Tensor:
        return Tensor(_changed(value.array, changes, place)) if name == place.name else value

    ids, targets = Tensor(problem.ids[None]), Tensor(np.broadcast_to(problem.wanted, (B, *problem.wanted.shape)))
    tensors = {name: Tensor(array) for name, array in weights.items()}
    with no_grad():
        found = run(ManyWeights, ByHand(), tensors, ids, targets, problem.config, note)
    total: Array = problem.objective.total(found.array, np)
    return total


def _changed(arrays: Array, changes: Array, place: Place) -> Array:
    changed = np.repeat(arrays, len(changes), 0)
    changed[(slice(None), *place.part)] += changes
    return changed


class ManyWeights:
    """minitensor.functional with optionally B versions of a matrix or bias, one for each sequence of the batch."""

    embedding, layer_norm, gelu, cross_entropy = F.embedding, F.layer_norm, F.gelu, F.cross_entropy

    @staticmethod
    def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = x @ weight.transpose(1, 2) if weight.ndim == 3 else F.linear(x, weight)
        if bias is None:
            return y
        return y + (bias.unsqueeze(1) if bias.ndim == 2 else bias)  # (B, T, O)
