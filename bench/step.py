"""One training step: forward, backward, clipping, AdamW; the same weights, batches and cores for all.

The roofline is this machine's speed of matrix multiplication, measured in the same turns: for gpt_numpy with NumPy's
BLAS, single-threaded in each of the engine's threads, for gpt_torch with torch's. The FLOP of a step follow the usual
convention, which counts attention without a mask; neither engine computes all of them.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from bench.result import BLUE, Result, Row, bars, gflops, milliseconds, percent, times, whole
from bench.settings import COMPILED, EAGER, NUMPY, Settings, Stepping
from bench.timing import Times, Work, turns
from bench.verify import same_steps
from gpt_numpy.workshop.params import flops_per_token
from gpt_torch.device import find_device
from gpt_torch.transfer import wait_for

SIDE = 1024  # of the roofline's matrices: large enough for any BLAS to reach its full speed


def measure(settings: Settings) -> Iterator[Result]:
    steps = {
        NUMPY: Stepping(settings.numpy_engine()),
        EAGER: Stepping(settings.torch_engine()),
    }
    if settings.compile:
        compiled = settings.torch_engine(compiled=True)
        steps[COMPILED] = Stepping(compiled)
    same_steps(steps)
    if settings.compile and not compiled.compiled:  # the engine has reported why
        del steps[COMPILED]
    for count, timings in enumerate(turns({**steps, **rooflines(settings)}, settings.repeat, settings.turn), 1):
        yield result(settings, timings, done=count / settings.repeat)


def rooflines(settings: Settings) -> dict[str, Work]:
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

    return {"matrix products, NumPy": numpys, "matrix products, torch": torchs}


def faster_blas(numpys: Times, torchs: Times) -> str:
    """Whose BLAS gives an engine an advantage on this machine, by the roofline."""
    ratio, faster, slower = torchs.over(numpys), "NumPy's", "torch's"
    if ratio < 1.0:
        ratio, faster, slower = numpys.over(torchs), slower, faster
    if ratio < 1.01:
        return "NumPy's BLAS and torch's multiply matrices equally fast on this machine."
    return f"{faster} BLAS is the faster on this machine: it multiplies matrices {ratio:.2f} times as fast as {slower}."


def result(settings: Settings, timings: dict[str, Times], done: float) -> Result:
    tokens = settings.recipe.batch_size * settings.config.block_size
    flops, product = tokens * flops_per_token(settings.config), 2 * settings.cores * SIDE**3
    rows: list[Row] = []
    for name, timing in timings.items():
        is_step = name in (NUMPY, EAGER, COMPILED)
        roofline = timings["matrix products, NumPy" if name == NUMPY else "matrix products, torch"]
        rate = (flops if is_step else product) / timing.median
        rows.append({
            "subject": name, "time": timing.median, "spread": timing.spread,
            "of torch's time": timing.over(timings[EAGER]) if is_step else None,
            "characters/s": tokens / timing.median if is_step else None,
            "speed": rate, "of the roofline": flops / product * roofline.over(timing) if is_step else None,
            "seconds": timing.seconds,
        })  # fmt: skip
    lines = []
    for other in (EAGER, COMPILED):
        if other in timings:
            ratios = [a / b for a, b in zip(timings[NUMPY].seconds, timings[other].seconds, strict=True)]
            lines.append(
                f"gpt_numpy takes {timings[NUMPY].over(timings[other]):.2f} times as long as {other} "
                f"(turn by turn {min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} turns)."
            )
    if settings.device == "cpu":
        lines.append(faster_blas(timings["matrix products, NumPy"], timings["matrix products, torch"]))
    config = settings.config
    return Result(
        "step",
        f"a training step: {config.n_layer} layers, {config.n_head} heads, {config.n_embd} channels, context "
        f"{config.block_size}, batch {settings.recipe.batch_size}, {settings.cores} threads",
        rows,
        {"subject": str, "time": milliseconds, "spread": percent, "of torch's time": times, "characters/s": whole,
         "speed": gflops, "of the roofline": percent},
        lines,
        lambda axes, rows: bars("subject", {"time": BLUE}, "milliseconds for a step", scale=1e3)(
            axes, [row for row in rows if row["of torch's time"]]
        ),
        done,
    )  # fmt: skip
