"""The cost of the tape: the time to record an operation, and to traverse it backward, on arrays of one number.

The arithmetic is negligible there, so the time beyond the bare NumPy calls is the tape's. The target is at most 6
microseconds each way. A round times the bare calls, the recorded operations and the traversal one after the other; the
figures are those of the fastest round, because other programs on the machine only ever add time.
"""

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from bench.result import BLUE, ORANGE, Result, Row, bars
from bench.settings import Settings
from minitensor import Tensor
from minitensor.core import OPS

CHAIN, ROUNDS = 1000, 20
TARGET = 6.0  # microseconds


@dataclass
class Subject:
    """One operation: the bare NumPy call, and the recorded one."""

    op: str
    bare: Callable[[Any, Any], Any]
    recorded: Callable[[Tensor, Tensor], Tensor]
    inputs: int = 1


SUBJECTS = [
    Subject("add", lambda a, b: np.add(a, b), lambda x, y: x + y, 2),
    Subject("mul", lambda a, b: np.multiply(a, b), lambda x, y: x * y, 2),
    Subject("mul_number", lambda a, b: np.multiply(a, 1.0), lambda x, y: x * 1.0),
    Subject("exp", lambda a, b: np.exp(a), lambda x, y: x.exp()),
    Subject("tanh", lambda a, b: np.tanh(a), lambda x, y: x.tanh()),
    Subject("sum", lambda a, b: np.sum(a, 0, keepdims=True), lambda x, y: x.sum(0, keepdim=True)),
    Subject("reshape", lambda a, b: np.reshape(a, (1,)), lambda x, y: x.reshape(1)),
    Subject("matmul", lambda a, b: np.matmul(a, b), lambda x, y: x @ y, 2),
]


@dataclass
class Cost:
    """Microseconds for one operation: the bare forward and backward calls, and what the engine adds to each."""

    forward: float
    recording: float
    backward: float
    walking: float


def measured(subject: Subject) -> Cost:
    """One round."""
    shape = (1, 1) if subject.op == "matmul" else (1,)
    x, y = (Tensor(np.ones(shape), requires_grad=True) for _ in range(2))
    a, b, dy, total = x.array, y.array, np.ones(shape), np.zeros(shape)
    op = OPS[subject.op]
    node = subject.recorded(x, y).node
    assert node is not None
    saved = node.saved
    assert saved is not None

    start = time.perf_counter()
    for _ in range(CHAIN):
        subject.bare(a, b)
    bare = time.perf_counter()
    z = x
    for _ in range(CHAIN):
        z = subject.recorded(z, y)
    recorded = time.perf_counter()
    for _ in range(CHAIN):
        gradients = op.backward(dy, *saved)
        if subject.inputs == 2:  # the whole chain shares y: its gradients accumulate
            total += np.asarray(gradients[1])
    backward = time.perf_counter()
    z.backward(dy)
    walked = time.perf_counter()
    times = [1e6 * t / CHAIN for t in (bare - start, recorded - bare, backward - recorded, walked - backward)]
    return Cost(times[0], times[1] - times[0], times[2], times[3] - times[2])


def measure(settings: Settings) -> Iterator[Result]:
    """The result so far, after each round."""
    rounds: list[list[Cost]] = []
    was_on = gc.isenabled()
    gc.disable()
    try:
        for _ in range(ROUNDS):
            with np.errstate(all="ignore"):
                rounds.append([measured(subject) for subject in SUBJECTS])
            yield result(rounds)
    finally:
        if was_on:
            gc.enable()


def result(rounds: list[list[Cost]]) -> Result:
    fastest = [min(costs, key=lambda cost: sum(astuple(cost))) for costs in zip(*rounds, strict=True)]
    rows: list[Row] = [
        {"operation": subject.op, "NumPy forward": cost.forward, "recording adds": cost.recording,
         "NumPy backward": cost.backward, "walking back adds": cost.walking}
        for subject, cost in zip(SUBJECTS, fastest, strict=True)
    ]  # fmt: skip
    worst = max(max(cost.recording, cost.walking) for cost in fastest)
    decimals = "{:.2f}".format
    return Result(
        "overhead",
        f"microseconds for an operation on one number, fastest of {len(rounds)} rounds of {CHAIN}",
        rows,
        {"operation": str} | dict.fromkeys(list(rows[0])[1:], decimals),
        [f"The tape adds at most {worst:.1f} microseconds each way; the target is {TARGET:.0f}."],
        bars("operation", {"recording adds": BLUE, "walking back adds": ORANGE}, "microseconds", parts=True),
        done=len(rounds) / ROUNDS,
    )
