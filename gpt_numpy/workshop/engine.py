"""What the workshop asks of an engine: a model that can be trained, evaluated, read with and saved.

One trainer serves both engines, so either can resume what the other saved.
"""

import math
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
        return Part("cross_entropy", {"ids": ids, "targets": targets}, len(ids) / self.rows)


@dataclass(frozen=True)
class Rows:
    """The base of tuning's batches: rows of tokens, where a text has windows."""

    ids: Ids  # (B, T), or (P, 2, T) for pairs of answers

    @property
    def rows(self) -> int:
        return len(self.ids)

    @property
    def length(self) -> int:
        """Tokens in each of the rows; a pair has those of both answers."""
        return math.prod(self.ids.shape[1:])


@dataclass(frozen=True)
class Examples(Rows):
    """Tokens with a target and a weight for each."""

    targets: NDArray[Any]  # (B, T) ids, or (B, T, V) distributions
    weights: NDArray[np.float32]  # (B, T); 0 leaves a token out
    temperature: float = 1.0  # that the logits are divided by

    def part(self, rows: slice) -> "Part":
        arrays = {"ids": self.ids[rows], "targets": self.targets[rows], "weights": self.weights[rows]}
        return Part("cross_entropy", {**arrays, "temperature": self.temperature}, 1.0)


@dataclass(frozen=True)
class Rollouts(Rows):
    """Answers that a policy has drawn, to be made likelier or less likely."""

    targets: Ids  # (B, T)
    weights: NDArray[np.float32]  # (B, T): how much likelier a token should become; 0 leaves it out
    old: NDArray[np.float32]  # (B, T): log of the probability with which it was drawn
    clip: float  # how far the ratio to that probability may be from 1
    log_r: NDArray[np.float32] | None = None  # (B, T, V): the log-probabilities of a reference
    kl_weights: NDArray[np.float32] | None = None  # (B, T): of the distance to it

    def part(self, rows: slice) -> "Part":
        names = "ids", "targets", "weights", "old", "log_r", "kl_weights"
        arrays = {name: None if getattr(self, name) is None else getattr(self, name)[rows] for name in names}
        return Part("policy", {**arrays, "clip": self.clip}, 1.0)


@dataclass(frozen=True)
class Preferences(Rows):
    """Pairs of answers to a prompt, of which the first is preferred. For models without dropout."""

    targets: Ids  # (P, 2, T)
    answer_mask: NDArray[np.float32]  # (P, 2, T): 1 for tokens of answers, 0 for others
    reference: NDArray[np.float32]  # (P, 2): log of the probability that a reference gives to each answer
    beta: float

    def part(self, rows: slice) -> "Part":
        arrays = {name: getattr(self, name)[rows] for name in ("ids", "targets", "answer_mask", "reference")}
        return Part("preference", {**arrays, "beta": self.beta}, len(arrays["ids"]) / self.rows)


AnyBatch = Batch | Examples | Rollouts | Preferences


class Part(NamedTuple):
    """Some rows of a batch: their part in its loss is the share times the objective of the arrays."""

    objective: str  # a function in objectives.py of an engine
    arrays: Mapping[str, NDArray[Any] | float | None]
    share: float


class StepResult(NamedTuple):
    """float() of a number may have to wait for a device that is still at work."""

    loss: SupportsFloat  # mean over the batch, before the step
    grad_norm: SupportsFloat  # before clipping


class Reader(Protocol):
    """Reads texts piece by piece, and caches the keys and values of what it has read."""

    def read(self, ids: Sequence[Sequence[int]]) -> NDArray[Any]:
        """The logits (rows, V) after these ids of each text, which follow those read before; block_size in all."""


class Engine(Protocol):
    config: GPTConfig
    recipe: Recipe
    threads: int  # of the CPU; another number may add in another order
    peak: float | None  # FLOP/s of the device as its maker states them, if known

    def train_step(self, batch: AnyBatch, step: int) -> StepResult:
        """One step of the recipe on a whole batch. It depends on nothing but these and the state.

        If the loss or the norm of the gradient is not finite, this step is skipped, and so is each one after it.
        """

    def first_nonfinite(self, batch: AnyBatch, step: int) -> str | None:
        """After such a step: the first parameter that is not finite, or else the first whose gradient is not."""

    def loss(self, batch: AnyBatch) -> Any:
        """The loss, without dropout: a number, perhaps of a device that is still at work."""

    def logits(self, ids: Ids) -> NDArray[Any]:
        """Of the token after each of these (B, T): (B, T, V), without dropout."""

    def profile(self, folder: Path) -> AbstractContextManager[list[str | Table]]:
        """Measures the steps of a block. At its end the list holds the result, or where in the folder that is."""

    def reader(self, rows: int = 1) -> Reader:
        """One for so many texts, that has read nothing yet."""

    def weights(self) -> Arrays:
        """By parameter; a snapshot."""

    def optimizer_state(self) -> Arrays:
        """KEY.NAME for all keys of optim.py that the recipe needs; empty before the first step. A snapshot."""

    def load(self, weights: Arrays, optimizer_state: Arrays, step: int) -> None:
        """Go on from what an engine with this recipe saved after so many steps."""

    def describe(self) -> str:
        """Library, precision and device in one line."""
