"""The hand-written GPT at work: training steps, losses and reading, over threads.

A batch is divided among threads, one for each core, and each thread takes its sequences in micro-batches, so that the
arrays in use stay small. NumPy lets other threads run while it computes. BLAS gets one thread for each of ours: two
crowds of threads on the same cores would only wait for each other.

    each thread     the loss and the gradients of its micro-batches, added up
    each thread     for its part of the parameters (see parts.py) the sums over all threads, and their norm
    then            the norm of all gradients together, which they are clipped by
    each thread     the optimizers of its part

Which thread takes which sequences and which parameters, and the order in which gradients are added, depend on the
batch and the number of threads alone. So two runs agree bit for bit.
"""

import itertools
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from gpt_numpy.cache import Cache
from gpt_numpy.config import GPTConfig
from gpt_numpy.model import GPT
from gpt_numpy.parts import Part, partition
from gpt_numpy.workshop.engine import Arrays, Ids, Trained
from gpt_numpy.workshop.memory import keep_freed_memory
from gpt_numpy.workshop.optim import MEMORY, optimizer_of
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.rng import DROPOUT
from gpt_numpy.workshop.train.distributed import available_cores
from minitensor import grad, no_grad
from minitensor.arrays import Array
from minitensor.optim import get_total_norm
from minitensor.random import use_generator

Gradients = dict[str, Array]  # by the names of the parameters

AT_ONCE = 1024  # tokens of a micro-batch: matrices large enough for BLAS, activations small enough for us
ALL_AT_ONCE = 4096  # tokens that all threads together work on at once: many threads take less each


