"""Fine-tuning on answers: cross-entropy of the tokens of the answers alone, given all that stands before them.

    loss  = sum over the answers' tokens of -log p(token | the tokens before it) / N        N of them in the batch
    d z   = (p - onehot) m / N                                                m: 1 for tokens of answers, 0 for others

z are the logits; the prompts are read, but not learned.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gpt_numpy.workshop.data.dataloader import rows_at
from gpt_numpy.workshop.data.tokenizer import Tokenizer
from gpt_numpy.workshop.engine import Engine, Examples
from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.train.evaluate import AT_ONCE, EvalProgress
from gpt_numpy.workshop.train.task import Task
from gpt_numpy.workshop.tune.jsonl import Lines, Pair
from gpt_numpy.workshop.tune.rows import as_rows

VALIDATION = 0.1  # the last pairs, never trained on


class FineTuning(Task):
    def __init__(self, pairs: Lines[Pair], recipe: Recipe, tokenizer: Tokenizer) -> None:
        super().__init__(recipe, tokenizer)
        if len(pairs.items) < 2:
            raise WrongUse(f"{pairs.path} needs at least two pairs: one to train on, and one for validation")
        count = max(1, round(VALIDATION * len(pairs.items)))
        self.training, self.validation = pairs.items[:-count], pairs.items[-count:]
        self.length = max(len(pair.prompt) + len(pair.answer) for pair in pairs.items) - 1
        self.longest = max(len(pair.answer) for pair in pairs.items)
        self.tokens_per_step = recipe.batch_size * self.length
        tokens = sum(len(pair.answer) for pair in self.validation)
        self.characters_per_token = sum(pair.characters for pair in self.validation) / tokens

    def batch(self, step: int, engine: Engine) -> Examples:
        rows = rows_at(len(self.training), self.recipe, step)
        some = [self.training[row] for row in rows]
        ids, targets, counted = as_rows([(pair.prompt, pair.answer) for pair in some], self.length)
        return Examples(ids, targets, (counted / counted.sum()).astype(np.float32))

    def evaluate(self, engine: Engine) -> Iterator[EvalProgress]:
        total: Any = 0.0
        tokens, at_once = 0, max(1, AT_ONCE // self.length)
        for first in range(0, len(self.validation), at_once):
            some = self.validation[first : first + at_once]
            ids, targets, counted = as_rows([(pair.prompt, pair.answer) for pair in some], self.length)
            total = total + engine.loss(Examples(ids, targets, counted.astype(np.float32)))
            tokens += int(counted.sum())
            yield EvalProgress(min(1.0, (first + at_once) / len(self.validation)), total / tokens)

    def prompt(self) -> tuple[Sequence[int], str]:
        return self.validation[0].prompt, self.validation[0].text
