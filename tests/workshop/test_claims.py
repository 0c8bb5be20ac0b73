"""Each claim of the workshop, with a run for which it holds and one for which it fails."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_numpy import GPTConfig
from gpt_numpy.workshop.cli.main import run
from gpt_numpy.workshop.data.dataset import Dataset, TextStats
from gpt_numpy.workshop.data.tokenizer import CharTokenizer
from gpt_numpy.workshop.recipes import PRESETS
from gpt_numpy.workshop.report.claims import DEPENDS, FAILS, HOLDS, Claim, Evidence, claims, samples
from gpt_numpy.workshop.runs.checkpoint import State
from gpt_torch.cli import CLI
from tests.support.runs import PLAY, Train

WORKSHOP = PRESETS["workshop"].recipe


def evaluation(step: int, training: float, validation: float, sample: str = "") -> dict[str, Any]:
    return {"kind": "evaluation", "step": step, "train_loss": training, "val_loss": validation, "sample": sample}


def timed(speed: float, step: int = 1) -> dict[str, Any]:
    return {"kind": "step", "step": step, "loss": 1.0, "characters_per_second": speed}


def evidence(
    records: Sequence[dict[str, Any]] = (), text: str = PLAY, characters_per_token: float = 1.0, **state: Any
) -> Evidence:
    tokenizer = CharTokenizer("".join(sorted(set(text))))
    tokens = tokenizer.encode(text)
    split = int(0.9 * len(tokens))
    data = Dataset(
        "play.txt",
        "play.txt",
        TextStats(len(text), "", ""),
        tokens[:split],
        tokens[split:],
        characters_per_token,
        None,
    )
    run = State(GPTConfig(vocab_size=tokenizer.vocab_size), WORKSHOP, "play.txt", "")
    return Evidence(replace(run, **state), tokenizer, data, list(records))


def about(words: str, run: Evidence) -> Claim:
    (claim,) = [claim for claim in claims(run) if words in claim.says]
    return claim


def test_number_of_parameters() -> None:
    full = replace(evidence().state, config=GPTConfig())
    claim = about("million", replace(evidence(), state=full))
    assert claim.found == "10,795,776; one of its 6 blocks has 1,774,464"
    assert claim.verdict == FAILS


def test_number_of_pairs() -> None:
    counts = Counter(itertools.pairwise(PLAY))
    often = sum(count >= 10 for count in counts.values())
    claim = about("every pair", evidence())
    assert claim.found == f"{len(counts)} of {len(set(PLAY)) ** 2} pairs occur, {often} of them ten times or more"
    assert claim.verdict == FAILS
    assert about("every pair", evidence(text="aabba" * 400)).verdict == HOLDS
    assert about("every pair", evidence(text="ab" * 400)).verdict == FAILS


def test_losses_of_unigram_and_bigram_counts() -> None:
    """In a text of 20 different characters in which q is always followed by u, so short that the smoothing of unseen
    pairs matters."""
    random = np.random.default_rng(0)
    text = "".join("qu" if letter == 16 else chr(97 + letter) for letter in random.integers(0, 20, 150))
    split = int(0.9 * len(text))
    train, validation = text[:split], text[split:]
    single = Counter(train)
    total = sum(single.values()) + len(set(text))
    alone = -sum(math.log((single[b] + 1) / total) for b in validation[1:]) / (len(validation) - 1)
    double, before = Counter(itertools.pairwise(train)), Counter(train[:-1])
    paired = -sum(
        math.log((double[a, b] + (single[b] + 1) / total) / (before[a] + 1)) for a, b in itertools.pairwise(validation)
    ) / (len(validation) - 1)
    run = evidence([evaluation(10, 3.0, alone + 0.01), evaluation(20, 2.9, paired)], text)
    assert about("how often", run).found == f"their frequencies alone give {alone:.2f}; the run was there at step 10"
    assert about("pairs such", run).found == f"the pairs alone give {paired:.2f}; the run was there at step 20"
    letters = "".join(chr(97 + letter) for letter in random.integers(0, 27, 60_000))  # ln 27 = 3.30
    assert about("how often", evidence(text=letters)).verdict == HOLDS
    assert about("pairs such", evidence(text=letters)).verdict == FAILS
    few = "".join(chr(97 + letter) for letter in random.integers(0, 12, 60_000))  # ln 12 = 2.48
    assert about("pairs such", evidence(text=few)).verdict == HOLDS
    assert about("how often", evidence(text=few)).verdict == FAILS


STEPS_82: dict[str, Any] = {"step": 5000, "recipe": replace(WORKSHOP, batch_size=1), "config": GPTConfig(block_size=1)}
ONE_STEP = 64 * 256  # characters
RUNS: dict[str, tuple[str, Evidence, str]] = {
    "82 passes, another run": ("82 passes", evidence(**STEPS_82), DEPENDS),
    "82 passes, another text": ("82 passes", evidence(step=5000), FAILS),
    "guess": ("uniform guess", evidence([evaluation(0, 3.0, math.log(len(set(PLAY))) + 0.1)]), HOLDS),
    "no guess": ("uniform guess", evidence([evaluation(0, 3.0, math.log(len(set(PLAY))) + 0.2)]), FAILS),
    "not evaluated at the start": ("uniform guess", evidence([evaluation(1, 3.0, 3.0)]), DEPENDS),
    "words": ("real words", evidence([evaluation(1, 1.8, 1.8, "x be question xx to qq that x")]), HOLDS),
    "half of them": ("real words", evidence([evaluation(1, 1.8, 1.8, "x be question xx qq x")]), HOLDS),
    "no words": ("real words", evidence([evaluation(1, 1.8, 1.8, "to quest xx qq that is")]), FAILS),
    "words elsewhere": ("real words", evidence([evaluation(1, 1.8, 2.1, "x to be to be x")]), DEPENDS),
    "validation gets there": ("writes Shakespeare", evidence([evaluation(1, 1.2, 1.2)]), HOLDS),
    "only training gets there": ("writes Shakespeare", evidence([evaluation(1, 1.1, 1.3)]), FAILS),
    "nothing gets there": ("writes Shakespeare", evidence([evaluation(1, 1.3, 1.3)]), DEPENDS),
    "overfitting": ("overfitting", evidence([evaluation(1, 1.3, 1.5), evaluation(2, 0.9, 1.6)]), HOLDS),
    "no overfitting": ("overfitting", evidence([evaluation(1, 1.3, 1.5), evaluation(2, 0.9, 1.49)]), FAILS),
    "not yet": ("overfitting", evidence([evaluation(1, 1.3, 1.5), evaluation(2, 1.1, 1.6)]), DEPENDS),
    "best step": ("best step", evidence(best_step=2600, best_loss=1.5), HOLDS),
    "another best step": ("best step", evidence(best_step=1800, best_loss=1.5), FAILS),
    "another recipe": ("best step", evidence(best_step=2400, best_loss=1.5, recipe=replace(WORKSHOP, lr=1.0)), DEPENDS),
    "no best step": ("best step", evidence(), DEPENDS),
    "15 minutes": ("15 minutes", evidence([timed(5000 * ONE_STEP / 900)]), HOLDS),
    "5 minutes": ("15 minutes", evidence([timed(5000 * ONE_STEP / 300)]), FAILS),
    "half as fast for half of the time": (
        "15 minutes", evidence([timed(5000 * ONE_STEP / 900), timed(5000 * ONE_STEP / 1770)]), FAILS,
    ),
    "another batch": ("15 minutes", evidence([timed(1.0)], recipe=replace(WORKSHOP, batch_size=8)), DEPENDS),
    "never timed": ("15 minutes", evidence(), DEPENDS),
    "per character": ("writes Shakespeare", evidence([evaluation(1, 2.2, 2.2)], characters_per_token=2.0), HOLDS),
}  # fmt: skip


@pytest.mark.parametrize(("words", "run", "verdict"), RUNS.values(), ids=RUNS)
def test_verdicts(words: str, run: Evidence, verdict: str) -> None:
    assert about(words, run).verdict == verdict


def test_samples_are_from_the_nearest_evaluations() -> None:
    losses = {0: 3.31, 10: 3.34, 20: 3.25, 30: 2.2, 40: 1.88, 50: 1.5}
    run = evidence([evaluation(step, loss, loss, str(step)) for step, loss in losses.items()])
    assert [(loss, one["sample"]) for loss, one in samples(run)] == [
        (4.17, "0"),
        (3.3, "10"),
        (1.9, "40"),
        (1.47, "50"),
    ]


def test_command_prints_claims_of_a_run(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    train("a")
    capsys.readouterr()
    assert run(CLI, ["claims", "--run", "a"]) == 0
    shown = capsys.readouterr().out
    assert re.search("^a, step 20, on .*play.txt$", shown, re.MULTILINE)
    assert "claims about the text are about tiny Shakespeare" in shown
    for words in ("1.8 million", "5,000 steps take about 15 minutes", DEPENDS, FAILS):
        assert words in shown
    assert max(map(len, shown.splitlines())) <= 160


def test_run_without_its_text_is_a_one_line_error(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    train("a", "--data", "play.txt")
    Path("play.txt").unlink()
    assert run(CLI, ["claims", "--run", "a"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
