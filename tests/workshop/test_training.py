"""A run from its first step to its last: its files, exact resumption, and how it ends."""

import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpt_numpy import engine as engine_module
from gpt_numpy.cli import CLI, NumpyCLI
from gpt_numpy.engine import Engine
from gpt_numpy.workshop.cli.engine_cli import EngineCLI
from gpt_numpy.workshop.cli.main import run
from gpt_numpy.workshop.engine import Batch, StepResult
from gpt_numpy.workshop.optim import settings_at
from gpt_numpy.workshop.recipes import PRESETS, Recipe
from gpt_numpy.workshop.runs import checkpoint, run_dir
from gpt_numpy.workshop.runs.checkpoint import Checkpoint, load_checkpoint
from gpt_numpy.workshop.runs.run_dir import RunDir, find_run_dir, new_run_dir
from gpt_numpy.workshop.runs.saver import Saver
from gpt_numpy.workshop.train import signals, task, trainer
from gpt_numpy.workshop.train.budget import TimeBudget
from gpt_numpy.workshop.train.distributed import Processes
from gpt_numpy.workshop.train.evaluate import EvalProgress, evaluate
from gpt_torch.cli import CLI as IN_TORCH
from minitensor import OPS
from tests.support.engines import batch_of
from tests.support.runs import (
    BEST_FILES,
    FILES,
    MODEL,
    PLAY,
    Train,
    Trained,
    assert_same_run,
    latest,
    records,
    wait_for_checkpoints,
)

# ---- files and records ------------------------------------------------------------------------------------------


def test_run_folder_contains_expected_files(train: Train) -> None:
    assert train("a") == 0
    files = sorted(path.relative_to("a").as_posix() for path in Path("a").rglob("*") if path.is_file())
    checkpoints = [f"checkpoints/best/{name}" for name in sorted(BEST_FILES)]
    checkpoints += [f"checkpoints/latest/{name}" for name in sorted(FILES)]
    assert files == [
        ".minitensor.lock",
        *checkpoints,
        "config.json",
        "loss.svg",
        "metrics.jsonl",
        "recipe.toml",
        "report.html",
    ]
    assert [record["step"] for record in records("a", "step")] == list(range(1, 21))
    assert [record["step"] for record in records("a", "evaluation")] == [0, 5, 10, 15, 20]


def test_best_checkpoint_has_lowest_validation_loss(train: Train) -> None:
    train("a", "--lr", "5", "--grad-clip", "0")  # so high that not every evaluation improves
    evaluations = records("a", "evaluation")
    best = min(evaluations, key=lambda record: float(record["val_loss"]))
    assert best["step"] < 20
    assert [e["best"] for e in evaluations] == [
        e["val_loss"] < min([float("inf"), *(before["val_loss"] for before in evaluations[:i])])
        for i, e in enumerate(evaluations)
    ]
    state = RunDir(Path("a")).checkpoint("best").state
    assert (state.step, state.best_step, state.best_loss) == (best["step"], best["step"], best["val_loss"])
    assert RunDir(Path("a")).checkpoint("latest").state.step == 20


def test_validation_loss_is_mean_over_every_window(trained: Trained) -> None:
    trained("a")
    saved = RunDir(Path("a")).checkpoint("latest")
    engine = Engine(saved.state.config, saved.state.recipe, threads=1)
    engine.load(saved.weights, {}, 20)
    tokens = saved.tokenizer.encode(PLAY)
    tokens = tokens[len(tokens) - round(0.1 * len(tokens)) :].astype(np.int64)
    total = 0.0
    for start in range(0, len(tokens) - 1, 8):
        window = tokens[start : start + 9]
        total += engine.loss(batch_of(window[None])) * (len(window) - 1)
    expected = total / (len(tokens) - 1)
    assert records("a", "evaluation")[-1]["val_loss"] == pytest.approx(expected, rel=1e-6)
    *_, last = evaluate(engine, tokens)
    assert last.loss == pytest.approx(expected, rel=1e-6)
    assert last.done == 1.0


def test_runs_depend_on_the_seed_only(train: Train) -> None:
    train("a", "--dropout", "0.1")
    train("b", "--dropout", "0.1")
    train("c", "--dropout", "0.1", "--seed", "7")
    assert_same_run("a", "b")
    assert records("a", "step") != records("c", "step")


def test_micro_batches_change_losses_only_by_rounding(train: Train, trained: Trained) -> None:
    trained("a")
    train("b", "--micro-batch", "1")
    losses = [[record["loss"] for record in records(folder, "step")] for folder in "ab"]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


# ---- resume -----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Ends a run like a power cut: nothing is saved or cleaned up."""


def fail_at(at: int, monkeypatch: pytest.MonkeyPatch) -> Callable[..., StepResult]:
    """Makes the engine fail before this step; returns the original train_step."""
    step = Engine.train_step

    def failing(self: Engine, batch: Batch, number: int) -> StepResult:
        if number == at:
            raise Killed
        return step(self, batch, number)

    monkeypatch.setattr(Engine, "train_step", failing)
    return step


