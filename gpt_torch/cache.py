"""What a model keeps of the tokens that it has read, so that none has to be read again for the next one."""

import torch
from torch import Tensor, is_grad_enabled

from gpt_numpy.config import GPTConfig


class Cache:
    """Keys and values of B rows of tokens, and how many tokens each row has.

    keys, values    for each layer one tensor of all there will ever be, (B, H, block_size, D), filled step by step
    lengths         B numbers; what stands behind a row's length is never looked at, and is overwritten

    So a reader takes tokens back by a smaller length; and rows of different lengths are read together, padded, and cut
    to their lengths afterwards. Beyond block_size there is no place: for a longer text a reader starts a new cache.
    """

    def __init__(
        self, config: GPTConfig, rows: int = 1, dtype: torch.dtype = torch.float32, device: torch.device | None = None
    ) -> None:
        shape = (rows, config.n_head, config.block_size, config.n_embd // config.n_head)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.n_layer)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.n_layer)]
        self.lengths = [0] * rows

    def positions(self, B: int, T: int) -> Tensor:
        """Where T more tokens of each row come to stand, (B, T)."""
        rows, _, block_size, _ = self.keys[0].shape
        longest = max(self.lengths) + T
        if rows != B:
            raise ValueError(f"GPT: the cache holds {rows} rows of tokens, the ids {B}")
        if longest > block_size:
            raise ValueError(f"GPT: {longest} tokens do not fit the context, block_size {block_size}")
        device = self.keys[0].device
        return torch.tensor(self.lengths, device=device)[:, None] + torch.arange(T, device=device)

    def mask(self, B: int, T: int) -> Tensor | None:
        """Which keys each of these tokens may look at, (B, 1, T, U); None if all up to its own, as without a cache."""
        if len(set(self.lengths)) == 1 and (T == 1 or self.lengths[0] == 0):
            return None
        return torch.arange(max(self.lengths) + T, device=self.keys[0].device) <= self.positions(B, T)[:, None, :, None]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Those of T more tokens, (B, H, T, D) each, in their places; and with all before them, (B, H, U, D)."""
        if is_grad_enabled():
            raise RuntimeError("GPT: no gradient goes through a cache, which is written to in place; use no_grad()")
        keys, values = self.keys[layer], self.values[layer]
        B, _, T, _ = k.shape
        first, U = self.lengths[0], max(self.lengths) + T
        if len(set(self.lengths)) == 1:
            keys[:, :, first:U], values[:, :, first:U] = k, v
        else:
            at = torch.arange(B, device=k.device)[:, None], slice(None), self.positions(B, T)
            keys[at], values[at] = k.swapaxes(1, 2), v.swapaxes(1, 2)
        return keys[:, :, :U], values[:, :, :U]
