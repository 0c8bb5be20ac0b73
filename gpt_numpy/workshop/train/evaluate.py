"""The loss of a model over a whole validation part."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from numpy.typing import NDArray

from gpt_numpy.workshop.data.dataloader import adjacent_windows
from gpt_numpy.workshop.engine import Engine


class EvalProgress(NamedTuple):
    done: float  # the fraction of the tokens
    loss: float  # mean over these tokens


def evaluate(engine: Engine, tokens: NDArray[Any]) -> Iterator[EvalProgress]:
    """The loss so far, after each batch; the last one is over all tokens."""
    total, count = 0.0, 0
    for batch in adjacent_windows(tokens, engine.config.block_size):
        size = batch.rows * batch.length
        total += engine.loss(batch) * size
        count += size
        yield EvalProgress(count / (len(tokens) - 1), total / count)


def perplexity(loss: float) -> float:
    """The number of equally likely tokens that a guess with this loss chooses from."""
    return math.exp(loss) if loss < 700 else math.inf


def bits(loss: float) -> float:
    return loss / math.log(2.0)
