"""Rewards, the prompts of a text, and answers that a model draws to them, with both engines."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpt_numpy import GPTConfig
from gpt_numpy.workshop.data.tokenizer import CharTokenizer
from gpt_numpy.workshop.engine import Rollouts
from gpt_numpy.workshop.errors import RunFailed, UsageError
from gpt_numpy.workshop.probabilities import log_softmax
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.tune import sums
from gpt_numpy.workshop.tune.dpo import answer_in_file
from gpt_numpy.workshop.tune.grpo import advantages
from gpt_numpy.workshop.tune.rewards import find_reward
from gpt_numpy.workshop.tune.rollouts import Answers, RolloutSettings, draw_answers, ends_of, prompts_of, share_of_words
from tests.support.engines import ENGINES

TOKENIZER = CharTokenizer("\nabcdefgh")
CONFIG = GPTConfig(vocab_size=9, block_size=12, n_layer=1, n_head=2, n_embd=8, dropout=0.5)
PROMPTS = [[1, 2, 3], [4], [5, 6], [7, 8, 1, 2, 3]]
each_engine = pytest.mark.parametrize("name", ENGINES)


def engine_of(name: str, config: GPTConfig = CONFIG, scale: float = 30.0) -> Any:
    """With weights so large that some tokens are much likelier than others."""
    engine = ENGINES[name](config, Recipe(batch_size=4, lr=1e-2, warmup=0))
    rng = np.random.default_rng(1)
    weights = {n: w + scale * 0.01 * rng.standard_normal(w.shape).astype(w.dtype) for n, w in engine.weights().items()}
    engine.load(weights, {}, 0)
    return engine


# ---- rewards ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "prompt", "text", "expected"),
    [
        *(("line-length", "a\n", "x" * size, float(36 <= size <= 40)) for size in (0, 35, 36, 40, 41)),
        ("sums", "123+456=", "9750", 1.0), ("sums", "123+456=", "0579", 0.0), ("sums", "999+999=", "8991", 1.0),
        ("sums", "123+456=", "97500", 0.0), ("sums", "no sum", "9750", 0.0),
        ("word:love", "love", "no", 0.0), ("word:love", "", "my love:", 1.0), ("word:a:b", "", "a:b", 1.0),
    ],
)  # fmt: skip
def test_rewards_of_the_tree(name: str, prompt: str, text: str, expected: float) -> None:
    assert find_reward(name)(prompt, text) == expected


def test_reward_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(
        "import numpy as np\ndef length(prompt, text): return len(prompt) * 10 + len(text)\n"
        "def right(prompt, text): return text == 'a'\ndef array(prompt, text): return np.float32(0.5)\n"
        "def text(prompt, text): return 'good'\ndef nothing(prompt, text): pass\n"
        "def large(prompt, text): return 10**400\ndef leaves(prompt, text): raise SystemExit(3)\n"
        "def nan(prompt, text): return float('nan')\ndef breaks(prompt, text): return {}['no\\nkey']\nnumber = 3\n"
        "def huge(prompt, text): return 10**5000\ndef half(prompt, text): return np.float16('inf')\n"
        "class Silent(Exception):\n    def __str__(self): return 1\n    __repr__ = __str__\n"
        "def silent(prompt, text): return Silent()\ndef mute(prompt, text): raise Silent\n",
        encoding="utf-8",
    )
    assert find_reward("mine.py:length")("abc", "de") == 32.0
    assert (find_reward("mine.py:right")("", "a"), find_reward("mine.py:array")("", "")) == (1.0, 0.5)
    for name, reason in (
        ("text", "it returned 'good', not a number, for the text 'xy'"), ("nothing", "it returned None"),
        ("nan", "it returned nan"), ("large", "it returned 1000"), ("leaves", "SystemExit: 3"),
        ("breaks", "KeyError: 'no"), ("huge", "it returned a int that cannot be shown"),
        ("half", "it returned np.float16(inf)"),
        ("silent", "it returned a Silent that cannot be shown"), ("mute", "Silent: a Silent that cannot be shown"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=f"^--reward mine.py:{name}: .*{re.escape(reason)}") as error:
            find_reward(f"mine.py:{name}")("", "xy")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "--reward is line-length, sums, word:TEXT or my_file.py:function, not ''"),
        ("long", "not 'long'"), ("word:", "not 'word:'"), ("mine.txt:f", "not 'mine.txt:f'"),
        ("none.py:f", "none.py is not a file"), ("empty.py:f", "empty.py has no function f"),
        ("wrong.py:f", "wrong.py ends with SyntaxError"), ("raises.py:f", "raises.py ends with ValueError: no message"),
    ],
)  # fmt: skip
def test_unknown_reward(name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file, content in (("empty", "f = 1"), ("wrong", "def"), ("raises", "raise ValueError")):
        (tmp_path / f"{file}.py").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=re.escape(reason)):
        find_reward(name)


def test_sums_that_are_held_out_are_in_no_other_file(tmp_path: Path) -> None:
    sums.write_sums(tmp_path / "sums")
    parts = {}
    for name, count in (("pairs", 2000), ("prompts", 20_000), ("test", 1000)):
        lines = (tmp_path / "sums" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        assert len(lines) == count
        parts[name] = {(one["prompt"], one["answer"]) for one in map(json.loads, lines)}
        assert len(parts[name]) == count
        assert all(sums.right_sum(*one) for one in parts[name])
    assert not parts["test"] & (parts["pairs"] | parts["prompts"])
    text = (tmp_path / "sums" / "text.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(text) == sorted("".join(one) for one in parts["pairs"])


# ---- prompts ----------------------------------------------------------------------------------------------------


def data_of(training: str, validation: str) -> Any:
    return SimpleNamespace(train=TOKENIZER.encode(training), validation=TOKENIZER.encode(validation), name="a text")


def test_prompts_are_the_ends_of_the_lines_that_are_long_enough() -> None:
    data = data_of("abcd\nab\n\nabc\nhgfedc\nabcd", "dcba\nabc\n")
    prompts = prompts_of(RolloutSettings("-", prompt_length=4, answer_length=9), data, TOKENIZER, 12)
    decoded = [[TOKENIZER.decode(list(prompt)) for prompt in part] for part in (prompts.training, prompts.validation)]
    assert decoded == [[b"bcd\n", b"abc\n", b"edc\n"], [b"cba\n", b"abc\n"]]
    assert (len(prompts.training), prompts.about) == (3, "the lines of a text")
    with pytest.raises(UsageError, match="--answer-length 10: with a prompt of 4 tokens an answer may have 9"):
        prompts_of(RolloutSettings("-", prompt_length=4, answer_length=10), data, TOKENIZER, 12)
    with pytest.raises(UsageError, match="too few prompts in the lines of a text"):
        prompts_of(RolloutSettings("-", prompt_length=6, answer_length=1), data, TOKENIZER, 12)


def test_prompts_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("".join(f'{{"prompt": "{"abcdefgh"[n % 8]}", "other": 1}}\n' for n in range(20)), encoding="utf-8")
    prompts = prompts_of(RolloutSettings("-", prompts=str(path), answer_length=9), data_of("", ""), TOKENIZER, 12)
    assert [*prompts.training, *prompts.validation] == [[1 + n % 8] for n in range(20)]
    assert (len(prompts.training), prompts.about) == (18, "p.jsonl")
    path.write_text('{"prompt": 1}\n', encoding="utf-8")
    with pytest.raises(UsageError, match=re.escape('p.jsonl, line 1: it is not {"prompt": "..."}')):
        prompts_of(RolloutSettings("-", prompts=str(path)), data_of("", ""), TOKENIZER, 12)


def test_what_ends_an_answer() -> None:
    assert ends_of(TOKENIZER, "\n").nonzero()[0].tolist() == [0]
    assert not ends_of(TOKENIZER, "").any()
    for wrong, reason in (("z", "is in no token of the model"), ("ab", "several tokens may share such a text")):
        with pytest.raises(UsageError, match=f"--stop '{wrong}'.*{reason}"):
            ends_of(TOKENIZER, wrong)

    class Ending(CharTokenizer):
        end: int | None = 8

    assert ends_of(Ending(TOKENIZER.characters), "a").nonzero()[0].tolist() == [1, 8]


def test_share_of_known_words() -> None:
    assert share_of_words(["To be, o'er", "zz To"], frozenset(["to", "o'er"])) == pytest.approx(3 / 5)
    assert share_of_words(["12 + 3", "-"], frozenset()) is None


# ---- answers ----------------------------------------------------------------------------------------------------


@each_engine
def test_answers_are_drawn_from_what_the_model_predicts(name: str) -> None:
    """Prompts of several lengths together, with a cache, give what the model says of each alone, without one."""
    engine = engine_of(name)
    answers = draw_answers(engine, PROMPTS, TOKENIZER, "\n", 8, seed=3)
    assert {len(text) for text in answers.texts} != {8}  # some were ended
    log_p = log_softmax(engine.logits(answers.ids).astype(np.float64))
    np.testing.assert_allclose(
        answers.log_p,
        np.take_along_axis(log_p, answers.targets[..., None], -1)[..., 0] * answers.answer_mask,
        1e-4,
        1e-5,
    )
    entropy = -(np.exp(log_p) * log_p).sum(-1) * answers.answer_mask
    np.testing.assert_allclose(answers.entropy, entropy, 1e-4, 1e-5)
    for row, prompt in enumerate(PROMPTS):
        answer_mask = np.flatnonzero(answers.answer_mask[row])
        drawn = answers.targets[row, answer_mask].tolist()
        assert answer_mask.tolist() == list(range(len(prompt) - 1, len(prompt) - 1 + len(drawn)))
        assert answers.ids[row, : len(prompt)].tolist() == prompt
        assert answers.ended[row] == (drawn[-1] == 0)
        assert 0 not in drawn[:-1]
        assert len(drawn) == 8 or answers.ended[row]
        assert answers.texts[row].encode() == TOKENIZER.decode(drawn).rstrip(b"\n")
        assert answers.prompts[row].encode() == TOKENIZER.decode(prompt)
    assert answers.lengths.tolist() == answers.answer_mask.sum(1).tolist()
    assert answers.ids.shape[1] == int(np.flatnonzero(answers.answer_mask.any(0))[-1]) + 1


def test_model_may_have_more_tokens_than_its_tokenizer() -> None:
    engine = engine_of("numpy", replace(CONFIG, vocab_size=12), scale=0.0)
    answers = draw_answers(engine, [[4, 5]] * 50, TOKENIZER, "\n", 8, seed=3)
    assert answers.targets.max() > 8
    assert any(answers.ended)


def test_only_answers_that_a_text_can_hold_become_pairs() -> None:
    class Halves(CharTokenizer):
        """Its tokens are the bytes of the characters."""

        def encode(self, text: str) -> Any:
            return np.array(list(text.encode("utf-8")))

        def decode(self, ids: Any) -> bytes:
            return bytes(ids)

    def answers(*tokens: int) -> Answers:
        ids, count = np.array([[97, *tokens[:-1]]]), len(tokens)
        answer_mask, none = np.ones((1, count), bool), np.zeros((1, count), np.float32)
        return Answers(ids, np.array([tokens]), answer_mask, none, none, ["a"], [""], np.ones(1, bool))

    tokenizer = Halves("ab")
    assert answer_in_file(answers(98, 10), 0, tokenizer) == "b\n"
    assert answer_in_file(answers(0xC3, 0xA9), 0, tokenizer) == "é"
    assert answer_in_file(answers(98, 0xC3), 0, tokenizer) is None  # half of a character
    tokenizer.end = 0
    assert answer_in_file(answers(98, 0), 0, tokenizer) == "b"
    assert answer_in_file(answers(98, 98), 0, tokenizer) is None  # an end would be added
    assert answer_in_file(answers(0), 0, tokenizer) is None


def test_both_engines_draw_the_same() -> None:
    found = [draw_answers(engine_of(name), PROMPTS, TOKENIZER, "\n", 8, seed=5) for name in ENGINES]
    assert found[0].texts == found[1].texts
    assert found[0].texts != draw_answers(engine_of("numpy"), PROMPTS, TOKENIZER, "\n", 8, seed=6).texts


@each_engine
def test_each_token_is_drawn_as_often_as_it_is_likely(name: str) -> None:
    engine, count = engine_of(name), 4000
    answers = draw_answers(engine, [[4, 5]] * count, TOKENIZER, "", 1, seed=0)
    found = np.bincount(answers.targets[:, 1], minlength=9) / count
    p = np.exp(log_softmax(engine.logits(np.array([[4, 5]]))[0, -1].astype(np.float64)))
    assert (np.abs(found - p) < 4.0 * np.sqrt(p * (1.0 - p) / count)).all()
    greedy = draw_answers(engine, [[4, 5]] * 2, TOKENIZER, "", 1, seed=0, greedy=True)
    assert greedy.targets[:, 1].tolist() == [p.argmax()] * 2


def test_drawing_refuses_logits_that_are_not_finite() -> None:
    engine = engine_of("numpy")
    engine.load({name: weight * np.float32(np.nan) for name, weight in engine.weights().items()}, {}, 0)
    with pytest.raises(RunFailed, match="the logits of the model are not finite"):
        draw_answers(engine, PROMPTS, TOKENIZER, "\n", 8, seed=3)


# ---- the policy gradient ----------------------------------------------------------------------------------------


@each_engine
def test_policy_gradient_of_samples_is_unbiased(name: str) -> None:
    """For answers of one character the expected reward is a sum over the vocabulary, whose gradient can be enumerated:
    of the logits, p (r - sum p r). Samples have to give that in their mean, but for the factor (G - 1) / G: the mean of
    a group has the answer itself in it."""
    engine, G, groups = engine_of(name), 4, 200
    prompt, rewards = [4, 5], np.array([0.0, 1.0, 0.0, 3.0, -1.0, 0.5, 0.0, 0.0, 2.0], np.float32)
    logits = engine.logits(np.array([prompt]))[0, -1].astype(np.float64)
    p = np.exp(log_softmax(logits))
    expected = (G - 1) / G * p * (rewards - p @ rewards)
    found = []
    for seed in range(50):
        answers = draw_answers(engine, [prompt] * (G * groups), TOKENIZER, "", 1, seed)
        A = advantages(rewards[answers.targets[:, 1]].reshape(groups, G), normalize=False).reshape(-1, 1)
        found.append(-(A * (p - np.eye(9)[answers.targets[:, 1]])).mean(0))  # - A (p - onehot) / N: uphill
    error = np.std(found, 0, ddof=1) / np.sqrt(len(found))
    assert (np.abs(np.mean(found, 0) - expected) < 4.0 * error + 1e-9).all()
    assert np.abs(expected).max() > 20.0 * error.max()  # what a wrong one would differ by


@each_engine
def test_engine_moves_along_that_gradient(name: str) -> None:
    """The same rows, through the whole model: the loss falls by what the enumerated reward rises, to first order."""
    engine = engine_of(name, replace(CONFIG, dropout=0.0))
    ids = np.array([[4, 5]] * 9)
    targets = np.stack([np.zeros(9, np.int64), np.arange(9)], 1)
    rewards = np.array([0.0, 1.0, 0.0, 3.0, -1.0, 0.5, 0.0, 0.0, 2.0])
    p = np.exp(log_softmax(engine.logits(ids[:1])[0, -1].astype(np.float64)))
    weights = np.zeros((9, 2), np.float32)
    weights[:, 1] = p * (rewards - p @ rewards)  # every answer once, as often as it is drawn
    old = np.zeros((9, 2), np.float32)
    old[:, 1] = np.log(p)
    engine.train_step(Rollouts(ids, targets, weights, old, 0.2), 0)
    q = np.exp(log_softmax(engine.logits(ids[:1])[0, -1].astype(np.float64)))
    assert q @ rewards > p @ rewards + 0.05


def test_advantages() -> None:
    rewards = np.array([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 4.0]], np.float32)
    np.testing.assert_allclose(advantages(rewards, False), [[-0.5, 0.5, 0.5, -0.5], [0.0] * 4, [-1.0, -1.0, -1.0, 3.0]])
    normalized = advantages(rewards, True)
    assert not normalized[1].any()  # all of a group equal: it teaches nothing
    np.testing.assert_allclose(normalized.std(1, ddof=1)[[0, 2]], 1.0, 1e-3)
    np.testing.assert_allclose(normalized.sum(1), 0.0, atol=1e-6)


def test_sums_overwrite_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("mine", encoding="utf-8")
    assert sums.main([str(tmp_path)]) == 2
    assert "text.txt exists already; give another folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]
    assert sums.main([]) == 2
    assert sums.main(["--help"]) == 0
    assert sums.main([str(tmp_path / "new")]) == 0
    assert len(list((tmp_path / "new").iterdir())) == 4
