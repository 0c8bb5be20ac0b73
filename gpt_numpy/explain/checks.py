"""Every gradient four ways: by its formula, by minitensor's tape, by torch, and by a difference quotient of the loss.

The first three are exact up to rounding, about 1e-16 of the largest term. A difference quotient of step h has an error
of about h^2 from the curvature of the loss, and cannot resolve less than the rounding of the loss over h. The checks
allow for both. Where a difference is further off, since the loss curves sharply, one with an error of h^4 is taken; if
that deviates, too, it is shown as wrong.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from gpt_numpy.explain.account import Account, sums
from gpt_numpy.explain.differences import STEP, Progress, differences, extrapolated, resolution
from gpt_numpy.explain.formulas import MASKED
from gpt_numpy.explain.forward import run
from gpt_numpy.explain.problem import Problem
from gpt_numpy.explain.traced import Traced
from minitensor.arrays import Array

EXACT = 1e-10  # allowed between formula, tape and torch, relative to the size (see account.py)
BEND = 1e-5  # allowed for a difference quotient, relative to the same size


# ---- torch ------------------------------------------------------------------------------------------------------


class Torch:
    """Attention in three steps, in plain torch."""

    def scores(self, q: Any, k: Any) -> Any:
        T, D = q.shape[-2:]
        ahead = q.new_ones(T, T).triu(1).bool()
        return (q @ k.transpose(-1, -2) / math.sqrt(D)).masked_fill(ahead, -math.inf)

    def weights(self, scores: Any) -> Any:
        return scores.softmax(-1)

    def values(self, weights: Any, v: Any) -> Any:
        return weights @ v


def torch_pass(problem: Problem) -> tuple[dict[str, Array], dict[str, Array]]:
    """torch's values and gradients, by the names of forward.py and of parameters; empty if torch is not installed."""
    try:
        import torch
        from torch.nn import functional as F
    except ImportError:
        return {}, {}
    found: dict[str, Any] = {name: torch.tensor(array, requires_grad=True) for name, array in problem.weights.items()}

    def note(name: str, value: Any) -> Any:
        value.retain_grad()
        found[name] = value
        return value

    ids, targets = torch.tensor(problem.ids[None]), torch.tensor(problem.wanted[None])
    losses = run(F, Torch(), dict(found), ids, targets, problem.config, note)
    total = problem.objective.total(losses, torch, torch.tensor)
    total.sum().backward()
    gradients = {name: tensor.grad.numpy() for name, tensor in found.items()}
    found |= {"l": losses[0], "L": total[0]}
    return {name: tensor.detach().numpy() for name, tensor in found.items()}, gradients


def by_torch(problem: Problem) -> dict[str, Array]:
    """torch's value and gradient at each place; empty if torch is not installed."""
    values, gradients = torch_pass(problem)
    if not values:
        return {}
    numbers = {"l": values["l"], "L": values["L"]}
    for name, (of, part, is_parameter) in problem.places.items():
        at = (*(() if is_parameter else (0,)), *part)
        numbers[name], numbers[f"d{name}"] = values[of][at], gradients[of][at]
    for name in MASKED:
        numbers[name] = np.where(np.tri(len(problem.ids), dtype=bool), numbers[name], -math.inf if name == "S" else 0.0)
    return numbers


# ---- side by side -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """The value of an entry by one way; `relative` is its distance from the formula over the size of the account."""

    label: str
    value: float | None  # None where it does not exist
    relative: float = 0.0
    is_wrong: bool = False
    note: str = ""


def four_ways(trace: Traced, torch: dict[str, Array], account: Account) -> list[Way]:
    """The value of an entry by each way; only a gradient has a difference quotient."""
    quantity, index = account.quantity, account.index
    base = account.value if account.formula is None else account.formula

    def way(label: str, value: float, allowed: float, note: str = "") -> Way:
        off = abs(value - base)
        is_wrong = not off <= allowed  # NaN is never right
        return Way(label, value, off / account.size if account.size else off, is_wrong, note)

    exact = EXACT * account.size
    ways = [Way("this formula", account.formula, note="" if account.formula is not None else "not a sum")]
    ways.append(way("minitensor's tape", account.value, exact))
    if quantity.name in torch:
        ways.append(way("torch, float64", float(torch[quantity.name][index]), exact))
    else:
        ways.append(Way("torch, float64", None, note="is not installed" if not torch else "does not expose it"))
    if quantity.is_gradient and quantity.name[1:] in trace.places:
        place, blind = np.array([index], np.intp).reshape(1, -1), resolution(trace)
        (slope,) = measured(trace, quantity.name[1:], place, np.array([base]), np.array([account.size]))
        note = f"step {STEP:g}; resolves nothing below {blind:.0e}"
        ways.append(way("central difference", float(slope), BEND * account.size + blind, note))
    return ways


