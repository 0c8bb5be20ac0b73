"""The benchmarks: they time what they claim to, in turns, and only subjects that compute the same."""

import json
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch

from bench import (
    card,
    generate,
    gpu,
    memory,
    ops,
    overhead,
    peers,
    roofline,
    scaling,
    speed_tables,
    step,
    timing,
    where,
)
from bench.__main__ import BENCHMARKS, main, short
from bench.card import python, wake_up
from bench.result import BLUE, ORANGE, Result, bars, gflops
from bench.settings import COMPILED, EAGER, NUMPY, Settings, Stepping, batch
from bench.timing import Times, turns
from bench.verify import same_arrays, same_steps
from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.errors import RunFailed
from gpt_numpy.workshop.params import initial_weights
from gpt_numpy.workshop.recipes import PRESETS, Preset, Recipe
from gpt_numpy.workshop.tune.rollouts import draw_answers
from gpt_torch.engine import Engine as TorchEngine
from minitensor import tensor
from minitensor.core import OPS
from minitensor.optim import AdamW, clip_grad_norm_
from tests.support.runs import PLAY

TINY = GPTConfig(block_size=8, n_layer=1, n_head=2, n_embd=8)
QUICK = Settings(repeat=2, turn=0.001, compile=False, batch_size=3)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model so small that everything is fast."""
    monkeypatch.setitem(PRESETS, "laptop", Preset("", TINY, PRESETS["laptop"].recipe))


def last(results: Iterator[Result]) -> Result:
    *_, result = results
    return result


# ---- turns ------------------------------------------------------------------------------------------------------


class Clock:
    """Simulated time that passes only during work and sleep, and a log of both."""

    def __init__(self) -> None:
        self.now, self.log = 0.0, list[str]()

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.log.append("rest")

    def work(self, name: str, *seconds: float) -> Any:
        """A function that takes these times at its first calls, and the last of them from then on."""
        left = list(seconds)

        def call() -> None:
            self.now += left.pop(0) if len(left) > 1 else left[0]
            self.log.append(name)

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def test_subjects_alternate_after_a_rest_and_first_calls_are_not_timed(clock: Clock) -> None:
    subjects = {"a": clock.work("a", 99.0, 2.0), "b": clock.work("b", 50.0, 1.0)}
    *_, found = turns(subjects, repeat=2, least=2.0)
    assert found == {"a": Times([2.0, 2.0]), "b": Times([1.0, 1.0])}
    assert clock.log[-10:] == ["rest", "a", "rest", "b", "b"] * 2


def test_ratio_is_median_over_turns() -> None:
    a, b = Times([1.0, 20.0, 3.0]), Times([2.0, 10.0, 3.0])
    assert a.over(b) == 1.0  # of 0.5, 2 and 1; the medians alone, 3 and 3, would hide that
    assert a.over(Times([4.0, 80.0, 12.0])) == 0.25
    assert a.median == 3.0
    assert Times([1.0, 2.0, 3.0, 4.0, 5.0]).spread == pytest.approx(2 / 3)


# ---- equal results ----------------------------------------------------------------------------------------------


def test_differing_steps_are_not_timed(tiny: None) -> None:
    ours, theirs = (Stepping(make()) for make in (QUICK.numpy_engine, QUICK.torch_engine))
    same_steps({NUMPY: ours, EAGER: theirs})
    theirs.batches = [batch(TINY, 3, seed=9)]
    with pytest.raises(RunFailed, match="step 1 of gpt_torch and of gpt_numpy differ"):
        same_steps({NUMPY: ours, EAGER: theirs})


@pytest.mark.parametrize("wrong", [[1.0, 1.0, 1.001], [1.0] * 4, [1.0, 1.0, np.nan]])
def test_differing_arrays_are_refused(wrong: list[float]) -> None:
    same_arrays("y", np.ones(3) * (1 + 1e-6), np.ones(3))
    with pytest.raises(RunFailed, match="y differs"):
        same_arrays("y", np.array(wrong), np.ones(3))


def test_wrong_operation_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = next(subject for subject in ops.SUBJECTS if subject.op == "exp")
    assert ops.compared(subject, QUICK)["forward"] > 0
    monkeypatch.setattr(OPS["exp"], "backward", lambda dy, y: (dy * y * 1.01,))
    with pytest.raises(RunFailed, match="exp differs from torch's"):
        ops.compared(subject, QUICK)


def test_operation_wrong_only_at_measured_size_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, right = next(subject for subject in ops.SUBJECTS if subject.op == "exp"), OPS["exp"].forward

    def wrong_if_large(x: Any) -> Any:
        y, saved = right(x)
        return y * (1.001 if x.size > 1000 else 1.0), saved

    monkeypatch.setattr(OPS["exp"], "forward", wrong_if_large)
    with pytest.raises(RunFailed, match="exp differs from torch's by"):
        ops.compared(subject, QUICK)


def test_model_for_peers_matches_the_engine() -> None:
    config = replace(TINY, gelu="tanh", n_layer=2)
    weights, some = initial_weights(config, seed=0), batch(config, 3)
    expected = QUICK.numpy_engine(config).loss(some)
    assert peers.gpt_loss(np, weights, *some.ids_and_targets(), config) == pytest.approx(expected, rel=1e-5)


def test_update_for_peers_is_clipping_and_adamw() -> None:
    recipe, rng = Recipe(grad_clip=0.5, weight_decay=0.1), np.random.default_rng(0)
    w = {"matrix": rng.standard_normal((3, 4)), "bias": rng.standard_normal(4)}
    zeros = {name: np.zeros_like(value) for name, value in w.items()}
    ours = {name: tensor(value, requires_grad=True) for name, value in w.items()}
    optimizer = AdamW(
        [{"params": [ours["matrix"]], "weight_decay": 0.1}, {"params": [ours["bias"]], "weight_decay": 0.0}]
    )
    state: peers.State = (w, zeros, zeros)
    for number in (1, 2, 3):
        gradients: peers.Values = {name: rng.standard_normal(value.shape) for name, value in w.items()}
        norm, state = peers.updated(np, state, gradients, recipe, number, lr=1e-3)
        for name, p in ours.items():
            p.grad = tensor(gradients[name])
        assert norm == pytest.approx(clip_grad_norm_(ours.values(), 0.5).item())
        optimizer.step()
    for name, p in ours.items():
        np.testing.assert_allclose(state[0][name], p.detach().numpy(), rtol=1e-7)
        kept = optimizer.state[p]  # AdamW's step hardly depends on the size of its gradients, its moments do
        np.testing.assert_allclose(state[1][name], kept["exp_avg"], rtol=1e-6)
        np.testing.assert_allclose(state[2][name], kept["exp_avg_sq"], rtol=1e-6)


def test_differing_text_is_not_timed(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    other = QUICK.torch_engine(TINY)
    other.load({name: -weight for name, weight in initial_weights(TINY, seed=0).items()}, {}, 0)
    monkeypatch.setattr(Settings, "torch_engine", lambda self: other)
    with pytest.raises(RunFailed, match="same text"):
        last(generate.measure(QUICK))


def test_text_differing_only_at_the_end_is_not_timed(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def generated(engine: Any, prompt: Any, length: int, *how: Any, seed: int) -> list[int]:
        at_end = 2 if type(engine) is TorchEngine else 1
        return [1] * (length - 1) + [at_end if length == 4 else 1]

    monkeypatch.setattr(generate, "generate", generated)
    with pytest.raises(RunFailed, match="same text"):
        last(generate.measure(QUICK))


# ---- the roofline -----------------------------------------------------------------------------------------------


def test_sentence_names_the_faster_blas() -> None:
    second = roofline.flops(QUICK) / 1e11  # at 100 GFLOP/s
    slow, fast = (Times([second * n for n in turns]) for turns in ([2, 20, 3], [1, 10, 2]))  # turn by turn 2, 2 and 1.5
    assert roofline.faster_blas(QUICK, {roofline.NUMPYS: fast, roofline.TORCHS: slow}) == (
        "NumPy's BLAS multiplies matrices at 50 GFLOP/s on this machine, torch's at 33 GFLOP/s: "
        "NumPy's is 2.00 times as fast."
    )
    assert roofline.faster_blas(QUICK, {roofline.NUMPYS: slow, roofline.TORCHS: fast}) == (
        "NumPy's BLAS multiplies matrices at 33 GFLOP/s on this machine, torch's at 50 GFLOP/s: "
        "torch's is 2.00 times as fast."
    )


# ---- ratios -----------------------------------------------------------------------------------------------------


def twice_as_slow(subjects: dict[str, Any], repeat: int, least: float) -> Iterator[dict[str, Times]]:
    """Everything takes 2 seconds, except gpt_numpy: 1."""
    ours = (NUMPY, *(f"{NUMPY}, {way}" for way in (generate.CACHED, generate.EIGHT, generate.ANEW)), "f", "b")
    for turn in range(1, repeat + 1):
        yield {name: Times([1.0 if name in ours else 2.0] * turn) for name in subjects}


def test_ratios_of_time_and_speed_have_the_right_direction(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (step, generate, ops):
        monkeypatch.setattr(module, "turns", twice_as_slow)
    speed, result = gflops(roofline.flops(QUICK) / 2.0), last(step.measure(QUICK))
    assert result.rows[0]["of torch's time"] == 0.5
    assert result.lines == [
        "gpt_numpy takes 0.50 times as long as gpt_torch (turn by turn 0.50 to 0.50, 2 turns).",
        f"NumPy's BLAS multiplies matrices at {speed} on this machine, torch's at {speed}: both are equally fast.",
    ]
    assert [row["of torch's speed"] for row in last(generate.measure(QUICK)).rows] == [2.0, 1.0] * 3
    row = ops.compared(ops.SUBJECTS[-1], QUICK)
    assert (row["forward / torch's"], row["backward / torch's"]) == (0.5, 0.5)


def test_failed_compilation_is_not_listed_as_compiled(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "turns", twice_as_slow)
    real = Settings.torch_engine
    monkeypatch.setattr(Settings, "torch_engine", lambda self, compiled=False: real(self))
    names = [row["subject"] for row in last(step.measure(replace(QUICK, compile=True))).rows]
    assert names[:2] == [NUMPY, EAGER]
    assert COMPILED not in names


# ---- results of the benchmarks ----------------------------------------------------------------------------------


def test_step(tiny: None) -> None:
    result = last(step.measure(QUICK))
    ours, torchs, roof, torchs_roof = result.rows
    assert (ours["subject"], torchs["subject"]) == (NUMPY, EAGER)
    assert ours["characters/s"] == pytest.approx(3 * 8 / ours["time"])
    assert 0 < ours["of the roofline"] < 1
    assert roof["speed"] > ours["speed"]
    assert torchs_roof["speed"] > torchs["speed"]
    assert all(len(row["seconds"]) == 2 for row in result.rows)


def test_generate(tiny: None) -> None:
    result = last(generate.measure(QUICK))
    assert [(row["subject"], row["way"]) for row in result.rows] == [
        (name, way) for way in (generate.CACHED, generate.EIGHT, generate.ANEW) for name in (NUMPY, EAGER)
    ]


def test_characters_of_all_texts_count(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same time eight texts of 4 characters are eight times as many as one."""
    monkeypatch.setattr(generate, "turns", twice_as_slow)
    speeds = {row["way"]: row["characters/s"] for row in last(generate.measure(QUICK)).rows if row["subject"] == NUMPY}
    assert speeds == {generate.CACHED: 4.0, generate.EIGHT: 32.0, generate.ANEW: 2.0}


