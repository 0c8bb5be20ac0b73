"""Between the host and the device, where the text is, a byte or two for each token: a step brings only starts."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SIGNED = {np.dtype(np.uint16): np.int16, np.dtype(np.uint32): np.int32}  # unsigned ones are not known to every device


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    if device.type == "cuda":  # a copy from pinned memory does not wait for the device
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    """A copy."""
    return tensor.detach().to("cpu", copy=True).numpy()


def to_host(tensor: Tensor) -> Tensor:
    """A copy, complete after `wait_for`: from CUDA it goes to pinned memory, without waiting for each."""
    return tensor.detach().to("cpu", copy=True, non_blocking=tensor.is_cuda)


def wait_for(device: torch.device) -> None:
    """Until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def text_to_device(tokens: NDArray[Any], device: torch.device) -> Tensor:
    """With the same bits, perhaps of a signed integer. On the CPU it shares the memory."""
    return to_device(tokens.view(SIGNED.get(tokens.dtype, tokens.dtype)), device)


def windows_of(text: Tensor, starts: Tensor, length: int) -> Tensor:
    """The tokens (B, length + 1) of the windows that begin at these B places, as int64."""
    found = text[starts[:, None] + torch.arange(length + 1, device=text.device)].long()
    return found & ((1 << 8 * text.element_size()) - 1) if text.element_size() in (2, 4) else found
