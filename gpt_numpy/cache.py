"""What a model keeps of the tokens that it has read, so that none has to be read again for the next one."""

import numpy as np
from numpy.typing import DTypeLike

from gpt_numpy.config import GPTConfig
from minitensor import Tensor, from_numpy, is_grad_enabled
from minitensor.arrays import Array


class Cache:
    """Keys and values of B rows of tokens, and how many tokens each row has.

    keys, values    for each layer one array of all there will ever be, (B, H, block_size, D), filled step by step
    lengths         B numbers; what stands behind a row's length is never looked at, and is overwritten

    So a reader takes tokens back by a smaller length; and rows of different lengths are read together, padded, and cut
    to their lengths afterwards. Beyond block_size there is no place: for a longer text a reader starts a new cache.
    """

    def __init__(self, config: GPTConfig, rows: int = 1, dtype: DTypeLike = np.float32) -> None:
        shape = (rows, config.n_head, config.block_size, config.n_embd // config.n_head)
        self.keys = [np.zeros(shape, dtype) for _ in range(config.n_layer)]
        self.values = [np.zeros(shape, dtype) for _ in range(config.n_layer)]
        self.lengths = [0] * rows

    def positions(self, B: int, T: int) -> Array:
        """Where T more tokens of each row come to stand, (B, T)."""
        rows, _, block_size, _ = self.keys[0].shape
        longest = max(self.lengths) + T
        if rows != B:
            raise ValueError(f"GPT: the cache holds {rows} rows of tokens, the ids {B}")
        if longest > block_size:
            raise ValueError(f"GPT: {longest} tokens do not fit the context, block_size {block_size}")
        return np.array(self.lengths)[:, None] + np.arange(T)

    def mask(self, B: int, T: int) -> Array | None:
        """Which keys each of these tokens may look at, (B, 1, T, U); None if all up to its own, as without a cache."""
        if len(set(self.lengths)) == 1 and (T == 1 or self.lengths[0] == 0):
            return None
        return np.arange(max(self.lengths) + T) <= self.positions(B, T)[:, None, :, None]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Those of T more tokens, (B, H, T, D) each, in their places; and with all before them, (B, H, U, D)."""
        if is_grad_enabled():
            raise RuntimeError("GPT: no gradient goes through a cache, which is written to in place; use no_grad()")
        keys, values = self.keys[layer], self.values[layer]
        B, _, T, _ = k.shape
        first, U = self.lengths[0], max(self.lengths) + T
        if len(set(self.lengths)) == 1:
            keys[:, :, first:U], values[:, :, first:U] = k.array, v.array
        else:
            at = np.arange(B)[:, None], slice(None), self.positions(B, T)
            keys[at], values[at] = k.array.swapaxes(1, 2), v.array.swapaxes(1, 2)
        return from_numpy(keys[:, :, :U]), from_numpy(values[:, :, :U])
