"""What a person reads at the end of a test run: how far, at most, each operation is from torch."""

from collections import defaultdict
from dataclasses import dataclass, field


@dataclass
class Row:
    examples: int = 0
    forward: float = 0.0
    backward: float = 0.0


@dataclass
class Report:
    rows: dict[tuple[str, str], Row] = field(default_factory=lambda: defaultdict(Row))

    def add(self, op: str, dtype: str, forward: float, backward: float) -> None:
        row = self.rows[op, dtype]
        row.examples += 1
        row.forward = max(row.forward, forward)
        row.backward = max(row.backward, backward)

    def lines(self) -> list[str]:
        ops = list(dict.fromkeys(op for op, _ in self.rows))
        if not ops:
            return []
        lines = [
            "Largest error of any entry against torch in float64, relative to its natural size (see tests/judge.py)",
            "",
            f"{'':18}{'examples':>9}{'float64':>10}{'':10}{'examples':>10}{'float32':>10}",
            f"{'op':18}{'':9}{'forward':>10}{'backward':>10}{'':10}{'forward':>10}{'backward':>10}",
        ]
        for op in ops:
            wide, narrow = self.rows[op, "float64"], self.rows[op, "float32"]
            lines.append(
                f"{op:18}{wide.examples:9}{wide.forward:10.1e}{wide.backward:10.1e}"
                f"{narrow.examples:10}{narrow.forward:10.1e}{narrow.backward:10.1e}"
            )
        return lines


REPORT = Report()
