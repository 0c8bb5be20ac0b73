"""How attention is computed: by PyTorch's fused kernels, or by the formula, step by step.

On MPS the fused kernels have been wrong, according to PyTorch's issues: for q, k and v that are not contiguous, for
head sizes of 64 and more, and for masked positions in 16 bits. PyTorch's "math" backend uses such a kernel there, too.
So on MPS the default is our own `formula`, and fused kernels get contiguous tensors. No Mac has run this yet.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

FUSED = F.scaled_dot_product_attention


# cuDNN's kernel first, which may be the fastest on Hopper GPUs; what it does not support goes to the others.
CUDNN_FIRST = [
    SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH,
]  # fmt: skip


def attention_of(option: str, device: torch.device) -> str:
    """ "fused", "cudnn" or "math"."""
    default = "math" if device.type == "mps" else "fused"
    return default if option == "auto" else option


def attending(method: str, device: torch.device) -> AbstractContextManager[Any]:
    """A context in which attention is computed by this method: "fused", "cudnn" or "math"."""
    if device.type == "mps":
        return OnMPS(method)
    if method == "cudnn":
        return sdpa_kernel(CUDNN_FIRST, set_priority=True)
    return sdpa_kernel(SDPBackend.MATH) if method == "math" else nullcontext()


class OnMPS(TorchFunctionMode):
    def __init__(self, method: str) -> None:
        super().__init__()
        self.attention = formula if method == "math" else FUSED

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is FUSED:
            function, args = self.attention, (*(x.contiguous() for x in args[:3]), *args[3:])
        return function(*args, **(kwargs or {}))


def formula(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0, is_causal: bool = False
) -> Tensor:
    """softmax(q k' / sqrt(D)) v, over the keys that the mask allows."""
    scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, H, T, U)
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return F.dropout(scores.softmax(-1), dropout) @ v
