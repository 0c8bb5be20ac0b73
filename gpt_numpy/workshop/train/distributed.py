"""The processes that train one model together: here a single one; gpt_torch/distributed.py has several.

Each takes the same decisions in the same order, on the same batches; an engine computes its part of each batch, and
adds up the gradients. The first process alone writes and prints.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from gpt_numpy.workshop.errors import UsageError


class Processes:
    """A single process."""

    rank = 0
    size = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def all_reduce_max(self, *numbers: int) -> tuple[int, ...]:
        """The maximum of each number over all processes. Each waits here for all others."""
        return numbers

    @contextmanager
    def local_first(self) -> Iterator[None]:
        """One process of each machine runs the block first; the others then find what it has downloaded and cached."""
        yield

    def say_once(self, message: str) -> bool:
        """Whether this process is the first to give such a message."""
        return True

    def check_agreement(self, what: str, value: str) -> None:
        """UsageError unless all processes have the same value."""
        number = int(hashlib.sha256(value.encode("utf-8")).hexdigest()[:15], 16)
        if self.all_reduce_max(number, -number) != (number, -number):
            raise UsageError(f"the processes differ in {what}: each machine needs the same command and the same files")
