"""The machine card: the hardware and versions that a result was measured with. Every result includes one."""

import os
import platform
import statistics
import sys
import time
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
import torch

from gpt_numpy.engine import numpys_blas
from gpt_numpy.workshop.cores import available_cores

FREE_THREADED = "free-threaded"
ASLEEP = 5e-4  # seconds after which a core has nothing to do


def card(device: torch.device, threads: int) -> dict[str, Any]:
    return {
        "date": f"{datetime.now():%Y-%m-%d %H:%M}",
        "cpu": cpu(),
        "cores": available_cores(),
        "threads": threads,
        "thread_wakes_in": f"{1e6 * wake_up():.0f} µs",
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
    """The version, and whether it has no GIL."""
    has_lock = getattr(sys, "_is_gil_enabled", lambda: True)()
    return platform.python_version() + ("" if has_lock else f" {FREE_THREADED}")


def wake_up(turns: int = 300) -> float:
    """Seconds from waking a sleeping thread until it runs; threads that wait for the GIL sleep."""
    there, back = SimpleQueue[bool](), SimpleQueue[bool]()

    def answer() -> None:
        while there.get():
            back.put(True)

    thread = Thread(target=answer)
    thread.start()
    both_ways = []
    for _ in range(turns):
        time.sleep(ASLEEP)
        start = time.perf_counter()
        there.put(True)
        back.get()
        both_ways.append(time.perf_counter() - start)
    there.put(False)
    thread.join()
    return statistics.median(both_ways) / 2


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
