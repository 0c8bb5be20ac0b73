"""Times that can be compared: whatever is compared takes turns, A B A B, and the ratio is taken turn by turn.

A machine is now faster and now slower, by its heat and by what others do on it. Two turns side by side see the same
machine, so their ratio stands where each time alone does not.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

Work = Callable[[], object]

REST = 0.05  # seconds before each turn: threads of the one before may go on looking for work for a while


@dataclass(frozen=True)
class Times:
    """Seconds for one call, in each turn."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half of all turns lie this far apart, as a part of the median."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / self.median

    def over(self, other: "Times") -> float:
        """The median of the ratios, turn by turn."""
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))


def turns(subjects: Mapping[str, Work], repeat: int, least: float) -> Iterator[dict[str, Times]]:
    """The times so far, after each round. A turn takes `least` seconds or more; what warms up first is not counted."""
    calls = {name: _enough(work, least) for name, work in subjects.items()}
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(repeat):
        for name, work in subjects.items():
            time.sleep(REST)
            began = time.perf_counter()
            for _ in range(calls[name]):
                work()
            seconds[name].append((time.perf_counter() - began) / calls[name])
        yield {name: Times(list(taken)) for name, taken in seconds.items()}


def _enough(work: Work, least: float) -> int:
    """How many calls fill a turn. The first call is not looked at: it may have to load and to compile."""
    work()
    calls, began = 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < least / 4 or not calls:
        work()
        calls += 1
    return math.ceil(least * calls / taken)
