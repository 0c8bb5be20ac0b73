"""Models and batches for hypothesis to draw: any configuration, weights small and large, ids that repeat.

Hypothesis draws small and equal numbers by preference, and of such most would be one position of one token, whose
gradients are 0 in any model. So it draws a seed, and NumPy the sizes from that: each comes as often as it should.
"""

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from gpt_numpy import GPTConfig
from gpt_numpy.workshop.params import initial_weights
from minitensor.arrays import Array

Arrays = dict[str, Array]
IGNORED = -100  # a target that does not count


class Problem(NamedTuple):
    config: GPTConfig
    weights: Arrays  # in float64, but numbers that float32 can hold
    ids: Array  # (B, T)
    targets: Array  # (B, T)


SEEDS = st.integers(0, 2**32 - 1)
SIZES = [0.0, 0.3, 3.0]  # of weights: as at the start; such that each part matters; such that softmax saturates


def problems(dropout: float = 0.0, ignored: bool = False) -> st.SearchStrategy[Problem]:
    """With targets that are ignored among others, if so."""
    return st.builds(any_problem, SEEDS, st.just(dropout), st.just(ignored))


def any_problem(seed: int, dropout: float, ignored: bool) -> Problem:
    random = np.random.default_rng(seed)
    config = any_config(random, dropout)
    ids, targets = any_batch(random, config)
    if ignored:
        targets.flat[1:] = np.where(random.random(targets.size - 1) < 0.3, IGNORED, targets.flat[1:])
    return problem(config, seed, random.choice(SIZES), ids, targets)


def any_config(random: np.random.Generator, dropout: float = 0.0) -> GPTConfig:
    n_head = int(random.integers(1, 4))
    head_size = int(random.integers(-(-3 // n_head), 5))  # of 2 numbers a layer norm makes -1 and 1, whatever they are
    return GPTConfig(
        vocab_size=int(random.integers(1, 13)), block_size=int(random.integers(1, 9)),
        n_layer=int(random.integers(1, 4)), n_head=n_head, n_embd=n_head * head_size, dropout=dropout,
        bias=bool(random.integers(2)), tie_weights=bool(random.integers(2)),
        gelu="tanh" if random.integers(2) else "exact",
    )  # fmt: skip


def any_batch(random: np.random.Generator, config: GPTConfig) -> tuple[Array, Array]:
    """Few rows, one too; any length, often the whole context; ids that repeat, at times one id alone."""
    T = config.block_size if random.integers(2) else random.integers(1, config.block_size + 1)
    shape = random.integers(1, 4), T
    many = random.choice([1, 2, config.vocab_size, config.vocab_size, config.vocab_size])
    used = random.permutation(config.vocab_size)[:many]
    ids, targets = random.choice(used, (2, *shape))
    return ids, targets


def problem(config: GPTConfig, seed: int, size: float, ids: ArrayLike, targets: ArrayLike) -> Problem:
    weights = moved(initial_weights(config, 0), config, seed, size)
    return Problem(config, weights, np.asarray(ids), np.asarray(targets))


def moved(start: Arrays, config: GPTConfig, seed: int, size: float) -> Arrays:
    """The weights after a random step of this size."""
    random = np.random.default_rng(seed)
    steps = {name: size * random.standard_normal(w.shape) for name, w in start.items()}
    weights: Arrays = {name: (w + steps[name]).astype(np.float32).astype(np.float64) for name, w in start.items()}
    if config.tie_weights and "lm_head.weight" in weights:
        weights["lm_head.weight"] = weights["tok_emb.weight"]
    return weights
