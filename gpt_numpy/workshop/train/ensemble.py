"""Several models that predict together: the mean of their probabilities."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gpt_numpy.workshop.engine import Batch, Engine, Ids
from gpt_numpy.workshop.probabilities import log_softmax, softmax


class Ensemble:
    """Of models with one vocabulary. It reads as much context as each of them can."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = engines
        self.config = replace(engines[0].config, block_size=min(engine.config.block_size for engine in engines))

    def probabilities(self, ids: Ids, temperature: float = 1.0) -> NDArray[np.float32]:
        """Of the token after each of these (B, T): (B, T, V)."""
        total = sum(softmax(engine.logits(ids) / temperature) for engine in self.engines)
        return np.asarray(total / len(self.engines), np.float32)

    def loss(self, batch: Batch) -> float:
        ids, targets = batch.ids_and_targets()
        log_p = (log_softmax(engine.logits(ids).astype(np.float64)) for engine in self.engines)
        of_targets = [np.take_along_axis(one, targets[..., None], -1) for one in log_p]
        return float((np.log(len(of_targets)) - np.logaddexp.reduce(of_targets)).mean())
