"""Both models with equal weights on one batch, and every number on the way, so that a test can compare them.

Each model is run in two ways: as it is, attention in one piece; and with attention in stages, so that the gradients of
scores and weights can be seen too. What they pass through is noted by replacing, for a moment, the function that
computes attention and the one that drops, in the library that the model calls.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import torch
from torch.nn import functional as torch_F

import gpt_numpy
import gpt_torch
import minitensor as mt
from gpt_numpy import GPTConfig
from minitensor import functional as mini_F
from minitensor.op import Array
from minitensor.ops.attention import attention_scores, attention_values, attention_weights
from minitensor.random import use_generator
from minitensor.tensor import apply

Arrays = dict[str, Array]
Attention = Literal["whole", "staged"]


@dataclass
class Passed:
    """What a model made of a batch: values and gradients by name, parameters and what lies between them alike."""

    logits: Array
    loss: float
    values: Arrays
    gradients: Arrays


def by_hand(config: GPTConfig, weights: Arrays, ids: Array, targets: Array, how: Attention, dtype: Any) -> Passed:
    """gpt_numpy's model."""
    model = gpt_numpy.GPT(config, dtype=dtype)
    model.load_state_dict(weights)
    seen: dict[str, Any] = {}

    def staged(q: Any, k: Any, v: Any, mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False) -> Any:
        scores = apply(attention_scores, q, k, mask, is_causal=is_causal)
        weights = apply(attention_weights, scores)
        heads = apply(attention_values, mini_F.dropout(weights, dropout_p), v)
        return note(seen, q=q, k=k, v=v, scores=scores, weights=weights, heads=heads)

    def whole(q: Any, k: Any, v: Any, *settings: Any, **named: Any) -> Any:
        return note(seen, q=q, k=k, v=v, heads=attention(q, k, v, *settings, **named))

    attention = mini_F.scaled_dot_product_attention
    use_generator(np.random.default_rng(MASKS))
    with (
        watched(model, seen),
        patch.object(mini_F, "scaled_dot_product_attention", whole if how == "whole" else staged),
    ):
        logits, loss = model(ids, targets)
    leaves = {**dict(model.named_parameters()), **seen}
    gradients = mt.grad(loss, list(leaves.values()))
    found = {}
    for name, gradient in zip(leaves, gradients, strict=True):
        assert gradient is not None, f"nothing comes back to {name}"
        found[name] = gradient.array
    return Passed(logits.array, loss.item(), {name: t.array for name, t in seen.items()}, found)


def in_torch(config: GPTConfig, weights: Arrays, ids: Array, targets: Array, how: Attention, dtype: Any) -> Passed:
    """gpt_torch's model. What it drops is drawn as minitensor draws it."""
    model = gpt_torch.GPT(config, dtype=dtype)
    model.load_state_dict({name: torch.tensor(weight, dtype=dtype) for name, weight in weights.items()})
    seen: dict[str, Any] = {}
    random = np.random.default_rng(MASKS)

    def dropout(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        if not (training and p):
            return x
        return x * torch.from_numpy(random.random(tuple(x.shape), np.float32) >= p) / (1 - p)

    def staged(q: Any, k: Any, v: Any, mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False) -> Any:
        scores = q @ k.mT / q.shape[-1] ** 0.5
        if is_causal:
            scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -torch.inf)
        weights = scores.softmax(-1)
        return note(seen, q=q, k=k, v=v, scores=scores, weights=weights, heads=dropout(weights, dropout_p) @ v)

    def whole(q: Any, k: Any, v: Any, *settings: Any, **named: Any) -> Any:
        return note(seen, q=q, k=k, v=v, heads=attention(q, k, v, *settings, **named))

    attention = torch_F.scaled_dot_product_attention
    patched = whole if how == "whole" and not config.dropout else staged
    with (
        watched(model, seen),
        patch.object(torch_F, "scaled_dot_product_attention", patched),
        patch.object(torch_F, "dropout", dropout),
    ):
        logits, loss = model(torch.from_numpy(ids), torch.from_numpy(targets))
    leaves = {**dict(model.named_parameters()), **seen}
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    found = {name: g.numpy() for name, g in zip(leaves, gradients, strict=True)}
    return Passed(logits.detach().numpy(), loss.item(), {name: t.detach().numpy() for name, t in seen.items()}, found)


MASKS = 7  # the seed of what is dropped


def note(seen: dict[str, Any], **tensors: Any) -> Any:
    """Keep what attention passes through, under the number of its layer; the last is what attention gives."""
    layer = sum(name.endswith("heads") for name in seen)
    seen |= {f"blocks.{layer} {name}": tensor for name, tensor in tensors.items()}
    return tensors["heads"]


@contextmanager
def watched(model: Any, seen: dict[str, Any]) -> Iterator[None]:
    """Keep what the embeddings give, which is what the model's own dropout takes."""
    forward: Callable[[Any], Any] = model.drop.forward

    def noted(x: Any) -> Any:
        seen["embedded"] = x
        return forward(x)

    model.drop.forward = noted
    yield
    model.drop.forward = forward
