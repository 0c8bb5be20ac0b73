"""The hand-written GPT at work: training steps, losses and reading, over threads.

A batch is divided among threads, one for each core, and each thread takes its sequences in micro-batches, so that the
arrays in use stay small. NumPy lets other threads run while it computes. BLAS gets one thread for each of ours: two
crowds of threads on the same cores would only wait for each other. A few texts that are read token by token are the
exception: there is so little to compute that one thread reads them all, and BLAS gets all cores.

    each thread     the loss and the gradients of its micro-batches, added up
    each thread     for its part of the parameters (see parts.py) the sums over all threads, and their norm
    then            the norm of all gradients together, which they are clipped by
    each thread     the optimizers of its part

Which thread takes which sequences and which parameters, and the order in which gradients are added, depend on the
batch and the number of threads alone. So two runs agree bit for bit.
"""

import copy
import ctypes
import itertools
import math
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from gpt_numpy.cache import Cache
from gpt_numpy.config import GPTConfig
from gpt_numpy.model import GPT
from gpt_numpy.objectives import OBJECTIVES
from gpt_numpy.parts import Part, partition
from gpt_numpy.profile import by_operation, clocks, table
from gpt_numpy.workshop.cores import available_cores
from gpt_numpy.workshop.engine import AnyBatch, Arrays, Ids, StepResult
from gpt_numpy.workshop.optim import STATE_KEYS
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.rng import DROPOUT
from minitensor import Tensor, grad, no_grad, tensor
from minitensor.arrays import Array
from minitensor.optim import get_total_norm
from minitensor.random import use_generator

Gradients = dict[str, Array]  # by the names of the parameters

MICRO_BATCH_TOKENS = 1024  # tokens of a micro-batch: matrices large enough for BLAS, activations small enough for us
ALL_THREADS_TOKENS = 4096  # tokens that all threads together work on at once: many threads take less each
TEXTS_EACH = 64  # the fewest texts of a thread: with fewer, NumPy's calls are so short that threads wait for each other
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


