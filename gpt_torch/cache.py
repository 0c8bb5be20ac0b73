"""Cached keys and values of the tokens read so far, so that the next one does not need them recomputed."""

import torch
from torch import Tensor, is_grad_enabled

from gpt_numpy.config import GPTConfig


class Cache:
    """Keys and values of B rows of tokens, and how many tokens each row has.

    keys, values    one preallocated tensor for each layer, (B, H, block_size, D)
    lengths         B numbers; entries beyond a row's length are never read, and are overwritten

    Reducing a length removes tokens. Rows of different lengths are read together with padding, and their lengths
    corrected afterwards. A cache holds block_size tokens; a longer text needs a new one.
    """

    def __init__(
        self, config: GPTConfig, rows: int = 1, dtype: torch.dtype = torch.float32, device: torch.device | None = None
    ) -> None:
        shape = (rows, config.n_head, config.block_size, config.n_embd // config.n_head)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.n_layer)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.n_layer)]
        self.lengths = [0] * rows

    def positions(self, B: int, T: int) -> Tensor:
        """The positions of the next T tokens of each row, (B, T)."""
        rows, _, block_size, _ = self.keys[0].shape
        longest = max(self.lengths) + T
        if rows != B:
            raise ValueError(f"GPT: the cache holds {rows} rows of tokens, the ids {B}")
        if longest > block_size:
            raise ValueError(f"GPT: {longest} tokens do not fit the context, block_size {block_size}")
        device = self.keys[0].device
        return torch.tensor(self.lengths, device=device)[:, None] + torch.arange(T, device=device)

    def mask(self, B: int, T: int) -> Tensor | None:
        """Which keys each of the next T tokens may attend to, (B, 1, T, U); None if is_causal is enough."""
        if len(set(self.lengths)) == 1 and (T == 1 or self.lengths[0] == 0):
            return None
        return torch.arange(max(self.lengths) + T, device=self.keys[0].device) <= self.positions(B, T)[:, None, :, None]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores k and v of the next T tokens, (B, H, T, D); returns those of all tokens so far, (B, H, U, D)."""
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
