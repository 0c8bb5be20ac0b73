"""A training step as one CUDA graph: captured once, and launched as a whole instead of kernel by kernel.

A replay computes what was captured, at the same addresses. So what differs from step to step is put in its place before
it: the starts of the windows, the learning rates, the seed of dropout. Losses and norms go into a ring, since the next
replay overwrites everything else before the host has read them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpt_numpy.workshop.engine import AnyBatch, Batch, StepResult
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.optim import settings_at
from gpt_numpy.workshop.recipes import Recipe
from gpt_torch.transfer import to_device, windows_of

RING = 128  # steps; the trainer reads results at the latest after 64
WARM_UP = 3  # runs before the capture, as PyTorch advises

Replay = Callable[[], None]


class CapturedStep:
    """Not for micro-batches, whose dropout has a seed each: see check_capture."""

    def __init__(self, engine: Any, batch: AnyBatch) -> None:  # an Engine, whose file imports this one
        if not isinstance(batch, Batch):
            raise RuntimeError("it is for the windows of a text")
        self.engine, self.tokens, self.length = engine, batch.tokens, batch.length
        self.text = engine.texts.find(batch.tokens)  # the graph has its address
        if self.text is None:
            raise RuntimeError("the text is too large for the device")
        device, groups = engine.device, engine.optimizer.param_groups
        self.starts = torch.zeros(batch.rows, dtype=torch.int64, device=device)
        self.rates = torch.zeros(len(groups), device=device)
        self.results = torch.zeros(2, RING, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.steps = 0
        settings = settings_at(engine.recipe, 0)
        for rate, group in zip(self.rates, groups, strict=True):
            group.update({**settings[group["kind"]], "lr": rate})

        nonfinite = engine.nonfinite.clone()
        engine.nonfinite.fill_(1.0)  # so that the runs before the capture change nothing
        try:
            self.replay = as_cuda_graph(self._compute, engine.zero_grad, device)
        finally:
            engine.nonfinite.copy_(nonfinite)
        self.position.zero_()

    def is_for(self, batch: AnyBatch) -> bool:
        shape = batch.rows, batch.length
        return isinstance(batch, Batch) and batch.tokens is self.tokens and shape == (len(self.starts), self.length)

    def __call__(self, batch: Batch, step: int) -> StepResult:
        engine, settings = self.engine, settings_at(self.engine.recipe, step)
        rates = torch.tensor([settings[group["kind"]]["lr"] for group in engine.optimizer.param_groups])
        self.rates.copy_(to_device(rates.numpy(), engine.device))
        self.starts.copy_(to_device(batch.starts, engine.device))
        engine.seed_dropout(step, 0)
        self.replay()
        place = self.steps % RING
        self.steps += 1
        return StepResult(InRing(self.results[0], place), InRing(self.results[1], place))

    def _compute(self) -> None:
        engine = self.engine
        engine.zero_grad()
        windows = windows_of(self.text, self.starts, self.length)
        loss = engine.accumulate(engine.loss_of(engine.model_loss, windows[:, :-1], windows[:, 1:]))
        found = torch.stack([loss, engine.update(loss)])
        self.results.index_copy_(1, self.position, found[:, None])
        self.position.add_(1).remainder_(RING)


class InRing:
    """A number in the ring. It has to be read within as many steps as the ring has places."""

    def __init__(self, numbers: Tensor, place: int) -> None:
        self.numbers, self.place = numbers, place

    def __float__(self) -> float:
        return float(self.numbers[self.place])


def as_cuda_graph(compute: Replay, free: Replay, device: torch.device) -> Replay:
    """`free` releases the gradients of the warm-up runs, whose memory the graph could not reuse."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                compute()
        torch.cuda.current_stream().wait_stream(stream)
        free()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            compute()
    return graph.replay


def check_capture(recipe: Recipe) -> None:
    """UsageError for what cannot be replayed: several seeds of dropout, a weight decay that the host computes."""
    if 0 < recipe.micro_batch < recipe.batch_size:
        raise UsageError("--cuda-graph computes a step in one piece; leave out --micro-batch")
    if recipe.decay_schedule != "constant":
        raise UsageError("--cuda-graph needs --decay-schedule constant")
