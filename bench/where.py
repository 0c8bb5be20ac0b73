"""Where the time of one NumPy step goes, operation by operation, forward and backward.

A clock is put around the two functions of every operation and around what each thread does with its part of the
parameters, and taken away again. Threads work side by side, so the times are of all threads together. What is missing
to threads x step is the engine's, and waiting: for the other threads, and for Python, in which one thread at a time
can begin or end a call of NumPy.
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
    with clocks() as found:
        for _ in range(settings.repeat):
            began = time.perf_counter()
            stepping()
            steps.append(time.perf_counter() - began)
            yield result(settings, steps, found)


@contextmanager
def clocks() -> Iterator[Clocks]:
    found: Clocks = defaultdict(list)

    def timed(key: tuple[str, str], function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*inputs: Any, **settings: Any) -> Any:
            began = time.perf_counter()
            made = function(*inputs, **settings)
            found[key].append(time.perf_counter() - began)
            return made

        return call

    with ExitStack() as stack:
        for name, op in OPS.items():
            stack.enter_context(patch.object(op, "forward", timed((name, FORWARD), op.forward)))
            stack.enter_context(patch.object(op, "backward", timed((name, BACKWARD), op.backward)))
        for name, method in AROUND.items():
            stack.enter_context(patch.object(Part, method, timed((name, FORWARD), getattr(Part, method))))
        yield found


def result(settings: Settings, steps: list[float], found: Clocks) -> Result:
    count, whole_time = len(steps), sum(steps) * settings.cores
    rows: list[Row] = []
    for name in {name for name, _ in found}:
        forward, backward = (sum(found.get((name, way), [])) / count for way in (FORWARD, BACKWARD))
        calls = sum(len(found.get((name, way), [])) for way in (FORWARD, BACKWARD)) / count
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
        [f"The times are of {settings.cores} threads together, the mean of {count} steps."],
        draw,
        done=count / settings.repeat,
    )


COLOURS = {"forward": BLUE, "backward": ORANGE, "other": GREY}


def draw(axes: "Axes", rows: Sequence[Row]) -> None:
    seen = [row for row in rows if row["share"] >= 0.002]
    bars("operation", COLOURS, "milliseconds, of all threads together", scale=1e3, parts=True)(axes, seen)
