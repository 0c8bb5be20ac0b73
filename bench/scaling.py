"""How the time of a step depends on batch size, context, width, layers and threads.

The varied size doubles from one measurement to the next. The exponent is the slope of the line fitted to log time over
log size: 1 where doubling the size doubles the time. All sizes take turns.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bench.result import Result, Row, milliseconds
from bench.settings import NUMPY, Settings, Stepping
from bench.timing import turns
from gpt_numpy.config import GPTConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The varied sizes, and the exponents that operation counts predict: attention is quadratic in the context, the layers'
# matrices in the width, and all else is linear.
EXPECTED = {"batch": "1", "context": "1 to 2", "width": "1 to 2", "layers": "1", "threads": "-1 to 0"}


def measure(settings: Settings) -> Iterator[Result]:
    base, recipe = settings.config, settings.recipe
    contexts = [base.block_size // 4, base.block_size // 2, base.block_size]
    widths = [base.n_embd // 2, base.n_embd, 2 * base.n_embd]
    most = max(4, recipe.batch_size)
    subjects: dict[tuple[str, int], Stepping] = {}

    def add(what: str, size: int, varied: Settings, config: GPTConfig = base, rows: int = most) -> None:
        subjects[what, size] = Stepping(varied.numpy_engine(config, batch_size=rows))

    for rows in (most // 4, most // 2, most):
        add("batch", rows, settings, rows=max(1, rows))
    for context in contexts:
        add("context", context, settings, replace(base, block_size=context))
    for width in widths:
        add("width", width, settings, replace(base, n_embd=width))
    for layers in (1, 2, 4):
        add("layers", layers, settings, replace(base, n_layer=layers))
    for threads in sorted({1 << i for i in range(settings.cores.bit_length())} | {settings.cores}):
        add("threads", threads, replace(settings, threads=threads))
    named = {f"{what} {size}": stepping for (what, size), stepping in subjects.items()}
    for count, timings in enumerate(turns(named, settings.repeat, settings.turn / 3), 1):
        figures: list[Row] = []
        for what, expected in EXPECTED.items():
            sizes = [size for kind, size in subjects if kind == what]
            medians = [timings[f"{what} {size}"].median for size in sizes]
            exponent = slope(sizes, medians) if len(sizes) > 1 else None
            for i, (size, seconds) in enumerate(zip(sizes, medians, strict=True)):
                last = i == len(sizes) - 1
                figures.append({
                    "varied": what, "size": size, "time": seconds, "seconds": timings[f"{what} {size}"].seconds,
                    "exponent": exponent if last else None, "expected": expected if last else None,
                })  # fmt: skip
        yield Result(
            "scaling",
            f"step time of {NUMPY}: the {settings.preset} model, batch {most}, {settings.cores} threads, except for "
            "what is varied",
            figures,
            {"varied": str, "size": str, "time": milliseconds, "exponent": "{:.2f}".format, "expected": str},
            ["At small sizes the cost of each call dominates, so exponents are lower."],
            draw,
            done=count / settings.repeat,
        )


def slope(sizes: list[int], seconds: list[float]) -> float:
    """Of log time over log size."""
    return float(np.polyfit([math.log(size) for size in sizes], [math.log(s) for s in seconds], 1)[0])


def draw(axes: "Axes", rows: Sequence[Row]) -> None:
    for what in EXPECTED:
        sizes, medians = zip(*((row["size"], 1e3 * row["time"]) for row in rows if row["varied"] == what), strict=True)
        axes.plot([size / sizes[0] for size in sizes], medians, marker="o", label=what)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("times the smallest size")
    axes.set_ylabel("milliseconds")
    axes.legend(frameon=False)
