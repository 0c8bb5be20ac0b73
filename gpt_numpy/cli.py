"""The command gpt-numpy."""

import sys
from dataclasses import dataclass
from typing import Annotated

from gpt_numpy.engine import Engine
from gpt_numpy.explain.command import EXPLAIN
from gpt_numpy.workshop.cli.main import leave, run
from gpt_numpy.workshop.cli.program import Program
from gpt_numpy.workshop.train.distributed import check_threads


@dataclass(frozen=True)
class Options:
    threads: Annotated[int, "threads to work with; 0: one for each core"] = 0

    def __post_init__(self) -> None:
        check_threads(self.threads)


ONLY_TORCH = (
    "--device", "--dtype", "--attention", "--compile", "--deterministic", "--recompute", "--parallel", "--self-test",
)  # fmt: skip

PROGRAM = Program(
    "gpt-numpy",
    "The GPT written by hand on NumPy: train it, let it write, judge it, and read its gradients.",
    Options,
    lambda config, seed, options, processes: Engine(config, seed, options.threads or None),
    elsewhere=dict.fromkeys(ONLY_TORCH, "gpt-torch"),
    commands={"explain": EXPLAIN},
)


def main() -> int:
    return leave(run(PROGRAM, sys.argv[1:]))
