"""Which parts of the text a step sees: a pure function of (seed, step).

There is no sampler whose state could be lost. A run that is resumed at step 700 sees what an unbroken one sees.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.rng import EPOCHS, WINDOWS

Ids = NDArray[np.int64]
Batch = tuple[Ids, Ids]  # tokens (B, T), and for each the one that comes next (B, T)


def batch_at(tokens: NDArray[Any], block_size: int, recipe: Recipe, step: int) -> Batch:
    starts = starts_at(len(tokens), block_size, recipe, step)
    windows = np.stack([tokens[start : start + block_size + 1] for start in starts]).astype(np.int64)  # (B, T + 1)
    return windows[:, :-1], windows[:, 1:]


def starts_at(length: int, block_size: int, recipe: Recipe, step: int) -> list[int]:
    """Where the windows of a step begin; each has block_size tokens and the one after them."""
    if recipe.order == "random":
        random = np.random.default_rng((recipe.seed, step, WINDOWS))
        return [int(start) for start in random.integers(0, length - block_size, recipe.batch_size)]
    count = max(1, (length - block_size) // block_size)  # of windows in an epoch
    starts = []
    for position in range(step * recipe.batch_size, (step + 1) * recipe.batch_size):
        epoch, place = divmod(position, count)
        offset, window = _epoch(length, block_size, count, recipe.seed, epoch)
        starts.append(offset + block_size * int(window[place]))
    return starts


@lru_cache(maxsize=2)  # a batch may end one epoch and begin the next
def _epoch(length: int, block_size: int, count: int, seed: int, epoch: int) -> tuple[int, NDArray[np.uint32]]:
    """An epoch cuts the text into windows side by side, each time at other places, and shuffles them."""
    random = np.random.default_rng((seed, epoch, EPOCHS))
    offset = int(random.integers(0, length - count * block_size))
    windows = np.arange(count, dtype=np.uint32)
    random.shuffle(windows)
    return offset, windows


def fixed_windows(tokens: NDArray[Any], block_size: int, at_once: int = 32) -> Iterator[Batch]:
    """The whole text in windows side by side, the last one shorter: each token but the first is predicted once."""
    last = len(tokens) - 1
    whole = last // block_size
    for first in range(0, whole, at_once):
        rows = min(at_once, whole - first)
        part = tokens[first * block_size : (first + rows) * block_size + 1].astype(np.int64)
        yield part[:-1].reshape(rows, block_size), part[1:].reshape(rows, block_size)
    if last % block_size:
        part = tokens[whole * block_size :].astype(np.int64)
        yield part[None, :-1], part[None, 1:]
