"""The peak memory of training steps: of a whole process, less what it took when it had made one on a tiny model.

Each measurement is a process of its own, which makes two steps and reports the most that it ever held.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from bench.result import BLUE, GREY, ORANGE, Result, Row, bars, megabytes, times
from bench.settings import EAGER, NUMPY, Settings, Stepping
from gpt_numpy.engine import AT_ONCE
from gpt_numpy.workshop.errors import RunFailed, WrongUse


def measure(settings: Settings) -> Iterator[Result]:
    if sys.platform == "win32":
        raise WrongUse("memory asks the system for the peak of a process, which Windows does not tell it")
    rows: list[Row] = []
    B, T = settings.recipe.batch_size, settings.config.block_size
    sizes = dict.fromkeys([(max(1, B // 4), T), (B, T), (B, max(1, T // 2)), (2 * B, T)])
    for size in sizes:
        peaks = {name: peak(settings, name, *size) for name in (NUMPY, EAGER, IN_PIECES)}
        rows.append({
            "batch": size[0], "context": size[1], **peaks, "of torch's": peaks[NUMPY] / peaks[EAGER],
            "label": f"{size[0]} x {size[1]}",
        })  # fmt: skip
        yield Result(
            "memory",
            f"peak memory of a step of the {settings.preset} model, {settings.cores} threads",
            rows,
            {
                "batch": str,
                "context": str,
                NUMPY: megabytes,
                EAGER: megabytes,
                IN_PIECES: megabytes,
                "of torch's": times,
            },
            [
                "Of a whole process, less what it took for a step of a tiny model.",
                "gpt_numpy takes a batch in pieces by itself; gpt_torch in pieces takes as many sequences at once.",
            ],
            bars("label", {NUMPY: BLUE, EAGER: ORANGE, IN_PIECES: GREY}, "megabytes", scale=1e-6),
            done=len(rows) / len(sizes),
        )


IN_PIECES = "gpt_torch in pieces"


def peak(settings: Settings, engine: str, rows: int, context: int) -> int:
    """Bytes."""
    asked = json.dumps({**asdict(replace(settings, batch_size=rows)), "engine": engine, "context": context})
    done = subprocess.run(
        [sys.executable, "-m", "bench.memory", asked],
        capture_output=True, text=True, encoding="utf-8", cwd=Path(__file__).parent.parent, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RunFailed(f"a step of {engine} with batch {rows} failed: {(done.stderr.splitlines() or ['?'])[-1]}")
    return int(done.stdout)


def main(asked: str) -> None:
    """In a process of its own."""
    settings = json.loads(asked)
    engine, context = settings.pop("engine"), settings.pop("context")
    of_one = Settings(**settings)
    config = replace(of_one.config, block_size=context)
    make = of_one.numpy_engine if engine == NUMPY else of_one.torch_engine
    tiny = replace(config, block_size=8, n_layer=1, n_embd=config.n_head)
    Stepping(make(tiny, batch_size=1))()  # loads what is loaded when it is first needed
    before = most_so_far(anew=True)
    at_once = max(1, AT_ONCE // context) * of_one.cores if engine == IN_PIECES else 0
    stepping = Stepping(make(config, micro_batch=at_once))
    stepping()
    stepping()
    print(most_so_far() - before)


def most_so_far(anew: bool = False) -> int:
    """The most bytes that this process has held; on Linux, where asked, counted anew from what it holds now."""
    if sys.platform == "linux":
        if anew:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    import resource

    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return taken if sys.platform == "darwin" else 1024 * taken


if __name__ == "__main__":
    main(sys.argv[1])
