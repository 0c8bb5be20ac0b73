"""The model's forward pass in one function: attention in its three stages, and a name for each value.

It uses only names that minitensor and torch share, and runs in three settings: on minitensor's tape, for all numbers to
explain; without a tape, for difference quotients; and in torch, for comparison.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from gpt_numpy.config import GPTConfig
from minitensor import Tensor, apply
from minitensor.ops.attention import attention_scores, attention_values, attention_weights

Note = Callable[[str, Any], Any]  # receives each value by its name, and returns the value to continue with


class Stages(Protocol):
    """Attention in three steps, in one of the two libraries."""

    def scores(self, q: Any, k: Any) -> Any: ...
    def weights(self, scores: Any) -> Any: ...
    def values(self, weights: Any, v: Any) -> Any: ...


class ByHand:
    """The three operations of minitensor/ops/attention.py, each recorded separately on the tape."""

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return apply(attention_scores, q, k, None, is_causal=True)

    def weights(self, scores: Tensor) -> Tensor:
        return apply(attention_weights, scores)

    def values(self, weights: Tensor, v: Tensor) -> Tensor:
        return apply(attention_values, weights, v)


def run(
    F: Any, stages: Stages, weights: Mapping[str, Any], ids: Any, targets: Any, config: GPTConfig, note: Note
) -> Any:
    """The loss at each position (B, T). `F` is minitensor.functional or torch.nn.functional. ids may be a single row:
    `note` then makes B versions of one of the values, and targets has B rows, of ids or of distributions (B, T, V).
    """
    T = ids.shape[1]
    C, H = config.n_embd, config.n_head

    def linear(name: str, x: Any) -> Any:
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(name: str, x: Any) -> Any:
        return F.layer_norm(x, (C,), weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def read(name: str, x: Any) -> Any:
        """The stream as one sublayer reads it: a separate value, whose gradient comes from that sublayer alone."""
        return note(name, x.reshape(-1, T, C))

    x = note("tok", F.embedding(ids, weights["tok_emb.weight"])) + weights["pos_emb.weight"][:T]  # (B, T, C)
    for n in range(config.n_layer):
        block = f"blocks.{n}"
        X = note(f"N_attn{n}", norm(f"{block}.ln_1", read(f"R_attn{n}", x)))
        parts = linear(f"{block}.attn.c_attn", X).split(C, 2)
        q, k, v = (
            note(f"{name}{n}", part.reshape(-1, T, H, C // H).transpose(1, 2))  # (B, H, T, D)
            for name, part in zip("QKV", parts, strict=True)
        )
        S = note(f"S{n}", stages.scores(q, k))  # (B, H, T, T)
        P = note(f"P{n}", stages.weights(S))
        O = note(f"O{n}", stages.values(P, v))  # noqa: E741  # (B, H, T, D)
        Y = note(f"Y_attn{n}", linear(f"{block}.attn.c_proj", O.transpose(1, 2).reshape(-1, T, C)))
        x = x + Y
        N = note(f"N_mlp{n}", norm(f"{block}.ln_2", read(f"R_mlp{n}", x)))
        U = note(f"U_mlp{n}", linear(f"{block}.mlp.c_fc", N))  # (B, T, 4C)
        G = note(f"G_mlp{n}", F.gelu(U, approximate="none" if config.gelu == "exact" else "tanh"))
        Y = note(f"Y_mlp{n}", linear(f"{block}.mlp.c_proj", G))
        x = x + Y
    N = note("N_f", norm("ln_f", read("R_f", x)))
    Z = note("Z", linear("lm_head", N))  # (B, T, V)
    V = config.vocab_size
    flat = targets.reshape(-1) if len(targets.shape) == 2 else targets.reshape(-1, V)
    return F.cross_entropy(Z.reshape(-1, V), flat, reduction="none").reshape(-1, T)
