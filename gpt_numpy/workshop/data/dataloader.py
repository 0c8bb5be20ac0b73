"""Which windows of the text a step sees: a pure function of (seed, step).

There is no sampler whose state could be lost. A run that is resumed at step 700 sees what an unbroken one sees.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt_numpy.workshop.engine import Batch
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.rng import EPOCHS, WINDOWS

Starts = NDArray[np.int64]


def batch_at(tokens: NDArray[Any], block_size: int, recipe: Recipe, step: int) -> Batch:
    return Batch(tokens, starts_at(len(tokens), block_size, recipe, step), block_size)


def starts_at(length: int, block_size: int, recipe: Recipe, step: int) -> Starts:
    """Where the windows of a step begin; each has block_size tokens and the one after them."""
    if recipe.order == "random":
        random = np.random.default_rng((recipe.seed, step, WINDOWS))
        return random.integers(0, length - block_size, recipe.batch_size)
    count = max(1, (length - block_size) // block_size)  # windows of an epoch
    starts = []
    for position in range(step * recipe.batch_size, (step + 1) * recipe.batch_size):
        epoch, place = divmod(position, count)
        offset, window = _epoch(length, block_size, count, recipe.seed, epoch)
        starts.append(offset + block_size * int(window[place]))
    return np.array(starts)


@lru_cache(maxsize=2)  # a batch may end one epoch and begin the next
def _epoch(length: int, block_size: int, count: int, seed: int, epoch: int) -> tuple[int, NDArray[np.uint32]]:
    """An epoch cuts the text into adjacent windows, each time at another offset, and shuffles them."""
    random = np.random.default_rng((seed, epoch, EPOCHS))
    offset = int(random.integers(0, length - count * block_size))
    windows = np.arange(count, dtype=np.uint32)
    random.shuffle(windows)
    return offset, windows


def rows_at(count: int, recipe: Recipe, step: int) -> list[int]:
    """Which of so many rows a step takes, in shuffled epochs."""
    places = range(step * recipe.batch_size, (step + 1) * recipe.batch_size)
    return [int(_shuffled(count, recipe.seed, place // count)[place % count]) for place in places]


@lru_cache(maxsize=2)
def _shuffled(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch, EPOCHS)).permutation(count)


def adjacent_windows(tokens: NDArray[Any], block_size: int, batch_size: int) -> Iterator[Batch]:
    """The whole text, the last window shorter: each token but the first is predicted once."""
    last = len(tokens) - 1
    starts = np.arange(0, last - last % block_size, block_size)
    for first in range(0, len(starts), batch_size):
        yield Batch(tokens, starts[first : first + batch_size], block_size)
    if last % block_size:
        yield Batch(tokens, np.array([last - last % block_size]), last % block_size)
