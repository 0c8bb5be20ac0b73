"""The account of one entry: the terms of its sum, each with its factors, the largest first."""

import math
from dataclasses import dataclass

import numpy as np

from gpt_numpy.explain.formulas import MASKED, Entry, Quantity, Term, entries
from gpt_numpy.explain.traced import Traced
from minitensor.arrays import Array


@dataclass(frozen=True)
class Factor:
    entry: Entry  # with numbers for indices
    value: float


@dataclass(frozen=True)
class Part:
    """One product of the sum."""

    sign: int
    factors: tuple[Factor, ...]
    value: float  # with its sign


@dataclass(frozen=True)
class Account:
    quantity: Quantity
    at: dict[str, int]  # the number of each index
    value: float  # from the tape
    parts: tuple[Part, ...]  # largest first; of a softmax, e^(x - max x) of each entry of the row
    total: float  # of the parts
    formula: float | None  # by the formula; None if it is not a sum
    size: float  # the scale of rounding errors: the sum of |parts|, at least `floor`

    @property
    def index(self) -> tuple[int, ...]:
        return tuple(self.at[name] for name in self.quantity.indices)

    @property
    def entry(self) -> Entry:
        return placed(Entry(self.quantity.name, self.quantity.indices), self.at)


def placed(entry: Entry, at: dict[str, int]) -> Entry:
    """The entry, with numbers in place of the indices that `at` contains."""
    return Entry(entry.name, tuple(str(at.get(index, index)) for index in entry.indices))


def account(trace: Traced, name: str, index: tuple[int, ...]) -> Account:
    quantity = trace.quantities[name]
    at = dict(zip(quantity.indices, index, strict=True))
    value = float(trace.numbers[name][index])
    if quantity.kind == "share":
        source = entries(quantity.formula)[0].name
        exponents = trace.numbers[source][index[0]]
        powers = np.exp(exponents - exponents.max())  # the same shares, without overflow
        parts = [
            Part(1, (Factor(Entry(source, (str(index[0]), str(k))), float(x)),), float(powers[k]))
            for k, x in enumerate(exponents)
            if x != -math.inf
        ]
        total = math.fsum(part.value for part in parts)
        share = float(powers[index[1]]) / total
        return Account(quantity, at, value, _sorted(parts), total, share, max(abs(value), floor(trace, name)))
    parts = [part for term in quantity.terms for part in _parts(trace, term, at)]
    total = math.fsum(part.value for part in parts)
    size = math.fsum(abs(part.value) for part in parts) or abs(value)
    formula = total if quantity.kind == "sum" else None
    return Account(quantity, at, value, _sorted(parts), total, formula, max(size, floor(trace, name)))


def floor(trace: Traced, name: str) -> float:
    """A thousandth of the largest entry: even a single product may have factors in which terms nearly cancelled."""
    numbers = trace.numbers[name]
    return float(np.abs(numbers[np.isfinite(numbers)]).max(initial=0.0)) / 1000


def _sorted(parts: list[Part]) -> tuple[Part, ...]:
    return tuple(sorted(parts, key=lambda part: -abs(part.value)))


def _parts(trace: Traced, term: Term, at: dict[str, int]) -> list[Part]:
    parts = []
    for k in range(_length(trace, term)):
        named = [placed(entry, {**at, term.over: k}) for entry in term.factors]
        if not any(is_hidden(entry) for entry in named):
            factors = tuple(Factor(entry, number(trace, entry)) for entry in named)
            parts.append(Part(term.sign, factors, term.sign * math.prod(factor.value for factor in factors)))
    return parts


def _length(trace: Traced, term: Term) -> int:
    """The number of products in a term."""
    if not term.over:
        return 1
    axes = ((entry, entry.indices.index(term.over)) for entry in term.factors if term.over in entry.indices)
    entry, axis = next(axes)
    return int(trace.numbers[entry.name].shape[axis])


def is_hidden(entry: Entry) -> bool:
    """Whether it is masked: position i would attend to a later position j."""
    return entry.name in MASKED and int(entry.indices[1]) > int(entry.indices[0])


def number(trace: Traced, entry: Entry) -> float:
    if not entry.indices and entry.name in trace.constants:
        return float(trace.constants[entry.name])
    return float(trace.numbers[entry.name][tuple(map(int, entry.indices))])


def sums(trace: Traced, quantity: Quantity) -> tuple[Array, Array]:
    """The formula's value of every entry at once, and the size of each as in an account.

    Masked entries are 0 in the numbers, so sums may include them.
    """
    everywhere = np.ones(trace.numbers[quantity.name].shape)  # for terms in which an index does not occur
    indices = "".join(quantity.indices)
    total, size = np.zeros_like(everywhere), np.zeros_like(everywhere)
    for term in quantity.terms:
        arrays = [np.asarray({**trace.numbers, **trace.constants}[entry.name]) for entry in term.factors]
        product = f"{','.join(''.join(entry.indices) for entry in term.factors)},{indices}->{indices}"
        total += term.sign * np.einsum(product, *arrays, everywhere, optimize=True)
        size += np.einsum(product, *map(np.abs, arrays), everywhere, optimize=True)
    visible = trace.visible if quantity.name in MASKED else True
    return np.where(visible, total, 0.0), np.maximum(size, floor(trace, quantity.name))
