"""Where the model runs, and in which numbers."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def find_device(name: str) -> torch.device:
    """By its name; or the fastest kind that this machine has, by "auto". Under torchrun each process has one."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    processes = on_this_machine = 1
    if dist.is_torchelastic_launched():
        processes, on_this_machine = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if processes > 1:
        if name == "mps":
            raise ValueError("device mps is for one process; --device cpu is for many too")
        here["mps"] = False
    if name == "auto":
        name = next(kind for kind, usable in here.items() if usable)
    if not here[name]:
        usable = " and ".join(kind for kind in here if here[kind])
        raise ValueError(f"device {name} is not here; what PyTorch {torch.__version__} finds is {usable}")
    cards = torch.cuda.device_count()
    if name == "cuda" and on_this_machine > cards:
        needed = f"for {on_this_machine} processes; --nproc-per-node {cards} fits"
        raise ValueError(f"device cuda is here {cards} times, {needed}")
    return torch.device(name)


def find_dtype(name: str, device: torch.device) -> torch.dtype:
    """The numbers that matrices are multiplied in, by name; or those that suit the device, by "auto".

    CUDA cards from 2020 on have bfloat16; older ones only imitate it, slowly, and take float16.
    """
    if name != "auto":
        return DTYPES[name]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


# FLOP/s of matrix products in 16 bits, without sparsity, as NVIDIA states them. A card is the first that it fits.
PEAKS = {
    "B200": 2250e12, "H200": 989e12, "GH200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12,
    "L40S": 362e12, "L4": 121e12, "V100": 125e12, "T4": 65e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
}  # fmt: skip


def peak_of(device: torch.device, dtype: torch.dtype) -> float | None:
    if device.type != "cuda" or dtype == torch.float32:
        return None
    card = torch.cuda.get_device_name(device)
    return next((peak for name, peak in PEAKS.items() if re.search(rf"\b{name}\b", card)), None)


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU (mps)"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' * (threads > 1)}"


@contextmanager
def noticing_full_memory() -> Iterator[None]:
    """MemoryError, as Python has it, for all that PyTorch says when memory was not enough."""
    try:
        yield
    except RuntimeError as error:
        if is_full(error):
            raise MemoryError from None
        raise


def is_full(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
