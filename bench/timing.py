"""Comparable times: the subjects take turns, A B A B, and ratios are taken turn by turn.

The speed of a machine varies with its temperature and with other programs. Two adjacent turns see the same conditions,
so their ratio is stable where each time alone is not.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

Work = Callable[[], object]

REST = 0.05  # seconds before each turn, in which threads of the previous one may still spin


@dataclass(frozen=True)
class Times:
    """Seconds per call, in each turn."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """The interquartile range, relative to the median."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / self.median

    def over(self, other: "Times") -> float:
        """The median of the ratios, turn by turn."""
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))


def turns(subjects: Mapping[str, Work], repeat: int, least: float) -> Iterator[dict[str, Times]]:
    """The times so far, after each round. A turn takes `least` seconds or more; the warm-up does not count."""
    calls = {name: _calls_per_turn(work, least) for name, work in subjects.items()}
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(repeat):
        for name, work in subjects.items():
            time.sleep(REST)
            start = time.perf_counter()
            for _ in range(calls[name]):
                work()
            seconds[name].append((time.perf_counter() - start) / calls[name])
        yield {name: Times(list(own)) for name, own in seconds.items()}


def _calls_per_turn(work: Work, least: float) -> int:
    """The first call does not count: it may load or compile."""
    work()
    calls, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < least / 4 or not calls:
        work()
        calls += 1
    return math.ceil(least * calls / elapsed)
