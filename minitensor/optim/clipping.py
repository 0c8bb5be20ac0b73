"""clip_grad_norm_ and its two halves."""

from collections.abc import Iterable

import numpy as np

from minitensor.core import wrap
from minitensor.tensor import Tensor


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale the gradients so that their total norm is at most max_norm; returns the norm that they had."""
    parameters = as_list(parameters)
    total = get_total_norm([p.grad for p in parameters if p.grad is not None], norm_type, error_if_nonfinite)
    clip_grads_with_norm_(parameters, max_norm, total)
    return total


def get_total_norm(
    tensors: Tensor | Iterable[Tensor], norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """The norm of all these tensors taken as one vector."""
    order = float(norm_type)
    norms = [np.linalg.norm(tensor.array.reshape(-1), order) for tensor in as_list(tensors)]
    total = np.linalg.norm(np.stack(norms), order) if norms else 0.0
    if error_if_nonfinite and not np.isfinite(total):
        raise RuntimeError(f"the norm of the gradients is {total}")
    return Tensor(total)


def clip_grads_with_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float, total_norm: Tensor | float) -> None:
    """Scale these gradients by max_norm / total_norm, if that is below 1; total_norm may be that of more gradients."""
    trained = [p for p in as_list(parameters) if p.grad is not None]
    factor = float(max_norm) / (float(total_norm) + 1e-6)
    if not factor >= 1:  # a factor that is NaN spreads, as in torch
        for p in trained:
            p.grad = wrap(np.asarray(p.grad.array * factor))  # type: ignore[union-attr]


def as_list(tensors: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)
