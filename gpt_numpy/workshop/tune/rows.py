"""Prompts and their answers as rows of tokens, padded with zeros on the right, which no token before them sees."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpt_numpy.workshop.data.dataloader import rows_at
from gpt_numpy.workshop.data.tokenizer import Tokenizer
from gpt_numpy.workshop.engine import Ids
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.train.task import Task
from gpt_numpy.workshop.tune.jsonl import Line, Lines

VALIDATION = 0.1  # the last lines, never trained on


class LinesTask(Task):
    """What is learned from the lines of a file: a row for each answer in them."""

    def __init__(self, lines: Lines, recipe: Recipe, tokenizer: Tokenizer) -> None:
        super().__init__(recipe, tokenizer)
        if len(lines.items) < 2:
            raise UsageError(f"{lines.path} needs at least two pairs: one to train on, and one for validation")
        count = max(1, round(VALIDATION * len(lines.items)))
        self.training, self.validation = lines.items[:-count], lines.items[-count:]
        self.max_answer = max(len(answer) for line in lines.items for answer in line.answers)
        self.length = max(len(line.prompt) + len(answer) for line in lines.items for answer in line.answers) - 1
        self.tokens_per_step = recipe.batch_size * len(lines.items[0].answers) * self.length

    def lines_at(self, step: int) -> list[int]:
        """The lines of a step, by number."""
        return rows_at(len(self.training), self.recipe, step)

    def rows(self, lines: Sequence[Line]) -> tuple[Ids, Ids, NDArray[np.bool_]]:
        """ids, targets, and whether a target is of an answer: (B, length)."""
        pairs = [(line.prompt, answer) for line in lines for answer in line.answers]
        tokens = np.zeros((len(pairs), self.length + 1), np.int64)
        answer_mask = np.zeros((len(pairs), self.length), np.bool_)
        for row, (prompt, answer) in enumerate(pairs):
            end = len(prompt) + len(answer)
            tokens[row, :end] = [*prompt, *answer]
            answer_mask[row, len(prompt) - 1 : end - 1] = True
        return tokens[:, :-1], tokens[:, 1:], answer_mask

    def prompt(self) -> tuple[Sequence[int], str]:
        return self.validation[0].prompt, self.validation[0].text
