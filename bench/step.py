"""One training step: forward, backward, clipping, AdamW; the same weights, batches and cores for all.

For each engine also the share that it reaches of its roofline (roofline.py), measured in the same turns. The FLOP of a
step follow the usual convention, which counts attention without a mask; neither engine computes all of them.
"""

from collections.abc import Iterator

from bench import roofline
from bench.result import BLUE, Result, Row, bars, gflops, milliseconds, percent, times, whole
from bench.settings import COMPILED, EAGER, NUMPY, Settings, Stepping
from bench.timing import Times, turns
from bench.verify import same_steps
from gpt_numpy.workshop.params import flops_per_token


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
    for count, timings in enumerate(turns({**steps, **roofline.products(settings)}, settings.repeat, settings.turn), 1):
        yield result(settings, timings, done=count / settings.repeat)


def result(settings: Settings, timings: dict[str, Times], done: float) -> Result:
    tokens = settings.recipe.batch_size * settings.config.block_size
    flops, product = tokens * flops_per_token(settings.config), roofline.flops(settings)
    rows: list[Row] = []
    for name, timing in timings.items():
        is_step = name in (NUMPY, EAGER, COMPILED)
        own = roofline.of_engine(timings, name)
        rate = (flops if is_step else product) / timing.median
        rows.append({
            "subject": name, "time": timing.median, "spread": timing.spread,
            "of torch's time": timing.over(timings[EAGER]) if is_step else None,
            "characters/s": tokens / timing.median if is_step else None,
            "speed": rate, "of the roofline": flops / product * own.over(timing) if is_step else None,
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
        lines.append(roofline.faster_blas(settings, timings))
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
