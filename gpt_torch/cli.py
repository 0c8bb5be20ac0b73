"""The command gpt-torch."""

import sys

from gpt_numpy.workshop.commands import run
from gpt_numpy.workshop.program import Program
from gpt_torch.device import find_device
from gpt_torch.engine import Engine, Options

PROGRAM = Program(
    "gpt-torch",
    "The GPT in PyTorch, on a GPU or a CPU: train it, let it write, judge it.",
    Options,
    Engine,
    preset=lambda options: "laptop" if find_device(options.device).type == "cpu" else "workshop",
)


def main() -> int:
    return run(PROGRAM, sys.argv[1:])
