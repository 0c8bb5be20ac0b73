"""Prompts and their answers as rows of tokens, filled up with zeros on the right, which no earlier token sees."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpt_numpy.workshop.engine import Ids
from gpt_numpy.workshop.tune.jsonl import Tokens


def as_rows(pairs: Sequence[tuple[Tokens, Tokens]], length: int) -> tuple[Ids, Ids, NDArray[np.bool_]]:
    """ids, targets, and whether a target is of an answer: (B, length)."""
    tokens, counted = np.zeros((len(pairs), length + 1), np.int64), np.zeros((len(pairs), length), np.bool_)
    for row, (prompt, answer) in enumerate(pairs):
        end = len(prompt) + len(answer)
        tokens[row, :end] = [*prompt, *answer]
        counted[row, len(prompt) - 1 : end - 1] = True
    return tokens[:, :-1], tokens[:, 1:], counted
