"""What a test run found, in numbers: how far, at most, each gradient is from torch's.

Tests add counts and errors under (table, row, column). Workers send theirs to the process that prints the tables, where
counts are summed and the largest error is kept, so that the distribution of tests over workers does not matter.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

Key = tuple[str, str, str]  # table, row, column
Number = int | float  # a count, or an error


class Table(NamedTuple):
    title: str
    about: str
    columns: dict[str, str]  # how the numbers of each are shown


OPERATIONS = Table(
    "each operation of minitensor against torch",
    "Largest error of any entry against torch in float64, relative to its natural size (see minitensor/judge.py)",
    {
        **{"float64 examples": ",", "float64 forward": ".1e", "float64 backward": ".1e"},
        **{"float32 examples": ",", "float32 forward": ".1e", "float32 backward": ".1e"},
    },
)
TENSORS = Table(
    "gpt_numpy against torch",
    "Largest error of a whole tensor against torch in float64: relative to its norm;\n"
    "and in roundings, how many times what rounding in that precision moves it by.\n"
    "A tensor whose numbers cancel, so that rounding to float32 moves it by\n"
    "1e-04 of its norm or more, counts in roundings alone. d: the gradient.",
    {"float64 error": ".1e", "float64 roundings": ".1f", "float32 error": ".1e", "float32 roundings": ".1f"},
)
STEPS = Table(
    "gpt_numpy and gpt_torch, trained side by side",
    "Equal weights, batches, clipping, schedule and AdamW; how far apart after so many steps, relative",
    {"float64 loss": ".1e", "float64 weights": ".1e", "float32 loss": ".1e", "float32 weights": ".1e"},
)
INPUTS = Table("random inputs", "Each was used, or refused in one line", {"tried": ",", "refused": ","})
TABLES = (OPERATIONS, TENSORS, STEPS, INPUTS)

WELL = 1e-4  # a tensor that rounding moves by less of its norm keeps its digits, in float32 and the more in float64
UNIT = {"float64": 2.0**-29, "float32": 1.0}  # of the last place, in those of float32


class Report:
    def __init__(self) -> None:
        self.numbers: dict[Key, Number] = {}

    def add(self, key: Key, number: Number) -> None:
        before = self.numbers.get(key)
        if before is None:
            self.numbers[key] = number
        else:
            self.numbers[key] = before + number if isinstance(number, int) else max(before, number)

    def add_all(self, numbers: Iterable[tuple[Key, Number]]) -> None:
        for key, number in numbers:
            self.add(key, number)

    def add_operation(self, op: str, dtype: str, forward: float, backward: float) -> None:
        self.add((OPERATIONS.title, op, f"{dtype} examples"), 1)
        self.add((OPERATIONS.title, op, f"{dtype} forward"), float(forward))
        self.add((OPERATIONS.title, op, f"{dtype} backward"), float(backward))

    def add_tensor(self, name: str, dtype: str, off: float, norm: float, rounding: float) -> None:
        """`rounding` is what rounding to float32 moves the tensor by."""
        name = re.sub(r"\d+", "*", name)
        if rounding < WELL * norm:
            self.add((TENSORS.title, name, f"{dtype} error"), float(off / norm))
        if rounding:
            self.add((TENSORS.title, name, f"{dtype} roundings"), float(off / (rounding * UNIT[dtype])))

    def add_step(self, step: int, dtype: str, loss: float, weights: float) -> None:
        self.add((STEPS.title, str(step), f"{dtype} loss"), float(loss))
        self.add((STEPS.title, str(step), f"{dtype} weights"), float(weights))

    def add_input(self, kind: str, refused: bool) -> None:
        self.add((INPUTS.title, kind, "tried"), 1)
        self.add((INPUTS.title, kind, "refused"), int(refused))

    def rows(self, table: Table) -> dict[str, list[Number | None]]:
        """By name, in an order that does not depend on the order of the tests."""
        names = {row for title, row, _ in self.numbers if title == table.title}
        return {
            name: [self.numbers.get((table.title, name, column)) for column in table.columns]
            for name in sorted(names, key=lambda name: (name.startswith("d "), len(name) * name.isdigit(), name))
        }

    def lines(self, table: Table) -> list[str]:
        """For a terminal; empty if nothing was added."""
        rows = self.rows(table)
        if not rows:
            return []
        width = max(map(len, rows)) + 2
        lines = [*table.about.split("\n"), ""]
        heads = [column.rpartition(" ") for column in table.columns]  # float64 examples: in two lines
        wide = [max(10, len(word) + 2) for _, _, word in heads]
        groups = ["" if heads[i][0] == heads[i - 1][0] else heads[i][0] for i in range(len(heads))]
        for words in (groups, [word for _, _, word in heads]):
            if any(words):
                lines.append(f"{'':{width}}{''.join(f'{word:>{w}}' for word, w in zip(words, wide, strict=True))}")
        for name, numbers in rows.items():
            cells = zip(map(shown, numbers, table.columns.values()), wide, strict=True)
            lines.append(f"{name:{width}}{''.join(f'{cell:>{w}}' for cell, w in cells)}".rstrip())
        return lines


def shown(number: Number | None, style: str) -> str:
    if number is None:
        return ""
    return f"{number:{style}}" if number else "0"


REPORT = Report()
