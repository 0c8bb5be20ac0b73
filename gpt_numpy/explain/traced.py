"""What an explanation needs: the numbers of every quantity, and two more ways to compute them."""

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from gpt_numpy.explain.formulas import Quantity
from minitensor.arrays import Array


class Traced(Protocol):
    """One forward and backward pass: of a head in a model (trace.py), or of the worked example (example.py)."""

    quantities: dict[str, Quantity]
    numbers: dict[str, Array]  # of each quantity, from minitensor's tape
    constants: Mapping[str, float]
    visible: Array  # (T, T), whether position i may attend to j

    @property
    def places(self) -> Collection[str]:
        """The quantities that can be changed in a forward pass."""

    @property
    def scene(self) -> dict[str, Any]:
        """What a page has to know about it."""

    def losses(self, name: str, changes: Array) -> Array:
        """The loss for each of the changes (B, ...), added to the quantity of this name."""

    def by_torch(self) -> dict[str, Array]:
        """torch's value and gradient at each place; empty if torch is not installed."""
