"""The time of one NumPy step by operation, forward and backward.

Timers temporarily wrap the two functions of every operation, and the work of each thread on its part of the parameters.
Times are summed over all threads. The remainder of threads x step is the engine's own work, and waiting: for other
threads, and for the GIL, which a thread needs to begin and to end a NumPy call.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from bench.result import BLUE, GREY, ORANGE, Result, Row, bars, milliseconds, whole
from bench.settings import Settings, Stepping
from gpt_numpy.parts import Part
from minitensor.core import OPS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORWARD, BACKWARD = "forward", "backward"
AROUND = {"gradients added up": "accumulate", "AdamW": "update"}  # methods of Part

Clocks = dict[tuple[str, str], list[float]]  # seconds of each call


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


@contextmanager
def clocks() -> Iterator[Clocks]:
    seconds: Clocks = defaultdict(list)

    def timed(key: tuple[str, str], function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*inputs: Any, **settings: Any) -> Any:
            start = time.perf_counter()
            output = function(*inputs, **settings)
            seconds[key].append(time.perf_counter() - start)
            return output

        return call

    with ExitStack() as stack:
        for name, op in OPS.items():
            stack.enter_context(patch.object(op, "forward", timed((name, FORWARD), op.forward)))
            stack.enter_context(patch.object(op, "backward", timed((name, BACKWARD), op.backward)))
        for name, method in AROUND.items():
            stack.enter_context(patch.object(Part, method, timed((name, FORWARD), getattr(Part, method))))
        yield seconds


def result(settings: Settings, steps: list[float], seconds: Clocks) -> Result:
    count, whole_time = len(steps), sum(steps) * settings.cores
    rows: list[Row] = []
    for name in {name for name, _ in seconds}:
        forward, backward = (sum(seconds.get((name, way), [])) / count for way in (FORWARD, BACKWARD))
        calls = sum(len(seconds.get((name, way), [])) for way in (FORWARD, BACKWARD)) / count
        ways = {"other": forward} if name in AROUND else {"forward": forward, "backward": backward}
        rows.append({"operation": name, "calls": calls, **ways, "share": (forward + backward) * count / whole_time})
    rows.sort(key=lambda row: -row["share"])
    rest = 1.0 - sum(row["share"] for row in rows)
    rows.append({"operation": "engine and waiting", "other": rest * whole_time / count, "share": rest})
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
