"""Ctrl-C, SIGTERM, or a terminal that is closed: the run ends after its current step."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from gpt_numpy.workshop.train.distributed import Processes

SAME_SIGNAL = 1.0  # seconds within which terminal and launcher may both pass on one signal
HANGUP = getattr(signal, "SIGHUP", None)  # the terminal was closed; Windows has no such signal


@dataclass
class Stop:
    """The signal that ends the run; true once all processes know of it."""

    processes: Processes
    received: int = 0  # by this process
    signal: int = 0  # by any process, and known to all

    def __bool__(self) -> bool:
        return self.signal > 0

    def synchronize(self) -> None:
        (self.signal,) = self.processes.all_reduce_max(self.received)


@contextmanager
def stop_on_signals(processes: Processes) -> Iterator[Stop]:
    """The first signal is only noted, and the trainer stops where nothing is half done. A second one ends the process
    at once; with several processes, only if it cannot be the same signal, passed on by a launcher."""
    stop = Stop(processes)
    if threading.current_thread() is not threading.main_thread():  # Python allows no handlers there
        yield stop
        return
    previous: dict[int, Any] = {}
    received_at = 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal received_at
        if not stop.received:
            stop.received, received_at = number, time.monotonic()
        elif processes.size == 1 or time.monotonic() - received_at > SAME_SIGNAL:
            restore()
            signal.raise_signal(number)

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    for number in (signal.SIGINT, signal.SIGTERM, HANGUP):
        if number and (number != HANGUP or signal.getsignal(number) != signal.SIG_IGN):  # nohup ignores it
            previous[number] = signal.signal(number, handle)
    try:
        yield stop
    finally:
        if processes.size == 1:  # several are about to end; until then, a launcher may repeat the signal
            restore()
