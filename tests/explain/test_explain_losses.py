"""explain of the losses of tuning: their gradients, where the weight of a position comes from, the commands."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_numpy.cli import CLI
from gpt_numpy.explain.account import account
from gpt_numpy.explain.checks import by_torch, check_all, checkable, four_ways, verdict, visible_entries
from gpt_numpy.explain.subject import subject_of
from gpt_numpy.explain.trace import Trace
from gpt_numpy.workshop.cli.main import run
from tests.explain.reader import Reader
from tests.support.runs import Trained

TEXT = "To be, or"
LOSSES: dict[str, dict[str, Any]] = {
    "grpo": {"reward": "word:e", "group": 6, "answer_length": 5},
    "dpo": {"chosen": "boo", "rejected": "To be", "beta": 0.5},
    "distill": {},
}
in_detail = pytest.mark.slow("a browser, in detail")
each_loss = pytest.mark.parametrize("loss", LOSSES)


def trace_of(loss: str) -> Trace:
    return Trace(subject_of(CLI, {"text": TEXT, "loss": loss, **LOSSES[loss]}).problem)


def flags_of(loss: str) -> list[str]:
    given = [(f"--{name.replace('_', '-')}", str(value)) for name, value in LOSSES[loss].items()]
    return ["--loss", loss, *(word for pair in given for word in pair)]


@each_loss
def test_every_gradient_agrees_all_four_ways(loss: str) -> None:
    trace = trace_of(loss)
    torch = by_torch(trace.problem)
    most = 60 * len(checkable(trace))
    found = verdict(trace, check_all(trace, torch, most))
    assert found.wrong == 0
    assert found.has_torch
    assert found.differences > 1000
    assert torch["L"] == pytest.approx(trace.numbers["L"], rel=1e-12)
    assert found.entries == sum(len(visible_entries(trace, name)) for name in checkable(trace))


@each_loss
def test_gradient_of_the_logits_is_the_weight_times_probability_minus_target(loss: str) -> None:
    numbers = trace_of(loss).numbers
    T = len(numbers["l"])
    weight = numbers.get("weight", np.full(T, 1.0 / T))[:, None]
    target = numbers["q"] if loss == "distill" else numbers["next"]
    np.testing.assert_allclose(numbers["dZ"], weight * (numbers["p"] - target), 1e-12, 1e-15)


def test_advantage_comes_from_the_rewards_of_the_group() -> None:
    numbers = trace_of("grpo").numbers
    rewards, mask = numbers["reward"], numbers["mask"]
    A = (numbers["own"] - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
    assert numbers["own"] in rewards
    assert numbers["A"] == pytest.approx(A, rel=1e-12)
    assert abs(A) == pytest.approx(np.abs(rewards - rewards.mean()).max() / (rewards.std(ddof=1) + 1e-4), rel=1e-12)
    assert mask.tolist() == [0.0] * (len(TEXT) - 1) + [1.0] * 5
    np.testing.assert_allclose(numbers["weight"], A * mask / 5.0, 1e-12)
    assert not numbers["dZ"][: len(TEXT) - 1].any()  # the prompt is not learned
    assert numbers["L"] == pytest.approx((numbers["weight"] * numbers["l"]).sum(), rel=1e-12)


def test_pull_comes_from_the_margin() -> None:
    numbers = trace_of("dpo").numbers
    log_p = -(numbers["l"] * numbers["mask"]).sum()
    margin = 0.5 * (log_p - numbers["log_r"] - numbers["rejected"])
    assert numbers["margin"] == pytest.approx(margin, rel=1e-12)
    assert margin != 0.0
    assert numbers["L"] == pytest.approx(np.log1p(np.exp(-margin)), rel=1e-12)
    np.testing.assert_allclose(numbers["weight"], 0.5 / (1.0 + np.exp(margin)) * numbers["mask"], 1e-12)
    assert numbers["mask"].sum() == 3


def test_teacher_is_another_model() -> None:
    numbers = trace_of("distill").numbers
    np.testing.assert_allclose(numbers["q"].sum(-1), 1.0, 1e-6)
    assert np.abs(numbers["q"] - numbers["p"]).max() > 0.05
    np.testing.assert_allclose(numbers["l"], -(numbers["q"] * np.log(numbers["p"])).sum(-1), 1e-12)


@each_loss
def test_all_of_the_loss_has_an_account(loss: str) -> None:
    trace = trace_of(loss)
    of_answer = {
        "grpo": ["reward", "own", "mask", "mean_reward", "A", "weight"],
        "dpo": ["mask", "log_r", "rejected", "log_p", "margin", "pull", "weight"],
        "distill": ["q"],
    }
    for name in [*of_answer[loss], "l", "L", "dZ"]:
        shape = trace.numbers[name].shape
        found = account(trace, name, tuple(size - 1 for size in shape))
        assert not any(way.is_wrong for way in four_ways(trace, by_torch(trace.problem), found))
        assert found.quantity.meaning


@in_detail
@each_loss
def test_commands(
    loss: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(CLI, ["explain", TEXT, *flags_of(loss), "--entry", "dZ[9,1]" if loss != "distill" else "dZ[7,1]"]) == 0
    output = capsys.readouterr().out
    assert "they agree: off by" in output
    (again,) = re.findall(r"account, too: gpt-numpy explain .* --entry '(.*)'", output)
    assert again.startswith("weight" if loss != "distill" else "p[")
    assert run(CLI, ["explain", TEXT, *flags_of(loss), "--differences", "50"]) == 0
    output = capsys.readouterr().out
    assert {"grpo": "loss: answer ", "dpo": "loss: the answer that is preferred to 'To be'",
            "distill": "loss: it learns the predictions of a teacher"}[loss] in output  # fmt: skip
    data = re.search(r'id="data">(.*?)</script>', (tmp_path / "attention.html").read_text(encoding="utf-8"))
    assert data
    page = json.loads(data[1])
    assert page["learns"] in output.replace("\n", " ")
    assert page["ofLoss"][-1] == "L" if loss != "dpo" else "pull" in page["ofLoss"]


@in_detail
@each_loss
def test_page(loss: str, browser: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert run(CLI, ["explain", TEXT, *flags_of(loss), "--differences", "50", "--out", str(page)]) == 0
    errors: list[str] = []
    reader = Reader(browser, page)
    reader.page.on("pageerror", lambda error: errors.append(str(error)))
    reader.page.goto(f"{page.as_uri()}#dZ[7,1]&tour=1")
    shown = reader.page.inner_text("body")
    assert errors == []
    assert "Start at the loss" in shown
    assert ("From the answer to the loss" in shown) == (loss != "distill")
    assert reader.page.query_selector("[data-figure=weight]" if loss != "distill" else "[data-figure=q]")


def test_losses_of_runs(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained("a")
    trained("b", "--seed", "5")
    common = ["explain", "be ", "--run", "a", "--entry", "L"]
    assert run(CLI, [*common, "--loss", "distill", "--other", "b"]) == 0
    assert run(CLI, [*common, "--loss", "dpo", "--other", "b", "--chosen", "to", "--rejected", "or"]) == 0
    assert run(CLI, [*common, "--loss", "grpo", "--reward", "word:e", "--answer-length", "4", "--group", "16"]) == 0
    assert capsys.readouterr().out.count("they agree") == 3


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--loss grpo", "--loss grpo needs --reward"),
        ("--loss dpo --chosen a", "--loss dpo needs --rejected"),
        ("--loss distill --reward sums", "--reward is for --loss grpo"),
        ("--chosen a", "--chosen is for --loss dpo"),
        ("--other a", "--other is for --loss dpo or distill"),
        ("--loss grpo --reward sums", "all 8 answers have the reward 0: none is better than the others"),
        ("--loss grpo --reward word:e --group 1", "--group is at least 2, not 1"),
        ("--loss grpo --reward word:e --answer-length 60", "prompt and answer have 69 tokens; the model takes 65"),
        ("--loss dpo --chosen a --rejected b --beta 0", "--beta is a number above 0, not 0.0"),
        ("--loss dpo --chosen eno --rejected boo --beta 1e6", "and the probability to prefer the answer 0 or 1"),
        ("--loss sft", "invalid choice: 'sft'"),
    ],
)
def test_wrong_use_is_one_line(arguments: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(CLI, ["explain", TEXT, *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
