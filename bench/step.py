"""One training step: forward, backward, clipping, AdamW; the same weights, batches and cores for all.

The roofline is the speed at which this machine multiplies matrices, measured in the same turns: for gpt_numpy with
NumPy's BLAS, one thread of it in each of the engine's threads, for gpt_torch with torch's. A step's FLOP are counted as
is the custom, as if attention masked nothing; neither engine computes all of that.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from bench.result import BLUE, Result, Row, bars, gflops, milliseconds, percent, times, whole
from bench.settings import COMPILED, EAGER, NUMPY, Settings, Stepping, wait_for
from bench.timing import Times, Work, turns
from bench.verify import same_steps
from gpt_numpy.workshop.params import flops_per_token
from gpt_torch.device import find_device

SIDE = 1024  # of the matrices of the roofline: large enough for any BLAS to be at its best


def measure(settings: Settings) -> Iterator[Result]:
    steps = {
        NUMPY: Stepping(settings.numpy_engine()),
        EAGER: Stepping(settings.torch_engine()),
    }
    if settings.compile:
        compiled = settings.torch_engine(compiled=True)
        steps[COMPILED] = Stepping(compiled)
    same_steps(steps)
    if settings.compile and not compiled.compiled:  # it has said why
        del steps[COMPILED]
    for count, found in enumerate(turns({**steps, **rooflines(settings)}, settings.repeat, settings.turn), 1):
        yield result(settings, found, done=count / settings.repeat)


def rooflines(settings: Settings) -> dict[str, Work]:
    """Products of square matrices, for all threads together; NumPy's in as many pieces as there are threads."""
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


def result(settings: Settings, found: dict[str, Times], done: float) -> Result:
    tokens = settings.recipe.batch_size * settings.config.block_size
    flops, product = tokens * flops_per_token(settings.config), 2 * settings.cores * SIDE**3
    rows: list[Row] = []
    for name, taken in found.items():
        is_step = name in (NUMPY, EAGER, COMPILED)
        roofline = found["matrix products, NumPy" if name == NUMPY else "matrix products, torch"]
        rate = (flops if is_step else product) / taken.median
        rows.append({
            "subject": name, "time": taken.median, "spread": taken.spread,
            "of torch's time": taken.over(found[EAGER]) if is_step else None,
            "characters/s": tokens / taken.median if is_step else None,
            "speed": rate, "of the roofline": flops / product * roofline.over(taken) if is_step else None,
            "seconds": taken.seconds,
        })  # fmt: skip
    lines = []
    for other in (EAGER, COMPILED):
        if other in found:
            ratios = [a / b for a, b in zip(found[NUMPY].seconds, found[other].seconds, strict=True)]
            lines.append(
                f"gpt_numpy takes {found[NUMPY].over(found[other]):.2f} times as long as {other} "
                f"(turn by turn {min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} turns)."
            )
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
