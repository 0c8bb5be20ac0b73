"""Sampling: one token after the other, each drawn from the distribution that the model predicts.

p_i  ~  exp(logit_i / temperature)       below 1 sharper, above 1 flatter; 0: always the likeliest
top_k    only the k likeliest            top_p    only the likeliest that together have probability p
"""

import codecs
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from gpt_numpy.checked import Checked, above, at_most
from gpt_numpy.workshop.data.tokenizer import Tokenizer
from gpt_numpy.workshop.engine import Engine
from gpt_numpy.workshop.errors import RunFailed, UsageError


@dataclass(frozen=True)
class Sampling(Checked):
    temperature: Annotated[float, "below 1: safer; above 1: wilder; 0: always the likeliest token"] = 0.7
    top_k: Annotated[int, "only the k likeliest tokens; 0: all"] = 50
    top_p: Annotated[
        float, "only the likeliest tokens that together have this probability; 1: all", above(0), at_most(1)
    ] = 1.0


def probabilities(logits: NDArray[Any], sampling: Sampling) -> NDArray[np.float64]:
    if not np.isfinite(logits).all():
        raise RunFailed("the logits of the model are not finite: its weights are far too large, or NaN")
    if sampling.temperature == 0:
        likeliest = np.zeros(len(logits))
        likeliest[logits.argmax()] = 1.0
        return likeliest
    scaled = logits.astype(np.float64)
    with np.errstate(over="ignore"):  # a temperature near 0
        scaled = np.exp((scaled - scaled.max()) / sampling.temperature)
    order = np.argsort(-logits, kind="stable")  # likeliest first; of equals, the first
    if sampling.top_k:
        scaled[order[sampling.top_k :]] = 0.0
    p: NDArray[np.float64] = scaled / scaled.sum()
    before = np.cumsum(p[order]) - p[order]  # the probability of all that are likelier
    p[order[before >= sampling.top_p]] = 0.0
    p /= p.sum()
    return p


def window_start(length: int, block_size: int) -> int:
    """Where the window begins that the model reads, once the text is longer than its context.

    A move by one token would give every token another position, and invalidate the cache. So the window moves by a
    quarter of the context at a time, and between two moves each token is read once.
    """
    hop = max(1, block_size // 4)
    over = max(0, length - block_size)
    return -(-over // hop) * hop  # over, rounded up to hops


def text_start(tokenizer: Tokenizer) -> list[int]:
    """The prompt before a text without one: a newline, if the tokenizer has it."""
    try:
        return [int(token) for token in tokenizer.encode("\n")]
    except UsageError:
        return [0]


def generate(
    engine: Engine, prompt: Sequence[int], length: int, sampling: Sampling, seed: Any, end: int | None = None
) -> Iterator[int]:
    """The tokens after the prompt, as they are drawn; the same for the same seed. The token `end` ends them."""
    random = np.random.default_rng(seed)
    window = [int(token) for token in prompt]  # only the window: the text may be endless
    reader, start, read = engine.reader(), 0, 0  # where the window begins in the text; how much of it was read
    for _ in range(length):
        wanted = window_start(start + len(window), engine.config.block_size)
        if wanted != start:
            del window[: wanted - start]
            reader, start, read = engine.reader(), wanted, 0
        p = probabilities(reader.read([window[read:]])[0], sampling)
        read = len(window)
        token = int(random.choice(len(p), p=p))
        if token == end:
            return
        window.append(token)
        yield token


def decode_stream(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """Text as soon as it is complete: the bytes of one character may be spread over several tokens."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens:
        yield decoder.decode(tokenizer.decode([token]))
    yield decoder.decode(b"", final=True)


def stop_before(stop: str, pieces: Iterable[str]) -> Iterator[str]:
    """The text before the first `stop`, as soon as it is sure that no `stop` begins there."""
    text = ""
    for piece in pieces:
        text += piece
        before, found, _ = text.partition(stop)
        if found:
            yield before
            return
        possible = next(n for n in range(min(len(text), len(stop) - 1), -1, -1) if text.endswith(stop[:n]))
        sure = len(text) - possible
        yield text[:sure]
        text = text[sure:]
    yield text
