"""All operations: importing this package fills the table OPS.

elementwise, shape, reduce and matmul hold the small ones; each other file holds one derivation.
"""

from minitensor.ops import (
    attention,
    attention_blocked,
    cross_entropy,
    dropout,
    elementwise,
    embedding,
    erf,
    gelu,
    heads,
    kl_divergence,
    layernorm,
    linear,
    linear_cross_entropy,
    matmul,
    reduce,
    shape,
    softmax,
)

__all__ = [
    "attention",
    "attention_blocked",
    "cross_entropy",
    "dropout",
    "elementwise",
    "embedding",
    "erf",
    "gelu",
    "heads",
    "kl_divergence",
    "layernorm",
    "linear",
    "linear_cross_entropy",
    "matmul",
    "reduce",
    "shape",
    "softmax",
]
