"""The roofline: how fast this machine multiplies matrices, with NumPy's BLAS and with torch's.

An engine is measured against its own. NumPy's products run single-threaded in each of so many threads, as in a training
step of gpt_numpy, torch's on all threads at once.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from bench.result import gflops
from bench.settings import EAGER, NUMPY, Settings
from bench.timing import Times, Work
from gpt_torch.device import find_device
from gpt_torch.transfer import wait_for

SIDE = 1024  # of the matrices: large enough for any BLAS to reach its full speed
NUMPYS, TORCHS = "matrix products, NumPy", "matrix products, torch"


def products(settings: Settings) -> dict[str, Work]:
    """Products of square matrices on all threads: NumPy's as one product per thread, torch's as one in all."""
    pool, device = ThreadPoolExecutor(settings.cores), find_device(settings.device)
    a, b, c = (np.ones((settings.cores, SIDE, SIDE), np.float32) for _ in range(3))
    x, y = torch.ones(settings.cores * SIDE, SIDE, device=device), torch.ones(SIDE, SIDE, device=device)
    z = torch.empty_like(x)

    def numpys() -> None:
        list(pool.map(lambda i: np.matmul(a[i], b[i], out=c[i]), range(settings.cores)))

    def torchs() -> None:
        torch.matmul(x, y, out=z)
        wait_for(device)

    return {NUMPYS: numpys, TORCHS: torchs}


def flops(settings: Settings) -> int:
    """Of one of these works."""
    return 2 * settings.cores * SIDE**3


def of_engine(timings: Mapping[str, Times], engine: str) -> Times:
    return timings[NUMPYS if engine == NUMPY else TORCHS]


def speed(settings: Settings, timings: Mapping[str, Times], engine: str) -> float:
    """Of the products of its BLAS, in FLOP/s."""
    return flops(settings) / of_engine(timings, engine).median


def faster_blas(settings: Settings, timings: Mapping[str, Times]) -> str:
    """Whose BLAS gives an engine an advantage on this machine."""
    numpys, torchs = (gflops(speed(settings, timings, engine)) for engine in (NUMPY, EAGER))
    ratio, faster = timings[TORCHS].over(timings[NUMPYS]), "NumPy's"
    if ratio < 1.0:
        ratio, faster = timings[NUMPYS].over(timings[TORCHS]), "torch's"
    compared = "both are equally fast" if ratio < 1.01 else f"{faster} is {ratio:.2f} times as fast"
    return f"NumPy's BLAS multiplies matrices at {numpys} on this machine, torch's at {torchs}: {compared}."
