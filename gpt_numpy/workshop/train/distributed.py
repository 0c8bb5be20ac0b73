"""Processes that train one model together. Here is the one that is alone; gpt_torch/distributed.py has many.

Each makes the same decisions in the same order, on the same batches; an engine takes its part of each batch, and adds
up what the parts lead to. The first process alone writes and speaks.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

from gpt_numpy.workshop.errors import WrongUse

MOST_THREADS = 1024


class Processes:
    """One process, alone."""

    rank = 0
    size = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def largest(self, *numbers: int) -> tuple[int, ...]:
        """Of each number the largest that any process has. Each process waits here for all others."""
        return numbers

    @contextmanager
    def one_ahead(self) -> Iterator[None]:
        """On each machine one process goes ahead: what it fetches and caches, the others find."""
        yield

    def to_say(self, reason: str, is_known: bool) -> bool:
        """Whether this process is to say why it ends: what all find is said once, and what `is_known` where none has
        said anything."""
        return True

    def agree(self, what: str, value: str) -> None:
        """WrongUse unless all processes have the same."""
        number = int(hashlib.sha256(value.encode("utf-8")).hexdigest()[:15], 16)
        if self.largest(number, -number) != (number, -number):
            raise WrongUse(f"the processes differ in {what}: each machine needs the same command and the same files")


def check_threads(threads: int) -> None:
    if not 0 <= threads <= MOST_THREADS:
        raise ValueError(f"threads is at least 0 and at most {MOST_THREADS}, not {threads}")


def available_cores() -> int:
    """The cores that this process may use, which on a cluster are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
