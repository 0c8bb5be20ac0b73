"""How much memory there is; and that what a step frees of it stays with the process, for the next step.

Each step makes the same large arrays. glibc, the C library of most Linux systems, hands large arrays back as soon as
they are freed, and the system then clears every page of the new ones before they can be used.
"""

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8  # M_... in glibc's malloc.h


def memory_of_machine() -> int | None:
    """Bytes, if the system tells."""
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def keep_freed_memory() -> None:
    """For the whole process, for good; where the C library has no such setting, nothing."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(MMAP_MAX, 0)  # large arrays come from the heap too,
        libc.mallopt(TRIM_THRESHOLD, -1)  # and the heap never shrinks;
        libc.mallopt(ARENA_MAX, 1)  # all threads have the same one, since those of their own do shrink
