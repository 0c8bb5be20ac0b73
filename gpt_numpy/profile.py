"""How long each operation takes, forward and backward, while a block runs: `train --profile` and `bench where`.

Timers replace the two functions of every operation, and the work of each thread on its part of the parameters. Times
are summed over all threads. What remains of threads x time is the engine's own work, and waiting: for other threads,
and for the GIL, which a thread needs to begin and to end a NumPy call.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.table import Table

from gpt_numpy.parts import Part
from minitensor.core import OPS

FORWARD, BACKWARD = "forward", "backward"
AROUND = {"gradients added up": "accumulate", "optimizer": "update"}  # methods of Part

Row = dict[str, Any]
Clocks = dict[tuple[str, str], list[float]]  # seconds of each call, by operation and direction


@contextmanager
def clocks() -> Iterator[Clocks]:
    seconds: Clocks = defaultdict(list)
    timed = [(op, name, way, way) for name, op in OPS.items() for way in (FORWARD, BACKWARD)]
    timed += [(Part, name, FORWARD, method) for name, method in AROUND.items()]  # type: ignore[misc]
    original = [(owner, attribute, getattr(owner, attribute)) for owner, _, _, attribute in timed]
    try:
        for (owner, name, way, attribute), (_, _, function) in zip(timed, original, strict=True):
            setattr(owner, attribute, _timed(seconds[name, way], function))
        yield seconds
    finally:
        for owner, attribute, function in original:
            setattr(owner, attribute, function)


def _timed(seconds: list[float], function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*inputs: Any, **settings: Any) -> Any:
        start = time.perf_counter()
        output = function(*inputs, **settings)
        seconds.append(time.perf_counter() - start)
        return output

    return call


def by_operation(seconds: Clocks, total: float) -> list[Row]:
    """The slowest first; `total` is threads x time."""
    rows: list[Row] = []
    for name in {name for name, _ in seconds}:
        ways = {way: seconds.get((name, way), []) for way in (FORWARD, BACKWARD)}
        if calls := sum(map(len, ways.values())):
            spent = {way: sum(times) for way, times in ways.items()}
            columns = {"other": spent[FORWARD]} if name in AROUND else spent
            rows.append({"operation": name, "calls": calls, **columns, "share": sum(spent.values()) / total})
    rows.sort(key=lambda row: -row["share"])
    rest = 1.0 - sum(row["share"] for row in rows)
    return [*rows, {"operation": "engine and waiting", "other": rest * total, "share": rest}]


def table(rows: list[Row], title: str) -> Table:
    shown = Table(title=title, title_justify="left", title_style="bold")
    columns: dict[str, Callable[[Any], str]] = {
        "operation": str, "calls": "{:,}".format, **dict.fromkeys((FORWARD, BACKWARD, "other"), "{:.3f} s".format),
        "share": "{:.1%}".format,
    }  # fmt: skip
    for name in columns:
        shown.add_column(name, justify="left" if name == "operation" else "right")
    for row in rows:
        shown.add_row(*(show(row[name]) if name in row else "" for name, show in columns.items()))
    return shown
