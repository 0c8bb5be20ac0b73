"""What a command line of the workshop has to know of its engine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.cli.flags import Given, chosen, made
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.engine import Engine
from gpt_numpy.workshop.train.distributed import Processes


@dataclass(frozen=True)
class Command:
    run: "Callable[[Program, Sequence[str]], int]"
    examples: Mapping[str, str]  # from arguments to what they do, for its help
    together: bool = False  # whether many processes can do it


@dataclass(frozen=True)
class Program:
    name: str  # of the command
    about: str  # a line for its help
    options: type  # a dataclass: the flags that only this engine has
    make: Callable[[GPTConfig, int, Any, Processes], Engine]  # from config, seed and options
    preset: Callable[[Any], str] = lambda options: "laptop"  # the one that suits the machine
    check: Callable[[GPTConfig, Any, Console], None] = lambda *_: None  # of the machine, before training
    may_change: frozenset[str] = frozenset({"threads"})  # options that a run which is resumed does not keep by itself
    elsewhere: Mapping[str, str] = field(default_factory=dict)  # flags that only another command has, and which one
    commands: Mapping[str, Command] = field(default_factory=dict)  # beside train, generate and eval
    processes: Processes = field(default_factory=Processes)  # that run this command together

    def engine(self, config: GPTConfig, seed: int, given: Given) -> Engine:
        return self.make(config, seed, self.options_from(given), self.processes)

    def options_from(self, given: Given) -> Any:
        return made(self.options, chosen(self.options, given))
