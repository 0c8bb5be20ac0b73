"""Reading texts piece by piece with a cache, as generation does."""

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
    """Reads texts piece by piece, and caches the keys and values of what it has read."""

    def __init__(self, engine: Any, rows: int) -> None:  # an Engine, whose file imports this one
        self.engine = engine
        dtype = engine.dtype if engine.options.parallel == "fsdp" else engine.model.pos_emb.weight.dtype
        self.cache = Cache(engine.config, rows, dtype, engine.device)

    @raising_lost()
    @out_of_memory_as_memory_error()
    @torch.no_grad()
    def read(self, ids: Sequence[Sequence[int]]) -> NDArray[Any]:
        model, device, before = self.engine.model, self.engine.device, self.cache.lengths
        for_training(model, False)
        lengths = [len(text) for text in ids]
        padded = [[*text, *[0] * (max(lengths) - len(text))] for text in ids]
        with self.engine.for_reading():
            logits, _ = model(torch.tensor(padded, device=device), cache=self.cache)
        self.cache.lengths = [length + more for length, more in zip(before, lengths, strict=True)]
        last = torch.tensor(lengths, device=device) - 1
        return to_numpy(logits[torch.arange(len(ids), device=device), last].float())


def for_training(model: GPT, yes: bool) -> None:
    """With dropout or without. model.train() visits every module, so it is called only on a change."""
    if model.training != yes:
        model.train(yes)