def test_differing_eighth_text_is_not_timed(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(engine: Any, *others: Any, **how: Any) -> Any:
        answers = draw_answers(engine, *others, **how)
        answers.targets[-1, -1] += type(engine) is TorchEngine
        return answers

    monkeypatch.setattr(generate, "draw_answers", drawn)
    with pytest.raises(RunFailed, match="same text"):
        last(generate.measure(QUICK))


def test_where_accounts_for_all_time(tiny: None) -> None:
    forwards = {name: op.forward for name, op in OPS.items()}
    result = last(where.measure(QUICK))
    assert sum(row["share"] for row in result.rows) == pytest.approx(1.0)
    by_name = {row["operation"]: row for row in result.rows}
    engines = min(QUICK.cores, 3)  # threads that have a sequence
    assert by_name["linear"]["calls"] == 2 * engines * 4 * TINY.n_layer
    assert by_name["linear_cross_entropy"]["calls"] == 2 * engines
    assert by_name["engine and waiting"]["share"] > 0
    assert {name: op.forward for name, op in OPS.items()} == forwards  # the clocks are gone


@pytest.mark.slow("memory, in new processes")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell the peak of a process")
def test_memory_grows_with_the_batch() -> None:
    few, many = (memory.peak(Settings(), NUMPY, "laptop", rows, 64) for rows in (4, 32))
    assert 1e6 < few < many < 1e9


def test_scaling(tiny: None) -> None:
    result = last(scaling.measure(replace(QUICK, threads=2)))
    assert [row["varied"] for row in result.rows if row["exponent"] is not None] == list(scaling.EXPECTED)
    assert [row["size"] for row in result.rows if row["varied"] == "context"] == [2, 4, 8]
    assert scaling.slope([2, 4, 8], [3.0, 12.0, 48.0]) == pytest.approx(2.0)


def test_overhead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "ROUNDS", 1)
    assert [row["operation"] for row in last(overhead.measure(QUICK)).rows] == [s.op for s in overhead.SUBJECTS]


