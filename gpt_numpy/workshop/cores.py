"""How many threads a process may have."""

import os

MAX_THREADS = 1024


def available_cores() -> int:
    """The cores that this process may use, which on a cluster are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