class Engine:
    """A GPT, and the threads that do the work, each with optimizers for a part of the parameters."""

    def __init__(self, config: GPTConfig, seed: int = 0, threads: int | None = None) -> None:
        self.config = config
        self.threads = threads or available_cores()
        self.peak: float | None = None
        self.model = GPT(config, seed)
        self.parameters = dict(self.model.named_parameters())
        self.parts: list[Part] = []  # made with the first step, which says by which optimizer
        self.all_finite = True  # every loss and gradient so far; after another one no step changes anything
        numpys_blas().limit(limits=1)  # for the whole process, for good
        keep_freed_memory()
        quiet = partial(np.seterr, over="ignore", invalid="ignore")  # the loss and the norm will tell of it
        self.pool = ThreadPoolExecutor(self.threads, initializer=quiet)

    # -- training and judging --

    def train_step(self, ids: Ids, targets: Ids, recipe: Recipe, step: int) -> Trained:
        self.parts = self.parts or self._parts(recipe.optimizer)
        loss, gradients = self._loss_and_gradients(ids, targets, recipe, step)
        norms = self.pool.map(lambda part: part.accumulate(gradients), self.parts)
        grad_norm = get_total_norm(norms).item()
        self.all_finite = self.all_finite and math.isfinite(loss) and math.isfinite(grad_norm)
        if self.all_finite:
            list(self.pool.map(lambda part: part.update(grad_norm, recipe, step), self.parts))
        return Trained(loss, grad_norm)

    def first_not_finite(self, ids: Ids, targets: Ids, recipe: Recipe, step: int) -> str | None:
        _, found = self._loss_and_gradients(ids, targets, recipe, step)
        gradients = {f"the gradient of {name}": [some[name] for some in found] for name in self.parameters}
        arrays = {**{name: [p.array] for name, p in self.parameters.items()}, **gradients}
        return next((name for name, parts in arrays.items() if not all(np.isfinite(a).all() for a in parts)), None)

    def _loss_and_gradients(self, ids: Ids, targets: Ids, recipe: Recipe, step: int) -> tuple[float, list[Gradients]]:
        """The loss of a batch, and the gradients from each thread; those of the batch are their sums."""
        for_training(self.model, True)
        work = partial(self._train_on, ids, targets, recipe, step)
        losses, gradients = zip(*self.pool.map(work, self._micro_batches(ids, recipe.micro_batch)), strict=True)
        return sum(losses), list(gradients)

    def _train_on(
        self, ids: Ids, targets: Ids, recipe: Recipe, step: int, micro_batches: list[slice]
    ) -> tuple[float, Gradients]:
        """What these rows of the batch add to its loss and to its gradients."""
        loss, gradients = 0.0, Gradients()
        for rows in micro_batches:
            if self.config.dropout:
                use_generator(Rows([(recipe.seed, step, row, DROPOUT) for row in range(len(ids))[rows]]))
            _, mean = self.model(ids[rows], targets[rows])
            added = mean * (ids[rows].size / ids.size)
            loss += added.item()
            for name, g in zip(self.parameters, grad(added, list(self.parameters.values())), strict=True):
                assert g is not None
                gradients[name] = gradients[name] + g.array if name in gradients else g.array
        return loss, gradients

    def loss(self, ids: Ids, targets: Ids) -> float:
        for_training(self.model, False)
        return sum(self.pool.map(partial(self._loss_of, ids, targets), self._micro_batches(ids)))

    def _loss_of(self, ids: Ids, targets: Ids, micro_batches: list[slice]) -> float:
        loss = 0.0
        with no_grad():
            for rows in micro_batches:
                _, mean = self.model(ids[rows], targets[rows])
                loss += mean.item() * (ids[rows].size / ids.size)
        return loss

    def _micro_batches(self, ids: Ids, limit: int = 0) -> list[list[slice]]:
        """Which rows each thread takes, one slice after the other."""
        T = ids.shape[1]
        rows = max(1, ALL_AT_ONCE // T)
        return divide(len(ids), self.threads, max(1, AT_ONCE // T), min(limit or rows, rows))

    def _parts(self, optimizer: str) -> list[Part]:
        return [Part(some, optimizer) for some in partition(self.parameters, self.threads)]

    # -- reading --

    def reader(self) -> "Reader":
        return Reader(self.model)

    # -- its state --

    def weights(self) -> Arrays:
        return {name: p.array for name, p in self.model.state_dict().items()}

    def optimizer_state(self) -> Arrays:
        state = {name: array for part in self.parts for name, array in part.state().items()}
        return {key: state[key] for kind in MEMORY for name in self.parameters if (key := f"{kind}.{name}") in state}

    def load(self, weights: Arrays, optimizer_state: Arrays, step: int) -> None:
        self.model.load_state_dict(weights)
        self.all_finite = True
        self.parts = self._parts(optimizer_of(optimizer_state)) if optimizer_state else []
        for part in self.parts:
            part.load(optimizer_state, step)

    def describe(self) -> str:
        blas = {f"{library['internal_api']} {library['version']}" for library in numpys_blas().info()}
        return f"NumPy {np.__version__}, float32, {self.threads} thread{'s' * (self.threads > 1)}, " + (
            f"with one of {' or '.join(blas)} each" if blas else "each with a BLAS that does not tell its threads"
        )


class Reader:
    """Reads a text piece by piece, keeping the keys and values of what it has read."""

    def __init__(self, model: GPT) -> None:
        self.model = model
        self.cache = Cache(model.config, dtype=model.pos_emb.weight.dtype)

    def read(self, ids: Sequence[int]) -> Array:
        for_training(self.model, False)
        with no_grad(), np.errstate(over="ignore", invalid="ignore"):  # who reads on will find logits without meaning
            logits, _ = self.model(np.array([ids]), cache=self.cache)
        last: Array = logits.numpy()[0, -1]
        return last


def numpys_blas() -> ThreadpoolController:
    """What multiplies matrices for NumPy. PyTorch may have brought a BLAS too, whose threads are not ours to count."""
    found = ThreadpoolController().select(user_api="blas")
    paths = [library.filepath for library in found.lib_controllers]
    return found.select(filepath=[path for path in paths if {"torch", "torch.libs"}.isdisjoint(Path(path).parts)])


def for_training(model: GPT, yes: bool) -> None:
    """With dropout or without. Where it is so already, all parts of the model need not be told again at each token."""
    if model.training != yes:
        model.train(yes)


def divide(rows: int, threads: int, at_once: int, limit: int = 0) -> list[list[slice]]:
    """The micro-batches of each thread: of at most `at_once` rows, and of `limit` (if any) over all threads."""
    limit = limit or rows
    threads = min(threads, rows, limit)
    at_once = min(at_once, limit // threads)
    ends = [rows * i // threads for i in range(threads + 1)]
    return [
        [slice(start, min(start + at_once, end)) for start in range(begin, end, at_once)]
        for begin, end in itertools.pairwise(ends)
    ]


class Rows(np.random.Generator):
    """Random numbers for a batch, each row from a stream of its own: how the batch is divided does not matter."""

    def __init__(self, seeds: list[tuple[int, ...]]) -> None:
        super().__init__(np.random.PCG64(0))
        self.streams = [np.random.default_rng(seed) for seed in seeds]

    def random(self, shape: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        return np.stack([stream.random(shape[1:], dtype) for stream in self.streams])
