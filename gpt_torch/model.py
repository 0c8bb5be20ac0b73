"""A GPT-2-style language model: logits of the next token at each position of a text.

    x      = tok_emb[ids] + pos_emb[0 .. T-1]
    x      = x + attn(ln_1(x))                in each block: attention to earlier positions,
    x      = x + mlp(ln_2(x))                 then an MLP at each position
    logits = lm_head(ln_f(x))
    loss   = mean over all positions of -log softmax(logits)[next token]

B sequences of T tokens, C channels, H heads of size D = C / H, V tokens in the vocabulary.
"""

import torch
from torch import Tensor, float32, from_numpy, nn
from torch.nn import functional as F

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.params import initial_weights
from gpt_torch.cache import Cache
from gpt_torch.embedding import Embedding
from gpt_torch.head import linear_cross_entropy


def split_heads(qkv: Tensor, n_head: int) -> list[Tensor]:
    """Queries, keys and values, each (B, H, T, D), from (B, T, 3 C)."""
    B, T, C = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    return [x.reshape(B, T, n_head, C // n_head).transpose(1, 2) for x in torch.split(qkv, C, dim=2)]


def merge_heads(x: Tensor) -> Tensor:
    """(B, T, C) from (B, H, T, D): the heads of a token concatenated."""
    return x.transpose(1, 2).flatten(2)


class CausalSelfAttention(nn.Module):
    """Each position attends to itself and to earlier ones, in H heads."""

    def __init__(self, config: GPTConfig, layer: int = 0) -> None:
        super().__init__()
        self.layer = layer
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        B, T, _ = x.shape
        q, k, v = split_heads(self.c_attn(x), self.n_head)  # (B, H, T, D)
        mask = None
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (B, H, U, D): with those of earlier tokens
            mask = cache.mask(B, T)
        is_causal = mask is None and k.shape == q.shape
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=is_causal)  # (B, H, T, D)
        y = self.c_proj(merge_heads(y))  # (B, T, C)
        return self.drop(y)


class MLP(nn.Module):
    """At each position: expand to 4 C, GELU, project back to C."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.gelu = nn.GELU("none" if config.gelu == "exact" else "tanh")
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.c_proj(self.gelu(self.c_fc(x))))


class Block(nn.Module):
    """Attention and MLP, each added to the residual stream."""

    def __init__(self, config: GPTConfig, layer: int = 0) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = CausalSelfAttention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        x = x + self.attn(self.ln_1(x), cache)
        x = x + self.mlp(self.ln_2(x))
        return x


class GPT(nn.Module):
    """The model. Equal seeds give equal initial weights, here and in gpt_numpy."""

    def __init__(self, config: GPTConfig, seed: int = 0, dtype: torch.dtype = float32) -> None:
        super().__init__()
        self.config = config
        self.tok_emb = Embedding(config.vocab_size, config.n_embd)
        self.pos_emb = nn.Embedding(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList([Block(config, layer) for layer in range(config.n_layer)])
        self.ln_f = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie_weights:
            self.lm_head.weight = self.tok_emb.weight
        self.load_state_dict({name: from_numpy(w) for name, w in initial_weights(config, seed).items()})
        self.to(dtype)

    def forward(
        self, ids: Tensor, targets: Tensor | None = None, cache: Cache | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T, V) of the token after each of the ids (B, T); with targets (B, T), the mean loss too.

        With a cache the ids continue the cached ones, and are added to it.
        """
        logits = self.lm_head(self.hidden(ids, cache))  # (B, T, V)
        if targets is None:
            return logits, None
        if targets.shape != ids.shape:
            raise ValueError(f"GPT: targets {tuple(targets.shape)} go with ids {tuple(ids.shape)}, one for each")
        return logits, F.cross_entropy(logits.reshape(-1, self.config.vocab_size), targets.reshape(-1))

    def loss(self, ids: Tensor, targets: Tensor, weights: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """The loss alone, without the logits of all positions at once.

        targets        (B, T) ids, or (B, T, V) distributions
        weights        (B, T): the loss is the sum of each position's, times its weight; without weights, the mean
        temperature    that the logits are divided by
        """
        x = self.hidden(ids)
        if temperature != 1.0:
            x = x / temperature
        targets = targets.reshape(-1) if targets.shape == ids.shape else targets.reshape(-1, self.config.vocab_size)
        weights = None if weights is None else weights.reshape(-1)
        return linear_cross_entropy(x.reshape(-1, x.shape[-1]), self.lm_head.weight, targets, weights)

    def hidden(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """What the head makes logits of: (B, T, C)."""
        if len(ids.shape) != 2:
            raise ValueError(f"GPT: ids are (B, T), rows of tokens; given {tuple(ids.shape)}")
        B, T = ids.shape
        if self.config.block_size < T:
            raise ValueError(f"GPT: {T} tokens do not fit the context, block_size {self.config.block_size}")
        positions = self.pos_emb.weight[:T] if cache is None else self.pos_emb(cache.positions(B, T))
        x = self.drop(self.tok_emb(ids) + positions)  # (B, T, C)
        for block in self.blocks:
            x = block(x, cache)
        if cache is not None:
            cache.lengths = [length + T for length in cache.lengths]
        return self.ln_f(x)
