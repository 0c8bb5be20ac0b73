"""Several seeds in one command: each is a separate run, and a summary gives their mean."""

import json
import os
import signal
import statistics
from pathlib import Path
from typing import Any

import pytest

from gpt_numpy.cli import CLI
from gpt_numpy.engine import Engine
from gpt_numpy.workshop.cli.main import run
from gpt_numpy.workshop.engine import Batch, StepResult
from gpt_numpy.workshop.runs.run_dir import find_run_dir
from tests.support.runs import TINY, Train, assert_same_run, records


def train_seeds(*flags: str) -> int:
    return run(CLI, ["train", "--data", "play.txt", *TINY, "--seeds", "3", *flags])


def summary(folder: str) -> Any:
    return json.loads((Path(folder) / "seeds.json").read_text(encoding="utf-8"))


def test_each_seed_is_an_ordinary_run_and_summary_is_their_mean(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_seeds("--seed", "5", "--out", "all") == 0
    table = capsys.readouterr().out
    losses, best = [], []
    for seed in (5, 6, 7):
        train(f"alone-{seed}", "--data", "play.txt", "--seed", str(seed))
        assert_same_run(f"alone-{seed}", f"all/seed-{seed}")
        validation = [record["val_loss"] for record in records(f"alone-{seed}", "evaluation")]
        losses.append(validation[-1])
        best.append(min(validation))
    result = summary("all")
    assert [one["seed"] for one in result["runs"]] == [5, 6, 7]
    assert [one["val_loss"] for one in result["runs"]] == losses
    assert result["mean"]["val_loss"] == {"mean": statistics.fmean(losses), "deviation": statistics.stdev(losses)}
    assert result["mean"]["best_val_loss"]["mean"] == statistics.fmean(best)
    assert len({round(loss, 3) for loss in losses}) == 3
    for number in (*losses, statistics.fmean(losses), statistics.stdev(losses)):
        assert f" {number:.4f} " in table
    assert result["engine"].startswith("NumPy")
    assert all(0 < one["seconds_in_steps"] < one["seconds"] for one in result["runs"])


def test_interrupted_seed_is_resumed(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train_seeds("--out", "whole") == 0
    step = Engine.train_step

    def interrupted(self: Engine, batch: Batch, done: int) -> StepResult:
        if (self.recipe.seed, done) == (1338, 7):
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch, done)

    monkeypatch.setattr(Engine, "train_step", interrupted)
    assert train_seeds("--out", "broken") == 130
    assert not Path("broken/seeds.json").exists()
    assert not Path("broken/seed-1339").exists()
    monkeypatch.setattr(Engine, "train_step", step)
    assert train_seeds("--out", "broken", "--resume", "--preset", "laptop") == 0
    for seed in (1337, 1338, 1339):
        assert_same_run(f"whole/seed-{seed}", f"broken/seed-{seed}")
    result = summary("broken")
    assert result["mean"]["val_loss"] == summary("whole")["mean"]["val_loss"]
    assert [one["seconds"] is None for one in result["runs"]] == [
        False,
        True,
        False,
    ]  # an interrupted run has no single duration
    assert result["mean"]["seconds"]["mean"] is None
    assert train_seeds("--out", "broken", "--resume", "--steps", "25") == 0  # more than they have done
    assert [one["step"] for one in summary("broken")["runs"]] == [25, 25, 25]


def test_latest_finds_newest_seed(train: Train) -> None:
    assert train_seeds() == 0
    assert find_run_dir("latest").folder.name == "seed-1339"


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--seeds", "0"], "--seeds is from 1 to 1000, not 0"),
        (["--seeds", "2", "--resume"], "name their folder with --out"),
        (["--seeds", "x"], "--seeds: 'x' is not a whole number"),
    ],
)
def test_invalid_seeds_are_a_one_line_error(
    flags: list[str], line: str, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(CLI, ["train", *flags]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def test_folders_of_one_run_and_of_seeds_are_distinguished(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    train("one")
    assert train_seeds("--out", "one") == 2
    assert "one holds a run; give another folder" in capsys.readouterr().err
    assert run(CLI, ["train", "--data", "play.txt", *TINY, "--seeds", "2", "--out", "two"]) == 0
    assert run(CLI, ["generate", "--run", "two"]) == 2
    assert f"two holds 2 runs; name one of them, such as {Path('two/seed-1337')}" in capsys.readouterr().err


def test_existing_seed_is_not_overwritten(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    train("all/seed-1337")
    before = records("all/seed-1337", "step")
    assert train_seeds("--out", "all") == 2
    assert "holds a run already" in capsys.readouterr().err
    assert records("all/seed-1337", "step") == before


def test_seeds_trained_in_different_ways_have_no_mean(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    again = ["--out", "all", "--resume"]
    assert train_seeds("--out", "all", "--grad-clip", "0.5") == 0
    before = Path("all/seeds.json").read_bytes()
    for flags, message in (
        (["--preset", "laptop-record", "--grad-clip", "0.5"], "was trained with --optimizer adamw, not muon"),
        ([], "was trained with --grad-clip 0.5, not 1.0; repeat the flags that it had"),
    ):
        assert train_seeds(*again, *flags) == 2
        assert f"all/seed-1337 {message}" in capsys.readouterr().err
    assert Path("all/seeds.json").read_bytes() == before
    assert train_seeds(*again, "--grad-clip", "0.5") == 0
