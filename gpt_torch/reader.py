"""Reading a text piece by piece with a cache, as generation does."""

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray

from gpt_torch.cache import Cache
from gpt_torch.device import out_of_memory_as_memory_error
from gpt_torch.distributed import raising_lost
from gpt_torch.model import GPT
from gpt_torch.transfer import to_numpy


class Reader:
    """Reads a text piece by piece, and caches the keys and values of what it has read."""

    def __init__(self, engine: Any) -> None:  # an Engine, whose file imports this one
        self.engine = engine
        dtype = engine.dtype if engine.options.parallel == "fsdp" else engine.model.pos_emb.weight.dtype
        self.cache = Cache(engine.config, 1, dtype, engine.device)

    @raising_lost()
    @out_of_memory_as_memory_error()
    @torch.no_grad()
    def read(self, ids: Sequence[int]) -> NDArray[Any]:
        model, device = self.engine.model, self.engine.device
        for_training(model, False)
        with self.engine.for_reading():
            logits, _ = model(torch.tensor([ids], device=device), cache=self.cache)
        return to_numpy(logits[0, -1].float())


def for_training(model: GPT, yes: bool) -> None:
    """With dropout or without. model.train() visits every module, so it is called only on a change."""
    if model.training != yes:
        model.train(yes)
