"""Between the host and the device, where the text is, a byte or two for each token: a step brings only starts."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt_numpy.workshop.engine import Batch

SIGNED = {np.dtype(np.uint16): np.int16, np.dtype(np.uint32): np.int32}  # unsigned ones are not known to every device


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    if device.type == "cuda":  # a copy from pinned memory does not wait for the device
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    """A copy."""
    return tensor.detach().to("cpu", copy=True).numpy()


def to_host(tensor: Tensor, pinned: bool) -> Tensor:
    """A copy, complete after `wait_for`; from CUDA to pinned memory there is no wait for each."""
    return tensor.detach().to("cpu", copy=True, non_blocking=pinned and tensor.is_cuda)


def wait_for(device: torch.device) -> None:
    """Until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Texts:
    """The latest two texts on a device: one to train on, and one for validation. Nobody may change their arrays."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.known: list[tuple[NDArray[Any], Tensor]] = []

    def windows(self, batch: Batch, rows: slice) -> Tensor:
        """The tokens (B, T + 1) of some rows, as int64."""
        text = self.find(batch.tokens)
        if text is None:
            return to_device(batch.windows(rows).astype(np.int64), self.device)
        return windows_of(text, to_device(batch.starts[rows], self.device), batch.length)

    def find(self, tokens: NDArray[Any]) -> Tensor | None:
        """On the device, with the same bits, perhaps of a signed integer; None for a text that is too large."""
        for known, text in self.known:
            if known is tokens:
                return text
        if not fits(tokens, self.device):
            return None
        text = torch.from_numpy(tokens.view(SIGNED.get(tokens.dtype, tokens.dtype))).to(self.device)
        self.known = [*self.known[-1:], (tokens, text)]
        return text


def fits(tokens: NDArray[Any], device: torch.device) -> bool:
    """Whether a text takes a small part of the device's memory; on the CPU it takes none, since it is shared."""
    if device.type != "cuda":
        return True
    return bool(tokens.nbytes <= torch.cuda.get_device_properties(device).total_memory / 16)


def windows_of(text: Tensor, starts: Tensor, length: int) -> Tensor:
    """The tokens (B, length + 1) of the windows that begin at these B places, as int64."""
    found = text[starts[:, None] + torch.arange(length + 1, device=text.device)].long()
    return found & ((1 << 8 * text.element_size()) - 1) if text.element_size() in (2, 4) else found
