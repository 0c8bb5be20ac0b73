"""Texts made of choices, and exactly how likely each of their characters is.

A text is written by choices alone: each takes one string from a table of strings with chances. No string of a table
begins with another one of it, and which table comes next depends only on the choices so far. So a text can have come
about in one way at most, and can be read back. In the middle of a choice, with the string s of it written so far,

    P(next character is c)  =  sum of the chances of the strings that begin with s + c
                               -------------------------------------------------------
                               sum of the chances of the strings that begin with s

and the surprisal of the character is -log of that, in nats. Their mean is the least loss that any model can expect to
reach on such texts, however large it is and however long it trains.
"""

import itertools
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Written(NamedTuple):
    text: str
    surprisal: NDArray[np.float64]  # nats, for each character given all before it


class Table:
    """Strings to choose from, with the chance of each, in proportion to its weight."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.strings = list(weights)
        for first, second in itertools.pairwise(sorted(self.strings)):
            if second.startswith(first):
                raise ValueError(f"{first!r} and {second!r} cannot be in one table: one begins with the other")
        total = sum(weights.values())
        begins: dict[str, float] = defaultdict(float)  # the chance of all strings that begin so
        for string, weight in weights.items():
            for end in range(len(string) + 1):
                begins[string[:end]] += weight / total
        chances = [begins[string] for string in self.strings]
        self.below = np.cumsum(chances)[:-1].tolist()
        self.surprisals = [
            np.log([begins[s[:end]] / begins[s[: end + 1]] for end in range(len(s))]) for s in self.strings
        ]


Grammar = Generator[Table, str, Any]  # yields the table to choose from, is sent the choice; never ends
Chooser = Callable[[Table], int]  # which string of a table is next


def written(grammar: Grammar, choose: Chooser, characters: int) -> Written:
    """What the grammar makes of the choices: exactly so many characters, so that the last choice may be cut off."""
    strings, surprisals, length = [], [np.empty(0)], 0
    table = next(grammar)
    while length < characters:
        choice = choose(table)
        strings.append(table.strings[choice])
        surprisals.append(table.surprisals[choice])
        length += len(strings[-1])
        table = grammar.send(strings[-1])
    return Written("".join(strings)[:characters], np.concatenate(surprisals)[:characters])


class Writer:
    """Chooses by chance."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self._draws = itertools.chain.from_iterable(random.random(4096).tolist() for _ in itertools.count())

    def __call__(self, table: Table) -> int:
        return bisect_right(table.below, next(self._draws))


class Reader:
    """Chooses what a text says; ValueError where no choice says it."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def __call__(self, table: Table) -> int:
        rest = self._text[self._at : self._at + max(map(len, table.strings))]
        for choice, string in enumerate(table.strings):
            if rest.startswith(string) or (len(rest) < len(string) and string.startswith(rest)):
                self._at += len(string)
                return choice
        raise ValueError(f"nothing that could be written at character {self._at} is {rest!r}")
