"""The command gpt-numpy."""

import sys
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated

from gpt_numpy.checked import Checked, at_least, at_most
from gpt_numpy.config import GPTConfig
from gpt_numpy.engine import Engine
from gpt_numpy.explain.command import EXPLAIN
from gpt_numpy.workshop.cli.engine_cli import EngineCLI
from gpt_numpy.workshop.cli.main import end_process, run
from gpt_numpy.workshop.cores import MAX_THREADS
from gpt_numpy.workshop.recipes import Recipe


@dataclass(frozen=True)
class Options(Checked):
    threads: Annotated[int, "threads to work with; 0: one for each core", at_least(0), at_most(MAX_THREADS)] = 0


FLAGS_OF_GPT_TORCH = (
    "--device", "--dtype", "--attention", "--compile", "--deterministic", "--recompute", "--parallel", "--self-test",
    "--weights", "--cuda-graph",
)  # fmt: skip


class NumpyCLI(EngineCLI):
    name = "gpt-numpy"
    about = "The GPT written by hand on NumPy: train it, let it write, evaluate it, and read its gradients."
    options = Options
    flags_of_other_cli = dict.fromkeys(FLAGS_OF_GPT_TORCH, "gpt-torch")
    commands = MappingProxyType({"explain": EXPLAIN})

    def engine(self, config: GPTConfig, recipe: Recipe, options: Options) -> Engine:
        return Engine(config, recipe, options.threads)


CLI = NumpyCLI()


def main() -> int:
    return end_process(run(CLI, sys.argv[1:]))
