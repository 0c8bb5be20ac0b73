"""Runs both models on one problem, and returns all intermediate values and gradients by name, for comparison.

Gradients have the prefix "d ". Each model runs in two ways: as it is, with fused attention; and with attention in
stages, which gives the scores and weights too. Values inside the model are recorded by patching the attention and
dropout functions of the library for the duration of the run.
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

Attention = Literal["fused", "staged"]


# ---- whole models -----------------------------------------------------------------------------------------------


def run_numpy(problem: Problem, how: Attention = "fused", dtype: Any = np.float64, times: float = 1.0) -> Arrays:
    """Runs gpt_numpy's model. The gradients are those of `times` the loss."""
    model = gpt_numpy.GPT(problem.config, dtype=dtype)
    model.load_state_dict(problem.weights)
    seen: dict[str, Any] = {}

    def staged(q: Any, k: Any, v: Any, mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False) -> Any:
        scores = apply(attention_scores, q, k, mask, is_causal=is_causal)
        weights = apply(attention_weights, scores)
        heads = apply(attention_values, mini_F.dropout(weights, dropout_p), v)
        return record(seen, q=q, k=k, v=v, scores=scores, weights=weights, heads=heads)

    def fused(q: Any, k: Any, v: Any, *settings: Any, **named: Any) -> Any:
        return record(seen, q=q, k=k, v=v, heads=attention(q, k, v, *settings, **named))

    attention = mini_F.scaled_dot_product_attention
    use_generator(np.random.default_rng(DROPOUT_SEED))
    with (
        recording(model, seen),
        patch.object(mini_F, "scaled_dot_product_attention", fused if how == "fused" else staged),
    ):
        seen["logits"], loss = model(problem.ids, problem.targets)
    values = {"loss": loss.array, **{name: finite(t.array) for name, t in seen.items()}}
    return values | numpy_gradients(loss * times, {**dict(model.named_parameters()), **seen})


def run_torch(problem: Problem, how: Attention = "fused", dtype: Any = torch.float64, times: float = 1.0) -> Arrays:
    """Runs gpt_torch's model, with the dropout masks of minitensor. If `times` is 0, there are no gradients."""
    model = cached_module(problem.weights, dtype, lambda: gpt_torch.GPT(problem.config, dtype=dtype))
    seen: dict[str, Any] = {}
    random = np.random.default_rng(DROPOUT_SEED)

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
        return record(seen, q=q, k=k, v=v, scores=scores, weights=weights, heads=dropout(weights, dropout_p) @ v)

    def fused(q: Any, k: Any, v: Any, *settings: Any, **named: Any) -> Any:
        return record(seen, q=q, k=k, v=v, heads=attention(q, k, v, *settings, **named))

    attention = torch_F.scaled_dot_product_attention
    # torch's attention takes no dropout mask, so with dropout it always runs in stages.
    patched = fused if how == "fused" and not problem.config.dropout else staged
    with (
        recording(model, seen),
        patch.object(torch_F, "scaled_dot_product_attention", patched),
        patch.object(torch_F, "dropout", dropout),
    ):
        seen["logits"], loss = model(torch.from_numpy(problem.ids), torch.from_numpy(problem.targets))
    values = {"loss": loss.detach().numpy(), **{name: finite(t.detach().numpy()) for name, t in seen.items()}}
    if not times:
        return values
    return values | torch_gradients(loss * times, {**dict(model.named_parameters()), **seen})


DROPOUT_SEED = 7
LAST: list[Any] = [None, None, None]


def cached_module(weights: Arrays, dtype: Any, build: Callable[[], Any]) -> Any:
    """A PyTorch module with these weights. It is reused while the weights stay the same, since construction takes
    longer than a run."""
    if LAST[0] is not weights or LAST[1] != dtype:
        module = build()
        module.load_state_dict(torch_weights(weights, dtype))
        LAST[:] = weights, dtype, module
    return LAST[2]


def record(seen: dict[str, Any], **tensors: Any) -> Any:
    """Records values inside attention under the number of the layer, and returns the output, `heads`."""
    layer = sum(name.endswith("heads") for name in seen)
    seen |= {f"blocks.{layer} {name}": tensor for name, tensor in tensors.items()}
    return tensors["heads"]


@contextmanager
def recording(model: Any, seen: dict[str, Any]) -> Iterator[None]:
    """Records the sum of the embeddings, the input of the first dropout layer."""
    forward: Callable[[Any], Any] = model.drop.forward

    def recording_forward(x: Any) -> Any:
        seen["embedded"] = x
        return forward(x)

    model.drop.forward = recording_forward
    yield
    model.drop.forward = forward


# ---- single layers ----------------------------------------------------------------------------------------------


def run_numpy_layer(
    name: str, config: GPTConfig, weights: Arrays, x: Array, dy: Array, dtype: Any = np.float64
) -> Arrays:
    """Runs a layer of gpt_numpy.model on x, and backward from its output with the gradient dy."""
    layer = getattr(gpt_numpy.model, name)(config)
    layer.to(dtype).load_state_dict(weights)
    given = mt.tensor(x.astype(dtype), requires_grad=True)
    y = layer(given)
    return {"y": y.array, **numpy_gradients(y, {"x": given, **dict(layer.named_parameters())}, dy.astype(dtype))}


def run_torch_layer(name: str, config: GPTConfig, weights: Arrays, x: Array, dy: Array) -> Arrays:
    layer = cached_module(weights, torch.float64, lambda: getattr(gpt_torch.model, name)(config).double())
    given = torch.tensor(x, requires_grad=True)
    y = layer(given)
    leaves = {"x": given, **dict(layer.named_parameters())}
    return {"y": y.detach().numpy(), **torch_gradients(y, leaves, torch.from_numpy(dy))}


# ---- results ----------------------------------------------------------------------------------------------------


def finite(value: Array) -> Array:
    """Masked scores become 0, since infinities cannot be subtracted."""
    return np.where(np.isneginf(value), 0.0, value)


def numpy_gradients(y: Any, leaves: dict[str, Any], dy: Any = None) -> Arrays:
    found = {}
    for name, gradient in zip(leaves, mt.grad(y, list(leaves.values()), dy), strict=True):
        assert gradient is not None, f"no gradient of {name}"
        found[f"d {name}"] = gradient.array
    return found


def torch_gradients(y: Any, leaves: dict[str, Any], dy: Any = None) -> Arrays:
    gradients = torch.autograd.grad(y, list(leaves.values()), dy)
    return {f"d {name}": gradient.numpy() for name, gradient in zip(leaves, gradients, strict=True)}


def torch_weights(weights: Arrays, dtype: Any) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(weight, dtype=dtype) for name, weight in weights.items()}
