"""The roofline: how fast this machine multiplies matrices, with NumPy's BLAS and with torch's.

An engine is measured against its own. NumPy's products run single-threaded in each of so many threads, as in a training
step of gpt_numpy, torch's on all threads at once.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from bench.result import gflops
from bench.settings import Settings
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


def faster_blas(settings: Settings, timings: Mapping[str, Times]) -> str:
    """Whose BLAS gives an engine an advantage on this machine."""
    numpys, torchs = timings[NUMPYS], timings[TORCHS]
    speeds = [gflops(flops(settings) / times.median) for times in (numpys, torchs)]
    said = f"NumPy's BLAS multiplies matrices at {speeds[0]} on this machine, torch's at {speeds[1]}: "
    ratio, faster = torchs.over(numpys), "NumPy's"
    if ratio < 1.0:
        ratio, faster = numpys.over(torchs), "torch's"
    return said + ("both are equally fast." if ratio < 1.01 else f"{faster} is {ratio:.2f} times as fast.")