def test_best_checkpoint_of_a_later_step_stays_until_a_lower_loss_replaces_it(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = fail_at(17, monkeypatch)
    with pytest.raises(Killed):
        train("a", "--checkpoint-every", "100")
    monkeypatch.setattr(Engine, "train_step", step)
    best = Path("a/checkpoints/best")
    before = best.joinpath("model.safetensors").read_bytes()
    assert (load_checkpoint(best).state.step, latest("a")) == (15, 0)

    capsys.readouterr()
    assert train("a", "--resume", "--lr", "0") == 0  # which improves nothing
    assert "checkpoints/best, of step 15, stays until a loss is below " in capsys.readouterr().out
    assert best.joinpath("model.safetensors").read_bytes() == before
    assert latest("a") == 20

    assert train("a", "--resume", "--lr", "0.01", "--steps", "60") == 0
    assert load_checkpoint(best).state.step > 20


@pytest.mark.parametrize(
    ("killed_at", "optimizer"), [*((at, "adamw") for at in (0, 3, 7, 10, 13, 19)), (0, "muon"), (13, "muon")]
)
def test_killed_and_resumed_run_equals_uninterrupted_run(
    killed_at: int, optimizer: str, train: Train, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained("uninterrupted", "--dropout", "0.1", "--optimizer", optimizer)
    step = fail_at(killed_at, monkeypatch)
    with pytest.raises(Killed):
        train("interrupted", "--dropout", "0.1", "--optimizer", optimizer)
    monkeypatch.setattr(Engine, "train_step", step)
    assert train("interrupted", "--resume") == 0
    assert_same_run("uninterrupted", "interrupted")


@pytest.mark.parametrize(
    ("which", "killed_at"), [("best", 0), ("best", 10), ("best", 20), ("latest", 10), ("latest", 20)]
)
def test_run_killed_between_evaluation_and_checkpoint_equals_uninterrupted_run(
    which: str, killed_at: int, train: Train, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained("uninterrupted")
    save = checkpoint.save_checkpoint

    def failing(folder: Path, checkpoint: Checkpoint, with_optimizer: bool = True) -> None:
        if (folder.name, checkpoint.state.last_eval_step) == (which, killed_at):
            raise Killed
        save(folder, checkpoint, with_optimizer)

    step = Engine.train_step

    def after_saving(self: Engine, batch: Batch, number: int) -> StepResult:
        wait_for_checkpoints()
        return step(self, batch, number)

    monkeypatch.setattr(run_dir, "save_checkpoint", failing)
    monkeypatch.setattr(Engine, "train_step", after_saving)
    with pytest.raises(Killed):
        train("interrupted")
    assert records("interrupted", "evaluation")[-1]["step"] == killed_at
    monkeypatch.setattr(run_dir, "save_checkpoint", save)
    assert train("interrupted", "--resume") == 0
    assert_same_run("uninterrupted", "interrupted")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", [4, 5, 12])
def test_signal_saves_and_resumed_run_equals_uninterrupted_run(
    number: signal.Signals, moment: int, train: Train, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained("uninterrupted")
    step = Engine.train_step

    def interrupted(self: Engine, batch: Batch, done: int) -> StepResult:
        if done == moment:
            os.kill(os.getpid(), number)
        return step(self, batch, done)

    monkeypatch.setattr(Engine, "train_step", interrupted)
    before = signal.getsignal(number)
    assert train("interrupted") == 128 + number
    assert signal.getsignal(number) is before
    assert RunDir(Path("interrupted")).checkpoint("latest").state.step == moment + 1
    monkeypatch.setattr(Engine, "train_step", step)
    assert train("interrupted", "--resume") == 0
    assert_same_run("uninterrupted", "interrupted")


def test_signal_during_evaluation_stops_it(train: Train, trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    trained("uninterrupted")
    evaluated = 0
    loss = Engine.loss

    def interrupted(self: Engine, batch: Batch) -> float:
        nonlocal evaluated
        evaluated += 1
        if evaluated == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(self, batch)

    monkeypatch.setattr(Engine, "loss", interrupted)
    assert train("interrupted") == 130
    assert evaluated == 1
    assert records("interrupted", "evaluation") == []
    assert RunDir(Path("interrupted")).checkpoint("best").state.step == 0  # of the initial weights
    monkeypatch.setattr(Engine, "loss", loss)
    assert train("interrupted", "--resume") == 0
    assert_same_run("uninterrupted", "interrupted")


def test_signal_during_last_evaluation_loses_nothing(
    train: Train, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained("uninterrupted")
    loss = Engine.loss
    steps: list[int] = []
    step = Engine.train_step

    def counted(self: Engine, batch: Batch, number: int) -> StepResult:
        steps.append(number)
        return step(self, batch, number)

    def interrupted(self: Engine, batch: Batch) -> float:
        if steps[-1:] == [19]:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(self, batch)

    monkeypatch.setattr(Engine, "train_step", counted)
    monkeypatch.setattr(Engine, "loss", interrupted)
    assert train("interrupted") == 130
    monkeypatch.setattr(Engine, "loss", loss)
    assert train("interrupted", "--resume") == 0
    assert_same_run("uninterrupted", "interrupted")
    assert train("interrupted", "--resume") == 2


def test_resume_keeps_number_of_threads_on_another_machine(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "available_cores", lambda: 3)
    train("uninterrupted", "--threads", "0")
    original_step = fail_at(12, monkeypatch)
    with pytest.raises(Killed):
        train("interrupted", "--threads", "0")
    monkeypatch.setattr(Engine, "train_step", original_step)
    monkeypatch.setattr(engine_module, "available_cores", lambda: 1)
    assert train("interrupted", "--resume") == 0
    assert_same_run("uninterrupted", "interrupted")


def test_latest_finds_newest_run(train: Train) -> None:
    train("runs/b")
    train("runs/a", "--seed", "2")
    assert find_run_dir("latest").folder == Path("runs/a")
    train("runs/b", "--resume", "--steps", "21")
    assert find_run_dir("latest").folder == Path("runs/b")
    shutil.rmtree("runs/b/checkpoints/latest")
    shutil.rmtree("runs/b/checkpoints/best")
    assert find_run_dir("latest").folder == Path("runs/a")


def test_folder_that_is_not_locked_was_not_removed() -> None:
    assert not RunDir(Path("a")).was_removed


def test_runs_started_at_once_get_different_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    now = datetime(2026, 2, 3, 4, 5, 6)
    monkeypatch.setattr(run_dir, "datetime", SimpleNamespace(now=lambda: now))
    folders = [new_run_dir(None, "laptop").folder for _ in range(3)]
    name = "2026-02-03-040506-laptop"
    assert [folder.name for folder in folders] == [name, f"{name}-2", f"{name}-3"]
    assert all(folder.is_dir() for folder in folders)


def test_new_path_of_moved_text_is_saved(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    train("a", "--data", "play.txt")
    Path("play.txt").rename("moved.txt")
    assert train("a", "--resume", "--steps", "22") == 2
    assert "cannot be read: No such file or directory; --data says where that text is now" in capsys.readouterr().err
    assert train("a", "--resume", "--steps", "22", "--data", "moved.txt") == 0
    assert train("a", "--resume", "--steps", "24") == 0


def test_damaged_record_is_dropped_alone(train: Train, trained: Trained) -> None:
    trained("a")
    metrics = Path("a/metrics.jsonl")
    lines = metrics.read_text(encoding="utf-8").splitlines()
    lines[3] = lines[3][:10] + "\N{REPLACEMENT CHARACTER}"
    metrics.write_text("\n".join(lines), encoding="utf-8")
    assert train("a", "--resume", "--steps", "22") == 0
    assert (
        len(records("a", "step")) + len(records("a", "evaluation")) == len(lines) - 2 + 3
    )  # one damaged, one end dropped; two steps and one evaluation added
    metrics.unlink()
    Path("a/config.json").write_text("{", encoding="utf-8")
    assert train("a", "--resume", "--steps", "23") == 0


def test_patience_counter_survives_resume(train: Train) -> None:
    assert train("a", "--lr", "0", "--patience", "3", "--steps", "10") == 0
    assert train("a", "--resume", "--steps", "100") == 0
    assert [record["step"] for record in records("a", "evaluation")] == [0, 5, 10, 15]


def test_dropout_can_be_changed_on_resume(train: Train, trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    trained("a")
    used, step = [], Engine.train_step

    def recorded(self: Engine, batch: Batch, number: int) -> StepResult:
        used.append(self.config.dropout)
        return step(self, batch, number)

    monkeypatch.setattr(Engine, "train_step", recorded)
    assert train("a", "--resume", "--steps", "21", "--dropout", "0.2") == 0
    assert RunDir(Path("a")).checkpoint("latest").state.config.dropout == 0.2
    assert used == [0.2]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Restores the default action of Ctrl-C, which is ignored if a script runs the tests in the background."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("size", "pause", "ends"), [(1, 0.0, True), (2, 0.0, False), (2, 0.1, True)])
def test_second_signal_ends_at_once_unless_forwarded_by_launcher(
    size: int, pause: float, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "SAME_SIGNAL", 0.05)
    processes = Processes()
    processes.size = size
    with pytest.raises(KeyboardInterrupt) if ends else nullcontext(), signals.stop_on_signals(processes) as stop:
        signal.raise_signal(signal.SIGINT)
        time.sleep(pause)
        signal.raise_signal(signal.SIGINT)
        stop.synchronize()
        assert stop.signal == signal.SIGINT


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN], ids=["terminal", "nohup"])
def test_closed_terminal_stops_the_run_unless_it_was_ignored(before: signal.Handlers) -> None:
    signal.signal(signal.SIGHUP, before)
    with signals.stop_on_signals(Processes()) as stop:
        assert (signal.getsignal(signal.SIGHUP) == before) == (before == signal.SIG_IGN)
        if before == signal.SIG_DFL:
            signal.raise_signal(signal.SIGHUP)
            assert stop.received == signal.SIGHUP
    assert signal.getsignal(signal.SIGHUP) == before


@pytest.mark.usefixtures("interruptible")
def test_second_ctrl_c_ends_without_saving(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Engine.train_step

    def interrupted(self: Engine, batch: Batch, number: int) -> StepResult:
        if number == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, number)

    monkeypatch.setattr(Engine, "train_step", interrupted)
    assert train("a") == 130
    assert latest("a") == 0


def test_signal_handlers_are_restored_after_a_run(train: Train) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    train("a", "--steps", "1")
    assert [signal.getsignal(number) for number in numbers] == before


def test_resume_can_add_steps(train: Train, trained: Trained) -> None:
    trained("a")
    assert train("a", "--resume") == 2
    assert train("a", "--resume", "--steps", "25") == 0
    assert [record["step"] for record in records("a", "step")] == list(range(1, 26))
    assert [record["step"] for record in records("a", "evaluation")] == [0, 5, 10, 15, 20, 25]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--n-layer", "3"], "is a model with n_layer 1, which cannot change"),
        (["--tokenizer", "bpe"], "has a char tokenizer, which cannot change"),
        (["--optimizer", "muon"], "is trained by adamw, which cannot change"),
        (["--preset", "laptop"], "--preset is for a run that begins"),
        (["--data", "other.txt"], "other.txt is not the text that"),
        (["--steps", "20"], "has done its 20 steps; to train further, --steps 40"),
    ],
)
def test_resume_refuses_fixed_settings_and_changes_no_files(
    flags: list[str], message: str, train: Train, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    trained("a")
    Path("other.txt").write_text(PLAY + "!", encoding="utf-8")
    before = {path: path.read_bytes() for path in Path("a").rglob("*") if path.is_file()}
    capsys.readouterr()
    steps = [] if "--steps" in flags else ["--steps", "25"]
    assert train("a", "--resume", *steps, *flags) == 2
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("a").rglob("*") if path.is_file()} == before


def test_existing_run_is_not_overwritten(train: Train, trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    trained("a")
    assert train("a") == 2
    assert "a holds a run already; continue it with --resume" in capsys.readouterr().err


# ---- how it ends ------------------------------------------------------------------------------------------------


def test_last_step_is_evaluated(train: Train) -> None:
    train("a", "--steps", "18")
    assert [record["step"] for record in records("a", "evaluation")] == [0, 5, 10, 15, 18]


def test_patience_restarts_at_each_best(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    validation = iter([5.0, 6.0, 4.0, 5.0, 5.0, 3.0])
    monkeypatch.setattr(task, "evaluate", lambda *_: iter([EvalProgress(1.0, next(validation))]))
    train("a", "--patience", "2", "--steps", "100")
    assert [record["step"] for record in records("a", "evaluation")] == [0, 5, 10, 15, 20]


def test_early_stop_is_saved(train: Train) -> None:
    assert train("a", "--patience", "1", "--lr", "0", "--steps", "100") == 0
    assert RunDir(Path("a")).checkpoint("latest").state.step == 5


@pytest.mark.parametrize(("flags", "last"), [([], 30), (["--patience", "6"], 30), (["--steps", "28"], 28)])
def test_samples_become_rarer_and_each_is_new(train: Train, flags: list[str], last: int) -> None:
    train("a", "--lr", "0", "--weight-decay", "0", "--steps", "30" if not flags else "99", *flags)
    evaluations = records("a", "evaluation")
    assert [record["step"] for record in evaluations if record["sample"]] == [0, 5, 10, 20, last]
    assert evaluations[-1]["step"] == last
    assert len({record["sample"] for record in evaluations}) == 6  # one of them: none


def test_report_is_written_at_most_every_ten_seconds_and_at_the_end(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []  # how many records each report has
    record, now = Saver.record, 0.0

    def recorded(self: Saver, new: dict[str, Any]) -> None:
        nonlocal now
        now += 5.0 * (new["kind"] == "evaluation")
        record(self, new)

    monkeypatch.setattr(Saver, "record", recorded)
    monkeypatch.setattr(Saver, "report", lambda saver, step, records: written.append(len(records)))
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: now, perf_counter=time.perf_counter))
    train("a", "--steps", "30")
    evaluations = [number for number, record in enumerate(RunDir(Path("a")).records(), 1) if record["kind"] != "step"]
    assert len(evaluations) == 8
    assert written == [evaluations[i] for i in (0, 2, 4, 6, 7)]


class Clock:
    """In place of the module `time`: a step takes half a minute."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, step, self.perf_counter = 0.0, Engine.train_step, time.perf_counter

        def slow(engine: Engine, batch: Batch, number: int) -> StepResult:
            wait_for_checkpoints()  # or one that waits could give way to the next
            self.now += 30.0
            return step(engine, batch, number)

        monkeypatch.setattr(Engine, "train_step", slow)
        monkeypatch.setattr(trainer, "time", self)

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("every", "minutes", "saved"),
    [(1000, 2.0, [0, 4, 8, 12, 16, 20]), (10, 3.5, [0, 7, 10, 17, 20]), (10, 0.0, [0, 10, 20])],
)
def test_checkpoints_by_steps_and_by_minutes(
    every: int, minutes: float, saved: list[int], train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, save = [], RunDir.save_latest

    def logged(self: RunDir, checkpoint: Checkpoint) -> None:
        found.append(checkpoint.state.step)
        save(self, checkpoint)

    monkeypatch.setattr(RunDir, "save_latest", logged)
    Clock(monkeypatch)
    assert train("a", "--checkpoint-every", str(every), "--checkpoint-minutes", str(minutes)) == 0
    assert found == saved


def test_clock_of_the_first_process_decides_when_all_save(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    class Second(Processes):
        rank, calls = 1, 0

        def all_reduce_max(self, *numbers: int) -> tuple[int, ...]:
            is_in_the_loop = len(numbers) == 4
            self.calls += is_in_the_loop
            return (*numbers[:3], max(numbers[3], self.calls == 7)) if is_in_the_loop else numbers

    found, make = [], trainer.Trainer._checkpoint

    def logged(self: trainer.Trainer, with_optimizer: bool) -> Checkpoint:
        found.append(self.state.step)
        return make(self, with_optimizer)

    train("a", "--steps", "1")
    monkeypatch.setattr(trainer.Trainer, "_checkpoint", logged)
    monkeypatch.setattr(trainer.Trainer, "_evaluate", lambda *_, **__: False)
    Clock(monkeypatch)
    flags = ["--steps", "20", "--checkpoint-minutes", "1", "--checkpoint-every", "1000"]
    assert run(NumpyCLI(Second()), ["train", "--resume", "--out", "a", *flags]) == 0
    assert found == [7, 20]


def test_speed_counts_all_tokens_of_a_step(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(self: trainer.Trainer) -> signals.Stop:
        assert self.metrics.tokens_per_step == 3 * 8
        return signals.Stop(self.processes)

    monkeypatch.setattr(trainer.Trainer, "train", stopped)
    assert train("a", "--batch-size", "3") == 0


def test_only_before_the_first_step_a_model_knows_nothing(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    train("a", "--steps", "5")
    meanings = re.findall(r"^step +(\d+) .*\d   (\S.*)$", capsys.readouterr().out, re.MULTILINE)
    assert meanings == [("0", "knows nothing"), ("5", "how often each character occurs")]


def test_initial_weights_depend_on_the_seed(train: Train) -> None:
    train("a", "--steps", "1")
    train("b", "--steps", "1", "--seed", "7")
    assert records("a", "evaluation")[0]["val_loss"] != records("b", "evaluation")[0]["val_loss"]


def test_recorded_grad_norm_is_before_clipping(train: Train) -> None:
    train("a", "--grad-clip", "0.001")
    assert all(record["grad_norm"] > 0.001 for record in records("a", "step"))


def test_target_loss_ends_the_run_at_the_first_such_evaluation(train: Train, trained: Trained) -> None:
    trained("all")
    losses = [(record["step"], record["val_loss"]) for record in records("all", "evaluation")]
    (_, first), (step, target), *_ = losses
    assert target < first
    assert train("a", "--target-loss", str(target)) == 0
    assert [record["step"] for record in records("a", "evaluation")] == [0, step]
    assert RunDir(Path("a")).checkpoint("latest").state.step == step


def test_max_minutes_saves_at_the_step_reached_and_resumed_run_equals_uninterrupted(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train("uninterrupted", "--lr", "0.02")
    minute = 60.0
    monkeypatch.setattr(TimeBudget, "total", property(lambda budget: minute))
    at_step: list[int] = []

    def clocked(self: Engine, batch: Batch, number: int) -> StepResult:
        nonlocal minute
        minute = 180.0 if number == 11 else minute
        at_step.append(number)
        return step(self, batch, number)

    step = Engine.train_step
    monkeypatch.setattr(Engine, "train_step", clocked)
    assert train("a", "--lr", "0.02", "--max-minutes", "3") == 0
    assert at_step[-1] == 11
    assert "3 minutes are over: ended early, at step 12" in capsys.readouterr().out
    assert RunDir(Path("a")).checkpoint("latest").state.step == 12
    assert [record["step"] for record in records("a", "evaluation")] == [0, 5, 10, 12]
    minute = 60.0
    assert train("a", "--resume") == 0
    assert records("a", "step") == records("uninterrupted", "step")


def test_run_repeats_from_its_recipe_file(train: Train) -> None:
    train("a", "--optimizer", "muon", "--no-bias", "--dropout", "0.1", "--gelu", "tanh")
    again = ["train", "--config", "a/recipe.toml", "--threads", "1"]
    assert run(CLI, [*again, "--out", "b"]) == 0
    assert Path("a/recipe.toml").read_text(encoding="utf-8") == Path("b/recipe.toml").read_text(encoding="utf-8")
    assert records("a", "step") == records("b", "step")
    assert run(CLI, [*again, "--out", "c", "--seed", "7", "--steps", "3"]) == 0
    assert records("a", "step")[:3] != records("c", "step")
    assert len(records("c", "step")) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("stepz = 3", "my.toml: --stepz=3 is not known; did you mean --steps? see gpt-numpy train --help"),
        ("steps = 'three'", "my.toml: --steps: 'three' is not a whole number; see gpt-numpy train --help"),
        ("[model]\nn_layer = 2", "my.toml: model is not a number, a string, true or false"),
        ("steps = ", "my.toml: Invalid value (at end of document)"),
        ("config = 'my.toml'", "my.toml: config cannot be in it"),
        (f"steps = {'[' * 50_000}", "my.toml is nested too deep"),
        ("#" * 100_001, "my.toml: it is larger than 0.1 MB"),
        ("weight_decay = -1.0", "--weight-decay is a number of at least 0, not -1.0"),
    ],
)
def test_invalid_recipe_file_is_a_one_line_error(
    content: str, message: str, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("my.toml").write_text(content, encoding="utf-8")
    assert train("a", "--config", "my.toml") == 2
    assert capsys.readouterr().err == f"gpt-numpy: {message}\n"
    assert not Path("a").exists()


def test_profile_shows_ten_steps_by_operation(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    forwards = {name: op.forward for name, op in OPS.items()}
    train("plain")
    capsys.readouterr()
    assert train("a", "--profile", "--eval-every", "20") == 0
    shown = capsys.readouterr().out
    assert re.search(r"cross_entropy +│ +20 │", shown)  # ten times forward, ten times backward
    assert "engine and waiting" in shown
    assert "profile of 10 steps\n" in shown
    assert records("a", "step") == records("plain", "step")
    assert {name: op.forward for name, op in OPS.items()} == forwards
    assert train("shorter", "--profile", "--steps", "8") == 0
    assert "profile of 5 steps\n" in capsys.readouterr().out
    assert train("short", "--profile", "--steps", "2") == 0
    assert "no profile: it begins after 3 steps" in capsys.readouterr().out


def test_log_gets_every_record(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scalars: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            assert folder == str(Path("a") / "tensorboard")

        def add_scalar(self, name: str, value: float, step: int) -> None:
            scalars.append((name, value, step))

        def flush(self) -> None:
            pass

    monkeypatch.setitem(sys.modules, "tensorboard.summary", SimpleNamespace(Writer=Writer))
    monkeypatch.setitem(sys.modules, "tensorboard", SimpleNamespace())
    assert train("a", "--log", "tensorboard") == 0
    for kind, name in (("step", "loss"), ("step", "lr"), ("step", "grad_norm"), ("evaluation", "val_loss")):
        recorded = [(name, record[name], record["step"]) for record in records("a", kind)]
        assert [scalar for scalar in scalars if scalar[0] == name] == recorded
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    assert train("b", "--log", "tensorboard") == 2
    assert "--log tensorboard needs the library: pip install tensorboard" in capsys.readouterr().err
    assert not Path("b").exists()


def test_patience_stops_run_without_improvement(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("a", "--patience", "2", "--lr", "0", "--steps", "100") == 0
    assert [record["step"] for record in records("a", "evaluation")] == [0, 5, 10]
    assert "no better in 2 evaluations: ended early, at step 10" in capsys.readouterr().out
    assert RunDir(Path("a")).checkpoint("latest").state.step == 10
    assert train("a", "--resume") == 2
    reason = "a has ended, since it was no better in 2 evaluations; to train further, another --patience or"
    assert reason in capsys.readouterr().err
    assert train("a", "--resume", "--patience", "3") == 0
    assert RunDir(Path("a")).checkpoint("latest").state.step == 15


def test_nan_loss_ends_run_and_keeps_last_checkpoint(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step, starts = Engine.train_step, list[list[int]]()

    def broken(self: Engine, batch: Batch, number: int) -> StepResult:
        found = step(self, batch, number)
        starts.append(batch.starts.tolist())
        return StepResult(float("nan"), found.grad_norm) if number == 12 else found

    def cause(self: Engine, batch: Batch, number: int) -> str:
        assert (number, batch.starts.tolist()) == (12, starts[12])
        return "a gradient"

    monkeypatch.setattr(Engine, "train_step", broken)
    monkeypatch.setattr(Engine, "first_nonfinite", cause)
    assert train("a") == 1
    assert re.search(r"step 13: the loss is nan, .* \(the first is a gradient\)", capsys.readouterr().err)
    assert RunDir(Path("a")).checkpoint("latest").state.step == 10


def test_diverged_run_can_be_resumed_with_lower_learning_rate(
    train: Train, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("a", "--lr", "1e38") == 1
    err = capsys.readouterr().err
    assert re.fullmatch(
        r"gpt-numpy: step [23]: the loss is (nan|inf), the norm of the gradient (nan|inf) \(the first is .*[a-z]\)\. "
        r"The newest checkpoint is of step 0; a lower --lr or --grad-clip 1 may help, also with --resume\n",
        err,
    ), err
    assert len(records("a", "step")) == int(err.split()[2][0]) - 1
    assert train("a", "--resume", "--lr", "0.01") == 0
    trained("b")
    assert records("a", "step") == records("b", "step")


@pytest.mark.parametrize("stopping", [False, True], ids=["checkpoint due", "stop requested"])
def test_nonfinite_weights_are_not_saved(
    stopping: bool, train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Engine.train_step

    def broken(self: Engine, batch: Batch, number: int) -> StepResult:
        found = step(self, batch, number)
        if number == 13:
            weights = {name: array.copy() for name, array in self.weights().items()}
            weights["ln_f.weight"][0] = np.inf
            self.model.load_state_dict(weights)
            if stopping:
                os.kill(os.getpid(), signal.SIGTERM)
        return found

    save = Saver.save

    def waiting(self: Saver, *given: Any) -> None:  # otherwise the next step may come first, and find a loss of NaN
        save(self, *given)
        self.wait()

    monkeypatch.setattr(Engine, "train_step", broken)
    monkeypatch.setattr(Saver, "save", waiting)
    assert train("a", "--checkpoint-every", "7") == 1
    message = "step 14 has made ln_f.weight not finite. The newest checkpoint is of step 7; a lower --lr or"
    assert message in capsys.readouterr().err
    monkeypatch.setattr(Engine, "train_step", step)
    assert train("a", "--resume") == 0


def test_nan_validation_loss_ends_run(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loss, step = Engine.loss, Engine.train_step
    done = 0

    def counted(self: Engine, batch: Batch, number: int) -> StepResult:
        nonlocal done
        done = number + 1
        return step(self, batch, number)

    monkeypatch.setattr(Engine, "train_step", counted)
    monkeypatch.setattr(Engine, "loss", lambda *given: loss(*given) if done < 15 else float("nan"))
    assert train("a") == 1
    assert "step 15: the validation loss is nan" in capsys.readouterr().err
    assert records("a", "end")[-1]["reason"].startswith("it failed: step 15: the validation loss is nan")
    assert [record["step"] for record in records("a", "evaluation")] == [0, 5, 10]


def test_step_with_nonfinite_gradient_is_not_saved(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Engine.train_step

    def broken(self: Engine, batch: Batch, number: int) -> StepResult:
        found = step(self, batch, number)
        return StepResult(found.loss, float("inf")) if number == 9 else found

    monkeypatch.setattr(Engine, "train_step", broken)
    assert train("a") == 1
    assert "step 10: the loss is" in capsys.readouterr().err
    assert RunDir(Path("a")).checkpoint("latest").state.step < 10


@pytest.mark.parametrize(
    ("flags", "status", "reason"),
    [
        ([], 0, "all steps are done"),
        (["--patience", "1", "--lr", "0"], 0, "it was no better in 1 evaluations"),
        (["--target-loss", "3.5"], 0, "a validation loss of 3.5 was reached"),
        (["--max-minutes", "1e-9"], 0, "1e-09 minutes are over"),
    ],
)
def test_reason_of_end_is_in_records_and_report(train: Train, flags: list[str], status: int, reason: str) -> None:
    assert train("a", *flags) == status
    assert [record["reason"] for record in records("a", "end")] == [reason]
    assert f'"ended":"{reason}"' in Path("a/report.html").read_text(encoding="utf-8")
    if not flags:
        assert train("a", "--resume", "--steps", "22") == 0
        assert [record["step"] for record in records("a", "end")] == [22]


def test_records_match_the_recipe(train: Train, trained: Trained) -> None:
    trained("a")
    recipe = RunDir(Path("a")).checkpoint("latest").state.recipe
    assert [record["lr"] for record in records("a", "step")] == [recipe.lr_at(step) for step in range(20)]
    assert all(record["grad_norm"] > 0 for record in records("a", "step"))
    train("flat", "--lr", "0", "--steps", "110", "--eval-every", "110")
    assert "not falling" in records("flat", "evaluation")[-1]["diagnoses"][0]


@pytest.mark.parametrize("flags", [["--beta1", "0.5"], ["--beta2", "0.5"], ["--weight-decay", "0.9"]])
def test_each_adamw_flag_has_an_effect(train: Train, trained: Trained, flags: list[str]) -> None:
    trained("plain")
    train("other", *flags)
    assert records("plain", "step")[0]["loss"] == records("other", "step")[0]["loss"]
    assert records("plain", "step")[-1]["loss"] != records("other", "step")[-1]["loss"]


def test_run_works_outside_main_thread(train: Train) -> None:
    status = []
    thread = threading.Thread(target=lambda: status.append(train("a")))
    thread.start()
    thread.join()
    assert status == [0]


# ---- recipes ----------------------------------------------------------------------------------------------------


def test_linear_warmup_and_cosine_decay() -> None:
    recipe = Recipe(steps=1100, warmup=100, lr=1.0, final_lr=0.2)
    rates = [recipe.lr_at(step) for step in range(1101)]
    assert np.diff(rates[:101]) == pytest.approx(1 / 101)
    assert rates[100] == 1.0
    assert rates[600] == pytest.approx(0.6)
    assert rates[1100] == pytest.approx(0.2)
    assert (np.diff(rates[100:]) < 0).all()


def test_linear_decay() -> None:
    recipe = Recipe(steps=1100, warmup=100, lr=1.0, final_lr=0.2, schedule="linear")
    rates = [recipe.lr_at(step) for step in range(1101)]
    assert rates[:101] == [replace(recipe, schedule="cosine").lr_at(step) for step in range(101)]
    assert np.diff(rates[100:]) == pytest.approx(-0.8 / 1000)
    assert rates[1100] == pytest.approx(0.2)


@pytest.mark.parametrize("step", [0, 50, 100, 600])
def test_both_optimizers_follow_the_schedule(step: int) -> None:
    recipe = Recipe(steps=1100, warmup=100, lr=0.5, muon_lr=2.0, final_lr=0.2, momentum=0.8, weight_decay=0.3)
    settings = settings_at(recipe, step)
    assert settings["muon"] == {"lr": 4.0 * recipe.lr_at(step), "momentum": 0.8, "weight_decay": 0.3}
    assert settings["decay"] == {"lr": recipe.lr_at(step), "betas": (0.9, 0.999), "weight_decay": 0.3}
    assert settings["no_decay"] == {**settings["decay"], "weight_decay": 0.0}
    falling = settings_at(replace(recipe, decay_schedule="falling"), step)
    decay = 0.3 * recipe.lr_at(step) / recipe.lr
    assert falling == {
        "muon": {**settings["muon"], "weight_decay": pytest.approx(decay)},
        "decay": {**settings["decay"], "weight_decay": pytest.approx(decay)},
        "no_decay": settings["no_decay"],
    }


def test_preset_values() -> None:
    laptop, workshop = PRESETS["laptop"], PRESETS["workshop"]
    assert (laptop.model.n_layer, laptop.model.n_head, laptop.model.n_embd, laptop.model.block_size) == (4, 4, 128, 64)
    assert (laptop.recipe.batch_size, laptop.recipe.steps) == (12, 2000)
    model, recipe = workshop.model, workshop.recipe
    assert (model.vocab_size, model.block_size, model.n_layer, model.n_head, model.n_embd) == (65, 256, 6, 6, 384)
    assert (recipe.batch_size, recipe.steps, recipe.warmup, recipe.lr, recipe.final_lr) == (64, 5000, 100, 3e-4, 0.0)
    assert (recipe.eval_every, recipe.checkpoint_every) == (200, 1000)
    assert (recipe.optimizer, recipe.schedule, recipe.order, model.dropout) == ("adamw", "cosine", "random", 0.0)


def test_derived_presets_keep_the_model() -> None:
    for name, like in {"laptop-record": "laptop", "sprint": "workshop", "record": "workshop"}.items():
        assert replace(PRESETS[name].model, dropout=0.0) == PRESETS[like].model
    plain, record = PRESETS["laptop"].recipe, PRESETS["laptop-record"].recipe
    assert (record.steps, record.batch_size, record.order) == (plain.steps, plain.batch_size, plain.order)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("cli", [CLI, IN_TORCH], ids=["numpy", "torch"])
def test_both_engines_train_with_every_preset(preset: str, cli: EngineCLI, train: Train) -> None:
    flags = ["--data", "play.txt", *MODEL, "--steps", "3", "--threads", "1", "--preset", preset, "--out", preset]
    assert run(cli, ["train", *flags]) == 0
    assert latest(preset) == 3
    assert RunDir(Path(preset)).checkpoint("latest").state.recipe == replace(
        PRESETS[preset].recipe, steps=3, batch_size=4
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps is a whole number of at least 1, not 0"),
        ({"batch_size": 1.5}, "batch_size is a whole number of at least 1, not 1.5"),
        ({"lr": -1.0}, "lr is a number of at least 0, not -1.0"),
        ({"lr": float("inf")}, "lr is a number of at least 0, not inf"),
        ({"beta1": 1.0}, "beta1 is a number of at least 0 and below 1, not 1.0"),
        ({"beta2": 1.0}, "beta2 is a number of at least 0 and below 1, not 1.0"),
        ({"momentum": 1.0}, "momentum is a number of at least 0 and below 1, not 1.0"),
        ({"optimizer": "sgd"}, "optimizer is adamw or muon, not 'sgd'"),
        ({"order": "sorted"}, "order is epochs or random, not 'sorted'"),
        ({"patience": -1}, "patience is a whole number of at least 0, not -1"),
    ],
)
def test_invalid_recipe_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Recipe(**settings)
