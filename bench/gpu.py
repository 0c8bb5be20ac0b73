"""A full check of a GPU that is available for ten minutes, the most important stages first.

Each stage runs in its own process with a time limit, so that one that hangs or corrupts its CUDA context does not
affect the others. A training run that was stopped still reports how far it got.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np

from bench.result import Result, Row
from bench.settings import Settings, Stepping
from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.errors import RunFailed, UsageError
from gpt_numpy.workshop.params import flops_per_token
from gpt_numpy.workshop.recipes import PRESETS, Recipe
from gpt_numpy.workshop.runs.run_dir import RunDir
from gpt_numpy.workshop.train.budget import in_words
from gpt_torch.device import find_device
from gpt_torch.engine import Engine
from gpt_torch.options import Options
from gpt_torch.selftest import self_test
from gpt_torch.transfer import wait_for

TRAIN = "import sys; from gpt_torch.cli import main; sys.exit(main())"
FINISHING = 20.0  # seconds for a training run to save and report after SIGINT


@dataclass(frozen=True)
class Stage:
    name: str
    limit: float  # seconds
    arguments: Sequence[str]  # to the Python interpreter
    found: Callable[[str, Path], Row]  # from its output and its working folder


def measure(settings: Settings) -> Iterator[Result]:
    if settings.device == "cpu" and not settings.trial:
        raise UsageError("no GPU was found; --trial tries the command on the CPU with small sizes")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # in a background job; the stages would ignore it, too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    rows: list[Row] = []
    planned, deadline = stages(settings), time.monotonic() + 60.0 * settings.minutes
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        for stage in planned:
            rows.append(run(stage, Path(folder), deadline - time.monotonic(), settings.device))
            yield Result(
                "gpu",
                f"a check of the GPU in {settings.minutes:g} minutes",
                rows,
                {"stage": str, "outcome": str, "seconds": in_words, "found": str},
                samples(rows),
                done=len(rows) / len(planned),
            )


def stages(settings: Settings) -> list[Stage]:
    """In order of importance."""
    device = ["--device", settings.device] if settings.trial else []
    small = [
        *("--n-layer", "1", "--n-head", "2", "--n-embd", "8", "--block-size", "8", "--batch-size", "4"),
        *("--steps", "20", "--eval-every", "20", "--warmup", "2", "--self-test"),
    ]  # fmt: skip
    text = Path(settings.data).resolve() if Path(settings.data).is_file() else settings.data
    data = ["--data", str(text)] if settings.data else []

    def piece(name: str, limit: float) -> Stage:
        return Stage(name, limit, ["-m", "bench.gpu", name, *["--trial"] * settings.trial], said)

    def training(preset: str, limit: float, seed: int = 1337) -> Stage:
        name = f"{preset}-{seed}"
        flags = ["--preset", preset, "--seed", str(seed), "--out", name, *data, *device, *small * settings.trial]
        return Stage(name, limit, ["-c", TRAIN, "train", *flags], lambda _, folder: training_progress(folder / name))

    def benchmark(name: str) -> Stage:
        quick = ["--repeat", "2", "--turn", "0.01"] if settings.trial else []
        preset = "laptop" if settings.trial else "workshop"
        flags = ["--device", settings.device, "--preset", preset, "--json", f"{name}.json", *quick]
        flags += ["--no-compile"] if settings.trial and name == "step" else []
        return Stage(
            name, 60, ["-m", "bench", name, *flags], lambda _, folder: benchmark_result(folder / f"{name}.json")
        )

    return [
        piece("self-test", 60),
        Stage("tests", 60, ["-m", "pytest", "-n0", "-q", "-m", "gpu", "tests/gpt_torch/test_gpu.py"], last_line),
        piece("profile", 90),
        training("sprint", 120),
        training("workshop", 180),
        training("sprint", 60, seed=1338),
        training("sprint", 60, seed=1339),
        piece("choices", 150),
        piece("exactness", 60),
        training("record", 180),
        benchmark("step"),
        benchmark("generate"),
    ]


def run(stage: Stage, folder: Path, left: float, device: str) -> Row:
    """A row of the table: the outcome, the duration, and the result in words and in numbers."""
    row: Row = {"stage": stage.name, "seconds": 0.0, "outcome": "no time was left", "found": "", "figures": {}}
    if left < 5.0:
        return row
    root, output = Path(__file__).parents[1], folder / f"{stage.name}.txt"
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONIOENCODING": "utf-8", "TEST_DEVICE": device}
    tests = stage.arguments[:2] == ["-m", "pytest"]
    start = time.monotonic()
    with output.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, *stage.arguments], cwd=root if tests else folder, env=environment, stdout=file,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        outcome = wait_or_stop(process, min(stage.limit, left))
    text = output.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    if outcome == "failed" and lines:
        outcome = f"failed: {lines[-1][:200]}"
    try:
        figures = stage.found(text, folder)
    except Exception as error:  # it ended before its result
        figures = {"found": f"nothing ({type(error).__name__})"}
    return {
        **row, "seconds": time.monotonic() - start, "outcome": outcome, "found": figures.pop("found", ""),
        "figures": figures,
    }  # fmt: skip


def wait_or_stop(process: subprocess.Popen[Any], limit: float) -> str:
    """Wait up to the limit, then send SIGINT, as Ctrl-C does, and finally SIGKILL."""
    try:
        return "done" if process.wait(limit) == 0 else "failed"
    except subprocess.TimeoutExpired:
        pass
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(FINISHING)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return f"stopped after {in_words(limit)}"


# ---- results of stages ------------------------------------------------------------------------------------------


def said(text: str, folder: Path) -> Row:
    """The last line that is a JSON object."""
    result: Row = json.loads([line for line in text.splitlines() if line.startswith("{")][-1])
    return result


def last_line(text: str, folder: Path) -> Row:
    return {"found": text.strip().splitlines()[-1].strip("= ")}


def training_progress(folder: Path) -> Row:
    """How far a training run got."""
    records = list(RunDir(folder).records())
    steps = [record for record in records if record["kind"] == "step"]
    evaluations = [record for record in records if record["kind"] == "evaluation"]
    end: Row = next((record for record in records if record["kind"] == "end"), {})
    last = evaluations[-1]
    speeds = [step["characters_per_second"] for step in steps[len(steps) // 2 :]]
    budget = ", ".join(f"{part} {in_words(seconds)}" for part, seconds in end.get("budget", {}).items())
    return {
        "found": f"val {last['val_loss']:.4f} at step {last['step']} of {len(steps)}; {budget}",
        "steps": len(steps), "val_loss": last["val_loss"], "train_loss": last["train_loss"],
        "evaluations": [[e["step"], e["train_loss"], e["val_loss"]] for e in evaluations],
        "seconds": end.get("seconds"), "seconds_in_steps": end.get("seconds_in_steps"), "budget": end.get("budget"),
        "characters_per_second": float(np.median(speeds)) if speeds else None, "sample": last["sample"],
    }  # fmt: skip


def benchmark_result(path: Path) -> Row:
    result = json.loads(path.read_text(encoding="utf-8"))["results"][0]
    return {"found": " ".join(result["lines"]), "rows": result["rows"]}


def samples(rows: Sequence[Row]) -> list[str]:
    """A sample of the best model."""
    trained = [row for row in rows if "sample" in row["figures"]]
    if not trained:
        return []
    best = min(trained, key=lambda row: float(row["figures"]["val_loss"]))
    return [f"{best['stage']} writes:", best["figures"]["sample"].strip("\n")]


# ---- stages that run as python -m bench.gpu ---------------------------------------------------------------------


def model_and_recipe(trial: bool) -> tuple[GPTConfig, Recipe]:
    preset = PRESETS["laptop" if trial else "workshop"]
    return preset.model, preset.recipe


def self_tests(trial: bool) -> Row:
    """The self-test in each precision, with each kind of attention."""
    config, _ = model_and_recipe(trial)
    found: Row = {}
    for dtype in ("bfloat16", "float16", "float32"):
        for attention in ("fused", "cudnn", "math"):
            try:
                line = self_test(config, Options(dtype=dtype, attention=attention))
            except RunFailed as error:
                line = f"FAILED: {error}"
            found[f"{dtype} {attention}"] = line
    failed = [name for name, line in found.items() if line.startswith("FAILED")]
    return {"found": f"failed: {', '.join(failed)}" if failed else f"all {len(found)} passed", **found}


def exactness(trial: bool) -> Row:
    """The largest difference between two equal training runs, and between a run and one resumed from its middle."""
    config, recipe = model_and_recipe(trial)
    found: Row = {}
    for name, options in (("as usual", Options()), ("deterministic", Options(deterministic=True))):
        first, again, resumed = (Stepping(Engine(config, recipe, options)) for _ in range(3))
        steps = 2 if trial else 20
        for _ in range(steps):
            first(), again()
        resumed.engine.load(first.engine.weights(), first.engine.optimizer_state(), steps)
        resumed.step = steps
        found[f"{name}, repeated"] = largest_difference(first, again)
        for _ in range(steps):
            first(), resumed()
        found[f"{name}, resumed"] = largest_difference(first, resumed)
    return {"found": ", ".join(f"{what}: {off:.1e}" for what, off in found.items()), **found}


def largest_difference(a: Stepping, b: Stepping) -> float:
    """Of any weight; 0 if they are equal bit for bit."""
    other = b.engine.weights()
    return max(float(np.abs(w - other[name]).max()) for name, w in a.engine.weights().items())


def profile(trial: bool) -> Row:
    """The time of a step, and how much of it is spent in kernels."""
    from torch._C._autograd import DeviceType
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    config, recipe = model_and_recipe(trial)
    engine = Engine(config, replace(recipe, steps=10_000))
    stepping, steps = Stepping(engine), 2 if trial else 300
    start = time.perf_counter()
    stepping()
    first_step = time.perf_counter() - start
    for _ in range(steps // 10):
        stepping()
    start = time.perf_counter()
    run_steps(stepping, steps)
    wall = (time.perf_counter() - start) / steps
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * (engine.device.type == "cuda")]
    with torch_profile(activities=activities) as profiler:
        run_steps(stepping, steps)
    kernels = [event for event in profiler.events() or [] if event.device_type == DeviceType.CUDA]
    busy = sum(event.time_range.elapsed_us() for event in kernels) / 1e6 / steps
    by_name: dict[str, list[float]] = {}
    for event in kernels:
        by_name.setdefault(event.name, []).append(event.time_range.elapsed_us() / 1e3 / steps)
    longest = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:25]
    rate = flops_per_token(config) * recipe.batch_size * config.block_size / wall
    share = f", {rate / engine.peak:.1%} of the peak" if engine.peak else ""
    return {
        "found": f"{1e3 * wall:.2f} ms a step, {1e3 * busy:.2f} ms in {len(kernels) / steps:.0f} kernels{share}; the "
        f"first step {in_words(first_step)}",
        "milliseconds": 1e3 * wall, "milliseconds_in_kernels": 1e3 * busy, "kernels": len(kernels) / steps,
        "flops_per_second": rate, "peak": engine.peak, "first_step_seconds": first_step, "engine": engine.describe(),
        "longest": [{"kernel": name[:120], "calls": len(ms) / steps, "milliseconds": sum(ms)} for name, ms in longest],
    }  # fmt: skip


def choices(trial: bool) -> Row:
    """The time of a step, and the losses of some, with what is off until a GPU has shown that it helps."""
    config, recipe = model_and_recipe(trial)
    steps, found = 2 if trial else 200, Row()
    low = Options(dtype="bfloat16", weights="bfloat16")
    options = {"as usual": Options(dtype="bfloat16"), "cudnn": replace(low, weights="float32", attention="cudnn")}
    options["bfloat16 weights"] = low
    if find_device("auto").type == "cuda":
        options["one graph"] = Options(dtype="bfloat16", cuda_graph=True)
        options["all"] = replace(low, attention="cudnn", cuda_graph=True)
    for choice, of_engine in options.items():
        stepping = Stepping(Engine(config, replace(recipe, steps=10_000), of_engine))
        losses = [float(loss) for loss in run_steps(stepping, 1 + steps // 10)]
        start = time.perf_counter()
        late = run_steps(stepping, steps)
        milliseconds = 1e3 * (time.perf_counter() - start) / steps
        losses += [float(loss) for loss in late[-100:]]
        found[choice] = {"milliseconds": milliseconds, "losses": losses, "engine": stepping.engine.describe()}
    described = (f"{name} {row['milliseconds']:.2f} ms, loss {row['losses'][-1]:.4f}" for name, row in found.items())
    return {"found": "; ".join(described), **found}


def run_steps(stepping: Stepping, steps: int) -> list[SupportsFloat]:
    """Without waiting for the result of each step, as in training; the losses."""
    losses = []
    for _ in range(steps):
        losses.append(stepping.engine.train_step(stepping.next_batch(), stepping.step).loss)
        stepping.step += 1
    wait_for(find_device("auto"))
    return losses


PIECES = {"self-test": self_tests, "exactness": exactness, "profile": profile, "choices": choices}

if __name__ == "__main__":
    print(json.dumps(PIECES[sys.argv[1]]("--trial" in sys.argv)))
