"""What the workshop asks of an engine: a model that can be trained, judged, read with and saved.

One loop trains both engines, so either can go on from what the other saved.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, SupportsFloat

import numpy as np
from numpy.typing import NDArray

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.recipes import Recipe

Ids = NDArray[np.int64]  # (B, T)
Arrays = Mapping[str, NDArray[Any]]


class Trained(NamedTuple):
    """What a training step reports. float() of it may have to wait for a device that is still at work."""

    loss: SupportsFloat  # mean over the batch, before the step
    grad_norm: SupportsFloat  # before clipping


class Reader(Protocol):
    """Reads a text piece by piece, and remembers it."""

    def read(self, ids: Sequence[int]) -> NDArray[Any]:
        """The logits (V,) of what comes after these ids, which follow those read before; block_size in all."""


class Engine(Protocol):
    config: GPTConfig
    threads: int  # of the CPU; another number may add in another order
    peak: float | None  # FLOP/s that the maker of the device states, where that is known

    def train_step(self, ids: Ids, targets: Ids, recipe: Recipe, step: int) -> Trained:
        """One step on the whole batch. What it does depends on nothing but these and the state.

        If the loss or the norm of the gradient is not finite, it changes nothing, and no step after it does.
        """

    def first_not_finite(self, ids: Ids, targets: Ids, recipe: Recipe, step: int) -> str | None:
        """After such a step: the first parameter that is not finite, or else the first whose gradient is not."""

    def loss(self, ids: Ids, targets: Ids) -> float:
        """The mean loss, without dropout."""

    def reader(self) -> Reader:
        """Starts on an empty text."""

    def weights(self) -> Arrays:
        """By parameter; a snapshot."""

    def optimizer_state(self) -> Arrays:
        """KIND.NAME for all that optimizers remember (see optimizers.py); empty before the first step. A snapshot."""

    def load(self, weights: Arrays, optimizer_state: Arrays, step: int) -> None:
        """Go on from what an engine saved after so many steps."""

    def describe(self) -> str:
        """The machinery, in a line."""
