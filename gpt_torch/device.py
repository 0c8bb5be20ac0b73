"""Where the model runs, and in which numbers."""

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def find_device(name: str) -> torch.device:
    """By its name; or the fastest kind that this machine has, by "auto"."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, usable in here.items() if usable)
    if not here[name]:
        usable = " and ".join(kind for kind in here if here[kind])
        raise ValueError(f"device {name} is not here; what PyTorch {torch.__version__} finds is {usable}")
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


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU (mps)"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' * (threads > 1)}"
