"""Where the model runs."""

import torch


def find_device(name: str) -> torch.device:
    """By its name; or the fastest kind that this machine has, by "auto"."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, usable in here.items() if usable)
    if not here[name]:
        usable = " and ".join(kind for kind in here if here[kind])
        raise ValueError(f"device {name} is not here; what PyTorch {torch.__version__} finds is {usable}")
    return torch.device(name)


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU (mps)"
    return f"CPU, {torch.get_num_threads()} threads"
