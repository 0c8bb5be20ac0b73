"""The output of a command: lines, and on a terminal a progress bar. A file or a pipe gets the lines alone."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from rich.console import Console as Rich
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

WIDTH = 160  # of tables, in characters, without a terminal


class Bar:
    """The progress of one task; without a terminal it does nothing."""

    def __init__(self, progress: Progress | None = None, task: TaskID | None = None) -> None:
        self._progress, self._task = progress, task

    def at(self, completed: float, figures: str = "") -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=completed, figures=figures)


class _Rich(Rich):
    def on_broken_pipe(self) -> None:  # the default would exit the program
        raise BrokenPipeError


class Console:
    """Lines to one stream. Control characters in them, from a model or a file, cannot steer the terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.is_optional = False  # the work continues where nobody reads the lines
        self.is_terminal = terminal = self.stream.isatty()
        width = None if terminal else WIDTH
        self._rich = _Rich(
            file=self.stream, force_terminal=terminal, width=width, highlight=False, markup=False, emoji=False
        )

    def say(self, line: str = "", style: str | None = None) -> None:
        try:
            self._rich.print(visible(line), style=style, soft_wrap=True)
            self.stream.flush()
        except OSError:  # stdout was closed, as by `head`, or its disk is full
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())  # or it would fail again at the end
            if not self.is_optional:
                raise

    def show(self, text: Text) -> None:
        """A line with several styles."""
        self._rich.print(text, soft_wrap=True)

    def table(self, table: Table) -> None:
        """As wide as it needs to be, up to the width of the terminal."""
        self._rich.print(table)

    @contextmanager
    def bar(self, what: str, total: float, *columns: Any, live: bool = True) -> Iterator[Bar]:
        """A bar below the lines until the block ends."""
        if not self.is_terminal or not live:
            yield Bar()
            return
        progress = Progress(*(columns or PERCENT), console=self._rich, transient=True, expand=True)
        try:
            with suppress(OSError):  # the terminal may be closed at any time
                progress.start()
            yield Bar(progress, progress.add_task(what, total=total, figures=""))
        finally:
            with suppress(OSError):
                progress.stop()


_WHAT = (TextColumn("{task.description}"), BarColumn(bar_width=None))
PERCENT = (*_WHAT, TaskProgressColumn(), TimeRemainingColumn())
BYTES = (*_WHAT, DownloadColumn(), TimeRemainingColumn())


def visible(text: str) -> str:
    """The text without control characters, which could steer a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n)")  # all but tab and line ends
