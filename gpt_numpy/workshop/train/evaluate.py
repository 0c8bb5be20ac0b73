"""How good a model is: its loss over the whole validation part, and what that means."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from numpy.typing import NDArray

from gpt_numpy.workshop.data.dataloader import fixed_windows
from gpt_numpy.workshop.engine import Engine


class Judged(NamedTuple):
    part: float  # of the tokens, done so far
    mean: float  # loss over that part


def running_loss(engine: Engine, tokens: NDArray[Any]) -> Iterator[Judged]:
    """The loss while it is found; the last one is over all tokens, and the same each time."""
    total, done = 0.0, 0
    for ids, targets in fixed_windows(tokens, engine.config.block_size):
        total += engine.loss(ids, targets) * targets.size
        done += targets.size
        yield Judged(done / (len(tokens) - 1), total / done)


def perplexity(loss: float) -> float:
    """Among how many equally likely tokens the model seems to choose."""
    return math.exp(loss) if loss < 700 else math.inf


def bits(loss: float) -> float:
    return loss / math.log(2.0)
