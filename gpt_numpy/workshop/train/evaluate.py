"""The loss of a model over a whole validation part."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, SupportsFloat

from numpy.typing import NDArray

from gpt_numpy.workshop.data.dataloader import adjacent_windows
from gpt_numpy.workshop.engine import Engine
from gpt_numpy.workshop.train.ensemble import Ensemble

EVAL_TOKENS = 1 << 14  # tokens of a batch


class EvalProgress(NamedTuple):
    done: float  # the fraction of the tokens
    loss: SupportsFloat  # mean over these tokens; float() of it may have to wait for a device
    figures: Mapping[str, float] = {}  # measured beside it


def evaluate(engine: Engine | Ensemble, tokens: NDArray[Any]) -> Iterator[EvalProgress]:
    """The loss so far, after each batch; the last one is over all tokens."""
    total: Any = 0.0
    count, block_size = 0, engine.config.block_size
    for batch in adjacent_windows(tokens, block_size, max(1, EVAL_TOKENS // block_size)):
        size = batch.rows * batch.length
        total = total + engine.loss(batch) * size
        count += size
        yield EvalProgress(count / (len(tokens) - 1), total / count)


def perplexity(loss: float) -> float:
    """The number of equally likely tokens that a guess with this loss chooses from."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def bits(loss: float) -> float:
    return loss / math.log(2.0)
