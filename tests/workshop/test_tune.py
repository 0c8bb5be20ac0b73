"""Tuning: pairs of prompts and answers, and fine-tuning on the answers, with both engines."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_numpy import GPTConfig
from gpt_numpy.cli import CLI as BY_HAND
from gpt_numpy.engine import Engine as NumpyEngine
from gpt_numpy.workshop.cli.engine_cli import EngineCLI
from gpt_numpy.workshop.cli.main import run
from gpt_numpy.workshop.data.tokenizer import CharTokenizer
from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.runs.run_dir import RunDir
from gpt_numpy.workshop.tune.pairs import read_pairs
from gpt_numpy.workshop.tune.sft import FineTuning
from gpt_torch.cli import CLI as IN_TORCH
from gpt_torch.engine import Engine as TorchEngine
from tests.support.engines import ENGINES
from tests.support.runs import Trained, assert_same_run, latest, records

PAIRS = [(f"{name} ", f"{name[::-1]}\n") for name in ("be", "to", "is", "or", "at", "on", "it", "so", "ie", "no", "he")]
CHARACTERS = CharTokenizer("\n abcdefghijklmnopqrstuvwxyz")
FLAGS = ["--run", "base", "--data", "pairs.jsonl", "--threads", "1", "--batch-size", "4"]
FLAGS += ["--steps", "12", "--eval-every", "4", "--checkpoint-every", "4", "--warmup", "1", "--lr", "0.01"]

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


# ---- pairs ------------------------------------------------------------------------------------------------------


def test_pairs_are_read_in_their_order(tmp_path: Path) -> None:
    pairs = read_pairs(write_pairs(tmp_path / "p.jsonl"), CHARACTERS, 8).pairs
    assert [(CHARACTERS.decode(pair.prompt), CHARACTERS.decode(pair.answer)) for pair in pairs] == [
        (prompt.encode(), answer.encode()) for prompt, answer in PAIRS
    ]
    assert [(pair.text, pair.characters) for pair in pairs] == [(prompt, 3) for prompt, _ in PAIRS]


def test_empty_prompt_is_a_newline_and_an_end_token_ends_an_answer(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "p.jsonl", [("", "so"), ("a", "b")])
    assert CHARACTERS.decode(read_pairs(path, CHARACTERS, 8).pairs[0].prompt) == b"\n"

    class Ending(CharTokenizer):
        end: int | None = 27

    assert read_pairs(path, Ending(CHARACTERS.characters), 8).pairs[1].answer == [3, 27]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("nothing", 'it is not {"prompt": "...", "answer": "..."}'),
        ("[" * 100_000, "it is not {"),
        ('["a", "b"]', "it is not {"),
        ('{"prompt": "a"}', "it is not {"),
        ('{"prompt": 1, "answer": "b"}', "it is not {"),
        ('{"prompt": "a", "answer": ""}', "the answer is empty"),
        ('{"prompt": "abcde", "answer": "fghij"}', "it has 10 tokens, and the context of the model takes 9"),
        ('{"prompt": "A", "answer": "b"}', "'A'"),
    ],
)
def test_wrong_line_is_named(line: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(f'{{"prompt": "abcd", "answer": "efghi"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(WrongUse, match=f"{re.escape(str(path))}, line 2: .*{re.escape(reason)}"):
        read_pairs(path, CHARACTERS, 8)


def test_files_that_are_no_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    monkeypatch.setattr("gpt_numpy.workshop.tune.pairs.MAX_SIZE", 100)
    (tmp_path / "large").write_bytes(b" " * 101)
    for name, reason in (("none", "cannot be read"), ("binary", "utf-8"), ("large", "larger than"), ("", "not a file")):
        with pytest.raises(WrongUse, match=reason):
            read_pairs(tmp_path / name, CHARACTERS, 8)
    with pytest.raises(WrongUse, match="needs at least two pairs"):
        FineTuning(read_pairs(write_pairs(tmp_path / "one.jsonl", PAIRS[:1]), CHARACTERS, 8), Recipe())


# ---- batches ----------------------------------------------------------------------------------------------------


def test_batch_counts_the_tokens_of_answers_alone(tmp_path: Path) -> None:
    pairs = [("ab", "cde"), ("f", "gh"), ("i", "j"), ("k", "l")]
    task = FineTuning(read_pairs(write_pairs(tmp_path / "p.jsonl", pairs), CHARACTERS, 8), Recipe(batch_size=3))
    assert (task.length, task.tokens_per_step, len(task.training), len(task.validation)) == (4, 12, 3, 1)
    found = task.batch(0)
    assert found.ids.shape == found.targets.shape == found.weights.shape == (3, 4)
    seen = {}
    for ids, targets, weights in zip(found.ids, found.targets, found.weights, strict=True):
        counted = weights > 0
        learned = CHARACTERS.decode(targets[counted].tolist())
        seen[learned] = CHARACTERS.decode(ids[: counted.nonzero()[0][0] + 1].tolist())  # what stands before it
    assert seen == {b"cde": b"ab", b"gh": b"f", b"j": b"i"}
    assert set(found.weights.flatten().tolist()) == {0.0, float(np.float32(1 / 6))}


def test_batches_are_shuffled_epochs(tmp_path: Path) -> None:
    pairs = read_pairs(write_pairs(tmp_path / "p.jsonl"), CHARACTERS, 8)
    task = FineTuning(pairs, Recipe(batch_size=2, seed=3))  # ten to train on
    assert [pair.text for pair in task.validation] == [PAIRS[-1][0]]
    epochs = [
        [CHARACTERS.decode(row[:3].tolist()) for step in range(5 * e, 5 * e + 5) for row in task.batch(step).ids]
        for e in range(2)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(prompt.encode() for prompt, _ in PAIRS[:10])
    assert epochs[0] != epochs[1] != sorted(epochs[1])
    again = FineTuning(pairs, Recipe(batch_size=2, seed=3)).batch(7)
    np.testing.assert_array_equal(again.ids, task.batch(7).ids)
    other = FineTuning(pairs, Recipe(batch_size=2, seed=4))
    assert any((other.batch(step).ids != task.batch(step).ids).any() for step in range(5))


@pytest.mark.parametrize("name", ENGINES)
def test_evaluation_is_the_mean_over_the_answers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = read_pairs(write_pairs(tmp_path / "p.jsonl", [*PAIRS[:10], ("a", "bcdef"), ("gh", "i")] * 3), CHARACTERS, 8)
    task = FineTuning(pairs, Recipe(batch_size=4))
    config = GPTConfig(vocab_size=CHARACTERS.vocab_size, block_size=8, n_layer=1, n_head=2, n_embd=8)
    engine: Any = ENGINES[name](config)
    *_, whole = task.evaluate(engine)
    monkeypatch.setattr("gpt_numpy.workshop.tune.sft.AT_ONCE", 2 * task.length)
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
    step = engine.train_step

    def lost(self: Any, batch: Any, number: int) -> Any:
        if number == 10:
            raise KeyboardInterrupt
        return step(self, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "train_step", lost)
        assert tune(cli, "a") == 130
    assert latest("a") == 8
    assert tune(cli, "a", "--resume") == 0
    assert tune(cli, "b") == 0
    assert_same_run("a", "b")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["tune", "ppo"], "'ppo' is not one of sft; see gpt-numpy tune --help"),
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
            "is not the file that",
        ),
        (["tune", "sft", "--resume", "--out", "tuned"], "tuned has done its 12 steps; to go on, --steps 24"),
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
    assert capsys.readouterr().out.count("gpt-numpy tune sft --help   fine-tuning on answers") == 2
    with pytest.raises(SystemExit):
        run(BY_HAND, ["tune", "sft", "--help"])
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "training steps (default 200)" in shown
    assert "--vocab-size" not in shown
