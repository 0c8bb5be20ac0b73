"""The parameters of a GPT: names, shapes and initial values, which are the same for both models."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gpt_numpy.config import GPTConfig

Weights = dict[str, NDArray[np.float32]]


def parameter_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """All parameters in the order of the model, without a tied lm_head.weight, which is tok_emb.weight."""
    return dict(_shapes(config))


def parameter_count(config: GPTConfig) -> int:
    one, two = (sum(math.prod(shape) for _, shape in _shapes(replace(config, n_layer=n))) for n in (1, 2))
    return one + (config.n_layer - 1) * (two - one)


def flops_per_token(config: GPTConfig) -> int:
    """Of a training step: each matrix product once forward, and twice backward, for its two gradients.

    A product of (1, n) and (n, m) takes n m multiplications and as many additions. Attention is counted without its
    mask, as is usual.
    """
    C, V, T = config.n_embd, config.vocab_size, config.block_size
    of_block = 2 * 12 * C * C + 2 * 2 * T * C  # c_attn, c_proj, c_fc, c_proj; q k' and weights v
    return 3 * (config.n_layer * of_block + 2 * V * C)


def initial_weights(config: GPTConfig, seed: int) -> Weights:
    """As GPT-2: normal with standard deviation 0.02, biases 0, layer norms 1.

    Each block adds two terms to the residual stream, the outputs of its two c_proj. Their weights are smaller by the
    square root of the number of all terms, so that the sum has the size of a single one.
    """
    random = np.random.default_rng(seed)
    terms = 2 * config.n_layer
    weights: Weights = {}
    for name, shape in _shapes(config):
        if name.endswith("bias"):
            weights[name] = np.zeros(shape, np.float32)
        elif "ln_" in name:
            weights[name] = np.ones(shape, np.float32)
        else:
            std = 0.02 / math.sqrt(terms) if name.endswith("c_proj.weight") else 0.02
            weights[name] = (random.standard_normal(shape) * std).astype(np.float32)
    if config.tie_weights:
        weights["lm_head.weight"] = weights["tok_emb.weight"]
    return weights


def _shapes(config: GPTConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    C, V = config.n_embd, config.vocab_size
    layers = [(f"blocks.{i}.{name}", shape) for i in range(config.n_layer) for name, shape in _BLOCK]
    yield "tok_emb.weight", (V, C)
    yield "pos_emb.weight", (config.block_size, C)
    for name, widths in [*layers, ("ln_f", (1,))]:  # Linear weights are (out, in), in units of C
        yield f"{name}.weight", tuple(n * C for n in widths)
        if config.bias:
            yield f"{name}.bias", (widths[0] * C,)
    if not config.tie_weights:
        yield "lm_head.weight", (V, C)


_BLOCK = (
    ("ln_1", (1,)),
    ("attn.c_attn", (3, 1)),
    ("attn.c_proj", (1, 1)),
    ("ln_2", (1,)),
    ("mlp.c_fc", (4, 1)),
    ("mlp.c_proj", (1, 4)),
)
