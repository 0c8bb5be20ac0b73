"""Tuning, with both engines: fine-tuning on answers, and distillation from teachers."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpt_numpy import GPTConfig
from gpt_numpy.cli import CLI as BY_HAND
from gpt_numpy.engine import Engine as NumpyEngine
from gpt_numpy.workshop.cli.engine_cli import EngineCLI
from gpt_numpy.workshop.cli.main import run
from gpt_numpy.workshop.data.tokenizer import CharTokenizer
from gpt_numpy.workshop.engine import Batch
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.runs.run_dir import RunDir
from gpt_numpy.workshop.train.ensemble import Ensemble
from gpt_numpy.workshop.tune.distill import Distillation
from gpt_numpy.workshop.tune.jsonl import PAIR, read_lines
from gpt_numpy.workshop.tune.sft import FineTuning
from gpt_torch.cli import CLI as IN_TORCH
from gpt_torch.engine import Engine as TorchEngine
from tests.support.engines import ENGINES
from tests.support.runs import MODEL, Trained, assert_same_run, latest, records

PAIRS = [(f"{name} ", f"{name[::-1]}\n") for name in ("be", "to", "is", "or", "at", "on", "it", "so", "ie", "no", "he")]
CHARACTERS = CharTokenizer("\n abcdefghijklmnopqrstuvwxyz")
FLAGS = ["--run", "base", "--data", "pairs.jsonl", "--threads", "1", "--batch-size", "4"]
FLAGS += ["--steps", "12", "--eval-every", "4", "--checkpoint-every", "4", "--warmup", "1", "--lr", "0.01"]

NONE: Any = None  # an engine, which these batches do not ask

each_cli = pytest.mark.parametrize("cli", [BY_HAND, IN_TORCH], ids=["numpy", "torch"])


def write_pairs(path: Path, pairs: Sequence[tuple[str, str]] = PAIRS) -> Path:
    lines = [json.dumps({"prompt": prompt, "answer": answer}) for prompt, answer in pairs]
    path.write_text("\n".join([*lines, "", ""]), encoding="utf-8")
    return path


@pytest.fixture
def folder(trained: Trained, tmp_path: Path) -> Path:
    """With a trained run, base, and pairs.jsonl; it is the working folder."""
    trained("base")
    write_pairs(tmp_path / "pairs.jsonl")
    return tmp_path


def tune(cli: EngineCLI, out: str, *flags: str) -> int:
    return run(cli, ["tune", "sft", "--out", out, *([] if "--resume" in flags else FLAGS), *flags])


def stop_before_step_10(engine: Any, patch: pytest.MonkeyPatch) -> None:
    step = engine.train_step

    def stopped(self: Any, batch: Any, number: int) -> Any:
        if number == 10:
            raise KeyboardInterrupt
        return step(self, batch, number)

    patch.setattr(engine, "train_step", stopped)


# ---- pairs ------------------------------------------------------------------------------------------------------


def test_pairs_are_read_in_their_order(tmp_path: Path) -> None:
    pairs = read_lines(write_pairs(tmp_path / "p.jsonl"), PAIR, CHARACTERS, 8).items
    assert [(CHARACTERS.decode(pair.prompt), CHARACTERS.decode(pair.answers[0])) for pair in pairs] == [
        (prompt.encode(), answer.encode()) for prompt, answer in PAIRS
    ]
    assert [(pair.text, pair.characters) for pair in pairs] == [(prompt, 3) for prompt, _ in PAIRS]


def test_line_separators_within_a_text_end_no_line(tmp_path: Path) -> None:
    tokenizer = CharTokenizer("ab\u2028\x85")
    path = tmp_path / "p.jsonl"
    path.write_bytes('{"prompt": "a\u2028b", "answer": "b\x85a"}\r\n{"prompt": "a", "answer": "b"}\r\n'.encode())
    assert [pair.text for pair in read_lines(path, PAIR, tokenizer, 8).items] == ["a\u2028b", "a"]


def test_empty_prompt_is_a_newline_and_an_end_token_ends_an_answer(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "p.jsonl", [("", "so"), ("a", "b")])
    assert CHARACTERS.decode(read_lines(path, PAIR, CHARACTERS, 8).items[0].prompt) == b"\n"

    class Ending(CharTokenizer):
        end: int | None = 27

    assert read_lines(path, PAIR, Ending(CHARACTERS.characters), 8).items[1].answers[0] == [3, 27]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("nothing", 'it is not {"prompt": "...", "answer": "..."}'),
        ("[" * 100_000, "it is not {"),
        ('["a", "b"]', "it is not {"),
        ('{"prompt": "a"}', "it is not {"),
        ('{"prompt": 1, "answer": "b"}', "it is not {"),
        ('{"prompt": "a", "answer": ""}', "answer is empty"),
        ('{"prompt": "abcde", "answer": "fghij"}', "it has 10 tokens, and the context of the model takes 9"),
        ('{"prompt": "A", "answer": "b"}', "'A'"),
    ],
)
def test_wrong_line_is_named(line: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(f'{{"prompt": "abcd", "answer": "efghi"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(UsageError, match=f"{re.escape(str(path))}, line 2: .*{re.escape(reason)}"):
        read_lines(path, PAIR, CHARACTERS, 8)


def test_files_that_are_no_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    monkeypatch.setattr("gpt_numpy.workshop.tune.jsonl.MAX_SIZE", 100)
    (tmp_path / "large").write_bytes(b" " * 101)
    for name, reason in (("none", "cannot be read"), ("binary", "utf-8"), ("large", "larger than"), ("", "not a file")):
        with pytest.raises(UsageError, match=reason):
            read_lines(tmp_path / name, PAIR, CHARACTERS, 8)
    with pytest.raises(UsageError, match="needs at least two pairs"):
        FineTuning(
            read_lines(write_pairs(tmp_path / "one.jsonl", PAIRS[:1]), PAIR, CHARACTERS, 8), Recipe(), CHARACTERS
        )


# ---- batches ----------------------------------------------------------------------------------------------------


def test_batch_counts_the_tokens_of_answers_alone(tmp_path: Path) -> None:
    pairs = [("ab", "cde"), ("f", "gh"), ("i", "j"), ("k", "l")]
    task = FineTuning(
        read_lines(write_pairs(tmp_path / "p.jsonl", pairs), PAIR, CHARACTERS, 8), Recipe(batch_size=3), CHARACTERS
    )
    assert (task.length, task.tokens_per_step, len(task.training), len(task.validation)) == (4, 12, 3, 1)
    found = task.batch(0, NONE)
    assert found.ids.shape == found.targets.shape == found.weights.shape == (3, 4)
    seen = {}
    for ids, targets, weights in zip(found.ids, found.targets, found.weights, strict=True):
        answer_mask = weights > 0
        learned = CHARACTERS.decode(targets[answer_mask].tolist())
        seen[learned] = CHARACTERS.decode(ids[: answer_mask.nonzero()[0][0] + 1].tolist())  # what stands before it
    assert seen == {b"cde": b"ab", b"gh": b"f", b"j": b"i"}
    assert set(found.weights.flatten().tolist()) == {0.0, float(np.float32(1 / 6))}


def test_batches_are_shuffled_epochs(tmp_path: Path) -> None:
    pairs = read_lines(write_pairs(tmp_path / "p.jsonl"), PAIR, CHARACTERS, 8)
    task = FineTuning(pairs, Recipe(batch_size=2, seed=3), CHARACTERS)  # ten to train on
    assert [pair.text for pair in task.validation] == [PAIRS[-1][0]]
    epochs = [
        [CHARACTERS.decode(row[:3].tolist()) for step in range(5 * e, 5 * e + 5) for row in task.batch(step, NONE).ids]
        for e in range(2)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(prompt.encode() for prompt, _ in PAIRS[:10])
    assert epochs[0] != epochs[1] != sorted(epochs[1])
    again = FineTuning(pairs, Recipe(batch_size=2, seed=3), CHARACTERS).batch(7, NONE)
    np.testing.assert_array_equal(again.ids, task.batch(7, NONE).ids)
    other = FineTuning(pairs, Recipe(batch_size=2, seed=4), CHARACTERS)
    assert any((other.batch(step, NONE).ids != task.batch(step, NONE).ids).any() for step in range(5))


@pytest.mark.parametrize("name", ENGINES)
def test_evaluation_is_the_mean_over_the_answers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pairs(tmp_path / "p.jsonl", [*PAIRS[:10], ("a", "bcdef"), ("gh", "i")] * 3)
    pairs = read_lines(path, PAIR, CHARACTERS, 8)
    task = FineTuning(pairs, Recipe(batch_size=4), CHARACTERS)
    config = GPTConfig(vocab_size=CHARACTERS.vocab_size, block_size=8, n_layer=1, n_head=2, n_embd=8)
    engine: Any = ENGINES[name](config)
    *_, whole = task.evaluate(engine)
    monkeypatch.setattr("gpt_numpy.workshop.tune.sft.EVAL_TOKENS", 2 * task.length)
    *_, one, last = task.evaluate(engine)
    assert float(last.loss) == pytest.approx(float(whole.loss), rel=1e-6)
    assert last.done == 1.0 > one.done
    assert float(last.loss) == pytest.approx(np.log(CHARACTERS.vocab_size), rel=0.1)


# ---- runs -------------------------------------------------------------------------------------------------------


@each_cli
def test_fine_tuning_learns_the_answers_and_leaves_its_base_alone(
    cli: EngineCLI, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in (folder / "base").rglob("*") if path.is_file()}
    assert tune(cli, "a", "--steps", "60") == 0
    output = capsys.readouterr().out
    assert "from base/checkpoints/best, step " in output
    assert "pairs: pairs.jsonl, 10 to train on, 1 for validation, of 6 tokens at most" in output
    losses = [record["loss"] for record in records("a", "step")]
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    assert records("a", "evaluation")[-1]["sample"].startswith("he ")
    assert {path: path.read_bytes() for path in before} == before
    state = RunDir(Path("a")).checkpoint("latest").state
    assert (state.method, state.step, state.tuned_on) == ("sft", 60, str(folder / "pairs.jsonl"))
    assert state.data == RunDir(Path("base")).checkpoint("latest").state.data  # that eval finds
    assert not (folder / "a" / "recipe.toml").exists()
    assert json.loads((folder / "a" / "config.json").read_text(encoding="utf-8"))["command"] == f"{cli.name} tune sft"
    assert run(cli, ["generate", "--run", "a", "--prompt", "to ", "--length", "2", "--threads", "1"]) == 0
    assert run(cli, ["eval", "--run", "a", "--threads", "1"]) == 0


@each_cli
@pytest.mark.parametrize("which", ["best", "latest"])
def test_fine_tuning_begins_with_the_weights_of_its_base(cli: EngineCLI, which: str, folder: Path) -> None:
    assert tune(cli, "a", "--checkpoint", which, "--max-minutes", "1e-9") == 0  # ends after its first evaluation
    found, base = RunDir(Path("a")).checkpoint("latest"), RunDir(Path("base")).checkpoint(which)
    assert found.state.step == 0
    assert found.weights.keys() == base.weights.keys()
    for name, weight in base.weights.items():
        np.testing.assert_array_equal(found.weights[name], weight)


def test_both_engines_learn_the_same(folder: Path) -> None:
    losses = []
    for name, cli in (("a", BY_HAND), ("b", IN_TORCH)):
        assert tune(cli, name) == 0
        losses.append([(record["loss"], record["grad_norm"]) for record in records(name, "step")])
    np.testing.assert_allclose(losses[0], losses[1], 1e-3)


@pytest.mark.parametrize(("cli", "engine"), [(BY_HAND, NumpyEngine), (IN_TORCH, TorchEngine)], ids=["numpy", "torch"])
def test_resume_after_a_stop_is_the_uninterrupted_run(
    cli: EngineCLI, engine: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_before_step_10(engine, patch)
        assert tune(cli, "a") == 130
    assert latest("a") == 8
    assert tune(cli, "a", "--resume") == 0
    assert tune(cli, "b") == 0
    assert_same_run("a", "b")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["tune", "ppo"], "'ppo' is not one of sft, grpo, dpo, distill; see gpt-numpy tune --help"),
        (["tune", "sft", "--run", "base"], "--data is missing: a file of pairs; see gpt-numpy tune sft --help"),
        (["tune", "sft", "--run", "base", "--data", "none.jsonl"], "none.jsonl cannot be read: No such file"),
        (["tune", "sft", "--run", "nowhere", "--data", "pairs.jsonl"], "nowhere is not the folder of a run"),
        (["tune", "sft", "--run", "base", "--data", "long.jsonl"], "long.jsonl, line 1: it has 12 tokens"),
        (["tune", "sft", "--run", "base", "--data", "pairs.jsonl", "--lr", "-1"], "--lr is a number of at least 0"),
        (["tune", "sft", "--run", "base", "--data", "pairs.jsonl", "--n-layer", "2"], "--n-layer is not known"),
        (["tune", "sft", "--resume", "--out", "base"], "base is a run of gpt-numpy train; resume it with that"),
        (["train", "--resume", "--out", "tuned"], "tuned is a run of gpt-numpy tune sft; resume it with that"),
        (
            ["tune", "sft", "--resume", "--out", "tuned", "--data", "other.jsonl", "--steps", "20"],
            "other.jsonl is not what tuned was tuned on",
        ),
        (["tune", "sft", "--resume", "--out", "tuned"], "tuned has done its 12 steps; to train further, --steps 24"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_no_folder(
    arguments: list[str], reason: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(folder / "long.jsonl", [("to be ", "or not")])
    write_pairs(folder / "other.jsonl", PAIRS[::-1])
    if "tuned" in arguments:
        assert tune(BY_HAND, "tuned") == 0
    capsys.readouterr()
    assert run(BY_HAND, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("gpt-numpy: ")
    assert reason in error
    assert error.count("\n") == 1
    assert not (folder / "runs").exists()


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(BY_HAND, ["tune", "--help"]) == run(BY_HAND, ["tune"]) == 0
    output = capsys.readouterr().out
    assert output.count("gpt-numpy tune sft     --help   fine-tuning on answers") == 2
    assert output.count("gpt-numpy tune distill --help   distillation: ") == 2
    with pytest.raises(SystemExit):
        run(BY_HAND, ["tune", "sft", "--help"])
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "training steps (default 200)" in shown
    assert "--vocab-size" not in shown


# ---- distillation and ensembles ---------------------------------------------------------------------------------

STUDENT = ["--preset", "laptop", *MODEL, "--threads", "1", "--steps", "12", "--eval-every", "4"]
STUDENT += ["--checkpoint-every", "4", "--warmup", "1", "--lr", "0.01"]


@pytest.fixture
def teachers(trained: Trained, tmp_path: Path) -> list[str]:
    trained("one")
    trained("two", "--seed", "5")
    return ["one", "two"]


def distill(cli: EngineCLI, out: str, teachers: Sequence[str], *flags: str) -> int:
    named = [word for teacher in teachers for word in ("--teacher", teacher)]
    return run(cli, ["tune", "distill", "--out", out, *named, *([] if "--resume" in flags else STUDENT), *flags])


def loaded(name: str, folder: str) -> Any:
    """An engine with the best weights of a run."""
    checkpoint = RunDir(Path(folder)).checkpoint("best")
    engine: Any = ENGINES[name](checkpoint.state.config)
    engine.load(checkpoint.weights, {}, 0)
    return engine


@pytest.mark.parametrize("name", ENGINES)
def test_ensemble_predicts_the_mean_of_the_probabilities(name: str, teachers: list[str]) -> None:
    engines = [loaded(name, folder) for folder in teachers]
    ensemble, text = Ensemble(engines), np.random.default_rng(0).integers(0, 20, 50).astype(np.uint8)
    ids = text[:24].reshape(3, 8).astype(np.int64)
    logits = [engine.logits(ids).astype(np.float64) for engine in engines]
    p = sum(np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in logits) / 2
    found = ensemble.probabilities(ids)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, p, 1e-5)
    batch = Batch(text, np.array([0, 8, 30]), 8)
    _, targets = batch.ids_and_targets()
    of_targets = np.take_along_axis(ensemble.probabilities(batch.ids_and_targets()[0]), targets[..., None], -1)
    expected = -np.log(of_targets)
    assert ensemble.loss(batch) == pytest.approx(expected.mean(), rel=1e-6)
    assert Ensemble(engines[:1]).loss(batch) == pytest.approx(float(engines[0].loss(batch)), rel=1e-5)
    assert ensemble.loss(batch) < max(float(engine.loss(batch)) for engine in engines)
    weights = engines[0].weights()
    engines[0].load({**weights, "lm_head.weight": weights["lm_head.weight"] * 3000}, {}, 0)  # very sure, and wrong
    assert math.isfinite(float(engines[0].loss(batch)))
    assert Ensemble(engines[:1]).loss(batch) == pytest.approx(float(engines[0].loss(batch)), rel=1e-4)


def test_logits_do_not_depend_on_the_number_of_rows(teachers: list[str]) -> None:
    ids = np.random.default_rng(0).integers(0, 20, (7, 8))
    found = [loaded(name, "one").logits(ids) for name in ENGINES]
    np.testing.assert_allclose(found[0], found[1], 1e-4, 1e-5)
    np.testing.assert_allclose(found[0][2:3], loaded("numpy", "one").logits(ids[2:3]), 1e-5, 1e-6)


def evaluated(cli: EngineCLI, capsys: pytest.CaptureFixture[str], *flags: str) -> float:
    assert run(cli, ["eval", "--threads", "1", *flags]) == 0
    (loss,) = re.findall(r"^validation loss +([\d.]+)", capsys.readouterr().out, re.MULTILINE)
    return float(loss)


@each_cli
def test_eval_of_an_ensemble(cli: EngineCLI, teachers: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    one, two = (evaluated(cli, capsys, "--run", name) for name in teachers)
    both = evaluated(cli, capsys, "--ensemble", *teachers)
    assert both < (one + two) / 2  # as -log is convex
    assert evaluated(cli, capsys, "--ensemble", *teachers[::-1]) == both not in (one, two)
    assert evaluated(cli, capsys, "--ensemble", "one") == pytest.approx(one, abs=2e-4)


@each_cli
def test_student_learns_from_its_teachers(
    cli: EngineCLI, teachers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert distill(cli, "a", teachers, "--steps", "60") == 0
    output = capsys.readouterr().out
    for name in teachers:
        assert f"teacher: {name}/checkpoints/best, step " in output
    losses = [record["loss"] for record in records("a", "step")]
    assert np.mean(losses[-5:]) < losses[0] - 0.05  # the teachers know little themselves
    evaluations = records("a", "evaluation")
    assert evaluations[-1]["val_loss"] < evaluations[0]["val_loss"] - 0.05
    state = RunDir(Path("a")).checkpoint("latest").state
    assert (state.method, state.tuned_on) == (
        "distill",
        "\n".join(f"{Path(name).resolve()}/checkpoints/best" for name in teachers),
    )
    assert run(cli, ["eval", "--run", "a", "--threads", "1"]) == 0
    assert run(cli, ["generate", "--run", "a", "--length", "2", "--threads", "1"]) == 0


def test_both_engines_distill_the_same(teachers: list[str]) -> None:
    losses = []
    for name, cli in (("a", BY_HAND), ("b", IN_TORCH)):
        assert distill(cli, name, teachers) == 0
        losses.append([(record["loss"], record["grad_norm"]) for record in records(name, "step")])
    np.testing.assert_allclose(losses[0], losses[1], 1e-3)


def test_loss_of_distillation_is_least_for_the_teacher(teachers: list[str]) -> None:
    """It is then the teacher's entropy, and its gradient is 0."""
    state = RunDir(Path("one")).checkpoint("best").state
    teacher = loaded("torch", "one")
    data: Any = SimpleNamespace(train=np.arange(200, dtype=np.uint8) % 20, characters_per_token=1.0, floor=None)
    task = Distillation(data, CHARACTERS, state.recipe, 8, Ensemble([teacher]))
    batch = task.batch(3, NONE)
    assert batch.targets.shape == (*batch.ids.shape, state.config.vocab_size)
    p = batch.targets.astype(np.float64)
    assert float(teacher.loss(batch)) == pytest.approx(-(p * np.log(p)).sum(-1).mean(), rel=1e-5)
    assert float(teacher.train_step(batch, 0).grad_norm) < 1e-5
    assert float(loaded("torch", "two").loss(batch)) > float(teacher.loss(batch)) + 0.01


