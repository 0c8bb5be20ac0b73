"""How the time of a training is spent, from its command to its last line."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTS = "start", "first step", "other steps", "evaluation", "samples", "saving", "report"


class TimeBudget:
    """Seconds spent on each part. The rest is small: printing, recording, waiting for the disk."""

    def __init__(self, start: float) -> None:
        self.start = start  # on the clock of time.monotonic()
        self.seconds = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[part] += time.monotonic() - start

    @property
    def total(self) -> float:
        return time.monotonic() - self.start

    def line(self) -> str:
        parts = {**self.seconds, "rest": self.total - sum(self.seconds.values())}
        return f"took {in_words(self.total)}: {', '.join(f'{part} {in_words(s)}' for part, s in parts.items())}"


def in_words(seconds: float) -> str:
    if seconds < 60:
        return f"{max(seconds, 0.0):.1f} s"
    return f"{round(seconds) // 60}:{round(seconds) % 60:02}"


def process_start() -> float:
    """When this process started, on the clock of time.monotonic(); where the system does not tell, now."""
    now = time.monotonic()
    if sys.platform != "linux":
        return now
    ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    return now - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
