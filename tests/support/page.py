"""The tables of a test run as a page, build/test-report.html, with the time of each part of the tests."""

import platform
from collections import defaultdict
from dataclasses import dataclass, field
from html import escape
from importlib.metadata import version
from pathlib import Path

from tests.support import ROOT
from tests.support.report import TABLES, Report, Table, shown

PATH = ROOT / "build" / "test-report.html"
SLOWEST = 20
STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #4a86c855 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
td, th { padding: .15rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th { white-space: normal; vertical-align: bottom }
td:first-child, th:first-child { text-align: left }
td { background: linear-gradient(to right, var(--bar) var(--part, 0%), transparent var(--part, 0%)) }
td, .failed { font-family: ui-monospace, monospace; font-size: 13px }
"""


@dataclass
class Group:
    """A folder of tests, or one file at the top level."""

    seconds: float = 0.0
    outcomes: dict[str, int] = field(default_factory=lambda: defaultdict(int))


@dataclass
class Run:
    """Which tests ran, how they ended, and how long they took."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    outcomes: dict[str, str] = field(default_factory=dict)

    def add(self, test: str, outcome: str, seconds: float) -> None:
        """A phase of a test: set-up, call, or teardown. The test has passed if all of them have."""
        self.seconds[test] += seconds
        if outcome != "passed" or test not in self.outcomes:
            self.outcomes[test] = outcome

    def groups(self) -> dict[str, Group]:
        found: dict[str, Group] = defaultdict(Group)
        for test, seconds in self.seconds.items():
            path = test.partition("::")[0].removeprefix("tests/")
            group = found[path.partition("/")[0]]
            group.seconds += seconds
            group.outcomes[self.outcomes[test]] += 1
        return dict(sorted(found.items(), key=lambda item: -item[1].seconds))


def write_page(report: Report, run: Run, took: float) -> Path:
    outcomes = list(run.outcomes.values())
    counts = ", ".join(
        f"{outcomes.count(word):,} {word}" for word in ("passed", "failed", "skipped") if word in outcomes
    )
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "torch", "hypothesis"))
    parts = [
        f"<h1>Tests: {counts}</h1>",
        f"<p>in {took:.0f} s, on {platform.machine()}, Python {platform.python_version()}, {packages}</p>",
        *(f'<p class="failed">failed: {escape(test)}</p>' for test, how in run.outcomes.items() if how == "failed"),
        "<h2>Time</h2>", time_table(run),
        f"<details><summary>The {SLOWEST} slowest tests</summary>{slowest_table(run)}</details>",
    ]  # fmt: skip
    for table in TABLES:
        if report.rows(table):
            parts += [f"<h2>{escape(table.title.capitalize())}</h2>", f"<p>{escape(table.about)}</p>"]
            parts.append(numbers_table(report, table))
    PATH.parent.mkdir(exist_ok=True)
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Tests</title><style>{STYLE}</style>'
    PATH.write_text(f"{head}\n" + "\n".join(parts), encoding="utf-8")
    return PATH


def time_table(run: Run) -> str:
    groups = run.groups()
    longest = max(group.seconds for group in groups.values())
    rows = [["", "seconds, over all workers", "passed", "failed", "skipped"]]
    for name, group in groups.items():
        counts = [group.outcomes.get(word, 0) for word in ("passed", "failed", "skipped")]
        rows.append([name, f"{group.seconds:.1f}", *(f"{count:,}" if count else "" for count in counts)])
    return table_of(rows, {(i, 1): group.seconds / longest for i, group in enumerate(groups.values(), 1)})


def slowest_table(run: Run) -> str:
    slowest = sorted(run.seconds.items(), key=lambda item: -item[1])[:SLOWEST]
    return table_of([["", "seconds"], *([test.removeprefix("tests/"), f"{s:.1f}"] for test, s in slowest)], {})


def numbers_table(report: Report, table: Table) -> str:
    """The bar behind an error shows its share of the largest one in the column."""
    found = report.rows(table)
    largest = [max((row[i] or 0 for row in found.values()), default=0) for i in range(len(table.columns))]
    rows = [["", *table.columns]]
    bars: dict[tuple[int, int], float] = {}
    for i, (name, numbers) in enumerate(found.items(), 1):
        rows.append([name, *map(shown, numbers, table.columns.values())])
        bars |= {(i, j): x / largest[j - 1] for j, x in enumerate(numbers, 1) if x and isinstance(x, float)}
    return table_of(rows, bars)


def table_of(rows: list[list[str]], bars: dict[tuple[int, int], float]) -> str:
    """The first row is the header; bars: the filled share of a cell, by row and column."""
    lines = []
    for i, row in enumerate(rows):
        tag = "td" if i else "th"
        styles = [f' style="--part:{100 * bars[i, j]:.0f}%"' if (i, j) in bars else "" for j in range(len(row))]
        cells = "".join(f"<{tag}{style}>{escape(cell)}</{tag}>" for cell, style in zip(row, styles, strict=True))
        lines.append(f"<tr>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"
