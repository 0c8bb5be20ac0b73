"""From logits to probabilities, along the last axis."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def softmax(logits: NDArray[Any]) -> NDArray[Any]:
    p: NDArray[Any] = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return p


def log_softmax(logits: NDArray[Any]) -> NDArray[Any]:
    log_p: NDArray[Any] = logits - logits.max(-1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    return log_p