def measured(
    trace: Traced, name: str, places: Array, formula: Array, size: Array, progress: Progress = lambda count: None
) -> Array:
    """The difference quotients of these entries (N, axes), more exact ones where they are not close to the formula."""
    slopes = differences(trace, name, places, progress)
    far = ~(np.abs(slopes - formula) <= BEND * size + resolution(trace))
    if far.any():
        slopes[far] = extrapolated(trace, name, places[far], slopes[far])
    return slopes


@dataclass(frozen=True)
class Checked:
    """A gradient, all of its entries at once."""

    name: str
    formula: Array
    size: Array  # what distances are relative to
    torch: Array | None
    places: Array  # the entries with a difference quotient (N, axes)
    slopes: Array  # their difference quotients (N,)


def check_all(
    trace: Traced, torch: dict[str, Array], most: int, progress: Progress = lambda count: None
) -> list[Checked]:
    """Every gradient that has a formula. Takes difference quotients of at most `most` entries: those of attention
    first, then those of later sublayers, equally many of each matrix.
    """
    found, names = [], checkable(trace)
    later = [name for name in names if LATER.search(name)]
    with threadpool_limits(1, "blas"):  # differences() already runs a thread per core
        for group in ([name for name in names if name not in later], later):
            for done, name in enumerate(group):
                everywhere = visible_entries(trace, name)
                chosen = everywhere[_spread(len(everywhere), most // (len(group) - done))]
                most -= len(chosen)
                formula, size = sums(trace, trace.quantities[name])
                at, slopes = tuple(chosen.T), np.empty(0)
                if len(chosen):
                    slopes = measured(trace, name[1:], chosen, formula[at], size[at], progress)
                found.append(Checked(name, formula, size, torch.get(name), chosen, slopes))
    return found


LATER = re.compile("_attn|_mlp")  # in the names of quantities of later sublayers


@dataclass(frozen=True)
class Verdict:
    entries: int
    differences: int  # number taken
    has_torch: bool
    exact: float  # the largest distance of tape or torch from the formula, relative to the size
    slopes: float  # the same of the differences, beyond their resolution
    wrong: int  # entries


def verdict(trace: Traced, checked: Sequence[Checked]) -> Verdict:
    """The summary of all checks."""
    blind = resolution(trace)
    exact, slopes, wrong = 0.0, 0.0, 0
    for one in checked:
        others = [trace.numbers[one.name], *([] if one.torch is None else [one.torch])]
        is_wrong = np.zeros(one.formula.shape, np.bool_)
        for other in others:
            distance = np.abs(other - one.formula)
            is_wrong |= ~(distance <= EXACT * one.size)  # NaN is never right
            exact = float(np.maximum(exact, _relative(distance, one.size).max()))  # np.maximum propagates NaN
        at = tuple(one.places.T)
        if len(one.slopes):
            distance = np.abs(one.slopes - one.formula[at])
            is_wrong[at] |= ~(distance <= BEND * one.size[at] + blind)
            slopes = float(np.maximum(slopes, _relative(distance, one.size[at] + blind / BEND).max()))
        wrong += int(is_wrong.sum())
    entries = sum(len(visible_entries(trace, one.name)) for one in checked)
    has_torch = all(one.torch is not None for one in checked)
    return Verdict(entries, sum(len(one.slopes) for one in checked), has_torch, exact, slopes, wrong)


def _relative(distance: Array, size: Array) -> Array:
    share: Array = np.divide(distance, size, out=np.array(distance), where=size > 0)
    return share


def checkable(trace: Traced) -> list[str]:
    """The gradients that have a formula and a place in the forward pass, the smallest matrices first."""
    found = [q for q in trace.quantities.values() if q.is_gradient and q.terms and q.name[1:] in trace.places]
    return sorted((quantity.name for quantity in found), key=lambda name: trace.numbers[name].size)


def visible_entries(trace: Traced, name: str) -> Array:
    """The unmasked entries of a matrix (N, axes)."""
    shape = trace.numbers[name].shape
    return np.argwhere(trace.visible if name in MASKED else np.ones(shape, np.bool_))


def _spread(count: int, most: int) -> Array:
    return np.unique(np.linspace(0, count - 1, min(count, max(most, 0))).astype(np.intp))
