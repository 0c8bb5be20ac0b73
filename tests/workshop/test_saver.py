"""Checkpoints are written while the training goes on: which are, in what order, and what happens if that fails."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.data.tokenizer import CharTokenizer
from gpt_numpy.workshop.errors import RunFailed
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.runs.checkpoint import Checkpoint, State
from gpt_numpy.workshop.runs.run_dir import RunDir
from gpt_numpy.workshop.runs.saver import Saver
from tests.support.runs import Train, latest, records

RECORD = {"kind": "step", "step": 1}


def checkpoint_of(step: int, value: float = 0.0, loss: float | None = None) -> Checkpoint:
    state = State(GPTConfig(), Recipe(), "", "", step=step, best_loss=1.0 / step if loss is None else loss)
    return Checkpoint(state, CharTokenizer("ab"), {"weight": np.full(3, value, np.float32)})


class Written:
    """In place of a run's folder: what was written, as soon as `allowed` is set."""

    folder, is_locked, was_removed = Path("a"), True, False

    def __init__(self) -> None:
        self.log: list[str] = []
        self.begun, self.allowed = threading.Event(), threading.Event()
        self.writing = threading.Lock()
        self.failure: BaseException | None = None  # of the next write

    def write(self, kind: str, checkpoint: Checkpoint) -> None:
        assert self.writing.acquire(blocking=False)  # never two at once
        self.begun.set()
        assert self.allowed.wait(30)
        self.writing.release()
        failure, self.failure = self.failure, None
        if failure:
            raise failure
        self.log.append(f"{kind} {checkpoint.state.step}")

    def save_best(self, checkpoint: Checkpoint) -> None:
        self.write("best", checkpoint)

    def save_latest(self, checkpoint: Checkpoint) -> None:
        self.write("latest", checkpoint)

    def append_record(self, record: Any) -> None:
        self.log.append("record")


@pytest.fixture
def written() -> Written:
    return Written()


@pytest.fixture
def saver(written: Written) -> Saver:
    return Saver(written, Console(), lambda *_: None, None, np.inf)  # type: ignore[arg-type]


def test_of_what_waits_the_newest_of_each_kind_is_written(saver: Saver, written: Written) -> None:
    saver.save(checkpoint_of(1), ["latest"])
    assert written.begun.wait(30)
    for step, kinds in ((2, ["best"]), (3, ["best", "latest"]), (4, ["latest"]), (5, ["best"])):
        saver.save(checkpoint_of(step), kinds)  # does not wait
    saver.record(RECORD)
    assert saver.newest == "there is no checkpoint"
    written.allowed.set()
    saver.wait()
    assert written.log == ["record", "latest 1", "best 5", "latest 4"]
    assert (saver.last_saved, saver.best_loss) == (checkpoint_of(4).state, 0.2)


def test_thread_ends_and_the_next_checkpoint_gets_another(saver: Saver, written: Written) -> None:
    written.allowed.set()
    for step in range(1, 50):
        saver.save(checkpoint_of(step), ["latest"])
        saver.wait()
        assert saver.last_saved is not None
        assert saver.last_saved.step == step
    assert all(thread.name != "checkpoints" for thread in threading.enumerate())


def test_last_checkpoint_is_written_after_those_that_wait(saver: Saver, written: Written) -> None:
    saver.save(checkpoint_of(1), ["latest"])
    assert written.begun.wait(30)
    saver.save(checkpoint_of(2), ["best"])
    threading.Timer(0.2, written.allowed.set).start()
    saver.save_last(checkpoint_of(3), ["latest"])
    assert written.log == ["latest 1", "best 2", "latest 3"]


@pytest.mark.parametrize("failure", [RunFailed("removed"), MemoryError(), AssertionError("a defect")], ids=repr)
@pytest.mark.parametrize("call", ["save", "save_last", "record"])
def test_failure_of_the_thread_is_raised_once_by_the_next_call(
    failure: BaseException, call: str, saver: Saver, written: Written
) -> None:
    written.failure = failure
    written.allowed.set()
    saver.save(checkpoint_of(1), ["latest"])
    saver.wait()
    calls: dict[str, Callable[[], None]] = {
        "save": lambda: saver.save(checkpoint_of(2), ["latest"]),
        "save_last": lambda: saver.save_last(checkpoint_of(2), ["latest"]),
        "record": lambda: saver.record(RECORD),
    }
    with pytest.raises(type(failure)) as caught:
        calls[call]()
    assert caught.value is failure
    assert written.log == []
    calls[call]()
    saver.wait()
    assert written.log == ["record" if call == "record" else "latest 2"]


def test_what_waits_behind_a_failure_is_not_written(saver: Saver, written: Written) -> None:
    written.failure = RunFailed("removed")
    saver.save(checkpoint_of(1), ["latest"])
    assert written.begun.wait(30)
    saver.save(checkpoint_of(2), ["latest"])
    written.allowed.set()
    saver.wait()
    with pytest.raises(RunFailed, match="removed"):
        saver.record(RECORD)
    saver.save(checkpoint_of(3), ["best"])
    saver.wait()
    assert written.log == ["best 3"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_checkpoint_that_is_not_finite_is_not_written(value: float, saver: Saver, written: Written) -> None:
    written.allowed.set()
    saver.save(checkpoint_of(2), ["latest"])
    saver.save(checkpoint_of(7, value), ["best", "latest"])
    saver.wait()
    with pytest.raises(RunFailed, match=r"step 7 has made weight not finite\. (The newest|There is no) checkpoint"):
        saver.record(RECORD)
    assert all("7" not in entry for entry in written.log)


def test_failing_logger_is_named_with_its_reason(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    def log(record: Any) -> None:
        raise ValueError("no such project")

    saver = Saver(written, Console(), lambda *_: None, None, np.inf, log)  # type: ignore[arg-type]
    for _ in range(2):
        saver.record(RECORD)
    out = capsys.readouterr().out
    assert out == f"step 1: {Path('a/log')} cannot be written: no such project; there is no checkpoint\n"


def test_training_goes_on_while_a_checkpoint_is_written(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed, save = threading.Event(), RunDir.save_latest
    meanwhile: list[int] = []

    def slow(self: RunDir, checkpoint: Checkpoint) -> None:
        if checkpoint.state.step == 10:
            assert allowed.wait(30)
            meanwhile.extend(record["step"] for record in records("a", "evaluation"))
        save(self, checkpoint)

    record = Saver.record

    def recorded(self: Saver, new: dict[str, Any]) -> None:
        record(self, new)
        if new["kind"] == "evaluation" and new["step"] == 15:
            assert latest("a") == 0
            allowed.set()

    monkeypatch.setattr(RunDir, "save_latest", slow)
    monkeypatch.setattr(Saver, "record", recorded)
    assert train("a") == 0
    assert meanwhile == [0, 5, 10, 15]
    assert latest("a") == 20


def test_failed_run_ends_when_its_checkpoint_is_written(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    save, failed = RunDir.save_latest, threading.Event()

    def slow(self: RunDir, checkpoint: Checkpoint) -> None:
        if checkpoint.state.step == 10:
            assert failed.wait(30)
        save(self, checkpoint)

    record = Saver.record

    def recorded(self: Saver, new: dict[str, Any]) -> None:
        if new["kind"] == "end":
            threading.Timer(0.3, failed.set).start()
        if new["step"] == 12:
            raise RunFailed("no more")
        record(self, new)

    monkeypatch.setattr(RunDir, "save_latest", slow)
    monkeypatch.setattr(Saver, "record", recorded)
    assert train("a") == 1
    assert latest("a") == 10
