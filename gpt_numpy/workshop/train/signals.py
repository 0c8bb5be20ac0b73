"""How somebody asks a run to end: Ctrl-C, SIGTERM, or a terminal that is closed."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from gpt_numpy.workshop.train.distributed import Processes

SAME_SIGNAL = 1.0  # seconds within which a signal that comes again from a launcher is the same
HANGUP = getattr(signal, "SIGHUP", None)  # the terminal was closed; Windows has no such signal


@dataclass
class Stop:
    """Which signal asked the run to end, if any did; true once all processes have heard of it."""

    processes: Processes
    noted: int = 0  # what this process has got
    signal: int = 0  # what all have heard of

    def __bool__(self) -> bool:
        return self.signal > 0

    def listen(self) -> None:
        (self.signal,) = self.processes.largest(self.noted)


@contextmanager
def stop_on_signals(processes: Processes) -> Iterator[Stop]:
    """A signal is noted, for the loop to stop where nothing is half done. Another one ends at once; with many processes
    only if it is not the same one, which terminal and launcher both pass on."""
    stop = Stop(processes)
    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
        yield stop
        return
    before: dict[int, Any] = {}
    noted_at = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted_at
        if not stop.noted:
            stop.noted, noted_at = number, time.monotonic()
        elif processes.size == 1 or time.monotonic() - noted_at > SAME_SIGNAL:
            restore()
            signal.raise_signal(number)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in (signal.SIGINT, signal.SIGTERM, HANGUP):
        if number and (number != HANGUP or signal.getsignal(number) != signal.SIG_IGN):  # as nohup has it
            before[number] = signal.signal(number, note)
    try:
        yield stop
    finally:
        if processes.size == 1:  # of many, all are about to end, and a launcher hurries them before they have said why
            restore()
