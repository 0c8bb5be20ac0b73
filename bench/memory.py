"""The peak memory of training steps: of a whole process, minus its memory after a step of a tiny model.

Each measurement is a separate process, which runs two steps and reports its peak.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from bench.result import BLUE, GREY, ORANGE, Result, Row, bars, megabytes, times
from bench.settings import EAGER, NUMPY, Settings, Stepping
from gpt_numpy.config import GPTConfig
from gpt_numpy.engine import MICRO_BATCH_TOKENS
from gpt_numpy.workshop.errors import RunFailed, UsageError


def measure(settings: Settings) -> Iterator[Result]:
    if sys.platform == "win32":
        raise UsageError("memory needs the peak memory of a process, which Windows does not report")
    rows: list[Row] = []
    B, T = settings.recipe.batch_size, settings.config.block_size
    preset = settings.preset
    sizes: dict[tuple[str, int, int], None] = dict.fromkeys(
        [(preset, max(1, B // 4), T), (preset, B, T), (preset, B, max(1, T // 2)), (preset, 2 * B, T)]
    )
    if preset == "workshop":
        sizes |= dict.fromkeys([(preset, 1, 1024), (preset, 1, 4096), (GPT_2, 1, 1024)])
    for model, batch, context in sizes:
        peaks = {name: peak(settings, name, model, batch, context) for name in (NUMPY, EAGER, IN_PIECES)}
        rows.append({
            "model": model, "batch": batch, "context": context, **peaks, "of torch's": peaks[NUMPY] / peaks[EAGER],
            "label": f"{f'{model}, ' if model != preset else ''}{batch} x {context}",
        })  # fmt: skip
        yield Result(
            "memory",
            f"peak memory of a step of the {settings.preset} model, {settings.cores} threads",
            rows,
            {
                "model": str,
                "batch": str,
                "context": str,
                NUMPY: megabytes,
                EAGER: megabytes,
                IN_PIECES: megabytes,
                "of torch's": times,
            },
            [
                "Of a whole process, minus its memory after a step of a tiny model.",
                "gpt_numpy always splits a batch into pieces; gpt_torch in pieces uses pieces of the same size.",
            ],
            bars("label", {NUMPY: BLUE, EAGER: ORANGE, IN_PIECES: GREY}, "megabytes", scale=1e-6),
            done=len(rows) / len(sizes),
        )


IN_PIECES = "gpt_torch in pieces"
GPT_2 = "GPT-2 124M"
LARGE = GPTConfig(vocab_size=50_257, n_layer=12, n_head=12, n_embd=768)


def peak(settings: Settings, engine: str, model: str, rows: int, context: int) -> int:
    """In bytes."""
    asked = {"engine": engine, "model": model, "context": context}
    request = json.dumps({**asdict(replace(settings, batch_size=rows)), **asked})
    process = subprocess.run(
        [sys.executable, "-m", "bench.memory", request],
        capture_output=True, text=True, encoding="utf-8", cwd=Path(__file__).parent.parent, check=False,
    )  # fmt: skip
    if process.returncode:
        raise RunFailed(f"a step of {engine} with batch {rows} failed: {(process.stderr.splitlines() or ['?'])[-1]}")
    return int(process.stdout)


def main(request: str) -> None:
    """Runs in the separate process."""
    values = json.loads(request)
    engine, model, context = values.pop("engine"), values.pop("model"), values.pop("context")
    settings = Settings(**values)
    config = replace(LARGE if model == GPT_2 else settings.config, block_size=context)
    make_engine = settings.numpy_engine if engine == NUMPY else settings.torch_engine
    tiny = replace(config, block_size=8, n_layer=1, n_embd=config.n_head)
    Stepping(make_engine(tiny, batch_size=1))()  # triggers all lazy initialisation
    before = peak_so_far(reset=True)
    at_once = max(1, MICRO_BATCH_TOKENS // context) * settings.cores if engine == IN_PIECES else 0
    stepping = Stepping(make_engine(config, micro_batch=at_once))
    stepping()
    stepping()
    print(peak_so_far() - before)


def peak_so_far(reset: bool = False) -> int:
    """The peak memory of this process in bytes; on Linux, `reset` first lowers it to the current use."""
    if sys.platform == "linux":
        if reset:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    main(sys.argv[1])
