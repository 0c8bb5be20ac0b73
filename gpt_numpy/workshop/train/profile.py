"""train --profile: how the time of ten steps is spent, as the engine measures it, and of evaluations between them."""

from contextlib import ExitStack
from pathlib import Path

from rich.table import Table

from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.engine import Engine

FIRST, LAST = 3, 13  # steps of this process; those before are slower


class StepProfiler:
    def __init__(self, engine: Engine, folder: Path, console: Console) -> None:
        self.engine, self.folder, self.console = engine, folder, console
        self.steps = 0
        self._running = ExitStack()
        self._result: list[str | Table] = []

    def before_step(self) -> None:
        if self.steps == FIRST:
            self._result = self._running.enter_context(self.engine.profile(self.folder))
        elif self.steps == LAST:
            self.end()
        self.steps += 1

    def end(self) -> None:
        self._running.close()
        if self._result:
            self.console.say(f"profile of {min(self.steps, LAST) - FIRST} steps", "bold")
        for part in self._result:
            self.console.table(part) if isinstance(part, Table) else self.console.say(part)
        self._result = []
        if self.steps <= FIRST:
            self.console.say(f"no profile: it begins after {FIRST} steps", "yellow")
