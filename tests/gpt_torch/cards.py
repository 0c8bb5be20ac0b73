"""Simulates GPUs that this machine does not have."""

import pytest
import torch

USUAL_BUILD = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


def cards(
    patch: pytest.MonkeyPatch, *names: str, capability: tuple[int, int] = (9, 0), build: list[str] = USUAL_BUILD
) -> None:
    """Patches PyTorch so that it finds these GPUs."""
    patch.setattr(torch.cuda, "is_available", lambda: bool(names))
    patch.setattr(torch.cuda, "device_count", lambda: len(names))
    patch.setattr(torch.cuda, "get_device_name", lambda which=0: names[getattr(which, "index", which) or 0])
    patch.setattr(torch.cuda, "get_device_capability", lambda which=0: capability)
    patch.setattr(torch.cuda, "get_arch_list", lambda: build)
