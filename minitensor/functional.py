"""torch.nn.functional's names and signatures, over the operations in ops/.

What torch has and this has not (class weights, in-place forms) is absent from the signature, so that asking for it
is an error and never ignored.
"""

from collections.abc import Sequence

import numpy as np

from minitensor import ops
from minitensor.core import apply, wrap
from minitensor.random import generator
from minitensor.tensor import Operand, Tensor


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input @ weight.T + bias; weight is (out, in)."""
    _need_floats("linear", input, weight, bias)
    if weight.ndim != 2 or not input.ndim or input.shape[-1] != weight.shape[1]:
        raise ValueError(f"linear: input {input.shape} and weight {weight.shape} do not fit; weight is (out, in)")
    return apply(ops.linear.linear, input, weight, bias)


def embedding(input: Operand, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """Row input[...] of weight for each id; row padding_idx gets no gradient."""
    return apply(ops.embedding.embedding, _ids("embedding: input", input), weight, padding_idx=padding_idx)


def relu(input: Tensor) -> Tensor:
    return Tensor.relu(input)


def sigmoid(input: Tensor) -> Tensor:
    return Tensor.sigmoid(input)


def tanh(input: Tensor) -> Tensor:
    return Tensor.tanh(input)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """approximate: "none" for the exact form with erf, "tanh" for GPT-2's."""
    _need_floats("gelu", input)
    return apply(ops.gelu.gelu, input, approximate=approximate)


def softmax(input: Tensor, dim: int = -1) -> Tensor:
    return Tensor.softmax(input, dim)


def log_softmax(input: Tensor, dim: int = -1) -> Tensor:
    return Tensor.log_softmax(input, dim)


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Each row, the last axes of this shape, made mean 0 and variance 1, then times weight plus bias."""
    _need_floats("layer_norm", input, weight, bias)
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
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log of the chance that the logits give the target class: (N, V), (V,) or (N, V, ...) as in torch."""
    _need_floats("cross_entropy", input)
    targets = _ids("cross_entropy: target", target)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing lies between 0 and 1, it is {label_smoothing}")
    classes = min(1, input.ndim - 1)
    if not input.ndim or targets.shape != input.shape[:classes] + input.shape[classes + 1 :]:
        raise ValueError(
            f"cross_entropy: logits {input.shape} and targets {targets.shape} do not fit; (N, V) goes with (N,)"
        )
    if classes != input.ndim - 1:  # torch puts the classes second, the operation takes them last
        input = input.permute(0, *range(2, input.ndim), 1)
    return apply(
        ops.cross_entropy.cross_entropy,
        input,
        targets,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """In training, entries set to 0 with chance p and the rest enlarged by 1 / (1 - p)."""
    _need_floats("dropout", input)
    keep = dropout_mask(input.shape, p if training else 0.0)
    return input if keep is None else apply(ops.dropout.dropout, input, keep, p=p)


def dropout_mask(shape: tuple[int, ...], p: float) -> Tensor | None:
    """What dropout keeps, drawn from this thread's generator; None if all of it."""
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p is a chance between 0 and 1, not {p}")
    return wrap(np.asarray(generator().random(shape, np.float32) >= p)) if p else None


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Operand | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax(query key^T * scale + mask) value; scale is 1 / sqrt(size of a query) by default.

    attn_mask: booleans, True where a query may look, or numbers to add. is_causal: query i sees keys up to i.
    """
    if attn_mask is not None and is_causal:
        raise RuntimeError("scaled_dot_product_attention: give attn_mask or is_causal, not both")
    if query.shape[-1:] != key.shape[-1:] or key.shape[-2:-1] != value.shape[-2:-1] or query.ndim < 2:
        raise ValueError(
            f"scaled_dot_product_attention: query {query.shape}, key {key.shape} and value {value.shape} do not fit; "
            "they are (..., T, D), (..., U, D) and (..., U, D_v)"
        )
    _need_floats("scaled_dot_product_attention", query, key, value)
    scores = (*np.broadcast_shapes(query.shape[:-2], key.shape[:-2]), query.shape[-2], key.shape[-2])
    mask = None
    if attn_mask is not None:
        given = attn_mask if isinstance(attn_mask, Tensor) else Tensor(attn_mask)
        mask = given if given.dtype == np.bool_ or isinstance(attn_mask, Tensor) else given.to(query.dtype)
        if mask.dtype.kind not in "bf":
            raise TypeError(f"scaled_dot_product_attention: attn_mask holds booleans or floats, not {mask.dtype}")
        if mask.ndim > len(scores) or any(
            m not in (1, n) for m, n in zip(mask.shape, scores[-mask.ndim :], strict=True)
        ):
            raise ValueError(f"scaled_dot_product_attention: attn_mask {mask.shape} does not fit the scores {scores}")
    keep = dropout_mask(scores, dropout_p)
    return apply(
        ops.attention.attention,
        query,
        key,
        value,
        mask,
        keep,
        is_causal=is_causal,
        scale=scale,
        p=dropout_p,
    )


def mse_loss(input: Tensor, target: Operand, reduction: str = "mean") -> Tensor:
    squares = (input - target).square()
    if reduction == "none":
        return squares
    if reduction in ("mean", "sum"):
        return squares.mean() if reduction == "mean" else squares.sum()
    raise ValueError(f'mse_loss: reduction is "mean", "sum" or "none", not {reduction!r}')


def _ids(name: str, values: Operand) -> Tensor:
    ids = values if isinstance(values, Tensor) else Tensor(values)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{name} holds whole numbers (ids of rows or classes), not {ids.dtype}")
    return ids


def _need_floats(name: str, *inputs: Tensor | None) -> None:
    for x in inputs:
        if isinstance(x, Tensor) and x.array.dtype.kind != "f":
            raise TypeError(f"{name} takes floats, not {x.dtype}; convert with x.float()")
