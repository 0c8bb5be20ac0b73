"""gpt_numpy and gpt_torch on the same weights and batch: each value and each gradient, by name, on any configuration.

In float64, each tensor may be off by 1e-10 of its norm. Where almost equal numbers are subtracted, what is left may be
smaller than their rounding errors, for anybody; there 1e-12 of what was subtracted is allowed too. That is so where a
softmax is almost sure: in attention's backward pass, for the gradients of scores, Q and K; and in p - 1, the gradient
of a logit that was right, which all gradients come from, and in the loss itself.
"""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt_numpy import GPTConfig
from gpt_numpy.workshop.weights import initial_weights
from minitensor.op import Array
from tests.pair import Arrays, Passed, by_hand, in_torch

pytestmark = pytest.mark.equivalence

RTOL = 1e-10
NATURAL = 1e-12


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
    random = np.random.default_rng(draw(st.integers(0, 99)))
    many = draw(st.sampled_from([1, 2, config.vocab_size]))
    ids, targets = random.integers(0, min(many, config.vocab_size), (2, *shape))
    return ids, targets


@st.composite
def problems(draw: st.DrawFn, dropout: float = 0.0) -> tuple[GPTConfig, Arrays, Array, Array]:
    config = draw(configs(dropout))
    return config, weights(config, draw(st.integers(0, 99)), draw(SIZES)), *draw(batches(config))


SIZES = st.sampled_from([0.0, 0.3, 3.0])  # as at the start; such that each part matters; such that softmax saturates


def weights(config: GPTConfig, seed: int, size: float) -> Arrays:
    """In numbers that float32 can hold."""
    random = np.random.default_rng((seed, 1))
    start = initial_weights(config, seed)
    moved = {name: w + np.float32(size) * random.standard_normal(w.shape, np.float32) for name, w in start.items()}
    return {
        name: moved["tok_emb.weight"] if config.tie_weights and name == "lm_head.weight" else w
        for name, w in moved.items()
    }


# ---- how far apart they may be ----------------------------------------------------------------------------------


def natural(reference: Passed, config: GPTConfig, targets: Array) -> dict[str, float]:
    """By name, the norm of what is subtracted where only little is left."""
    p = np.exp(reference.logits - reference.logits.max(-1, keepdims=True))
    right = np.eye(config.vocab_size)[targets]
    left = float(np.linalg.norm(p / p.sum(-1, keepdims=True) - right))
    ratio = float(np.linalg.norm(right)) / left if left else 0.0
    sizes = {f"d {name}": ratio * float(np.linalg.norm(g)) for name, g in reference.gradients.items()}
    sizes["loss"] = float(np.abs(reference.logits).max())
    for layer in range(config.n_layer):
        q, k, p = (np.abs(reference.values[f"blocks.{layer} {name}"]) for name in ("q", "k", "weights"))
        dscores = p * np.abs(reference.gradients[f"blocks.{layer} weights"])
        scale = q.shape[-1] ** -0.5
        for name, size in (("scores", dscores), ("q", scale * dscores @ k), ("k", scale * dscores.swapaxes(2, 3) @ q)):
            sizes[f"d blocks.{layer} {name}"] += float(np.linalg.norm(size))
    return sizes


def tensors(passed: Passed) -> Arrays:
    """All that is compared: values under their names, gradients after a d."""
    values = {name: np.where(np.isfinite(v), v, 0.0) for name, v in passed.values.items()}
    gradients = {f"d {name}": gradient for name, gradient in passed.gradients.items()}
    return {"logits": passed.logits, "loss": np.array(passed.loss), **values, **gradients}


def compare(found: Passed, reference: Passed, allowed: dict[str, float]) -> None:
    expected = tensors(reference)
    for name, value in tensors(found).items():
        assert value.shape == expected[name].shape, name
        off, size = np.linalg.norm(value - expected[name]), float(np.linalg.norm(expected[name]))
        assert off <= allowed[name], f"{name}: off by {off:.2e}, {allowed[name]:.2e} is allowed, its norm is {size:.2e}"


# ---- whole models -----------------------------------------------------------------------------------------------


@given(problems() | problems(dropout=0.3))
def test_in_float64(problem: Any) -> None:
    config, w, ids, targets = problem
    wide = {name: value.astype(np.float64) for name, value in w.items()}
    staged = in_torch(config, wide, ids, targets, "staged", torch.float64)
    slack = natural(staged, config, targets)
    allowed = {n: RTOL * float(np.linalg.norm(v)) + NATURAL * slack.get(n, 0.0) for n, v in tensors(staged).items()}
    compare(by_hand(config, wide, ids, targets, "staged", np.float64), staged, allowed)
    whole = in_torch(config, wide, ids, targets, "whole", torch.float64)
    compare(by_hand(config, wide, ids, targets, "whole", np.float64), whole, allowed)