class Engine:
    """A GPT, and the threads that do the work, each with optimizers for a part of the parameters."""

    def __init__(self, config: GPTConfig, recipe: Recipe, threads: int = 0) -> None:
        self.config, self.recipe = config, recipe
        self.threads = threads or available_cores()
        self.peak: float | None = None
        self.model = GPT(config, recipe.seed)
        self.parameters = dict(self.model.named_parameters())
        self.parts: list[Part] = []  # made with the first step, since they hold the parameters once more
        self.all_finite = True  # every loss and gradient so far; after another one all steps are skipped
        self.blas = numpys_blas()
        self.blas.limit(limits=1)  # for the whole process, but for a reader of few texts
        keep_freed_memory()
        quiet = partial(np.seterr, over="ignore", invalid="ignore")  # the loss and the norm show it
        self.pool = ThreadPoolExecutor(self.threads, initializer=quiet)

    # -- training and evaluating --

    def train_step(self, batch: AnyBatch, step: int) -> StepResult:
        self.parts = self.parts or self._new_parts()
        loss, gradients = self._loss_and_gradients(batch, step)
        norms = self.pool.map(lambda part: part.accumulate(gradients), self.parts)
        grad_norm = get_total_norm(norms).item()
        self.all_finite = self.all_finite and math.isfinite(loss) and math.isfinite(grad_norm)
        if self.all_finite:
            list(self.pool.map(lambda part: part.update(grad_norm, self.recipe, step), self.parts))
        return StepResult(loss, grad_norm)

    def first_nonfinite(self, batch: AnyBatch, step: int) -> str | None:
        _, found = self._loss_and_gradients(batch, step)
        gradients = {f"the gradient of {name}": [some[name] for some in found] for name in self.parameters}
        arrays = {**{name: [p.array] for name, p in self.parameters.items()}, **gradients}
        return next((name for name, parts in arrays.items() if not all(np.isfinite(a).all() for a in parts)), None)

    def _loss_and_gradients(self, batch: AnyBatch, step: int) -> tuple[float, list[Gradients]]:
        """The loss of a batch, and the gradients from each thread; those of the batch are their sums."""
        for_training(self.model, True)
        work = partial(self._train_on, batch, step)
        micro_batches = self._micro_batches(batch, self.recipe.micro_batch)
        losses, gradients = zip(*self.pool.map(work, micro_batches), strict=True)
        return sum(losses), list(gradients)

    def _train_on(self, batch: AnyBatch, step: int, micro_batches: list[slice]) -> tuple[float, Gradients]:
        """The share of these rows in the loss of the batch and in its gradients."""
        loss, gradients = 0.0, Gradients()
        for rows in micro_batches:
            if self.config.dropout:
                use_generator(RowStreams([(self.recipe.seed, step, row, DROPOUT) for row in range(batch.rows)[rows]]))
            added = self._loss_of_part(batch, rows)
            loss += added.item()
            for name, g in zip(self.parameters, grad(added, list(self.parameters.values())), strict=True):
                assert g is not None
                gradients[name] = gradients[name] + g.array if name in gradients else g.array
        return loss, gradients

    def loss(self, batch: AnyBatch) -> float:
        for_training(self.model, False)
        return sum(self.pool.map(partial(self._loss_of, batch), self._micro_batches(batch)))

    def _loss_of(self, batch: AnyBatch, micro_batches: list[slice]) -> float:
        loss = 0.0
        with no_grad():
            for rows in micro_batches:
                loss += self._loss_of_part(batch, rows).item()
        return loss

    def _loss_of_part(self, batch: AnyBatch, rows: slice) -> Tensor:
        objective, arrays, share = batch.part(rows)
        given = {name: self._tensor(a) if isinstance(a, np.ndarray) else a for name, a in arrays.items()}
        loss: Tensor = OBJECTIVES[objective](self.model, **given)
        return loss * share

    def _tensor(self, array: Array) -> Tensor:
        """Floats in the dtype of the model."""
        return tensor(array, dtype=self.model.pos_emb.weight.dtype if array.dtype.kind == "f" else None)

    def logits(self, ids: Ids) -> Array:
        for_training(self.model, False)
        at_once = max(1, MICRO_BATCH_TOKENS // ids.shape[1])
        parts = self.pool.map(partial(self._logits_of, ids), divide(len(ids), self.threads, at_once))
        return np.concatenate([logits for part in parts for logits in part])

    def _logits_of(self, ids: Ids, micro_batches: list[slice]) -> list[Array]:
        with no_grad():
            return [self.model(tensor(ids[rows]))[0].array for rows in micro_batches]

    def _micro_batches(self, batch: AnyBatch, limit: int = 0) -> list[list[slice]]:
        """Which rows each thread takes, one slice after the other."""
        rows = max(1, ALL_THREADS_TOKENS // batch.length)
        return divide(batch.rows, self.threads, max(1, MICRO_BATCH_TOKENS // batch.length), min(limit or rows, rows))

    def _new_parts(self) -> list[Part]:
        return [Part(some, self.recipe.optimizer) for some in partition(self.parameters, self.threads)]

    @contextmanager
    def profile(self, folder: Path) -> Iterator[list[Any]]:
        result: list[Any] = []
        start = time.perf_counter()
        with clocks() as seconds:
            yield result
        total = self.threads * (time.perf_counter() - start)
        result.append(table(by_operation(seconds, total), f"time by operation, summed over {self.threads} threads"))

    # -- reading --

    def reader(self, rows: int = 1) -> "Reader":
        return Reader(self, rows)

    # -- its state --

    def weights(self) -> Arrays:
        return {name: p.array for name, p in self.model.state_dict().items()}

    def optimizer_state(self) -> Arrays:
        state = {name: array for part in self.parts for name, array in part.state().items()}
        names = [f"{key}.{name}" for key in STATE_KEYS for name in self.parameters]
        return {name: state[name] for name in names if name in state}

    def load(self, weights: Arrays, optimizer_state: Arrays, step: int) -> None:
        self.model.load_state_dict(weights)
        self.all_finite = True
        self.parts = self._new_parts() if optimizer_state else []
        for part in self.parts:
            part.load(optimizer_state, step)

    def describe(self) -> str:
        blas = {f"{library['internal_api']} {library['version']}" for library in self.blas.info()}
        return f"NumPy {np.__version__}, float32, {self.threads} thread{'s' * (self.threads > 1)}, " + (
            f"each with one thread of {' or '.join(blas)}" if blas else "each with a BLAS whose threads are unknown"
        )


class Reader:
    """Reads texts piece by piece, and caches the keys and values of what it has read. Of many, each thread has some."""

    def __init__(self, engine: Engine, rows: int) -> None:
        self.engine, self.model = engine, engine.model
        threads, dtype = max(1, min(engine.threads, rows // TEXTS_EACH)), self.model.pos_emb.weight.dtype
        self.parts = [
            (slice(start, end), Cache(engine.config, end - start, dtype)) for start, end in shares(rows, threads)
        ]

    def read(self, ids: Sequence[Sequence[int]]) -> Array:
        for_training(self.model, False)
        if len(self.parts) == 1:
            with self.engine.blas.limit(limits=self.engine.threads):
                return self._read(ids, *self.parts[0])
        return np.concatenate(list(self.engine.pool.map(lambda part: self._read(ids, *part), self.parts)))

    def _read(self, ids: Sequence[Sequence[int]], rows: slice, cache: Cache) -> Array:
        lengths = np.array([len(text) for text in ids[rows]])
        padded = np.zeros((len(lengths), lengths.max()), np.int64)
        for row, text in zip(padded, ids[rows], strict=True):
            row[: len(text)] = text
        before = cache.lengths
        with no_grad(), np.errstate(over="ignore", invalid="ignore"):  # sampling refuses such logits
            logits, _ = self.model(padded, cache=cache)
        cache.lengths = [length + more for length, more in zip(before, lengths.tolist(), strict=True)]
        last: Array = logits.numpy()[np.arange(len(lengths)), lengths - 1]
        return last


def numpys_blas() -> ThreadpoolController:
    """What multiplies matrices for NumPy. PyTorch may have brought a BLAS too, whose threads are not ours to count."""
    found = ThreadpoolController().select(user_api="blas")
    paths = [library.filepath for library in found.lib_controllers]
    return found.select(filepath=[path for path in paths if {"torch", "torch.libs"}.isdisjoint(Path(path).parts)])


def keep_freed_memory() -> None:
    """Each step makes the same large arrays. glibc, the C library of most Linux systems, returns them to the system
    when freed, and the system clears every page of the new ones. Here glibc keeps them, in the whole process."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)  # large arrays come from the heap, too,
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # and the heap never shrinks;
        libc.mallopt(M_ARENA_MAX, 1)  # all threads share it, since arenas of their own do shrink


def for_training(model: GPT, yes: bool) -> None:
    """With dropout or without. model.train() walks through all modules, so not at each token."""
    if model.training != yes:
        model.train(yes)


def divide(rows: int, threads: int, at_once: int, limit: int = 0) -> list[list[slice]]:
    """The micro-batches of each thread: of at most `at_once` rows, and of `limit` (if any) over all threads."""
    limit = limit or rows
    threads = min(threads, rows, limit)
    at_once = min(at_once, limit // threads)
    return [
        [slice(start, min(start + at_once, end)) for start in range(begin, end, at_once)]
        for begin, end in shares(rows, threads)
    ]


def shares(rows: int, threads: int) -> list[tuple[int, int]]:
    """The rows of each thread: from the first to the one after the last."""
    return list(itertools.pairwise(rows * i // threads for i in range(threads + 1)))


class RowStreams(np.random.Generator):
    """Random numbers for a batch, each row from a stream of its own: how the batch is divided does not matter."""

    def __init__(self, seeds: list[tuple[int, ...]]) -> None:
        super().__init__(np.random.PCG64(0))
        self.streams = [np.random.default_rng(seed) for seed in seeds]

    def __deepcopy__(self, memo: Any) -> "RowStreams":
        copied = RowStreams([])
        copied.streams = copy.deepcopy(self.streams)
        return copied

    def random(self, shape: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        return np.stack([stream.random(shape[1:], dtype) for stream in self.streams])
