"""What the workshop asks of an engine: a model that can be trained, evaluated, read with and saved.

One trainer serves both engines, so either can resume what the other saved.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, SupportsFloat

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.recipes import Recipe

Ids = NDArray[np.int64]  # (B, T)
Arrays = Mapping[str, NDArray[Any]]
ALL_ROWS = slice(None)


@dataclass(frozen=True)
class Batch:
    """Windows of a text: T tokens each, and for each of them the next one as its target."""

    tokens: NDArray[Any]  # the whole text, a byte or two for each token
    starts: NDArray[np.int64]  # of the windows (B)
    length: int  # T

    @property
    def rows(self) -> int:
        return len(self.starts)

    def windows(self, rows: slice = ALL_ROWS) -> NDArray[Any]:
        """(rows, T + 1), in the dtype of the text."""
        windows: NDArray[Any] = self.tokens[self.starts[rows, None] + np.arange(self.length + 1)]
        return windows

    def ids_and_targets(self, rows: slice = ALL_ROWS) -> tuple[Ids, Ids]:
        windows = self.windows(rows).astype(np.int64)
        return windows[:, :-1], windows[:, 1:]

    def part(self, rows: slice) -> "Part":
        ids, targets = self.ids_and_targets(rows)
        return Part(ids, targets, None, len(ids) / self.rows)


@dataclass(frozen=True)
class Examples:
    """Rows of tokens with a target and a weight for each: what tuning trains on, where a text has windows."""

    ids: Ids  # (B, T)
    targets: NDArray[Any]  # (B, T) ids, or (B, T, V) distributions
    weights: NDArray[np.float32]  # (B, T); 0 leaves a token out

    @property
    def rows(self) -> int:
        return len(self.ids)

    @property
    def length(self) -> int:
        return int(self.ids.shape[1])

    def part(self, rows: slice) -> "Part":
        return Part(self.ids[rows], self.targets[rows], self.weights[rows], 1.0)


class Part(NamedTuple):
    """Some rows of either. Their part in its loss: the share times the sum of each token's loss times its weight;
    without weights, the share times the mean."""

    ids: Ids
    targets: NDArray[Any]
    weights: NDArray[np.float32] | None
    share: float


class StepResult(NamedTuple):
    """float() of a number may have to wait for a device that is still at work."""

    loss: SupportsFloat  # mean over the batch, before the step
    grad_norm: SupportsFloat  # before clipping


class Reader(Protocol):
    """Reads a text piece by piece, and caches the keys and values of what it has read."""

    def read(self, ids: Sequence[int]) -> NDArray[Any]:
        """The logits (V,) after these ids, which follow those read before; block_size in all."""


class Engine(Protocol):
    config: GPTConfig
    recipe: Recipe
    threads: int  # of the CPU; another number may add in another order
    peak: float | None  # FLOP/s of the device as its maker states them, if known

    def train_step(self, batch: Batch | Examples, step: int) -> StepResult:
        """One step of the recipe on a whole batch. It depends on nothing but these and the state.

        If the loss or the norm of the gradient is not finite, this step is skipped, and so is each one after it.
        """

    def first_nonfinite(self, batch: Batch | Examples, step: int) -> str | None:
        """After such a step: the first parameter that is not finite, or else the first whose gradient is not."""

    def loss(self, batch: Batch | Examples) -> Any:
        """The loss, without dropout: a number, perhaps of a device that is still at work."""

    def logits(self, ids: Ids) -> NDArray[Any]:
        """Of the token after each of these (B, T): (B, T, V), without dropout."""

    def profile(self, folder: Path) -> AbstractContextManager[list[str | Table]]:
        """Measures the steps of a block. At its end the list holds the result, or where in the folder that is."""

    def reader(self) -> Reader:
        """One that has read nothing yet."""

    def weights(self) -> Arrays:
        """By parameter; a snapshot."""

    def optimizer_state(self) -> Arrays:
        """KEY.NAME for all keys of optim.py that the recipe needs; empty before the first step. A snapshot."""

    def load(self, weights: Arrays, optimizer_state: Arrays, step: int) -> None:
        """Go on from what an engine with this recipe saved after so many steps."""

    def describe(self) -> str:
        """Library, precision and device in one line."""
