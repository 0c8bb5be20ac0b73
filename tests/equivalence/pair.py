"""Both models on one problem, and every number on the way, by name, so that a test can compare them.

Values have their own names, gradients a d in front. Each model is run in two ways: as it is, attention in one piece;
and with attention in stages, so that scores and weights can be seen too. What a model passes through is noted by
replacing, for a moment, the function that computes attention and the one that drops, in the library that it calls.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import torch
from torch.nn import functional as torch_F

import gpt_numpy.model
import gpt_torch.model
import minitensor as mt
from gpt_numpy import GPTConfig
from minitensor import functional as mini_F
from minitensor.arrays import Array
from minitensor.core import apply
from minitensor.ops.attention import attention_scores, attention_values, attention_weights
from minitensor.random import use_generator
from tests.equivalence.problems import Arrays, Problem

Attention = Literal["whole", "staged"]


# ---- whole models -----------------------------------------------------------------------------------------------


def by_hand(problem: Problem, how: Attention = "whole", dtype: Any = np.float64, times: float = 1.0) -> Arrays:
    """gpt_numpy's model. The gradients are those of `times` the loss."""
    model = gpt_numpy.GPT(problem.config, dtype=dtype)
    model.load_state_dict(problem.weights)
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
        seen["logits"], loss = model(problem.ids, problem.targets)
    values = {"loss": loss.array, **{name: shown(t.array) for name, t in seen.items()}}
    return values | hand_gradients(loss * times, {**dict(model.named_parameters()), **seen})


def in_torch(problem: Problem, how: Attention = "whole", dtype: Any = torch.float64, times: float = 1.0) -> Arrays:
    """gpt_torch's model. What it drops is drawn as minitensor draws it. 0 times the loss: no gradients."""
    model = built(problem.weights, dtype, lambda: gpt_torch.GPT(problem.config, dtype=dtype))
    seen: dict[str, Any] = {}
    random = np.random.default_rng(MASKS)

    def dropout(x: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        assert not training or p == problem.config.dropout
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
    # What torch's own attention drops cannot be told to it, so where anything is dropped it goes in stages.
    patched = whole if how == "whole" and not problem.config.dropout else staged
    with (
        watched(model, seen),
        patch.object(torch_F, "scaled_dot_product_attention", patched),
        patch.object(torch_F, "dropout", dropout),
    ):
        seen["logits"], loss = model(torch.from_numpy(problem.ids), torch.from_numpy(problem.targets))
    values = {"loss": loss.detach().numpy(), **{name: shown(t.detach().numpy()) for name, t in seen.items()}}
    if not times:
        return values
    return values | torch_gradients(loss * times, {**dict(model.named_parameters()), **seen})


MASKS = 7  # the seed of what is dropped
LAST: list[Any] = [None, None, None]


def built(weights: Arrays, dtype: Any, build: Callable[[], Any]) -> Any:
    """A part of PyTorch's model with these weights; the same again while it is asked for the same ones, since building
    takes longer than running."""
    if LAST[0] is not weights or LAST[1] != dtype:
        part = build()
        part.load_state_dict(torch_weights(weights, dtype))
        LAST[:] = weights, dtype, part
    return LAST[2]


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


# ---- one layer alone --------------------------------------------------------------------------------------------


def layer_by_hand(
    name: str, config: GPTConfig, weights: Arrays, x: Array, dy: Array, dtype: Any = np.float64
) -> Arrays:
    """A class of gpt_numpy.model, given x and the gradient dy of what it makes of it."""
    layer = getattr(gpt_numpy.model, name)(config)
    layer.to(dtype).load_state_dict(weights)
    given = mt.tensor(x.astype(dtype), requires_grad=True)
    y = layer(given)
    return {"y": y.array, **hand_gradients(y, {"x": given, **dict(layer.named_parameters())}, dy.astype(dtype))}


def layer_in_torch(name: str, config: GPTConfig, weights: Arrays, x: Array, dy: Array) -> Arrays:
    layer = built(weights, torch.float64, lambda: getattr(gpt_torch.model, name)(config).double())
    given = torch.tensor(x, requires_grad=True)
    y = layer(given)
    leaves = {"x": given, **dict(layer.named_parameters())}
    return {"y": y.detach().numpy(), **torch_gradients(y, leaves, torch.from_numpy(dy))}


# ---- what they give ---------------------------------------------------------------------------------------------


def shown(value: Array) -> Array:
    """Scores that are masked as 0: infinities cannot be subtracted."""
    return np.where(np.isneginf(value), 0.0, value)


def hand_gradients(y: Any, leaves: dict[str, Any], dy: Any = None) -> Arrays:
    found = {}
    for name, gradient in zip(leaves, mt.grad(y, list(leaves.values()), dy), strict=True):
        assert gradient is not None, f"nothing comes back to {name}"
        found[f"d {name}"] = gradient.array
    return found


def torch_gradients(y: Any, leaves: dict[str, Any], dy: Any = None) -> Arrays:
    gradients = torch.autograd.grad(y, list(leaves.values()), dy)
    return {f"d {name}": gradient.numpy() for name, gradient in zip(leaves, gradients, strict=True)}


def torch_weights(weights: Arrays, dtype: Any) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(weight, dtype=dtype) for name, weight in weights.items()}
