"""Rewards: functions from a prompt and the text that answers it to a number; more is better.

The text is without the stop text; an answer that never reached it has as many tokens as were allowed. A file of your
own needs nothing but such a function:

    def shouting(prompt, text):
        return sum(letter.isupper() for letter in text) / max(1, len(text))
"""

import math
import runpy
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.tune.sums import right_sum

Reward = Callable[[str, str], float]
LARGEST = 1e9  # of a reward
KNOWN = "line-length, sums, word:TEXT or my_file.py:function"


def line_length(prompt: str, text: str) -> float:
    """Whether the line has 36 to 40 characters."""
    return float(36 <= len(text) <= 40)


def find_reward(name: str) -> Reward:
    """By its name, or from a user's file, which is run. Whatever it returns or raises is checked."""
    kind, colon, rest = name.partition(":") if name.startswith("word:") else name.rpartition(":")
    if name in (known := {"line-length": line_length, "sums": right_sum}):
        return known[name]
    if kind == "word" and rest:
        return lambda prompt, text: float(rest in text)
    if not (colon and kind.endswith(".py")):
        raise UsageError(f"--reward is {KNOWN}, not {name!r}")
    if not Path(kind).is_file():
        raise UsageError(f"--reward: {kind} is not a file")
    sys.path.append(str(Path(kind).resolve().parent))  # for what it imports
    try:
        function = runpy.run_path(kind).get(rest)
    except (Exception, SystemExit) as error:
        raise UsageError(f"--reward: {kind} ends with {_described(error)}") from None
    if not callable(function):
        raise UsageError(f"--reward: {kind} has no function {rest}")
    return checked(function, name)


def checked(function: Callable[[str, str], object], name: str) -> Reward:
    def reward(prompt: str, text: str) -> float:
        try:
            value = function(prompt, text)
        except (Exception, SystemExit) as error:
            raise UsageError(f"--reward {name}: {_described(error)}, for the text {text[:60]!r}") from None
        number = math.nan
        if isinstance(value, int | float | np.integer | np.floating | np.bool_):
            with suppress(OverflowError):
                number = float(value)
        if -LARGEST <= number <= LARGEST:  # NaN is not
            return number
        returned = _shown(repr, value)[:60]
        raise UsageError(f"--reward {name}: it returned {returned}, not a number, for the text {text[:60]!r}")

    return reward


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {_shown(str, error).strip() or 'no message'}".splitlines()[0]


def _shown(show: Callable[[object], str], value: object) -> str:
    """By a method that may be the user's, or refuse a number of thousands of digits."""
    try:
        return show(value)
    except Exception:
        return f"a {type(value).__name__} that cannot be shown"
