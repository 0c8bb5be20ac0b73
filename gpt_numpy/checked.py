"""Dataclasses that check their fields, by what the annotations say: the type, the meaning, and the limits of numbers.

    lr: Annotated[float, "learning rate after the warm-up", above(0)] = 3e-4

Without limits a number is at least 0. Flags and their help are made from the same annotations.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, get_args, get_type_hints

KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a string"}


class Limit(NamedTuple):
    words: str
    holds: Callable[[float], bool]


def at_least(least: float) -> Limit:
    return Limit(f"at least {least}", lambda value: value >= least)


def at_most(most: float) -> Limit:
    return Limit(f"at most {most}", lambda value: value <= most)


def above(bound: float) -> Limit:
    return Limit(f"above {bound}", lambda value: value > bound)


def below(bound: float) -> Limit:
    return Limit(f"below {bound}", lambda value: value < bound)


class Checked:
    """The base of such a dataclass."""

    def __post_init__(self) -> None:
        """ValueError, whose message begins with the name of the field."""
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            kind, _, *limits = get_args(hint)
            if not _is_one(value := getattr(self, name), kind, limits):
                raise ValueError(f"{name} is {_in_words(kind, limits)}, not {value!r}")
            if kind is int and value >= 1 << 63:
                raise ValueError(f"{name} is below 2^63, not {value}")


def _is_one(value: Any, kind: Any, limits: list[Limit]) -> bool:
    if choices := get_args(kind):
        return value in choices
    if kind not in (int, float):
        return type(value) is kind
    is_number = type(value) is int or (kind is float and type(value) is float and math.isfinite(value))
    return is_number and all(limit.holds(value) for limit in limits or [at_least(0)])


def _in_words(kind: Any, limits: list[Limit]) -> str:
    if kind not in (int, float):
        return KINDS.get(kind) or " or ".join(get_args(kind))
    words = " and ".join(limit.words for limit in limits or [at_least(0)])
    return f"{KINDS[kind]}{' of' if words.startswith('at') else ''} {words}"
