"""The machine card: the hardware and versions that a result was measured with. Every result includes one."""

import os
import platform
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpt_numpy.engine import numpys_blas
from gpt_numpy.workshop.train.distributed import available_cores

FREE_THREADED = "free-threaded"


def card(device: torch.device, threads: int) -> dict[str, Any]:
    return {
        "date": f"{datetime.now():%Y-%m-%d %H:%M}",
        "cpu": cpu(),
        "cores": available_cores(),
        "threads": threads,
        "memory_gb": memory(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "numpy_blas": blas(),
        "torch_blas": torch_blas(),
        "dtype": "float32",
        "python": python(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "system": f"{platform.system()} {platform.machine()}",
    }


def cpu() -> str:
    """The model name."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def python() -> str:
    """The version, and whether threads have no lock to wait for."""
    has_lock = getattr(sys, "_is_gil_enabled", lambda: True)()
    return platform.python_version() + ("" if has_lock else f" {FREE_THREADED}")


def memory() -> float | None:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    return None


def blas() -> str:
    """The BLAS of NumPy. Each thread of the engine calls it single-threaded."""
    libraries = numpys_blas().info()
    return ", ".join(f"{lib['internal_api']} {lib['version']} ({lib.get('architecture')})" for lib in libraries) or "?"


def torch_blas() -> str:
    config = torch.__config__.show()
    known = {"Math Kernel Library": "MKL", "BLAS_INFO=open": "OpenBLAS", "BLAS_INFO=accelerate": "Accelerate"}
    return ", ".join(name for marker, name in known.items() if marker in config) or "?"
