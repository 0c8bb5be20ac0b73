"""Distillation: a student learns what its teachers expect, and not only what came.

    loss  = sum over all tokens of cross-entropy(q, p) / N        q: the mean of the teachers' probabilities, p: its own
    d z   = (p - q) / N

q says of each token how likely it was, where a text has one that came; so the gradient has less noise.
"""

from dataclasses import dataclass

import numpy as np

from gpt_numpy.workshop.engine import Engine, Examples
from gpt_numpy.workshop.train.ensemble import Ensemble
from gpt_numpy.workshop.train.task import Pretraining


@dataclass
class Distillation(Pretraining):
    """The windows of a text, with the teachers' probabilities as targets. It is evaluated on what came."""

    teachers: Ensemble

    def batch(self, step: int, engine: Engine) -> Examples:
        ids, _ = self.windows(step).ids_and_targets()
        return Examples(ids, self.teachers.probabilities(ids), np.full(ids.shape, 1.0 / ids.size, np.float32))
