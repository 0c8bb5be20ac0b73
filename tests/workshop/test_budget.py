"""The time budget of a training: every part is measured, and together they account for the total."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt_numpy.engine import Engine
from gpt_numpy.workshop.cli import run as run_command
from gpt_numpy.workshop.runs.run_dir import RunDir
from gpt_numpy.workshop.train import metrics, task, trainer
from gpt_numpy.workshop.train.budget import PARTS, in_words
from tests.support.runs import Train, records


def test_time_of_each_part(train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each part is delayed by a known time; the rest takes less."""
    slow = {
        (Engine, "train_step"): 0.02, (Engine, "loss"): 0.05, (task.Task, "sample"): 0.11,
        (RunDir, "save_latest"): 0.03, (run_command, "write_report"): 0.1,
    }  # fmt: skip
    for (owner, name), seconds in slow.items():
        monkeypatch.setattr(owner, name, delayed(getattr(owner, name), seconds))
    monkeypatch.setattr(run_command, "process_start", lambda: time.monotonic() - 7.0)
    began = time.monotonic()
    assert train("a") == 0
    total = 7.0 + time.monotonic() - began
    (end,) = (record for record in RunDir(Path("a")).records() if record["kind"] == "end")
    budget = end["budget"]
    assert tuple(budget) == PARTS
    evaluations = len(records("a", "evaluation"))
    sampled = sum(bool(record["sample"]) for record in records("a", "evaluation"))
    least = {  # of the three checkpoints, the one in between is saved while the training goes on
        "start": 7.0, "first step": 0.02, "other steps": 19 * 0.02, "samples": sampled * 0.11,
        "evaluation": evaluations * 0.05, "saving": 2 * 0.03, "report": 0.1,
    }  # fmt: skip
    for part, seconds in least.items():
        assert budget[part] >= seconds, part
    assert sum(budget.values()) <= end["seconds"] <= total
    match = re.search(r"^took (.*): start (.*), first step .*, rest (.*) s$", capsys.readouterr().out, re.MULTILINE)
    assert match
    assert match[2].startswith("7.")
    assert float(match[3]) <= total - sum(budget.values()) + 0.05


def delayed(original: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    def function(*given: Any, **named: Any) -> Any:
        time.sleep(seconds)
        return original(*given, **named)

    return function


def test_seconds_are_formatted() -> None:
    assert [in_words(seconds) for seconds in (-0.01, 1.24, 59.9, 60.0, 119.6, 3725.0)] == [
        "0.0 s", "1.2 s", "59.9 s", "1:00", "2:00", "62:05",
    ]  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when a process began")
def test_process_start() -> None:
    code = "import time; time.sleep(0.5)\nfrom gpt_numpy.workshop.train import budget\nprint(budget.process_start())"
    before = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True)
    assert before - 0.02 <= float(done.stdout) <= before + 0.4


def test_results_are_flushed_by_time_or_by_count(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or thousands of steps could be queued on a slow GPU, and Ctrl-C would have to wait for them."""
    pending: list[int] = []
    flush = trainer.Trainer._flush

    def logged(training: trainer.Trainer, bar: object) -> None:
        pending.append(len(training.metrics.pending))
        flush(training, bar)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer.Trainer, "_flush", logged)
    monkeypatch.setattr(metrics, "FLUSH_SECONDS", 1000.0)
    monkeypatch.setattr(metrics, "FLUSH_STEPS", 7)
    assert train("a", "--eval-every", "20", "--checkpoint-every", "20") == 0
    assert pending == [0, 0, 1, 7, 7, 5, 0]
    pending.clear()
    monkeypatch.setattr(metrics, "FLUSH_SECONDS", 0.0)
    assert train("b", "--eval-every", "20", "--checkpoint-every", "20") == 0
    assert max(pending) == 1