# ---- the command ------------------------------------------------------------------------------------------------


def test_figures_are_written_with_machine_info(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, picture = tmp_path / "figures.json", tmp_path / "picture.png"
    arguments = ["where", "--repeat", "1", "--json", str(figures), "--plot", str(picture)]
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    assert main() == 0
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert {"cpu", "cores", "threads", "numpy_blas", "torch_blas", "dtype", "numpy", "torch"} <= found["card"].keys()
    assert found["results"][0]["rows"][0]["share"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "linear" in capsys.readouterr().out


@pytest.mark.parametrize(("parts", "left"), [(False, [0, 0]), (True, [0, 3000])])
def test_only_parts_of_a_whole_are_stacked_bars(parts: bool, left: list[float]) -> None:
    from matplotlib.figure import Figure  # slow to import

    axes = Figure().subplots()
    bars("name", {"a": BLUE, "b": ORANGE}, "ms", scale=1e3, parts=parts)(axes, [{"name": "x", "a": 3.0, "b": 2.0}])
    drawn: Any = axes.patches
    assert [bar.get_x() for bar in drawn] == left
    assert [bar.get_width() for bar in drawn] == [3000, 2000]
    assert (drawn[0].get_y() == drawn[1].get_y()) == parts


def test_all_benchmarks_run_by_default() -> None:
    assert {name for name, _ in short(Settings())} == set(BENCHMARKS) - {"page", "gpu", "kernels"}


# ---- ten minutes on a GPU ---------------------------------------------------------------------------------------


IGNORING = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
SAVING = """
import time
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("saved")
"""
STAGES = {
    "good": gpu.Stage("good", 20, ["-c", """print('{"found": "much", "number": 3}')"""], gpu.said),
    "bad": gpu.Stage("bad", 20, ["-c", "raise SystemExit('no card')"], gpu.said),
    "hangs": gpu.Stage("hangs", 2, ["-c", IGNORING], gpu.last_line),
    "saves": gpu.Stage("saves", 2, ["-c", SAVING], gpu.last_line),
    "late": gpu.Stage("late", 20, ["-c", "print(1)"], gpu.last_line),
}


@pytest.mark.slow("new processes that load PyTorch")
def test_failed_stage_does_not_affect_other_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "FINISHING", 1.0)
    began = time.monotonic()
    rows = [gpu.run(stage, tmp_path, 4.0 if name == "late" else 60.0, "cpu") for name, stage in STAGES.items()]
    assert time.monotonic() - began < 20
    found = [(row["outcome"], row["found"], row["figures"]) for row in rows]
    assert found == [
        ("done", "much", {"number": 3}),
        ("failed: no card", "nothing (IndexError)", {}),
        ("stopped after 2.0 s", "1", {}),
        ("stopped after 2.0 s", "saved", {}),
        ("no time was left", "", {}),
    ]


@pytest.mark.slow("new processes that load PyTorch")
def test_training_is_reported_with_budget_and_sample(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also for a training that was stopped. Runs the whole command, without its long stages."""
    monkeypatch.chdir(tmp_path)
    Path("play.txt").write_text(PLAY, encoding="utf-8")
    train, profile = (
        next(stage for stage in gpu.stages(Settings(trial=True, data="play.txt")) if stage.name.startswith(name))
        for name in ("sprint", "profile")
    )
    monkeypatch.setattr(gpu, "stages", lambda settings: [train, profile])
    assert main_with("gpu", "--trial", "--json", "found.json") == 0
    rows = json.loads(Path("found.json").read_text(encoding="utf-8"))["results"][0]["rows"]
    assert [row["outcome"] for row in rows] == ["done", "done"]
    assert rows[0]["found"].startswith(f"val {rows[0]['figures']['val_loss']:.4f} at step 20 of 20; start ")
    assert rows[0]["figures"]["budget"]["other steps"] > 0
    assert rows[1]["figures"]["milliseconds"] > 0
    out = capsys.readouterr().out
    assert "sprint-1337 writes:" in out
    assert rows[0]["figures"]["sample"].strip("\n") in out


def main_with(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bench", *arguments])
        return main()


def test_missing_gpu_is_reported(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.__main__.find_device", lambda name: torch.device("cpu"))
    assert main_with("gpu") == 2
    assert capsys.readouterr().err.startswith("bench: no GPU was found; --trial tries the command")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["steps"], "'steps' is not one of step, ops"),
        (["step", "--repeat", "0"], "--repeat is a whole number of at least 1, not 0"),
        (["step", "--turn", "0"], "--turn is a number above 0"),
        (["step", "--presett", "laptop"], "did you mean --preset?"),
        (["step", "--plot", "picture.gif"], ".png, .svg or .pdf"),
        (["step", "--json", "no/such/folder/x.json"], "x.json cannot be written: No such file"),
        (["step", "--json", "."], ". cannot be written"),
        (["--repeat", "3", "step"], "step is not known"),
        (["memory", "--device", "cuda"], "--device is not known"),
        (["overhead", "--preset", "laptop"], "--preset is not known"),
    ],
)
def test_usage_error_is_one_line(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    assert main() == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_help_names_all_benchmarks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--help"])
    assert main() == 0
    page = capsys.readouterr().out
    assert all(f"  {name} " in page for name in BENCHMARKS)
    assert "--preset" in page


@pytest.mark.parametrize(("has_lock", "said"), [(True, ""), (False, " free-threaded")])
def test_card_says_whether_threads_wait_for_python(has_lock: bool, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: has_lock, raising=False)
    assert python() == platform.python_version() + said


def test_card_says_how_fast_a_thread_wakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of one way there or back."""

    class Slow(SimpleQueue[bool]):
        def put(self, item: bool, block: bool = True, timeout: float | None = None) -> None:
            time.sleep(0.02)
            super().put(item)

    assert 1e-7 < wake_up() < 0.02
    monkeypatch.setattr(card, "SimpleQueue", Slow)
    assert 0.02 <= wake_up(turns=3) < 0.038


# ---- the tables in the READMEs ----------------------------------------------------------------------------------


def test_readmes_have_the_speeds_of_the_records() -> None:
    """python -m bench.speed_tables has been run, and every record that is listed is there."""
    for name in speed_tables.PAGES:
        page = (speed_tables.ROOT / name).read_text(encoding="utf-8")
        assert page.count("<!-- speeds of ") == page.count("<!-- end -->") > 0
        assert speed_tables.filled(page) == page


def test_speed_tables_replace_what_a_table_says() -> None:
    page = "before\n<!-- speeds of steps -->\n| old |\n<!-- end -->\nafter\n"
    filled = speed_tables.filled(page)
    assert "old" not in filled
    assert filled.startswith("before\n<!-- speeds of steps -->\n| step, ")
    assert filled.count(" free-threaded, PyTorch ") == 1
    assert filled.endswith("|\n<!-- end -->\nafter\n")
    assert len(filled.splitlines()) == 4 + 2 + 7  # what surrounds it, its head, and seven steps in six records
    assert speed_tables.filled(filled) == filled
