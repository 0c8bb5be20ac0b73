"""A case for each operation: how to draw inputs, the same function in torch, and a composition of smaller operations.

    make        draws an Example from a Source (strategies.py); the first of several options is the typical one
    torch       the same function in torch, taking minitensor's names for the settings
    composed    for fused operations, the same function composed of smaller ones
    analytic    whether the forward also works on complex numbers, as the complex step requires
    float32     the tolerance in float32, relative to the largest entry: 2e-6 is about 16 rounding errors; 1e-5 is for
                exponentials and powers, which amplify the rounding error of their input by up to 50
    cancels     if intermediate steps subtract nearly equal numbers (1 - y^2 in the derivative of tanh), their size, as
                a power of the largest input

Where numbers cancel, torch's own result carries the rounding error of those numbers, so as much is tolerated.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as TF

from minitensor import cat
from minitensor.arrays import Array
from minitensor.tensor import Tensor
from tests.minitensor.strategies import Example, Source


@dataclass(frozen=True)
class Case:
    make: Callable[[Source], Example]
    torch: Callable[..., Any]
    composed: Callable[..., Any] | None = None
    analytic: bool = True
    float32: float = 2e-6
    cancels: int | None = None


# ---- elementwise ------------------------------------------------------------------------------------------------


def unary(low: float = -8.0, high: float = 8.0) -> Callable[[Source], Example]:
    return lambda source: Example([source.values(source.shape(), low, high)])


def binary(low: float = -1e6, high: float = 1e6) -> Callable[[Source], Example]:
    """Two broadcastable arrays, or the same array twice."""

    def make(source: Source) -> Example:
        a_shape, b_shape = source.shapes(2)
        a = source.values(a_shape, low, high)
        twice = source.choice([False] * 9 + [True])
        return Example([a, a] if twice else [a, source.values(b_shape, low, high)])

    return make


def make_log(source: Source) -> Example:
    return Example([source.values(source.shape(), source.choice([0.1, -1.0]), 1e6)])


def make_pow(source: Source) -> Example:
    a_shape, b_shape = source.shapes(2)
    return Example([source.values(a_shape, 0.0, 4.0), source.values(b_shape, -3.0, 3.0)])


def make_pow_number(source: Source) -> Example:
    number = source.choice([3, 2, 1, 0, -1, -2, 0.5, -0.5, 1.5])
    return Example([source.values(source.shape(), 0.1 if number % 1 else -4.0, 4.0)], {"number": number})


def make_number(source: Source) -> Example:
    return Example([source.values(source.shape())], {"number": source.choice([-2.5, 3.0, 1e-8, 0.0])})


def make_cast(source: Source) -> Example:
    return Example([source.values(source.shape())], {"dtype": source.choice([np.dtype("f8"), np.dtype("f4")])})


def torch_cast(x: torch.Tensor, *, dtype: np.dtype[Any]) -> Any:
    return x.to(torch.float32 if dtype == np.float32 else torch.float64).double()


def make_where(source: Source) -> Example:
    condition, a, b = source.shapes(3)
    return Example([source.booleans(condition), source.values(a), source.values(b)])


def make_clip(source: Source) -> Example:
    bounds = source.choice([{"min": -1.0, "max": 1.0}, {"min": 0.0}, {"max": 0.5}, {}])
    x = source.values(source.shape())
    # Versions of torch differ in the gradient at a bound; test_corners.py tests ours.
    for bound in bounds.values():
        x = np.where(np.abs(x - bound) < 1e-3, x + 0.25, x)
    return Example([x], dict(bounds))


def torch_clip(x: torch.Tensor, min: float = -math.inf, max: float = math.inf) -> Any:
    return torch.clamp(x, min, max)


# ---- reductions -------------------------------------------------------------------------------------------------


def reduction(low: float = -8.0, high: float = 8.0, min_side: int = 0) -> Callable[[Source], Example]:
    def make(source: Source) -> Example:
        x = source.values(source.shape(min_side=min_side), low, high)
        axes: list[Any] = [None]
        if x.ndim:
            axes = [x.ndim - 1, -x.ndim, None, tuple(range(x.ndim)), (-1,)]
        axis, keepdims = source.choice(axes), source.choice([False, True])
        return Example([x], {"axis": axis, "keepdims": keepdims})

    return make


def make_var(source: Source) -> Example:
    example = reduction()(source)
    correction = source.choice([1, 0, 2] if example.arrays[0].ndim else [1, 0])
    return Example(example.arrays, {**example.settings, "correction": correction})


def torch_reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    def reduce(x: torch.Tensor, *, axis: Any, keepdims: bool, **settings: Any) -> Any:
        dims = tuple(range(x.ndim)) if axis is None else axis
        return function(x, dim=dims, keepdim=keepdims, **settings) if x.ndim else function(x, dim=-1, **settings)

    return reduce


# ---- shape ------------------------------------------------------------------------------------------------------


def make_reshape(source: Source) -> Example:
    x = source.values(source.shape())
    return Example([x], {"shape": source.choice([x.shape[::-1], (x.size,), (1, *x.shape), (*x.shape, 1)])})


def make_transpose(source: Source) -> Example:
    x = source.values(source.shape(min_dims=1))
    return Example([x], {"axis0": source.integer(-x.ndim, x.ndim - 1), "axis1": source.choice([-1, 0])})


def make_permute(source: Source) -> Example:
    x = source.values(source.shape())
    orders = [(), ((0,), (-1,)), ((1, 0), (0, -1)), ((2, 0, 1), (1, -1, 0), (-1, 1, 0), (0, 2, 1))]
    return Example([x], {"axes": source.choice(orders[x.ndim]) if x.ndim else ()})


def make_expand(source: Source) -> Example:
    x = source.values(source.shape(max_dims=2))
    target = tuple(source.integer(0, 3) if n == 1 else n for n in x.shape)
    return Example([x], {"shape": (*source.choice([(2,), (), (3, 2)]), *target)})


def make_squeeze(source: Source) -> Example:
    x = source.values((*source.shape(max_dims=1), 1, *source.shape(max_dims=1), 1))
    return Example([x], {"axis": source.choice([-1, None, (-1,)])})


def make_unsqueeze(source: Source) -> Example:
    x = source.values(source.shape())
    return Example([x], {"axis": source.integer(-x.ndim - 1, x.ndim)})


def make_getitem(source: Source) -> Example:
    x = source.values(source.shape(min_dims=1, min_side=1))
    n, last = len(x), x.shape[-1]
    repeated = source.integers((3,), -n, n - 1)
    options: list[Any] = [
        repeated,  # an entry may be read twice
        source.booleans(x.shape),
        slice(None, None, 2),
        source.integer(-n, n - 1),
        (Ellipsis, None, slice(-1, None)),
        (Ellipsis, source.integers((2, 2), -last, last - 1)),
        (slice(0, 0), Ellipsis),
    ]
    if x.ndim > 1:
        options.append((repeated, Ellipsis, source.integers((3,), -last, last - 1)))
    return Example([x], {"index": source.choice(options[:1] * 3 + options)})


def torch_getitem(x: torch.Tensor, *, index: Any) -> Any:
    def convert(part: Any) -> Any:
        return torch.tensor(part) if isinstance(part, np.ndarray) else part

    return x[tuple(map(convert, index)) if isinstance(index, tuple) else convert(index)]


def make_cat(source: Source) -> Example:
    shape = source.shape(min_dims=1)
    axis = source.integer(-len(shape), len(shape) - 1)
    sizes = [shape[axis], source.integer(0, 3) + 1, source.integer(0, 1)]
    at = axis % len(shape)
    arrays = [source.values((*shape[:at], n, *shape[at + 1 :])) for n in sizes[: source.integer(2, 3)]]
    return Example(arrays, {"axis": axis})


def make_stack(source: Source) -> Example:
    shape = source.shape()
    arrays = [source.values(shape) for _ in range(source.integer(2, 3))]
    return Example(arrays, {"axis": source.integer(-len(shape) - 1, len(shape))})


def make_split(source: Source) -> Example:
    sizes: tuple[int, ...] = (source.choice([1, 0, 2]), source.choice([2, 0, 1]), 2)
    sizes = sizes[: source.choice([3, 2, 1])]
    rest = source.shape(max_dims=1)
    before = source.choice([True, False])
    x = source.values((*rest, sum(sizes)) if before else (sum(sizes), *rest))
    return Example([x], {"sizes": sizes, "axis": len(rest) if before else 0})


def make_masked_fill(source: Source) -> Example:
    x, mask = source.shapes(2)
    shape = np.broadcast_shapes(x, mask)
    return Example([source.values(shape), source.booleans(mask)], {"value": source.choice([-1.5, math.inf, math.nan])})


def make_triangle(source: Source) -> Example:
    return Example([source.values(source.shape(min_dims=2))], {"diagonal": source.integer(-1, 1)})


def make_split_heads(source: Source) -> Example:
    H, D = source.choice([2, 1, 3]), source.choice([2, 1, 0, 3])
    B, T = source.choice([2, 1, 0]), source.choice([3, 1, 0])
    return Example([source.values((B, T, 3 * H * D))], {"n_head": H})


def torch_split_heads(x: torch.Tensor, *, n_head: int) -> tuple[torch.Tensor, ...]:
    B, T, C3 = x.shape
    return x.reshape(B, T, 3, n_head, C3 // (3 * n_head)).permute(2, 0, 3, 1, 4).unbind()


def composed_split_heads(x: Tensor, *, n_head: int) -> tuple[Tensor, ...]:
    B, T, C3 = x.shape
    sizes = B, T, n_head, C3 // 3 // n_head
    return tuple(x[..., i * C3 // 3 : (i + 1) * C3 // 3].reshape(sizes).transpose(1, 2) for i in range(3))


def make_merge_heads(source: Source) -> Example:
    sizes = [source.choice(options) for options in ([2, 1, 0], [2, 1, 3], [3, 1, 0], [2, 1, 0])]
    return Example([source.values(tuple(sizes))])


def composed_merge_heads(x: Tensor) -> Tensor:
    return cat([x[:, h] for h in range(x.shape[1])], dim=2)


# ---- products ---------------------------------------------------------------------------------------------------


def make_matmul(source: Source) -> Example:
    i, k, j = (source.choice([3, 2, 1, 4, 0]) for _ in range(3))
    batch_a, batch_b = source.shapes(2)
    kinds = [((2, i, k), (k, j)), ((k,), (k, j)), ((i, k), (k,)), ((k,), (k,)), ((2, i, k), (2, k, j))]
    kinds += [((*batch_a[:2], i, k), (*batch_b[:2], k, j)), ((k,), (2, k, j)), ((2, i, k), (k,))]
    a_shape, b_shape = source.choice(kinds)
    try:
        np.broadcast_shapes(a_shape[:-2], b_shape[:-2])
    except ValueError:
        a_shape = a_shape[-2:]
    return Example([source.values(a_shape), source.values(b_shape)])


def make_linear(source: Source) -> Example:
    inputs, outputs = source.choice([3, 1, 4]), source.choice([2, 1, 3])
    x = source.values((*source.shape(max_dims=2), inputs))
    bias = source.values((outputs,)) if source.choice([True, False]) else None
    return Example([x, source.values((outputs, inputs)), bias])


def composed_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = x @ weight.transpose(0, 1)
    return y if bias is None else y + bias


def make_embedding(source: Source) -> Example:
    rows = source.choice([4, 1, 3])
    ids = source.integers(source.shape(max_dims=2), 0, rows - 1)
    return Example([ids, source.values((rows, source.choice([3, 1])))], {"padding_idx": source.choice([None, 0, -1])})


def composed_embedding(ids: Tensor, weight: Tensor, *, padding_idx: int | None) -> Tensor:
    if padding_idx is not None:
        rows = np.arange(len(weight))[:, None] == padding_idx % len(weight)
        weight = weight.detach().where(rows, weight)
    onehot = Tensor(ids.array[..., None] == np.arange(len(weight)), weight.dtype)
    return onehot @ weight


# ---- fused functions --------------------------------------------------------------------------------------------


def make_gelu(source: Source) -> Example:
    return Example([source.values(source.shape(), -30, 30)], {"approximate": source.choice(["none", "tanh"])})


def composed_gelu(x: Tensor, *, approximate: str) -> Tensor:
    if approximate == "none":
        return 0.5 * x * (1.0 + (x / math.sqrt(2.0)).erf())
    return 0.5 * x * (1.0 + (math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)).tanh())


def make_rows(source: Source) -> Example:
    x = source.values(source.shape(min_dims=1, min_side=1), -30, 30)
    return Example([x], {"axis": source.choice([-1, 0])})


def composed_softmax(x: Tensor, *, axis: int) -> Tensor:
    e = (x - x.detach().amax(axis, keepdim=True)).exp()
    return e / e.sum(axis, keepdim=True)


def composed_log_softmax(x: Tensor, *, axis: int) -> Tensor:
    return x - x.logsumexp(axis, keepdim=True)


def make_layer_norm(source: Source) -> Example:
    x = source.values(source.shape(min_dims=1, min_side=1))
    axes = source.integer(1, x.ndim)
    row = x.shape[x.ndim - axes :]
    weight, bias = source.choice([(True, True), (True, True), (True, False), (False, False), (False, True)])
    settings = {"eps": source.choice([1e-5, 1e-3]), "axes": axes}
    return Example([x, source.values(row) if weight else None, source.values(row) if bias else None], settings)


def torch_layer_norm(x: Any, weight: Any, bias: Any, *, eps: float, axes: int) -> Any:
    return TF.layer_norm(x, x.shape[x.ndim - axes :], weight, bias, eps)


def composed_layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float, axes: int) -> Tensor:
    row = tuple(range(-axes, 0))
    y = (x - x.mean(row, keepdim=True)) / (x.var(row, correction=0, keepdim=True) + eps).sqrt()
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def make_cross_entropy(source: Source) -> Example:
    classes = source.choice([4, 1, 3])
    rows = source.shape(max_dims=2)
    ignore_index = source.choice([-100, 0, 1])
    targets = source.integers(rows, 0, classes - 1)
    if source.choice([False, True]):
        targets = np.where(source.booleans(rows), targets, ignore_index)
    settings = {
        "ignore_index": ignore_index,
        "label_smoothing": source.choice([0.0, 0.1, 1.0]),
        "reduction": source.choice(["mean", "sum", "none"]),
    }
    return Example([source.values((*rows, classes), -30, 30), targets], settings)


def torch_cross_entropy(logits: torch.Tensor, targets: torch.Tensor, **settings: Any) -> Any:
    loss = TF.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), **settings)
    return loss if loss.ndim == 0 else loss.reshape(targets.shape)


def composed_cross_entropy(
    logits: Tensor, targets: Tensor, *, ignore_index: int, label_smoothing: float, reduction: str
) -> Tensor:
    counted = targets.array != ignore_index
    onehot = targets.array[..., None] == np.arange(logits.shape[-1])
    q = (1.0 - label_smoothing) * onehot + label_smoothing / logits.shape[-1]
    losses: Tensor = -(logits.log_softmax(-1) * (q * counted[..., None])).sum(-1)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    return losses.sum() / float(counted.sum()) if counted.any() else losses.sum() + math.nan


def make_linear_cross_entropy(source: Source) -> Example:
    N, C, V = source.choice([4, 1, 7]), source.choice([3, 1]), source.choice([5, 1, 2])
    targets: Array = source.integers((N,), 0, V - 1)
    if source.choice([False, True]):
        q = np.exp(source.values((N, V)))
        targets = q / q.sum(-1, keepdims=True)
    weights = source.values((N,), -1, 1) if source.choice([True, False]) else None  # all is linear in them
    return Example([source.values((N, C)), source.values((V, C))], {"targets": targets, "weights": weights})


def torch_linear_cross_entropy(x: torch.Tensor, weight: torch.Tensor, *, targets: Array, weights: Array | None) -> Any:
    losses = TF.cross_entropy(x @ weight.T, torch.from_numpy(targets), reduction="none")
    return losses.mean() if weights is None else losses @ torch.tensor(weights.tolist(), dtype=losses.dtype)


def composed_linear_cross_entropy(x: Tensor, weight: Tensor, *, targets: Array, weights: Array | None) -> Tensor:
    q = targets if targets.ndim == 2 else targets[:, None] == np.arange(len(weight))
    w = np.full(len(x), 1.0 / len(x)) if weights is None else weights
    return -((x @ weight.T).log_softmax(-1) * (q * w[:, None])).sum()


def make_kl_divergence(source: Source) -> Example:
    shape = (*source.shape(max_dims=2), source.choice([4, 1, 3]))
    r = np.exp(source.values(shape))
    return Example([source.values(shape, -30, 30)], {"log_r": np.log(r / r.sum(-1, keepdims=True))})


def torch_kl_divergence(z: torch.Tensor, *, log_r: Array) -> Any:
    return TF.kl_div(torch.from_numpy(log_r), z.log_softmax(-1), reduction="none", log_target=True).sum(-1)


def composed_kl_divergence(z: Tensor, *, log_r: Array) -> Tensor:
    log_p = z.log_softmax(-1)
    return (log_p.exp() * (log_p - log_r)).sum(-1)


def make_dropout(source: Source) -> Example:
    x = source.values(source.shape())
    return Example([x, source.booleans(x.shape)], {"p": source.choice([0.1, 0.5, 0.0, 1.0])})


def torch_dropout(x: torch.Tensor, keep: torch.Tensor, *, p: float) -> Any:
    return x * keep / (1.0 - p) if p < 1 else x * 0.0


def composed_dropout(x: Tensor, keep: Tensor, *, p: float) -> Tensor:
    return x * keep * (1.0 / (1.0 - p) if p < 1 else 0.0)


# ---- attention --------------------------------------------------------------------------------------------------


def make_scores(source: Source) -> Example:
    T, S, D = source.choice([3, 1, 4]), source.choice([3, 1, 5]), source.choice([2, 1])
    batch = source.shape(max_dims=1)
    mask: Array | None = None
    kind = source.choice(["added", "none", "boolean"])
    if kind == "added":
        mask = source.values(source.choice([(T, S), (1, S), (), (*batch, T, S)]))
    elif kind == "boolean":
        mask = source.booleans(source.choice([(T, S), (*batch, 1, S)]))  # all keys of a row may be masked
    settings = {"is_causal": source.choice([False, True]), "scale": source.choice([None, 0.3])}
    settings["offset"] = source.choice([0, 1])
    return Example([source.values((*batch, T, D), -9, 9), source.values((*batch, S, D), -9, 9), mask], settings)


def torch_scores(q: Any, k: Any, mask: Any, *, is_causal: bool, scale: float | None, offset: int = 0) -> Any:
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    visible = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(offset)
    return scores.masked_fill(~visible, -math.inf) if is_causal else scores


def composed_scores(
    q: Tensor, k: Tensor, mask: Tensor | None, *, is_causal: bool, scale: float | None, offset: int = 0
) -> Tensor:
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == np.bool_ else scores + mask
    *_, T, U = scores.shape
    future = ~np.tri(T, U, offset, dtype=np.bool_)
    return scores.masked_fill(future, -math.inf) if is_causal else scores


def make_weights(source: Source) -> Example:
    scores = source.values(source.shape(min_dims=2, min_side=1), -30, 30)
    if source.choice([False, True]):
        scores = np.where(source.booleans(scores.shape), scores, -math.inf)
    return Example([scores])


def torch_weights(scores: torch.Tensor) -> Any:
    all_masked = (scores == -math.inf).all(-1, keepdim=True)
    return scores.masked_fill(all_masked, 0.0).softmax(-1).masked_fill(all_masked, 0.0)


def composed_weights(scores: Tensor) -> Tensor:
    all_masked = (scores.array == -math.inf).all(-1, keepdims=True)
    return composed_softmax(scores.masked_fill(all_masked, 0.0), axis=-1).masked_fill(all_masked, 0.0)


def make_attention_values(source: Source) -> Example:
    T, S, D = source.choice([3, 1, 4]), source.choice([3, 1, 5]), source.choice([2, 1])
    batch = source.shape(max_dims=1)
    return Example([source.values((*batch, T, S), 0, 1), source.values((*batch, S, D))])


def make_attention(source: Source) -> Example:
    scores = make_scores(source)
    q, k, mask = scores.arrays
    del scores.settings["offset"]
    v = source.values((*k.shape[:-1], source.choice([2, 3, 1])))
    keep, p = (source.booleans((*q.shape[:-1], k.shape[-2])), 0.25) if source.choice([False, True]) else (None, 0.0)
    return Example([q, k, v, mask, keep], {**scores.settings, "p": p})


def torch_attention(q: Any, k: Any, v: Any, mask: Any, keep: Any, *, p: float, **settings: Any) -> Any:
    if keep is None and not (settings["is_causal"] and mask is not None):  # torch accepts only one of them
        return TF.scaled_dot_product_attention(q, k, v, attn_mask=mask, **settings)
    weights = torch_weights(torch_scores(q, k, mask, **settings))
    return (weights if keep is None else torch_dropout(weights, keep, p=p)) @ v


def composed_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, keep: Tensor | None, *, p: float, **settings: Any
) -> Tensor:
    weights = composed_weights(composed_scores(q, k, mask, **settings))
    return (weights if keep is None else composed_dropout(weights, keep, p=p)) @ v


CASES: dict[str, Case] = {
    # elementwise
    "add": Case(binary(), torch.add),
    "sub": Case(binary(), torch.sub),
    "mul": Case(binary(), torch.mul),
    "mul_number": Case(make_number, lambda x, *, number: x * number),
    "div": Case(binary(), torch.div),
    "div_number": Case(make_number, lambda x, *, number: x / number),
    "cast": Case(make_cast, torch_cast, analytic=False),
    "neg": Case(unary(), torch.neg),
    "pow": Case(make_pow, torch.pow, float32=1e-5),
    "pow_number": Case(make_pow_number, lambda x, *, number: torch.pow(x, number)),
    "exp": Case(unary(-50, 50), torch.exp, float32=1e-5),
    "log": Case(make_log, torch.log),
    "sqrt": Case(unary(0, 1e6), torch.sqrt),
    "tanh": Case(unary(-30, 30), torch.tanh, cancels=0),
    "erf": Case(unary(-30, 30), torch.erf, cancels=0),
    "sigmoid": Case(unary(-50, 50), torch.sigmoid, analytic=False, cancels=0),
    "relu": Case(unary(), torch.relu, analytic=False),
    "abs": Case(unary(), torch.abs, analytic=False),
    "maximum": Case(binary(), torch.maximum, analytic=False),
    "minimum": Case(binary(), torch.minimum, analytic=False),
    "where": Case(make_where, torch.where),
    "clip": Case(make_clip, torch_clip, analytic=False),
    # reductions
    "sum": Case(reduction(), torch_reduction(torch.sum)),
    "mean": Case(reduction(), torch_reduction(torch.mean)),
    "var": Case(make_var, torch_reduction(torch.var)),
    "std": Case(make_var, torch_reduction(torch.std), cancels=1),
    "max": Case(reduction(min_side=1), torch_reduction(torch.amax), analytic=False),
    "min": Case(reduction(min_side=1), torch_reduction(torch.amin), analytic=False),
    "logsumexp": Case(reduction(-30, 30), torch_reduction(torch.logsumexp), analytic=False, cancels=1),
    # shape
    "reshape": Case(make_reshape, lambda x, *, shape: x.reshape(shape)),
    "squeeze": Case(make_squeeze, lambda x, *, axis: x.squeeze() if axis is None else x.squeeze(axis)),
    "unsqueeze": Case(make_unsqueeze, lambda x, *, axis: x.unsqueeze(axis)),
    "transpose": Case(make_transpose, lambda x, *, axis0, axis1: x.transpose(axis0, axis1)),
    "permute": Case(make_permute, lambda x, *, axes: x.permute(axes)),
    "expand": Case(make_expand, lambda x, *, shape: x.expand(shape)),
    "getitem": Case(make_getitem, torch_getitem),
    "cat": Case(make_cat, lambda *xs, axis: torch.cat(xs, axis)),
    "stack": Case(make_stack, lambda *xs, axis: torch.stack(xs, axis)),
    "split": Case(make_split, lambda x, *, sizes, axis: x.split(sizes, axis)),
    "split_heads": Case(make_split_heads, torch_split_heads, composed_split_heads),
    "merge_heads": Case(make_merge_heads, lambda x: x.transpose(1, 2).flatten(2), composed_merge_heads),
    "masked_fill": Case(make_masked_fill, lambda x, mask, *, value: x.masked_fill(mask, value)),
    "tril": Case(make_triangle, lambda x, *, diagonal: x.tril(diagonal)),
    "triu": Case(make_triangle, lambda x, *, diagonal: x.triu(diagonal)),
    # products
    "matmul": Case(make_matmul, torch.matmul),
    "linear": Case(make_linear, TF.linear, composed_linear),
    "embedding": Case(make_embedding, TF.embedding, composed_embedding),
    # fused functions
    "gelu": Case(make_gelu, TF.gelu, composed_gelu, cancels=1),
    "softmax": Case(
        make_rows, lambda x, *, axis: x.softmax(axis), composed_softmax, analytic=False, float32=1e-5, cancels=0
    ),
    "log_softmax": Case(
        make_rows, lambda x, *, axis: x.log_softmax(axis), composed_log_softmax, analytic=False, cancels=1
    ),
    "layer_norm": Case(make_layer_norm, torch_layer_norm, composed_layer_norm, float32=1e-5, cancels=2),
    "cross_entropy": Case(make_cross_entropy, torch_cross_entropy, composed_cross_entropy, analytic=False, cancels=1),
    "linear_cross_entropy": Case(
        make_linear_cross_entropy, torch_linear_cross_entropy, composed_linear_cross_entropy, analytic=False, cancels=1
    ),
    "kl_divergence": Case(make_kl_divergence, torch_kl_divergence, composed_kl_divergence, analytic=False, cancels=1),
    "dropout": Case(make_dropout, torch_dropout, composed_dropout),
    "attention_scores": Case(make_scores, torch_scores, composed_scores),
    "attention_weights": Case(make_weights, torch_weights, composed_weights, analytic=False, float32=1e-5, cancels=0),
    "attention_values": Case(make_attention_values, torch.matmul),
    "attention": Case(make_attention, torch_attention, analytic=False, float32=1e-5, cancels=2),
    "attention_blocked": Case(
        make_attention, torch_attention, composed_attention, analytic=False, float32=1e-5, cancels=2
    ),
}
