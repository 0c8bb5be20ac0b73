"""Fine-tuning on answers: cross-entropy of the tokens of the answers alone, given all that stands before them.

    loss  = sum over the answers' tokens of -log p(token | the tokens before it) / N        N of them in the batch
    d z   = (p - onehot) m / N                                                m: 1 for tokens of answers, 0 for others

z are the logits; the prompts are read, but not learned.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpt_numpy.workshop.data.tokenizer import Tokenizer
from gpt_numpy.workshop.engine import Engine, Examples
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.train.evaluate import EVAL_TOKENS, EvalProgress
from gpt_numpy.workshop.tune.jsonl import Lines
from gpt_numpy.workshop.tune.rows import LinesTask


class FineTuning(LinesTask):
    def __init__(self, pairs: Lines, recipe: Recipe, tokenizer: Tokenizer) -> None:
        super().__init__(pairs, recipe, tokenizer)
        tokens = sum(len(answer) for pair in self.validation for answer in pair.answers)
        self.characters_per_token = sum(pair.characters for pair in self.validation) / tokens

    def batch(self, step: int, engine: Engine) -> Examples:
        ids, targets, answer_mask = self.rows([self.training[place] for place in self.lines_at(step)])
        return Examples(ids, targets, (answer_mask / answer_mask.sum()).astype(np.float32))

    def evaluate(self, engine: Engine) -> Iterator[EvalProgress]:
        total: Any = 0.0
        tokens, at_once = 0, max(1, EVAL_TOKENS // self.length)
        for first in range(0, len(self.validation), at_once):
            ids, targets, answer_mask = self.rows(self.validation[first : first + at_once])
            total = total + engine.loss(Examples(ids, targets, answer_mask.astype(np.float32)))
            tokens += int(answer_mask.sum())
            yield EvalProgress(min(1.0, (first + at_once) / len(self.validation)), total / tokens)
