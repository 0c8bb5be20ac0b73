"""Whether operations are recorded: no_grad and enable_grad, for each thread on its own."""

import threading
from collections.abc import Callable
from contextlib import ContextDecorator
from inspect import isgeneratorfunction
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class Mode(threading.local):
    """Whether this thread records, in each block that it is in."""

    def __init__(self) -> None:
        self.recording = [True]


mode = Mode()


def is_grad_enabled() -> bool:
    return mode.recording[-1]


class no_grad(ContextDecorator):
    """Nothing is recorded: `with no_grad(): ...`, or `@no_grad()` over a function."""

    recording = False

    def __init__(self, *function: Any) -> None:
        if function:
            raise TypeError(f"{type(self).__name__}: write @{type(self).__name__}(), with parentheses")

    def __enter__(self) -> None:
        mode.recording.append(self.recording)

    def __exit__(self, *exception: object) -> None:
        mode.recording.pop()

    def __call__(self, function: F) -> F:
        if isgeneratorfunction(function):
            raise TypeError(f"{type(self).__name__}: a generator runs in its caller's block; use `with` inside it")
        return super().__call__(function)


class enable_grad(no_grad):
    """Recording again, inside a no_grad."""

    recording = True
