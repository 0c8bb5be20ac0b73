"""Models and batches for hypothesis to draw: any configuration, weights small and large, ids that repeat."""

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from gpt_numpy import GPTConfig
from gpt_numpy.workshop.weights import initial_weights
from minitensor.op import Array

Arrays = dict[str, Array]


class Problem(NamedTuple):
    config: GPTConfig
    weights: Arrays  # in float64, but numbers that float32 can hold
    ids: Array  # (B, T)
    targets: Array  # (B, T)


@st.composite
def configs(draw: st.DrawFn, dropout: float = 0.0) -> GPTConfig:
    n_head = draw(st.integers(1, 3))
    head_size = draw(st.integers(-(-3 // n_head), 4))  # of 2 numbers a layer norm makes -1 and 1, whatever they are
    return GPTConfig(
        vocab_size=draw(st.integers(1, 12)), block_size=draw(st.integers(1, 8)), n_layer=draw(st.integers(1, 3)),
        n_head=n_head, n_embd=n_head * head_size, dropout=dropout, bias=draw(st.booleans()),
        tie_weights=draw(st.booleans()), gelu=draw(st.sampled_from(["exact", "tanh"])),
    )  # fmt: skip


@st.composite
def batches(draw: st.DrawFn, config: GPTConfig) -> tuple[Array, Array]:
    """Few rows, one too; any length up to the context; ids that repeat, or one id alone."""
    shape = draw(st.integers(1, 3)), draw(st.integers(1, config.block_size))
    random = np.random.default_rng(draw(SEEDS))
    many = draw(st.sampled_from([1, 2, config.vocab_size]))
    ids, targets = random.integers(0, min(many, config.vocab_size), (2, *shape))
    return ids, targets


@st.composite
def problems(draw: st.DrawFn, dropout: float = 0.0) -> Problem:
    config = draw(configs(dropout))
    return problem(config, draw(SEEDS), draw(SIZES), *draw(batches(config)))


SEEDS = st.integers(0, 99)
SIZES = st.sampled_from([0.0, 0.3, 3.0])  # as at the start; such that each part matters; such that softmax saturates


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
