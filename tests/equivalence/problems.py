"""Random models and batches for hypothesis: any configuration, small and large weights, repeated ids.

Hypothesis prefers small and equal numbers, so most of its problems would have a single position or token, for which
gradients are 0 in any model. So it only draws a seed, from which NumPy draws everything with the intended frequency.
"""

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from gpt_numpy import GPTConfig
from gpt_numpy.workshop.params import initial_weights
from minitensor.arrays import Array

Arrays = dict[str, Array]
IGNORE = -100  # a target that the loss ignores


class Problem(NamedTuple):
    config: GPTConfig
    weights: Arrays  # in float64, with values exact in float32
    ids: Array  # (B, T)
    targets: Array  # (B, T)


SEEDS = st.integers(0, 2**32 - 1)
SIZES = [0.0, 0.3, 3.0]  # of steps from the initial weights: 0; so that each layer matters; so that softmax saturates


def problems(dropout: float = 0.0, ignored: bool = False) -> st.SearchStrategy[Problem]:
    """`ignored`: some targets are ignored."""
    return st.builds(any_problem, SEEDS, st.just(dropout), st.just(ignored))


def any_problem(seed: int, dropout: float, ignored: bool) -> Problem:
    random = np.random.default_rng(seed)
    config = any_config(random, dropout)
    ids, targets = any_batch(random, config)
    if ignored:
        targets.flat[1:] = np.where(random.random(targets.size - 1) < 0.3, IGNORE, targets.flat[1:])
    return new_problem(config, seed, random.choice(SIZES), ids, targets)


def any_config(random: np.random.Generator, dropout: float = 0.0) -> GPTConfig:
    n_head = int(random.integers(1, 4))
    head_size = int(random.integers(-(-3 // n_head), 5))  # a layer norm of 2 numbers gives -1 and 1 for any input
    return GPTConfig(
        vocab_size=int(random.integers(1, 13)), block_size=int(random.integers(1, 9)),
        n_layer=int(random.integers(1, 4)), n_head=n_head, n_embd=n_head * head_size, dropout=dropout,
        bias=bool(random.integers(2)), tie_weights=bool(random.integers(2)),
        gelu="tanh" if random.integers(2) else "exact",
    )  # fmt: skip


def any_batch(random: np.random.Generator, config: GPTConfig) -> tuple[Array, Array]:
    """1 to 3 rows of any length, often that of the full context; repeated ids, sometimes a single id."""
    T = config.block_size if random.integers(2) else random.integers(1, config.block_size + 1)
    shape = random.integers(1, 4), T
    count = random.choice([1, 2, config.vocab_size, config.vocab_size, config.vocab_size])
    used = random.permutation(config.vocab_size)[:count]
    ids, targets = random.choice(used, (2, *shape))
    return ids, targets


def new_problem(config: GPTConfig, seed: int, size: float, ids: ArrayLike, targets: ArrayLike) -> Problem:
    weights = perturb(initial_weights(config, 0), config, seed, size)
    return Problem(config, weights, np.asarray(ids), np.asarray(targets))


def perturb(start: Arrays, config: GPTConfig, seed: int, size: float) -> Arrays:
    """The weights after a random step of this size."""
    random = np.random.default_rng(seed)
    steps = {name: size * random.standard_normal(w.shape) for name, w in start.items()}
    weights: Arrays = {name: (w + steps[name]).astype(np.float32).astype(np.float64) for name, w in start.items()}
    if config.tie_weights and "lm_head.weight" in weights:
        weights["lm_head.weight"] = weights["tok_emb.weight"]
    return weights
