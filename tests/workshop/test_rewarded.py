"""Runs that learn from rewards and preferences, with both engines: tune grpo and tune dpo."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpt_numpy.cli import CLI as BY_HAND
from gpt_numpy.engine import Engine as NumpyEngine
from gpt_numpy.workshop.cli.engine_cli import EngineCLI
from gpt_numpy.workshop.cli.main import run
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.runs.run_dir import RunDir
from gpt_numpy.workshop.tune import grpo
from gpt_numpy.workshop.tune.grpo import diagnose
from gpt_numpy.workshop.tune.jsonl import PREFERENCE, read_lines
from gpt_torch.cli import CLI as IN_TORCH
from gpt_torch.engine import Engine as TorchEngine
from tests.support.runs import Trained, assert_same_run, latest, records, rewrite_state
from tests.workshop.test_report import data_of

REWARD = '''
calls = 0
def letters(prompt, text):
    """How many of its letters are an s."""
    return text.count("s") / max(1, len(text))
def none(prompt, text):
    return 0.0
def breaks_later(prompt, text):
    global calls
    calls += 1
    return letters(prompt, text) if calls < 160 else 1 / 0
'''
COMMON = ["--run", "base", "--threads", "1", "--lr", "0.01"]
COMMON += ["--steps", "12", "--eval-every", "4", "--checkpoint-every", "4"]
ANSWERS = ["--group", "4", "--prompt-length", "4", "--answer-length", "5"]
REWARDED = ["--reward", "mine.py:letters"]
GRPO = [*COMMON, *ANSWERS, *REWARDED, "--batch-size", "16", "--eval-prompts", "16"]
DPO = [*COMMON, "--batch-size", "8"]
FROM_REWARD = [*REWARDED, *ANSWERS, "--pairs", "40"]

also = pytest.mark.slow("tuning with the second engine")
each_cli = pytest.mark.parametrize("cli", [BY_HAND, pytest.param(IN_TORCH, marks=also)], ids=["numpy", "torch"])
each = pytest.mark.parametrize(
    ("cli", "engine"),
    [(BY_HAND, NumpyEngine), pytest.param(IN_TORCH, TorchEngine, marks=also)],
    ids=["numpy", "torch"],
)


@pytest.fixture
def folder(trained: Trained, tmp_path: Path) -> Path:
    """With a trained run, base, and rewards in mine.py; it is the working folder."""
    trained("base")
    (tmp_path / "mine.py").write_text(REWARD, encoding="utf-8")
    lines = [{"prompt": f"{a}e ", "chosen": "so\n", "rejected": f"{a}i\n"} for a in "bthosnqeui" * 2]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (tmp_path / "preferences.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def tune(cli: EngineCLI, method: str, out: str, *flags: str) -> int:
    begin = [] if "--resume" in flags else {"grpo": GRPO, "dpo": DPO}[method]
    return run(cli, ["tune", method, "--out", out, *begin, *flags])


def stop_before(step: int, engine: Any, patch: pytest.MonkeyPatch) -> None:
    take = engine.train_step

    def stopped(self: Any, batch: Any, number: int) -> Any:
        if number == step:
            raise KeyboardInterrupt
        return take(self, batch, number)

    patch.setattr(engine, "train_step", stopped)


# ---- grpo -------------------------------------------------------------------------------------------------------


@each_cli
def test_rewarded_answers_become_likelier(cli: EngineCLI, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in (folder / "base").rglob("*") if path.is_file()}
    assert tune(cli, "grpo", "a", "--steps", "40", "--kl", "0.01") == 0
    output = capsys.readouterr().out
    assert "prompts: the lines of " in output
    assert "reward: mine.py:letters, of 4 answers to each prompt" in output
    assert "best reward " in output
    evaluations, steps = records("a", "evaluation"), records("a", "step")
    rewards = [one["figures"]["reward"] for one in evaluations]
    assert max(rewards) > 3.0 * rewards[0] + 0.1
    assert [one["val_loss"] for one in evaluations] == [-reward for reward in rewards]
    assert set(evaluations[0]["figures"]) == {"reward", "KL", "entropy", "length", "words", "text"}
    assert set(steps[0]["figures"]) == {"reward", "spread", "live", "KL", "entropy", "length", "words"}
    assert steps[0]["figures"]["KL"] == pytest.approx(0.0, abs=1e-5)
    assert evaluations[-1]["figures"]["KL"] > 0.05
    assert re.search(r"→  .*\n +at first:  →  ", output)
    assert {path: path.read_bytes() for path in before} == before
    state = RunDir(Path("a")).checkpoint("latest").state
    assert (state.method, state.tuning["kl"], state.tuning["reward"]) == ("grpo", 0.01, "mine.py:letters")
    shown = data_of(folder / "a" / "report.html")
    assert shown["measure"] == "reward"
    assert shown["best"]["loss"] == pytest.approx(max(rewards), rel=1e-5)
    assert shown["curves"]["loss"]["mean"] == pytest.approx([one["figures"]["reward"] for one in steps], rel=1e-5)
    assert shown["figures"]["text"]["points"] == pytest.approx(
        [one["figures"]["text"] for one in evaluations], rel=1e-5
    )
    assert len(shown["figures"]["KL"]["curve"]["mean"]) == 40


@each_cli
def test_eval_of_a_reward(cli: EngineCLI, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--reward", "mine.py:letters", "--prompt-length", "4", "--answer-length", "5", "--threads", "1"]
    (folder / "p.jsonl").write_text('{"prompt": "be "}\n{"prompt": "to"}\n', encoding="utf-8")
    assert run(cli, ["eval", "--run", "base", *flags, "--group", "3", "--prompts", "p.jsonl"]) == 0
    output = capsys.readouterr().out
    assert "reward mine.py:letters, 3 answers to each of 2 prompts of p.jsonl" in output
    mean, best, likeliest = (
        float(re.findall(rf"^{name} +([\d.]+)", output, re.MULTILINE)[0])
        for name in ("mean", "best of 3", "likeliest answer")
    )
    assert 0.0 <= mean <= best <= 1.0
    assert 0.0 <= likeliest <= 1.0
    assert run(cli, ["eval", "--ensemble", "base", "base", *flags]) == 2
    assert "--reward is for one model in one process" in capsys.readouterr().err


def test_both_engines_take_the_same_first_steps(folder: Path) -> None:
    found = []
    for name, cli in (("a", BY_HAND), ("b", IN_TORCH)):
        assert tune(cli, "grpo", name, "--steps", "4") == 0
        found.append([[record["grad_norm"], *record["figures"].values()] for record in records(name, "step")])
    np.testing.assert_allclose(found[0], found[1], 1e-2, 1e-5)


@each
@pytest.mark.parametrize("method", ["grpo", "dpo from a reward", "dpo from a file"])
def test_resume_after_a_stop_is_the_uninterrupted_run(
    method: str, cli: EngineCLI, engine: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, *how = method.split(" from a ")
    flags = {"reward": FROM_REWARD, "file": ["--data", "preferences.jsonl"]}[how[0]] if how else ["--updates", "2"]
    with monkeypatch.context() as patch:
        stop_before(10, engine, patch)
        assert tune(cli, name, "a", *flags) == 130
    assert latest("a") == 8
    assert tune(cli, name, "a", "--resume", *(REWARDED if name == "grpo" else [])) == 0
    assert tune(cli, name, "b", *flags) == 0
    assert_same_run("a", "b")


@each_cli
def test_updates_on_one_set_of_answers(cli: EngineCLI, folder: Path) -> None:
    """After the first step on it the probabilities are others than when it was drawn, and so is the loss."""
    assert tune(cli, "grpo", "a", "--updates", "4", "--kl", "0", "--no-normalize") == 0
    steps = records("a", "step")
    for first in range(0, 12, 4):
        of_set = steps[first : first + 4]
        assert len({str(one["figures"]) for one in of_set}) == 1
        assert len({one["loss"] for one in of_set}) == 4
        assert of_set[-1]["loss"] < of_set[0]["loss"]
    assert len({str(one["figures"]) for one in steps}) == 3


@each_cli
def test_equal_rewards_teach_nothing(cli: EngineCLI, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(cli, "grpo", "a", "--reward", "mine.py:none", "--kl", "0") == 0
    assert {record["grad_norm"] for record in records("a", "step")} == {0.0}
    assert {record["figures"]["live"] for record in records("a", "step")} == {0.0}
    assert "only 0% of the groups are live" in capsys.readouterr().out
    found, base = RunDir(Path("a")).checkpoint("latest"), RunDir(Path("base")).checkpoint("best")
    for name, weight in base.weights.items():
        np.testing.assert_array_equal(found.weights[name], weight)


@each_cli
def test_reward_that_fails_ends_the_run_and_loses_nothing(
    cli: EngineCLI, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(cli, "grpo", "a", "--reward", "mine.py:breaks_later", "--checkpoint-every", "100") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{cli.name}: --reward mine.py:breaks_later: ZeroDivisionError: division by zero, for the")
    assert error.count("\n") == 1
    done = len(records("a", "step"))
    assert done > 2
    assert latest("a") == done
    assert "it failed: --reward" in records("a", "end")[0]["reason"]
    assert tune(cli, "grpo", "a", "--resume", "--reward", "mine.py:letters") == 0
    assert latest("a") == 12


def test_weights_of_tokens_count_the_answers_alone_and_not_their_lengths(folder: Path) -> None:
    seen: list[Any] = []
    made: Any = grpo.__dict__["Rollouts"]

    def noted(*arrays: Any) -> Any:
        seen.append(made(*arrays))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo, "Rollouts", noted)
        assert tune(BY_HAND, "grpo", "a", "--steps", "4", "--no-normalize", "--kl", "0.5") == 0
    for batch in seen:
        answer_mask = batch.kl_weights > 0
        N = answer_mask.sum()
        np.testing.assert_allclose(batch.kl_weights[answer_mask], 0.5 / N, 1e-6)
        assert not batch.weights[~answer_mask].any()
        assert not answer_mask[:, :3].any()  # prompts have four tokens
        for weights, mask in zip(batch.weights, answer_mask, strict=True):
            assert len(set(weights[mask].tolist())) == 1  # each token of an answer counts the same, in short ones too


# ---- diagnoses --------------------------------------------------------------------------------------------------

USUAL = {"reward": 0.3, "spread": 0.4, "live": 0.9, "KL": 0.05, "entropy": 1.5, "length": 30.0, "words": 0.8}


def diagnosed(text: float = 1.6, **latest: float) -> list[str]:
    steps = [{"kind": "step", "figures": USUAL}, *[{"kind": "step", "figures": {**USUAL, **latest}}] * 20]
    judged = [{"kind": "evaluation", "figures": {"reward": 0.3, "text": loss}} for loss in (1.6, text)]
    metrics: Any = SimpleNamespace(records=[judged[0], *steps, judged[1]])
    return diagnose(metrics)


def test_diagnoses() -> None:
    assert diagnosed() == []
    assert diagnosed(live=0.05, reward=0.99, spread=0.05) == []  # almost all are right: it has learned
    assert "only 2% of the groups are live" in diagnosed(live=0.02, reward=0.01, spread=0.1)[0]
    assert "fine-tune first, or give a softer reward" in diagnosed(live=0.02, reward=0.01, spread=0.1)[0]
    assert diagnosed(entropy=0.2) == ["collapse: entropy 0.20, at first 1.50; try a larger --kl"]
    assert diagnosed(length=46.0) == ["answers have 46 tokens, at first 30: does the reward favour length?"]
    assert diagnosed(text=1.8) == [
        "it is forgetting its text: the loss there is 1.80, at first 1.60 (KL 0.05 per token); try a larger --kl"
    ]
    empty: Any = SimpleNamespace(records=[])
    assert diagnose(empty) == []


def test_edited_records_of_a_run_do_not_stop_it(folder: Path) -> None:
    """Other figures are dropped or not diagnosed, and samples are compared as far as both go."""
    flags = ["--steps", "2", "--eval-every", "1"]
    assert tune(BY_HAND, "grpo", "a", *flags) == 0
    lines = records("a", "step") + records("a", "evaluation")
    changes: list[Any] = [{"figures": figures} for figures in (3, {}, {"live": "x"}, {"live": 1 << 60})]
    for change in (*changes, {"sample": ""}, {"sample": "x"}):
        edited = "".join(json.dumps(line | change if change.keys() <= line.keys() else line) + "\n" for line in lines)
        shutil.rmtree("b", ignore_errors=True)
        shutil.copytree("a", "b")
        (folder / "b" / "metrics.jsonl").write_text(edited, encoding="utf-8")
        assert tune(BY_HAND, "grpo", "b", "--resume", "--reward", "mine.py:letters", "--steps", "3") == 0, change


# ---- dpo --------------------------------------------------------------------------------------------------------


@each_cli
def test_preferred_answers_become_likelier(cli: EngineCLI, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(cli, "dpo", "a", "--data", "preferences.jsonl", "--steps", "40", "--beta", "0.5") == 0
    assert "preferences: preferences.jsonl, 18 to train on, 2 for validation" in capsys.readouterr().out
    steps, evaluations = records("a", "step"), records("a", "evaluation")
    assert [steps[0]["loss"], evaluations[0]["val_loss"]] == pytest.approx([np.log(2)] * 2, rel=1e-5)
    assert evaluations[0]["figures"]["accuracy"] == 0.5
    assert evaluations[-1]["figures"]["accuracy"] == 1.0
    assert steps[-1]["loss"] < 0.2
    figures = evaluations[-1]["figures"]
    assert figures["margin"] == pytest.approx(0.5 * (figures["chosen"] - figures["rejected"]), rel=1e-4)
    assert np.log1p(np.exp(-figures["margin"])) == pytest.approx(evaluations[-1]["val_loss"], rel=0.2)
    assert RunDir(Path("a")).checkpoint("latest").state.method == "dpo"


def test_both_engines_learn_the_same_preferences(folder: Path) -> None:
    losses = []
    for name, cli in (("a", BY_HAND), ("b", IN_TORCH)):
        assert tune(cli, "dpo", name, "--data", "preferences.jsonl") == 0
        losses.append([(record["loss"], record["grad_norm"]) for record in records(name, "step")])
    np.testing.assert_allclose(losses[0], losses[1], 1e-3)


@each_cli
def test_pairs_from_a_reward_are_the_best_and_the_worst_of_each_group(cli: EngineCLI, folder: Path) -> None:
    assert tune(cli, "dpo", "a", *FROM_REWARD) == 0
    lines = [json.loads(line) for line in (folder / "a" / "preferences.jsonl").read_text("utf-8").splitlines()]
    assert 2 <= len(lines) <= 40
    letters = [[one[name].count("s") / len(one[name]) for name in ("chosen", "rejected")] for one in lines]
    assert all(chosen > rejected for chosen, rejected in letters)
    assert all(one["prompt"].endswith("\n") and len(one["prompt"]) == 4 for one in lines)


def test_folder_of_another_run_is_refused_before_answers_are_drawn(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gpt_numpy.workshop.cli.tune.pairs_from_reward", None)
    assert tune(BY_HAND, "dpo", "base", *FROM_REWARD) == 2
    assert "base holds a run already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "be", "chosen": "or"}', 'it is not {"prompt": "...", "chosen": "...", "rejected": "..."}'),
        ('{"prompt": "be", "chosen": "", "rejected": "or"}', "chosen is empty"),
        ('{"prompt": "be", "chosen": "or", "rejected": ""}', "rejected is empty"),
        ('{"prompt": "be", "chosen": "or", "rejected": "be or not"}', "it has 11 tokens, and the context"),
    ],
)
def test_wrong_preferences(line: str, reason: str, folder: Path) -> None:
    path = folder / "wrong.jsonl"
    path.write_text(f"{line}\n", encoding="utf-8")
    tokenizer = RunDir(Path("base")).checkpoint("best").tokenizer
    with pytest.raises(Exception, match=f"line 1: {re.escape(reason)}"):
        read_lines(path, PREFERENCE, tokenizer, 8)


# ---- wrong use --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("grpo", "--reward is missing; see gpt-numpy tune grpo --help"),
        ("grpo --reward good", "--reward is line-length, sums, word:TEXT or my_file.py:function, not 'good'"),
        ("grpo --reward mine.py:letters --answer-length 8", "an answer may have 5, since the context has 8"),
        ("grpo --reward mine.py:letters --group 1", "--group is a whole number of at least 2, not 1"),
        ("grpo --reward mine.py:letters --batch-size 6", "--batch-size 6 is not a multiple of --group 4"),
        ("grpo --reward mine.py:letters --updates 3", "--steps 100 is not a multiple of --updates 3"),
        ("grpo --reward mine.py:letters --updates 0", "--updates is a whole number of at least 1, not 0"),
        ("grpo --reward mine.py:letters --clip 0", "--clip is a number above 0, not 0.0"),
        ("grpo --reward mine.py:letters --target-loss 1", "--target-loss is not known"),
        ("grpo --reward mine.py:letters --prompt-length 9 --answer-length 1", "a prompt of 9 tokens leaves no room"),
        ("grpo --reward mine.py:letters --kl -1", "--kl is a number of at least 0, not -1.0"),
        ("grpo --reward mine.py:letters --stop xx", "--stop 'xx': several tokens may share such a text"),
        ("grpo --reward mine.py:letters --prompts none.jsonl", "none.jsonl cannot be read: No such file"),
        ("grpo --reward mine.py:letters --prompts preferences.jsonl --prompt-length 0", "--prompt-length is a whole"),
        ("grpo --reward mine.py:letters --data other.txt", "is not the text that"),
        ("dpo", "either --data, a file of pairs, or --reward is needed; see gpt-numpy tune dpo --help"),
        ("dpo --data preferences.jsonl --reward mine.py:letters", "either --data, a file of pairs, or --reward"),
        ("dpo --data mine.py", "mine.py, line 2: it is not {"),
        ("dpo --data preferences.jsonl --beta 0", "--beta is a number above 0, not 0.0"),
        (
            "dpo --reward mine.py:none --pairs 8",
            "0 of 8 prompts gave a pair, and two are needed",
        ),
        ("dpo --reward mine.py:letters --group 1", "--group is a whole number of at least 2, not 1"),
        ("dpo --reward mine.py:letters --pairs 0", "--pairs is a whole number of at least 1, not 0"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_no_folder(
    arguments: str, reason: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "other.txt").write_text("to be or not\n" * 30, encoding="utf-8")
    method, *given = arguments.split()
    answers = ANSWERS if "--reward" in given else []
    assert run(BY_HAND, ["tune", method, "--run", "base", "--threads", "1", *answers, *given]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gpt-numpy: ")
    assert reason in error
    assert error.count("\n") == 1
    assert not (folder / "runs").exists()


def test_resume_needs_the_pairs_and_prompts_that_the_run_began_with(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "prompts.jsonl").write_text('{"prompt": "be "}\n' * 9, "utf-8")
    assert tune(BY_HAND, "dpo", "a", "--data", "preferences.jsonl") == 0
    assert tune(BY_HAND, "grpo", "b", "--prompts", "prompts.jsonl") == 0
    (folder / "preferences.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "e"}\n' * 9, "utf-8")
    (folder / "prompts.jsonl").write_text('{"prompt": "to "}\n' * 9, "utf-8")
    assert tune(BY_HAND, "dpo", "a", "--resume", "--steps", "20") == 2
    assert f"{folder / 'preferences.jsonl'} is not what a was tuned on, or has changed since" in capsys.readouterr().err
    assert tune(BY_HAND, "grpo", "b", "--resume", "--steps", "20", *REWARDED) == 2
    assert f"{folder / 'prompts.jsonl'} is not what b was tuned on, or has changed since" in capsys.readouterr().err
    assert tune(BY_HAND, "dpo", "a", "--resume", "--steps", "20", "--group", "5") == 2
    assert "--group is for pairs that are made by --reward when a run begins" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["grpo", "dpo"])
def test_resume_does_not_need_the_model_that_the_run_began_with(method: str, folder: Path) -> None:
    flags = REWARDED if method == "grpo" else ["--data", "preferences.jsonl"]
    for name in ("a", "b"):
        assert tune(BY_HAND, method, name, *flags, *(["--steps", "20"] if name == "b" else [])) == 0
    shutil.rmtree("base")
    assert tune(BY_HAND, method, "a", "--resume", "--steps", "20", *flags) == 0
    for one, other in zip(records("a", "evaluation")[3:], records("b", "evaluation")[3:], strict=False):
        assert one["figures"].keys() == other["figures"].keys()
    reference = RunDir(Path("a")).folder / "checkpoints" / "reference"
    assert (reference / "model.safetensors").is_file()
    assert not (reference / "optimizer.safetensors").exists()


def test_reward_of_a_file_is_run_by_a_resumed_run_only_if_it_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(BY_HAND, "grpo", "a") == 0
    (folder / "mine.py").write_text("open('ran', 'w')\n" + REWARD, encoding="utf-8")
    assert tune(BY_HAND, "grpo", "a", "--resume", "--steps", "20") == 2
    assert "--reward mine.py:letters is in a file, which is run only if you name it again" in capsys.readouterr().err
    assert not (folder / "ran").exists()
    assert tune(BY_HAND, "grpo", "a", "--resume", "--steps", "20", *REWARDED) == 0


def test_settings_of_another_version_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(BY_HAND, "grpo", "a") == 0
    for kind in ("best", "latest"):
        rewrite_state(Path("a", "checkpoints", kind), tuning={"reward": "sums", "sharpness": 1})
    assert tune(BY_HAND, "grpo", "a", "--resume", "--steps", "20") == 2
    assert "a/checkpoints/latest has settings that are not known here: sharpness" in capsys.readouterr().err


@each_cli
@pytest.mark.parametrize("method", ["grpo", "dpo"])
def test_dropout_of_the_base_is_off(method: str, cli: EngineCLI, folder: Path, trained: Trained) -> None:
    """Answers are drawn, and the reference is asked, without it."""
    trained("dropped", "--dropout", "0.3")
    flags = ["--kl", "0"] if method == "grpo" else ["--data", "preferences.jsonl"]
    assert tune(cli, method, "a", "--run", "dropped", *flags) == 0
    first, config = records("a", "step")[0], RunDir(Path("a")).checkpoint("latest").state.config
    assert config.dropout == 0.0
    if method == "dpo":
        assert first["loss"] == pytest.approx(np.log(2), rel=1e-5)
    else:
        assert first["figures"]["KL"] == pytest.approx(0.0, abs=1e-5)


def test_resume_with_other_updates_ends_where_it_should(folder: Path) -> None:
    assert tune(BY_HAND, "grpo", "a", "--steps", "6", "--eval-every", "2", "--checkpoint-every", "2") == 0
    more = ["--steps", "12", "--updates", "4", "--eval-every", "4", "--checkpoint-every", "4", *REWARDED]
    assert tune(BY_HAND, "grpo", "a", "--resume", *more) == 0
    assert len(records("a", "step")) == latest("a") == 12
    assert [record["step"] for record in records("a", "evaluation")] == [0, 2, 4, 6, 8, 12]


def test_reward_that_fails_in_a_sample_loses_no_evaluation(folder: Path) -> None:
    def fails(*_: Any) -> str:
        raise UsageError("--reward: it failed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo.GRPO, "sample", fails)
        assert tune(BY_HAND, "grpo", "a") == 2
    assert RunDir(Path("a")).checkpoint("latest").state.best_loss is None
    assert tune(BY_HAND, "grpo", "a", "--resume", *REWARDED) == 0
    assert [record["step"] for record in records("a", "evaluation")] == [0, 4, 8, 12]
    assert RunDir(Path("a")).checkpoint("best").state.method == "grpo"


def test_claims_are_not_about_tuned_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(BY_HAND, "grpo", "a") == 0
    assert run(BY_HAND, ["claims", "--run", "a"]) == 2
    assert "a is a run of tune grpo; the claims are about train" in capsys.readouterr().err
    assert run(BY_HAND, ["eval", "--run", "a", "--group", "3"]) == 2
    assert "--group goes with --reward" in capsys.readouterr().err
