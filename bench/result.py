"""The result of a benchmark: as a table, as JSON, and as a plot."""

import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

if TYPE_CHECKING:  # slow to import and optional: only plots need it
    from matplotlib.axes import Axes

Row = dict[str, Any]
Draw = Callable[["Axes", Sequence[Row]], None]


@dataclass(frozen=True)
class Result:
    what: str  # the benchmark
    title: str
    rows: Sequence[Row]
    columns: Mapping[str, Callable[[Any], str]]  # the columns of the table, and their formats
    lines: Sequence[str] = ()  # the summary
    draw: Draw | None = None
    done: float = 1.0  # the fraction measured so far: a benchmark yields partial results

    def table(self) -> Table:
        table = Table(title=self.title, title_justify="left", title_style="bold")
        for name in self.columns:
            numeric = any(isinstance(row.get(name), int | float) for row in self.rows)
            long = any(len(str(row.get(name))) > 60 for row in self.rows)
            table.add_column(name, justify="right" if numeric else "left", no_wrap=not numeric and not long)
        for row in self.rows:
            table.add_row(*("" if row.get(name) is None else show(row[name]) for name, show in self.columns.items()))
        return table


def write_json(path: Path, card: Row, results: Sequence[Result]) -> None:
    content = [{"what": r.what, "title": r.title, "rows": list(r.rows), "lines": list(r.lines)} for r in results]
    text = json.dumps({"card": card, "results": content}, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def write_plot(path: Path, card: Row, results: Sequence[Result]) -> None:
    """The plot of each result that has one, with the machine card below."""
    from matplotlib.figure import Figure

    plots = [(result, result.draw) for result in results if result.draw]
    heights = [1.2 + 0.28 * len(result.rows) if len(result.rows) > 10 else 4.0 for result, _ in plots]
    figure = Figure(figsize=(9, sum(heights) + 0.6), layout="constrained")
    axes = figure.subplots(len(plots), 1, squeeze=False, height_ratios=heights)[:, 0]
    for (result, draw), place in zip(plots, axes, strict=True):
        draw(place, result.rows)
        place.set_title(result.title, loc="left", fontsize=10)
        place.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("\n".join(textwrap.wrap(in_words(card), 120)), fontsize=7, color="dimgray")
    figure.savefig(path, dpi=150)


def in_words(card: Row) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in card.items() if value is not None)


# ---- plots ------------------------------------------------------------------------------------------------------


BLUE, ORANGE, GREY = "#4c72b0", "#dd8452", "#8c8c8c"


def bars(
    label: str, values: Mapping[str, str], unit: str, scale: float = 1.0, parts: bool = False, mark: float | None = None
) -> Draw:
    """For each row a bar of each of these values (name: colour); `parts` of a whole are stacked."""

    def draw(axes: "Axes", rows: Sequence[Row]) -> None:
        places, left = np.arange(len(rows)), np.zeros(len(rows))
        height = 0.8 if parts else 0.8 / len(values)
        for i, (name, colour) in enumerate(values.items()):
            widths = np.array([scale * (row.get(name) or 0.0) for row in rows])
            below = 0.0 if parts else (i - (len(values) - 1) / 2) * height
            axes.barh(places + below, widths, height, left, color=colour, label=name)
            left = left + widths if parts else left
        if mark is not None:
            axes.axvline(mark, color="black", linewidth=0.8)
        axes.set_yticks(places, [row[label] for row in rows])
        axes.invert_yaxis()
        axes.set_xlabel(unit)
        if len(values) > 1:
            axes.legend(frameon=False)

    return draw


# ---- numbers in a table -----------------------------------------------------------------------------------------


def milliseconds(seconds: float) -> str:
    ms = 1e3 * seconds
    return f"{ms:.0f} ms" if ms >= 100 else f"{ms:.3g} ms" if ms >= 1 else f"{1e3 * ms:.3g} µs"


def times(ratio: float) -> str:
    return f"{ratio:.2f} x"


def percent(part: float) -> str:
    return f"{part:.0%}"


def gflops(rate: float) -> str:
    return f"{rate / 1e9:.0f} GFLOP/s"


def whole(number: float) -> str:
    return f"{number:,.0f}"


def megabytes(number: float) -> str:
    return f"{number / 1e6:,.0f} MB"
