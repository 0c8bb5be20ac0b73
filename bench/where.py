"""The time of one NumPy step by operation, forward and backward.

The timers are those of gpt_numpy/profile.py.
"""

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bench.result import BLUE, GREY, ORANGE, Result, Row, bars, milliseconds, whole
from bench.settings import Settings, Stepping
from gpt_numpy.profile import Clocks, by_operation, clocks

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def measure(settings: Settings) -> Iterator[Result]:
    stepping = Stepping(settings.numpy_engine())
    for _ in range(3):
        stepping()
    steps: list[float] = []
    with clocks() as seconds:
        for _ in range(settings.repeat):
            start = time.perf_counter()
            stepping()
            steps.append(time.perf_counter() - start)
            yield result(settings, steps, seconds)


def result(settings: Settings, steps: list[float], seconds: Clocks) -> Result:
    count = len(steps)
    rows = by_operation(seconds, sum(steps) * settings.cores)
    for row in rows:  # a step
        row.update((name, row[name] / count) for name in ("calls", *COLOURS) if name in row)
    return Result(
        "where",
        f"one step of gpt_numpy, {milliseconds(sum(steps) / count)} on {settings.cores} threads: the {settings.preset} "
        f"model, batch {settings.recipe.batch_size}",
        rows,
        {"operation": str, "calls": whole, **dict.fromkeys(COLOURS, milliseconds), "share": "{:.1%}".format},
        [f"The times are summed over {settings.cores} threads, the mean of {count} steps."],
        draw,
        done=count / settings.repeat,
    )


COLOURS = {"forward": BLUE, "backward": ORANGE, "other": GREY}


def draw(axes: "Axes", rows: Sequence[Row]) -> None:
    visible = [row for row in rows if row["share"] >= 0.002]
    bars("operation", COLOURS, "milliseconds, summed over all threads", scale=1e3, parts=True)(axes, visible)
