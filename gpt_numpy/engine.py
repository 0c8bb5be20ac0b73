"""The hand-written GPT at work: training steps, losses and reading, over threads.

A batch is divided among threads, one for each core, and each thread takes its share a few sequences at a time, so that
the arrays in use stay small. NumPy lets other threads run while it computes. BLAS gets one thread for each of ours:
two crowds of threads on the same cores would only wait for each other.

Then each thread updates a part of the parameters (see parts.py): it adds up what all threads have found for their
gradients, and has optimizers of its own for them. In between the threads wait for each other, since the norm that
gradients are clipped by is of all of them together.

Which thread takes which sequences and which parameters, and the order in which gradients are added, depend on the
batch and the number of threads alone. So two runs agree bit for bit.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from gpt_numpy.cache import Cache
from gpt_numpy.config import GPTConfig
from gpt_numpy.model import GPT
from gpt_numpy.parts import Part, shared_out
from gpt_numpy.workshop.engine import Arrays, Ids, Trained
from gpt_numpy.workshop.memory import keep_freed_memory
from gpt_numpy.workshop.optimizers import MEMORY, optimizer_of
from gpt_numpy.workshop.processes import available_cores
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.streams import DROPOUT
from minitensor import grad, no_grad
from minitensor.core import Array
from minitensor.optim import get_total_norm
from minitensor.random import use_generator

T = TypeVar("T")
U = TypeVar("U")
Share = tuple[float, list[Array]]  # of the mean loss over a batch, and of its gradients

AT_ONCE = 1024  # tokens that a thread works on at once: matrices large enough for BLAS, activations small enough for us
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
        self.sound = True  # no loss and no gradient was anything but finite
        numpys_blas().limit(limits=1)  # for the whole process, for good
        keep_freed_memory()
        self.pool = ThreadPoolExecutor(self.threads)

    def _parts(self, optimizer: str) -> list[Part]:
        return [Part(some, optimizer) for some in shared_out(self.parameters, self.threads)]

    # -- training and judging --

    def train_step(self, ids: Ids, targets: Ids, recipe: Recipe, step: int) -> Trained:
        self.parts = self.parts or self._parts(recipe.optimizer)
        loss, found = self._gradients(ids, targets, recipe, step)
        grad_norm = get_total_norm(self._map(lambda part: part.add_up(found), self.parts)).item()
        self.sound = self.sound and math.isfinite(loss) and math.isfinite(grad_norm)
        if self.sound:
            self._map(lambda part: part.update(grad_norm, recipe, step), self.parts)
        return Trained(loss, grad_norm)

    def first_not_finite(self, ids: Ids, targets: Ids, recipe: Recipe, step: int) -> str | None:
        _, found = self._gradients(ids, targets, recipe, step)
        gradients = {f"the gradient of {name}": [some[name] for some in found] for name in self.parameters}
        arrays = {**{name: [p.array] for name, p in self.parameters.items()}, **gradients}
        return next((name for name, parts in arrays.items() if not all(np.isfinite(a).all() for a in parts)), None)

    def _gradients(self, ids: Ids, targets: Ids, recipe: Recipe, step: int) -> tuple[float, list[dict[str, Array]]]:
        """The loss, and what each thread has found for the gradients, which are the sums of that."""
        parameters = list(self.parameters.values())
        for_training(self.model, True)

        def share(piece: slice) -> Share:
            if self.config.dropout:
                use_generator(Rows([(recipe.seed, step, row, DROPOUT) for row in range(len(ids))[piece]]))
            _, loss = self.model(ids[piece], targets[piece])
            loss = loss * (ids[piece].size / ids.size)
            return loss.item(), [g.array for g in grad(loss, parameters) if g is not None]

        losses, gradients = zip(*self._over_threads(share, ids, recipe.micro_batch), strict=True)
        return sum(losses), [dict(zip(self.parameters, of_one_thread, strict=True)) for of_one_thread in gradients]

    def loss(self, ids: Ids, targets: Ids) -> float:
        for_training(self.model, False)

        def share(piece: slice) -> Share:
            with no_grad():
                _, loss = self.model(ids[piece], targets[piece])
            return loss.item() * (ids[piece].size / ids.size), []

        return sum(loss for loss, _ in self._over_threads(share, ids))

    def _over_threads(self, work: Callable[[slice], Share], ids: Ids, limit: int = 0) -> list[Share]:
        """For each thread the sum of what work gives for its pieces of the batch, always added in the same order."""
        rows = max(1, ALL_AT_ONCE // ids.shape[1])
        shares = divide(len(ids), self.threads, max(1, AT_ONCE // ids.shape[1]), min(limit or rows, rows))

        def of_one_thread(pieces: list[slice]) -> Share:
            return reduce(_add, map(work, pieces))

        return self._map(of_one_thread, shares)

    def _map(self, work: Callable[[T], U], items: Sequence[T]) -> list[U]:
        """One item for each thread."""

        def quietly(item: T) -> U:
            with np.errstate(over="ignore", invalid="ignore"):  # the loss and the norm will tell of it
                return work(item)

        return list(self.pool.map(quietly, items))

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
        self.sound = True
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
    """The pieces of a batch for each thread: at most `at_once` rows in a piece, `limit` (if any) over all threads."""
    limit = limit or rows
    threads = min(threads, rows, limit)
    at_once = min(at_once, limit // threads)
    ends = [rows * i // threads for i in range(threads + 1)]
    return [
        [slice(start, min(start + at_once, end)) for start in range(begin, end, at_once)]
        for begin, end in itertools.pairwise(ends)
    ]


def _add(a: Share, b: Share) -> Share:
    """The sum, in the arrays of the first where those are a sum already and nobody else's."""
    sums = [np.add(x, y, out=x if x.flags.writeable else None) for x, y in zip(a[1], b[1], strict=True)]
    return a[0] + b[0], sums


class Rows(np.random.Generator):
    """Random numbers for a batch, each row from a stream of its own: how the batch is divided does not matter."""

    def __init__(self, seeds: list[tuple[int, ...]]) -> None:
        super().__init__(np.random.PCG64(0))
        self.streams = [np.random.default_rng(seed) for seed in seeds]

    def random(self, shape: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        return np.stack([stream.random(shape[1:], dtype) for stream in self.streams])
