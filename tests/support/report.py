"""What a person reads at the end of a test run: how far, at most, each gradient is from torch's."""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass
class Operation:
    examples: int = 0
    forward: float = 0.0
    backward: float = 0.0


@dataclass
class Worst:
    """Of a tensor in many problems: the largest error relative to its norm, and to what rounding moves it by."""

    relative: float | None = None  # until there is one
    roundings: float | None = None


class Difference(NamedTuple):
    """Between two trainings after a step: relative in the loss, in norm in the weights."""

    loss: float = float("nan")
    weights: float = float("nan")


WELL = 1e-4  # a tensor that rounding moves by less of its norm keeps its digits, in float32 and the more in float64
UNIT = {"float64": 2.0**-29, "float32": 1.0}  # of the last place, in those of float32


@dataclass
class Inputs:
    tried: int = 0
    refused: int = 0


@dataclass
class Report:
    operations: dict[tuple[str, str], Operation] = field(default_factory=lambda: defaultdict(Operation))
    tensors: dict[tuple[str, str], Worst] = field(default_factory=lambda: defaultdict(Worst))
    steps: dict[tuple[int, str], Difference] = field(default_factory=dict)
    inputs: dict[str, Inputs] = field(default_factory=lambda: defaultdict(Inputs))

    def add_operation(self, op: str, dtype: str, forward: float, backward: float) -> None:
        row = self.operations[op, dtype]
        row.examples += 1
        row.forward = max(row.forward, forward)
        row.backward = max(row.backward, backward)

    def add_tensor(self, name: str, dtype: str, off: float, norm: float, rounding: float) -> None:
        """`rounding` is what rounding to float32 moves the tensor by."""
        worst = self.tensors[re.sub(r"\d+", "*", name), dtype]
        if rounding < WELL * norm:
            worst.relative = max(worst.relative or 0.0, off / norm)
        if rounding:
            worst.roundings = max(worst.roundings or 0.0, off / (rounding * UNIT[dtype]))

    def add_input(self, kind: str, refused: bool) -> None:
        self.inputs[kind].tried += 1
        self.inputs[kind].refused += refused

    def tables(self) -> dict[str, list[str]]:
        """By title, without those that nothing was added to."""
        tables = {
            "each operation of minitensor against torch": self._operations(),
            "gpt_numpy against torch": self._tensors(),
            "gpt_numpy and gpt_torch, trained side by side": self._steps(),
            "inputs by chance": self._inputs(),
        }
        return {title: lines for title, lines in tables.items() if lines}

    def _operations(self) -> list[str]:
        ops = list(dict.fromkeys(op for op, _ in self.operations))
        if not ops:
            return []
        lines = [
            "Largest error of any entry against torch in float64, relative to its natural size (see minitensor/judge.py)",
            "",
            f"{'':18}{'examples':>9}{'float64':>10}{'':10}{'examples':>10}{'float32':>10}",
            f"{'op':18}{'':9}{'forward':>10}{'backward':>10}{'':10}{'forward':>10}{'backward':>10}",
        ]
        for op in ops:
            wide, narrow = self.operations[op, "float64"], self.operations[op, "float32"]
            lines.append(
                f"{op:18}{wide.examples:9}{wide.forward:10.1e}{wide.backward:10.1e}"
                f"{narrow.examples:10}{narrow.forward:10.1e}{narrow.backward:10.1e}"
            )
        return lines

    def _tensors(self) -> list[str]:
        names = list(dict.fromkeys(name for name, _ in self.tensors))
        if not names:
            return []
        lines = [
            "Largest error of a whole tensor against torch in float64: relative to its norm;",
            "and in roundings, how many times what rounding in that precision moves it by.",
            "A tensor whose numbers cancel, so that rounding to float32 moves it by",
            f"{WELL:.0e} of its norm or more, counts in roundings alone. d: the gradient.",
            "",
            f"{'':30}{'float64':>10}{'roundings':>11}{'float32':>13}{'roundings':>11}",
        ]
        for name in sorted(names, key=lambda name: name.startswith("d ")):
            wide, narrow = self.tensors[name, "float64"], self.tensors[name, "float32"]
            numbers = f"{_shown(wide.relative, 10, 'e')}{_shown(wide.roundings, 11, 'f')}"
            numbers += f"{_shown(narrow.relative, 13, 'e')}{_shown(narrow.roundings, 11, 'f')}"
            lines.append(f"{name:30}{numbers}".rstrip())
        return lines

    def _steps(self) -> list[str]:
        if not self.steps:
            return []
        lines = [
            "Equal weights, batches, clipping, schedule and AdamW; how far apart after a step, relative",
            "",
            f"{'':8}{'float64':^22}{'float32':^22}",
            f"{'steps':8}{'loss':>10}{'weights':>10}{'':2}{'loss':>10}{'weights':>10}",
        ]
        for step in sorted({step for step, _ in self.steps}):
            found = [self.steps.get((step, dtype), Difference()) for dtype in ("float64", "float32")]
            lines.append(f"{step:<8}" + "  ".join(f"{loss:10.1e}{weights:10.1e}" for loss, weights in found))
        return lines

    def _inputs(self) -> list[str]:
        if not self.inputs:
            return []
        lines = ["Each was used, or refused in one line", "", f"{'':24}{'tried':>8}{'refused':>9}"]
        lines += [f"{kind:24}{found.tried:8,}{found.refused:9,}" for kind, found in self.inputs.items()]
        total = sum(found.tried for found in self.inputs.values())
        return [*lines, f"{'together':24}{total:8,}{sum(found.refused for found in self.inputs.values()):9,}"]


def _shown(number: float | None, width: int, style: str) -> str:
    return " " * width if number is None else f"{number:{width}.1{style}}"


REPORT = Report()