@pytest.mark.parametrize(("cli", "engine"), [(BY_HAND, NumpyEngine), (IN_TORCH, TorchEngine)], ids=["numpy", "torch"])
def test_resumed_student_is_the_uninterrupted_one(
    cli: EngineCLI, engine: Any, teachers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_before_step_10(engine, patch)
        assert distill(cli, "a", teachers) == 130
    assert latest("a") == 8
    assert distill(cli, "a", [], "--resume") == 0
    assert distill(cli, "b", teachers) == 0
    assert_same_run("a", "b")


def test_wrong_teachers_are_one_line(
    teachers: list[str], trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.txt").write_text("quite other characters, and many of them! " * 40, encoding="utf-8")
    assert run(BY_HAND, ["train", "--out", "other", "--data", "other.txt", *STUDENT]) == 0
    assert distill(BY_HAND, "student", teachers) == 0
    wrong = [
        (distill, ["a", []], "--teacher is missing: the folder of a run; see gpt-numpy tune distill --help"),
        (distill, ["a", ["nowhere"]], "nowhere is not the folder of a run"),
        (distill, ["a", ["one", "other"]], "other/checkpoints/best has other tokens than one/checkpoints/best"),
        (distill, ["a", ["one"], "--block-size", "16"], "--block-size 16: the teachers read 8 tokens"),
        (
            distill,
            ["student", ["two"], "--resume", "--steps", "20"],
            "two/checkpoints/best is not what student was",
        ),
        (distill, ["student", [], "--resume", "--steps", "20", "--preset", "laptop"], "--preset is for a run that"),
    ]
    for function, arguments, reason in wrong:
        capsys.readouterr()
        assert function(BY_HAND, *arguments) == 2  # type: ignore[arg-type]
        error = capsys.readouterr().err
        assert reason in error
        assert error.count("\n") == 1
        assert not Path("a").exists()
    assert run(BY_HAND, ["eval", "--ensemble", "one", "other"]) == 2
    assert "has other tokens" in capsys.readouterr().err


def test_resumed_student_has_the_same_checkpoints_of_its_teachers(teachers: list[str]) -> None:
    assert distill(BY_HAND, "a", teachers, "--checkpoint", "latest") == 0
    assert distill(BY_HAND, "a", [], "--resume", "--steps", "14") == 0
    assert latest("a") == 14


def test_loss_of_a_temperature_is_shown_without_its_factor(teachers: list[str]) -> None:
    for name, temperature in (("a", "1"), ("b", "5")):
        assert distill(BY_HAND, name, teachers, "--temperature", temperature) == 0
    plain, hot = (records(name, "step") for name in "ab")
    assert hot[0]["loss"] == pytest.approx(np.log(29), rel=0.1)
    assert plain[0]["loss"] == pytest.approx(np.log(29), rel=0.1)
    assert 0.3 < hot[0]["grad_norm"] / plain[0]["grad_norm"] < 3.0  # T^2 keeps the gradient as large
    assert records("b", "evaluation")[0]["train_loss"] == pytest.approx(hot[0]["loss"], rel=1e-5)
