"""A run from its first step to its last: what is kept, going on as if nothing had happened, and when it ends."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from gpt_numpy.cli import PROGRAM
from gpt_numpy.engine import Engine
from gpt_numpy.workshop import checkpoint, loop
from gpt_numpy.workshop.checkpoint import load_checkpoint, save_checkpoint
from gpt_numpy.workshop.commands import run
from gpt_numpy.workshop.engine import Trained
from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.judging import running_loss
from gpt_numpy.workshop.recipes import PRESETS, Recipe
from gpt_numpy.workshop.runs import Run

PLAY = "".join(f"SCENE {i}. {'to be or not to be ' * (i % 3)}that is question {i * i}\n" for i in range(80))
TINY = [
    *("--n-layer", "1", "--n-head", "2", "--n-embd", "8", "--block-size", "8", "--batch-size", "4", "--threads", "2"),
    *("--steps", "20", "--eval-every", "5", "--checkpoint-every", "10", "--warmup", "2", "--lr", "0.01"),
]

Train = Callable[..., int]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Trains a tiny model in the folder that is named; more flags may follow."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "play.txt").write_text(PLAY, encoding="utf-8")
    monkeypatch.setattr(loop, "SAMPLE", 20)

    def start(out: str, *flags: str) -> int:
        begin = [] if "--resume" in flags else ["--data", "play.txt", *TINY]
        return run(PROGRAM, ["train", "--out", out, *begin, *flags])

    return start


def records(folder: str, kind: str) -> list[dict[str, Any]]:
    """What a run recorded, without how fast it was."""
    lines = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found = [record for record in map(json.loads, lines) if record["kind"] == kind]
    return [{name: value for name, value in record.items() if name != "characters_per_second"} for record in found]


def assert_same_run(a: str, b: str) -> None:
    """Bit for bit: every loss, every sample, every weight, all that the optimizer remembers."""
    for kind in ("step", "evaluation"):
        assert records(a, kind) == records(b, kind)
    for which in ("latest", "best"):
        for name in ("model.safetensors", "optimizer.safetensors"):
            one, other = (load_file(Path(run) / "checkpoints" / which / name) for run in (a, b))
            assert one.keys() == other.keys()
            assert all(np.array_equal(value, other[key]) for key, value in one.items())


# ---- what a run keeps -------------------------------------------------------------------------------------------


def test_a_run_is_a_folder(train: Train) -> None:
    assert train("a") == 0
    files = sorted(path.relative_to("a").as_posix() for path in Path("a").rglob("*") if path.is_file())
    whole = ["model.safetensors", "optimizer.safetensors", "state.json", "tokenizer.json"]
    kept = [f"checkpoints/{which}/{name}" for which in ("best", "latest") for name in whole]
    assert files == [*kept, "config.json", "metrics.jsonl", "report.html"]
    assert [record["step"] for record in records("a", "step")] == list(range(1, 21))
    assert [record["step"] for record in records("a", "evaluation")] == [0, 5, 10, 15, 20]


def test_the_best_checkpoint_is_that_of_the_lowest_validation_loss(train: Train) -> None:
    train("a", "--lr", "5", "--grad-clip", "0")  # so fast that not every evaluation is better
    evaluations = records("a", "evaluation")
    best = min(evaluations, key=lambda record: float(record["val_loss"]))
    assert best["step"] < 20
    assert [e["best"] for e in evaluations] == [
        e["val_loss"] < min([float("inf"), *(before["val_loss"] for before in evaluations[:i])])
        for i, e in enumerate(evaluations)
    ]
    state = Run(Path("a")).checkpoint("best").state
    assert (state.step, state.best_step, state.best_loss) == (best["step"], best["step"], best["val_loss"])
    assert Run(Path("a")).checkpoint("latest").state.step == 20


def test_the_validation_loss_is_that_of_the_saved_weights_over_every_window(train: Train) -> None:
    train("a")
    saved = Run(Path("a")).checkpoint("latest")
    engine = Engine(saved.state.config, threads=1)
    engine.load(saved.weights(), {}, 20)
    tokens = saved.tokenizer.encode(PLAY)
    tokens = tokens[len(tokens) - round(0.1 * len(tokens)) :].astype(np.int64)
    total = 0.0
    for start in range(0, len(tokens) - 1, 8):
        window = tokens[start : start + 9]
        total += engine.loss(window[None, :-1], window[None, 1:]) * (len(window) - 1)
    expected = total / (len(tokens) - 1)
    assert records("a", "evaluation")[-1]["val_loss"] == pytest.approx(expected, rel=1e-6)
    *_, judged = running_loss(engine, tokens)
    assert judged.mean == pytest.approx(expected, rel=1e-6)
    assert judged.part == 1.0


def test_equal_runs_are_equal_and_another_seed_is_another_run(train: Train) -> None:
    train("a", "--dropout", "0.1")
    train("b", "--dropout", "0.1")
    train("c", "--dropout", "0.1", "--seed", "7")
    assert_same_run("a", "b")
    assert records("a", "step") != records("c", "step")


def test_micro_batches_make_the_same_run_but_for_rounding(train: Train) -> None:
    train("a")
    train("b", "--micro-batch", "1")
    losses = [[record["loss"] for record in records(folder, "step")] for folder in "ab"]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


# ---- going on ---------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Ends a run as a power cut would: nothing is saved, nothing tidied."""


