"""Distillation: a student learns its teachers' whole predictions, and not only the token that came next.

    loss  = T^2 sum over all tokens of cross-entropy(q, p) / N
    d z   = T (p - q) / N

z are the student's logits, p = softmax(z / T), and q is the mean of the teachers' probabilities, whose logits are
divided by T, too. A temperature T above 1 brings out the differences among unlikely tokens. d(z / T) = (p - q) / N, so
d z = (p - q) / (N T); and p - q itself shrinks like 1 / T, since all probabilities get closer to each other. T^2 makes
the gradient as large as without a temperature.

q has a probability for every token, where the text has one token that came next; so the gradient has less noise.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from gpt_numpy.checked import Checked, above
from gpt_numpy.workshop.data.dataset import Dataset
from gpt_numpy.workshop.data.tokenizer import Tokenizer
from gpt_numpy.workshop.engine import Engine, Examples
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.train.ensemble import Ensemble
from gpt_numpy.workshop.train.task import Pretraining


@dataclass(frozen=True)
class DistillSettings(Checked):
    temperature: Annotated[float, "that the logits of teachers and student are divided by", above(0)] = 1.0


class Distillation(Pretraining):
    """The windows of a text, with the teachers' probabilities as targets. It is evaluated on the text itself."""

    def __init__(
        self, data: Dataset, tokenizer: Tokenizer, recipe: Recipe, block_size: int, teachers: Ensemble,
        temperature: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__(data, tokenizer, recipe, block_size)
        self.teachers, self.temperature = teachers, temperature
        self.loss_factor = temperature**2

    def batch(self, step: int, engine: Engine) -> Examples:
        ids, _ = self.windows(step).ids_and_targets()
        T = self.temperature
        weights = np.full(ids.shape, T * T / ids.size, np.float32)
        return Examples(ids, self.teachers.probabilities(ids, T), weights, T)
