"""A GPT-2-style language model: from a text so far, how likely each next token is.

    x      = tok_emb[ids] + pos_emb[0 .. T-1]
    x      = x + attn(ln_1(x))                in each block: look at what came before,
    x      = x + mlp(ln_2(x))                 and make something of it
    logits = lm_head(ln_f(x))
    loss   = mean over all positions of -log softmax(logits)[the token that came next]

B sequences of T tokens, C numbers for each; H heads of D = C / H numbers; V different tokens.
"""

from numpy.typing import DTypeLike

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.weights import initial_weights
from minitensor import Tensor, cat, float32, nn, ones
from minitensor import functional as F

Cache = dict["CausalSelfAttention", tuple[Tensor, Tensor]]  # keys and values of the tokens read so far, by layer


class CausalSelfAttention(nn.Module):
    """Every position takes from itself and from earlier ones, in H ways at once."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.c_attn(x).split(C, dim=2)
        q = q.reshape(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, H, T, D)
        k = k.reshape(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        v = v.reshape(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        if cache is not None:
            if self in cache:
                k, v = cat((cache[self][0], k), dim=2), cat((cache[self][1], v), dim=2)
            cache[self] = k, v
        U = k.shape[2]  # the T tokens, and those from the cache before them
        mask = ones(T, U, dtype=bool).tril(U - T) if 1 < T < U else None
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=T == U)  # (B, H, T, D)
        y = self.c_proj(y.transpose(1, 2).reshape(B, T, C))  # the heads side by side again
        return self.drop(y)


class MLP(nn.Module):
    """Every position by itself: four times as wide, bent, and back."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.gelu = nn.GELU("none" if config.gelu == "exact" else "tanh")
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.c_proj(self.gelu(self.c_fc(x))))


class Block(nn.Module):
    """Attention and MLP, each adding to what passes by."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        x = x + self.attn(self.ln_1(x), cache)
        x = x + self.mlp(self.ln_2(x))
        return x


class GPT(nn.Module):
    """The model. Equal seeds start from equal weights, here and in gpt_torch."""

    def __init__(self, config: GPTConfig, seed: int = 0, dtype: DTypeLike = float32) -> None:
        super().__init__()
        self.config = config
        self.tok_emb = nn.Embedding(config.vocab_size, config.n_embd)
        self.pos_emb = nn.Embedding(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.n_layer)])
        self.ln_f = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie_weights:
            self.lm_head.weight = self.tok_emb.weight
        self.load_state_dict(initial_weights(config, seed))
        self.to(dtype)

    def forward(
        self, ids: Tensor, targets: Tensor | None = None, cache: Cache | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T, V) for what follows each of the ids (B, T); with targets (B, T), their mean loss too.

        With a cache (at first an empty dict) the ids follow those that it has seen before.
        """
        if len(ids.shape) != 2:
            raise ValueError(f"GPT: ids are (B, T), rows of tokens; given {tuple(ids.shape)}")
        T = ids.shape[1]
        past = next(iter(cache.values()))[0].shape[2] if cache else 0
        if past + T > self.config.block_size:
            raise ValueError(f"GPT: {past + T} tokens do not fit the context, block_size {self.config.block_size}")
        x = self.drop(self.tok_emb(ids) + self.pos_emb.weight[past : past + T])  # (B, T, C)
        for block in self.blocks:
            x = block(x, cache)
        logits = self.lm_head(self.ln_f(x))  # (B, T, V)
        if targets is None:
            return logits, None
        if targets.shape != ids.shape:
            raise ValueError(f"GPT: targets {tuple(targets.shape)} go with ids {tuple(ids.shape)}, one for each")
        return logits, F.cross_entropy(logits.reshape(-1, self.config.vocab_size), targets.reshape(-1))
