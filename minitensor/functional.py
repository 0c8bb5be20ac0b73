"""torch.nn.functional's names and signatures, over the operations in ops/.

What torch has and this has not (in-place forms, padding modes) is absent from the signature, so that asking for it
is an error and never ignored.
"""

from collections.abc import Sequence
from operator import index

import numpy as np

from minitensor import functions, ops
from minitensor.convert import as_number, as_tensor, check_floats, pair
from minitensor.core import apply, wrap
from minitensor.random import generator
from minitensor.tensor import Operand, Tensor


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input @ weight.T + bias; weight is (out, in)."""
    check_floats("linear", input, weight, bias)
    if weight.ndim == 1 and bias is None and input.ndim:  # one output, which has no axis
        return input @ weight
    if weight.ndim != 2 or not input.ndim or input.shape[-1] != weight.shape[1]:
        raise ValueError(f"linear: input {input.shape} and weight {weight.shape} do not fit; weight is (out, in)")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"linear: bias {bias.shape} is not one number for each output of weight {weight.shape}")
    return apply(ops.linear.linear, input, weight, bias)


def embedding(input: Operand, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """Row input[...] of weight for each id; row padding_idx gets no gradient."""
    ids = _ids("embedding: input", input)
    if not isinstance(input, Tensor):  # an array of small integers, say
        ids = ids.long()
    if ids.dtype.kind != "i":
        raise TypeError(f"embedding: input holds ids, in int64 or int32, not {ids.dtype}")
    if weight.ndim != 2:
        raise ValueError(f"embedding: weight is (rows, numbers of a row), not {weight.shape}")
    rows = len(weight)
    if padding_idx is not None and not -rows <= as_number("embedding: padding_idx", padding_idx) < rows:
        raise ValueError(f"embedding: padding_idx {padding_idx} is not one of the rows, -{rows} to {rows - 1}")
    return apply(ops.embedding.embedding, ids, weight, padding_idx=padding_idx)


relu, sigmoid, tanh = functions.relu, functions.sigmoid, functions.tanh
softmax, log_softmax = functions.softmax, functions.log_softmax


def silu(input: Tensor) -> Tensor:
    """x sigmoid(x)."""
    check_floats("silu", input)
    return input * sigmoid(input)


def gelu(input: Tensor, *, approximate: str = "none") -> Tensor:
    """approximate: "none" for the exact form with erf, "tanh" for GPT-2's."""
    check_floats("gelu", input)
    return apply(ops.gelu.gelu, input, approximate=approximate)


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize over the last axes, of this shape, to mean 0 and variance 1; then times weight, plus bias."""
    check_floats("layer_norm", input, weight, bias)
    if not isinstance(eps, int | float):
        raise TypeError(f"layer_norm: eps is a number, not {eps!r}")
    if not isinstance(normalized_shape, Sequence):
        raise TypeError(f"layer_norm: normalized_shape is a tuple of sizes, not {normalized_shape!r}")
    rows = tuple(normalized_shape)
    if not rows or input.shape[-len(rows) :] != rows:
        raise ValueError(f"layer_norm: input {input.shape} does not end in normalized_shape {rows}")
    for name, learned in (("weight", weight), ("bias", bias)):
        if learned is not None and learned.shape != rows:
            raise ValueError(f"layer_norm: {name} has shape {learned.shape}, normalized_shape is {rows}")
    return apply(ops.layernorm.layer_norm, input, weight, bias, eps=eps, axes=len(rows))


def cross_entropy(
    input: Tensor,
    target: Operand,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log of the probability that the logits give the target: (N, V), (V,) or (N, V, ...) as in torch.

    A target is the id of a class, or the probability of each, in the shape of the logits. `weight` is each class's.
    """
    check_floats("cross_entropy", input, weight)
    targets: Tensor = as_tensor(target)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing lies between 0 and 1, it is {label_smoothing}")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'cross_entropy: reduction is "mean", "sum" or "none", not {reduction!r}')
    of_classes = targets.dtype.kind == "f"
    ignore_index = index(ignore_index)
    if of_classes and ignore_index >= 0:
        raise ValueError("cross_entropy: ignore_index goes with targets that are ids")
    classes = min(1, input.ndim - 1)
    expected = input.shape if of_classes else input.shape[:classes] + input.shape[classes + 1 :]
    if not input.ndim or targets.shape != expected:
        raise ValueError(
            f"cross_entropy: logits {input.shape} and targets {targets.shape} do not fit; (N, V) goes with (N,)"
        )
    if weight is not None and weight.shape != input.shape[classes : classes + 1]:
        raise ValueError(f"cross_entropy: weight {weight.shape} is not one for each class of {input.shape}")
    if classes != input.ndim - 1:  # torch puts the classes second, the operation takes them last
        order = (0, *range(2, input.ndim), 1)
        input, targets = input.permute(order), targets.permute(order) if of_classes else targets
    if weight is None and not of_classes:
        settings = {"ignore_index": ignore_index, "label_smoothing": label_smoothing, "reduction": reduction}
        return apply(ops.cross_entropy.cross_entropy, input, _ids("cross_entropy: target", targets), **settings)

    if weight is not None and weight.requires_grad and not of_classes:
        raise RuntimeError("cross_entropy: weight has no gradient, but requires grad; pass it detached")
    # The plain formula: - sum_v w_v q_v log p_v, where q is the target, smoothed.
    V = input.shape[-1]
    mask = targets.array != ignore_index if not of_classes else np.ones(input.shape[:-1], bool)
    if not of_classes:
        ids = np.where(mask, _ids("cross_entropy: target", targets).array, 0)
        if ((ids < 0) | (ids >= V)).any():
            raise IndexError(f"cross_entropy: a target is not one of the {V} classes, 0 to {V - 1}")
        targets = Tensor(np.arange(V) == ids[..., None], input.dtype)
    w = Tensor(np.ones(V), input.dtype) if weight is None else weight
    smooth = targets * (1.0 - label_smoothing) + label_smoothing / V
    terms = w * smooth * input.log_softmax(-1)
    if not of_classes:
        terms = terms.masked_fill(smooth.array == 0.0, 0.0)  # as 0 times -inf would not be
    losses = (-terms.sum(-1)).masked_fill(~mask, 0.0)
    if reduction == "none":
        return losses
    total = float(mask.size if of_classes else (w.array * targets.array).sum(-1)[mask].sum())
    return losses.sum() if reduction == "sum" else losses.sum() / Tensor(total or np.nan, losses.dtype)


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """In training, entries set to 0 with probability p and the rest scaled by 1 / (1 - p)."""
    if not isinstance(training, bool):
        raise TypeError(f"dropout: training is True or False, not {training!r}")
    keep = dropout_mask(input.shape, p, training)
    if keep is None:
        return input
    check_floats("dropout", input)
    return apply(ops.dropout.dropout, input, keep, p=p)


