"""Where random numbers come from: one generator for each thread, so that threads never disturb each other."""

import threading
from collections.abc import Sequence

import numpy as np


class _Generators(threading.local):
    def __init__(self) -> None:
        self.own = np.random.default_rng()


_generators = _Generators()


def manual_seed(seed: int | Sequence[int]) -> np.random.Generator:
    """Make what this thread draws from now on (initial weights, dropout, randn) repeatable."""
    _generators.own = np.random.default_rng(seed)
    return _generators.own


def use_generator(generator: np.random.Generator) -> None:
    """Let this thread draw from a generator of your own."""
    _generators.own = generator


def generator() -> np.random.Generator:
    """This thread's generator."""
    return _generators.own