@pytest.mark.parametrize("dies_at", [3, 10, 13, 19])
def test_a_run_that_died_and_was_resumed_is_the_unbroken_run(
    dies_at: int, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("whole", "--dropout", "0.1")
    step = Engine.train_step

    def deadly(self: Engine, ids: Any, targets: Any, recipe: Recipe, number: int) -> Trained:
        if number == dies_at:
            raise Killed
        return step(self, ids, targets, recipe, number)

    monkeypatch.setattr(Engine, "train_step", deadly)
    with pytest.raises(Killed):
        train("broken", "--dropout", "0.1")
    monkeypatch.setattr(Engine, "train_step", step)
    if dies_at < 10:  # before the first checkpoint there is nothing to go on from
        assert train("broken", "--resume") == 2
    else:
        assert train("broken", "--resume") == 0
        assert_same_run("whole", "broken")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", [4, 5, 12])
def test_a_signal_saves_and_the_run_goes_on_as_if_unbroken(
    number: signal.Signals, moment: int, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("whole")
    step = Engine.train_step

    def interrupted(self: Engine, ids: Any, targets: Any, recipe: Recipe, done: int) -> Trained:
        if done == moment:
            os.kill(os.getpid(), number)
        return step(self, ids, targets, recipe, done)

    monkeypatch.setattr(Engine, "train_step", interrupted)
    before = signal.getsignal(number)
    assert train("broken") == 128 + number
    assert signal.getsignal(number) is before
    assert Run(Path("broken")).checkpoint("latest").state.step == moment + 1
    monkeypatch.setattr(Engine, "train_step", step)
    assert train("broken", "--resume") == 0
    assert_same_run("whole", "broken")


def test_a_signal_while_judging_stops_the_judging(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    train("whole")
    judged = 0
    loss = Engine.loss

    def interrupted(self: Engine, ids: Any, targets: Any) -> float:
        nonlocal judged
        judged += 1
        if judged == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return loss(self, ids, targets)

    monkeypatch.setattr(Engine, "loss", interrupted)
    assert train("broken") == 130
    monkeypatch.setattr(Engine, "loss", loss)
    assert train("broken", "--resume") == 0
    assert_same_run("whole", "broken")


def test_more_steps_can_be_asked_for_later(train: Train) -> None:
    train("a")
    assert train("a", "--resume") == 2
    assert train("a", "--resume", "--steps", "25") == 0
    assert [record["step"] for record in records("a", "step")] == list(range(1, 26))
    assert [record["step"] for record in records("a", "evaluation")] == [0, 5, 10, 15, 20, 25]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--n-layer", "3"], "is a model with n_layer 1, which cannot change"),
        (["--tokenizer", "bpe"], "is a model with a char tokenizer, which cannot change"),
        (["--preset", "laptop"], "--preset is for a run that begins"),
        (["--data", "other.txt"], "other.txt is not the text that"),
        (["--steps", "20"], "has done its 20 steps; to go on, --steps 40"),
    ],
)
def test_what_cannot_change_is_refused_and_nothing_is_lost(
    flags: list[str], message: str, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    train("a")
    Path("other.txt").write_text(PLAY + "!", encoding="utf-8")
    before = {path: path.read_bytes() for path in Path("a").rglob("*") if path.is_file()}
    capsys.readouterr()
    steps = [] if "--steps" in flags else ["--steps", "25"]
    assert train("a", "--resume", *steps, *flags) == 2
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("a").rglob("*") if path.is_file()} == before


def test_a_folder_with_a_run_is_not_overwritten(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    train("a")
    assert train("a") == 2
    assert "a holds a run already; go on with it by --resume" in capsys.readouterr().err


# ---- checkpoints ------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("call", range(11))
def test_a_checkpoint_is_whole_whenever_the_writing_ends(
    call: int, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sync and each rename is once where it ends: the one before or the new one can be read, all of it."""
    train("a")
    folder = Path("a/checkpoints/latest")
    old = load_checkpoint(folder)
    states = {20: old.state, 21: replace(old.state, step=21)}
    weights = {20: dict(old.weights())}
    engine = Engine(old.state.config, threads=1)
    engine.load(old.weights(), old.optimizer_state(), 20)
    engine.train_step(np.zeros((1, 8), np.int64), np.ones((1, 8), np.int64), old.state.recipe, 20)
    weights[21] = dict(engine.weights())
    calls = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def function(*arguments: Any, **settings: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call + 1:
                raise Interrupted
            return original(*arguments, **settings)

        return function

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_sync", counted(checkpoint._sync))
        patch.setattr(Path, "rename", counted(Path.rename))
        patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
        with pytest.raises(Interrupted):
            save_checkpoint(folder, engine, old.tokenizer, states[21])
    found = load_checkpoint(folder)
    assert found.state == states[found.state.step]
    for name, value in found.weights().items():
        assert np.array_equal(value, weights[found.state.step][name])
    assert len(found.optimizer_state()) == 2 * len(found.weights())
    save_checkpoint(folder, engine, old.tokenizer, states[21])  # and the next one tidies up
    assert load_checkpoint(folder).state == states[21]
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_a_checkpoint_that_is_not_one_is_a_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=r"holds no checkpoint: state.json: No such file"):
        load_checkpoint(tmp_path)
    (tmp_path / "state.json").write_text("{}", encoding="utf-8")
    with pytest.raises(WrongUse, match=r"state.json cannot be understood"):
        load_checkpoint(tmp_path)


# ---- how it ends ------------------------------------------------------------------------------------------------


def test_patience_ends_a_run_that_gets_no_better(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("a", "--patience", "2", "--lr", "0", "--steps", "100") == 0
    assert [record["step"] for record in records("a", "evaluation")] == [0, 5, 10]
    assert "no better in 2 evaluations: ended early, at step 10" in capsys.readouterr().out
    assert Run(Path("a")).checkpoint("latest").state.step == 10


def test_a_loss_that_is_not_a_number_ends_the_run_and_keeps_the_last_checkpoint(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Engine.train_step

    def broken(self: Engine, ids: Any, targets: Any, recipe: Recipe, number: int) -> Trained:
        found = step(self, ids, targets, recipe, number)
        return Trained(float("nan"), found.grad_norm) if number == 12 else found

    monkeypatch.setattr(Engine, "train_step", broken)
    assert train("a") == 1
    assert "step 13: the loss is nan" in capsys.readouterr().err
    assert Run(Path("a")).checkpoint("latest").state.step == 10


def test_a_run_in_another_thread_needs_no_signals(train: Train) -> None:
    status = []
    thread = threading.Thread(target=lambda: status.append(train("a")))
    thread.start()
    thread.join()
    assert status == [0]


# ---- recipes ----------------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_in_a_line_and_falls_in_half_a_cosine() -> None:
    recipe = Recipe(steps=1100, warmup=100, lr=1.0, final_lr=0.2)
    rates = [recipe.lr_at(step) for step in range(1101)]
    assert np.diff(rates[:101]) == pytest.approx(1 / 101)
    assert rates[100] == 1.0
    assert rates[600] == pytest.approx(0.6)
    assert rates[1100] == pytest.approx(0.2)
    assert (np.diff(rates[100:]) < 0).all()


def test_the_presets_are_as_stated() -> None:
    laptop, workshop = PRESETS["laptop"], PRESETS["workshop"]
    assert (laptop.model.n_layer, laptop.model.n_head, laptop.model.n_embd, laptop.model.block_size) == (4, 4, 128, 64)
    assert (laptop.recipe.batch_size, laptop.recipe.steps) == (12, 2000)
    model, recipe = workshop.model, workshop.recipe
    assert (model.vocab_size, model.block_size, model.n_layer, model.n_head, model.n_embd) == (65, 256, 6, 6, 384)
    assert (recipe.batch_size, recipe.steps, recipe.warmup, recipe.lr, recipe.final_lr) == (64, 5000, 100, 3e-4, 0.0)
    assert (recipe.eval_every, recipe.checkpoint_every) == (200, 1000)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps is a whole number of at least 1, not 0"),
        ({"batch_size": 1.5}, "batch_size is a whole number of at least 1, not 1.5"),
        ({"lr": -1.0}, "lr is a number of at least 0, not -1.0"),
        ({"lr": float("inf")}, "lr is a number of at least 0, not inf"),
        ({"beta2": 1.0}, "beta2 is below 1, not 1.0"),
        ({"order": "sorted"}, "order is epochs or random, not 'sorted'"),
        ({"patience": -1}, "patience is a whole number of at least 0, not -1"),
    ],
)
def test_a_bad_recipe_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Recipe(**settings)
