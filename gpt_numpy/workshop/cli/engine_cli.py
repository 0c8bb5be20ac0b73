"""What the commands have to know of an engine; gpt_numpy/cli.py and gpt_torch/cli.py say it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.cli.flags import Flags, Parser, add_fields, build, pick
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.engine import Engine
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.train.distributed import Processes


@dataclass(frozen=True)
class Command:
    run: "Callable[[EngineCLI, Sequence[str]], int]"
    examples: Mapping[str, str]  # from arguments to what they do, for --help
    distributed: bool = False  # whether it may run under torchrun


class EngineCLI:
    name: ClassVar[str]  # of the command
    about: ClassVar[str]  # a line for --help
    options: ClassVar[type]  # a dataclass: the flags that only this engine has
    not_saved: ClassVar[frozenset[str]] = frozenset({"threads"})  # options that a resumed run does not keep
    flags_of_other_cli: ClassVar[Mapping[str, str]] = {}  # and the name of that one
    commands: ClassVar[Mapping[str, Command]] = {}  # in addition to those of main.py

    def __init__(self, processes: Processes | None = None) -> None:
        self.processes = processes or Processes()

    def parse_options(self, flags: Flags) -> Any:
        return build(self.options, pick(self.options, flags))

    def default_preset(self, options: Any) -> str:
        return "laptop"

    def check(self, config: GPTConfig, options: Any, console: Console) -> None:
        """The machine, before training."""

    def engine(self, config: GPTConfig, recipe: Recipe, options: Any) -> Engine:
        raise NotImplementedError


def add_engine_flags(parser: Parser, cli: EngineCLI) -> None:
    add_fields(parser, "the machine", cli.options)
    parser.flags_of_other_cli = cli.flags_of_other_cli