def dropout_mask(shape: tuple[int, ...], p: float, training: bool = True) -> Tensor | None:
    """What dropout keeps, drawn from this thread's generator; None, and nothing drawn, if all of it."""
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p is a probability between 0 and 1, not {p}")
    return wrap(np.asarray(generator().random(shape, np.float32) >= p)) if p and training else None


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Operand | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(query key^T * scale + mask) value; scale is 1 / sqrt(size of a query) by default.

    attn_mask: booleans, True where a query may look, or numbers to add. is_causal: query i sees keys up to i.
    enable_gqa: grouped-query attention, each head of keys and values is shared by several heads of queries.
    """
    for name, flag in (("is_causal", is_causal), ("enable_gqa", enable_gqa)):
        if not isinstance(flag, bool):
            raise TypeError(f"scaled_dot_product_attention: {name} is True or False, not {flag!r}")
    if enable_gqa:
        if min(query.ndim, key.ndim, value.ndim) < 3:
            raise ValueError("scaled_dot_product_attention: enable_gqa is for (..., heads, T, D)")
        if any(query.shape[-3] % max(x.shape[-3], 1) for x in (key, value)):
            raise ValueError(
                f"scaled_dot_product_attention: the heads of key {key.shape} and value {value.shape} do not divide "
                f"those of query {query.shape}"
            )
        key, value = (_repeated(x, query.shape[-3] // max(x.shape[-3], 1)) for x in (key, value))
    if attn_mask is not None and is_causal:
        raise RuntimeError("scaled_dot_product_attention: give attn_mask or is_causal, not both")
    if query.shape[-1:] != key.shape[-1:] or key.shape[-2:-1] != value.shape[-2:-1] or query.ndim < 2:
        raise ValueError(
            f"scaled_dot_product_attention: query {query.shape}, key {key.shape} and value {value.shape} do not fit; "
            "they are (..., T, D), (..., U, D) and (..., U, D_v)"
        )
    check_floats("scaled_dot_product_attention", query, key, value)
    scores = (*np.broadcast_shapes(query.shape[:-2], key.shape[:-2]), query.shape[-2], key.shape[-2])
    mask = None
    if attn_mask is not None:
        given: Tensor = as_tensor(attn_mask)
        mask = given if given.dtype == np.bool_ or isinstance(attn_mask, Tensor) else given.to(query.dtype)
        if mask.dtype.kind not in "bf":
            raise TypeError(f"scaled_dot_product_attention: attn_mask holds booleans or floats, not {mask.dtype}")
        if mask.ndim > len(scores) or any(
            m not in (1, n) for m, n in zip(mask.shape[::-1], scores[::-1], strict=False)
        ):
            raise ValueError(f"scaled_dot_product_attention: attn_mask {mask.shape} does not fit the scores {scores}")
    in_parts = is_causal and query.shape[-2] > ops.attention_blocked.SAVED and 0 < dropout_p <= 1
    keep = None if in_parts else dropout_mask(scores, dropout_p)
    return apply(
        ops.attention_blocked.attention_blocked,
        query,
        key,
        value,
        mask,
        keep,
        is_causal=is_causal,
        scale=scale,
        p=dropout_p,
        draws=ops.dropout.Draws(generator()) if in_parts else None,
    )


def mse_loss(input: Tensor, target: Operand, *, reduction: str = "mean") -> Tensor:
    input, given = pair(input, target)
    check_floats("mse_loss", input)
    squares = (input - given).square()
    if reduction == "none":
        return squares
    if reduction in ("mean", "sum"):
        return squares.mean() if reduction == "mean" else squares.sum()
    raise ValueError(f'mse_loss: reduction is "mean", "sum" or "none", not {reduction!r}')


def _repeated(x: Tensor, times: int) -> Tensor:
    """Each head as many times, one after the other: (..., H, T, D)."""
    *batch, H, T, D = x.shape
    return x.unsqueeze(-3).expand(*batch, H, times, T, D).reshape(*batch, H * times, T, D)


def _ids(name: str, values: Operand) -> Tensor:
    ids: Tensor = as_tensor(values)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{name} holds whole numbers (ids of rows or classes), not {ids.dtype}")
    return ids
