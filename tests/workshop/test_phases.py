"""Phases of the loss, and warnings about the curve."""

import math

import numpy as np
import pytest

from gpt_numpy.workshop.engine import StepResult
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.train.budget import TimeBudget
from gpt_numpy.workshop.train.evaluate import bits, perplexity
from gpt_numpy.workshop.train.metrics import Evaluation, Metrics, diagnose
from gpt_numpy.workshop.train.phases import meaning_of, phase_of

NOISE = np.random.default_rng(0).normal(0, 0.05, 2000)
FALLING = [2.5 * math.exp(-step / 300) + 1.5 + NOISE[step] for step in range(1000)]


@pytest.mark.parametrize(
    ("loss", "training", "meaning"),
    [
        (math.log(65), False, "knows nothing"),
        (3.3, False, "how often each character occurs"),
        (2.5, False, "common pairs"),
        (1.9, False, "real words"),
        (1.1, False, "real words"),
        (1.1, True, "names, phrases"),
        (0.9, True, "memorizing the text"),
    ],
)
def test_phase_of_a_loss(loss: float, training: bool, meaning: str) -> None:
    assert phase_of(loss, training).startswith(meaning)


def found(losses: list[float], evaluations: list[tuple[int, float, float]], since: int = 250) -> str:
    return "; ".join(diagnose(losses, [Evaluation(*one) for one in evaluations], since))


def test_before_first_step_model_knows_nothing() -> None:
    assert meaning_of(2.0, 2.0, at_start=True) == phase_of(2.0, at_start=True) == "knows nothing"


def test_phase_of_training_loss_alone_is_marked() -> None:
    assert meaning_of(1.5, 1.6, at_start=False) == "real words"
    assert meaning_of(1.1, 1.6, at_start=False) == "real words; in training: names, phrases"
    assert meaning_of(0.8, 1.9, at_start=False).startswith("real words; in training: memorizing the text")


def test_healthy_run_has_no_warnings() -> None:
    evaluations = [(250 * i, 4.2 - 0.4 * i, 4.2 - 0.38 * i) for i in range(6)]
    for length in (0, 1, 50, 200, 1000):
        assert found(FALLING[:length], evaluations[: 1 + length // 250]) == ""


def test_loss_not_falling() -> None:
    flat = [4.17 + noise for noise in NOISE[:200]]
    assert "not falling" in found(flat, [])
    assert "not falling" not in found(flat[:99], [])  # too early
    assert "not falling" not in found([3.0] * 180 + [2.0] + [2.98] * 19, [])  # by the mean of the last twenty


def test_progress_shows_the_latest_validation_loss_and_characters_per_second() -> None:
    metrics = Metrics(1000, 3.0, TimeBudget(0.0))
    for step, loss in enumerate((4.0, 2.0)):
        metrics.add_record({"kind": "evaluation", "step": step, "train_loss": loss, "val_loss": loss + 0.5})
        metrics.add_step(step, StepResult(loss, 1.0), seconds=0.5)
        for record in metrics.flush(Recipe()):
            metrics.add_record(record)
    assert "val 2.500 " in metrics.progress()
    assert 5.9 < metrics.records[-1]["characters_per_second"] / 1000 <= 6.0  # 1,000 tokens in half a second
    assert metrics.progress().endswith("6.0k chars/s")


@pytest.mark.parametrize("at", [750, 751, 850, 960, 999])
def test_spike_is_reported_with_its_step(at: int) -> None:
    losses = FALLING.copy()
    losses[at] = 4.0
    assert f"a spike: step {at + 1} had a loss of 4.00" in found(losses, [])
    losses[at] = FALLING[at] + 0.15  # noise
    assert found(losses, []) == ""


@pytest.mark.parametrize(
    ("height", "steps", "reported"), [(0.45, 100, False), (0.55, 100, True), (0.55, 40, True), (0.55, 39, False)]
)
def test_spike_among_equal_losses_is_above_half_a_nat(height: float, steps: int, reported: bool) -> None:
    losses = [2.0] * steps
    losses[30] += height
    assert ("a spike" in found(losses, [])) == reported


def test_spike_is_reported_once() -> None:
    losses = FALLING.copy()
    losses[749] = 4.0
    assert found(losses, [], since=250) == ""
    assert "a spike" in found(losses[:750], [], since=250)


def test_overfitting_reports_best_step() -> None:
    evaluations = [(0, 4.2, 4.2), (250, 2.0, 2.1), (500, 1.5, 1.7), (750, 1.3, 1.75), (1000, 1.1, 1.85)]
    assert "overfitting: best was step 500, validation loss 1.700" in found(FALLING, evaluations)
    assert "overfitting" not in found(FALLING, evaluations[:-1])  # one rise may be noise
    assert "overfitting" not in found(FALLING, [*evaluations, (1250, 1.0, 1.8)])  # it falls again


def test_rising_training_loss_is_not_overfitting() -> None:
    evaluations = [(0, 4.2, 4.2), (250, 2.0, 2.1), (500, 2.5, 2.6), (750, 3.0, 3.1)]
    assert "overfitting" not in found(FALLING, evaluations)


def test_plateau() -> None:
    evaluations = [(0, 4.2, 4.2), *((250 * i, 2.0 - 0.001 * i, 2.1 - 0.001 * i) for i in range(1, 6))]
    assert "a plateau" in found(FALLING, evaluations)
    assert "a plateau" not in found(FALLING, evaluations[:4])
    falling = [(step, train - 0.0002 * step, val) for step, train, val in evaluations]
    assert "a plateau" not in found(FALLING, falling)


def test_overfitting_needs_four_evaluations() -> None:
    evaluations = [(0, 4.2, 4.2), (250, 1.7, 1.7), (500, 1.3, 1.75), (750, 1.1, 1.85)]
    assert "overfitting: best was step 250" in found(FALLING, evaluations)
    assert found(FALLING, evaluations[1:]) == ""


def test_perplexity_and_bits() -> None:
    assert perplexity(math.log(65)) == pytest.approx(65)
    assert bits(math.log(8)) == pytest.approx(3)
    assert perplexity(709.7) < perplexity(710.0) == perplexity(1e9) == math.inf


def test_no_false_warnings() -> None:
    assert "a plateau" not in found(FALLING, [(250 * i, 2 + 0.1 * i, 2.1 + 0.1 * i) for i in range(6)])  # it rises
    barely = [(0, 4.2, 4.2), (250, 2.0, 2.1), (500, 1.5, 1.7), (750, 1.3, 1.705), (1000, 1.1, 1.71)]
    assert found(FALLING, barely) == ""
    assert found([4.2] * 19 + [5.5], []) == ""  # too early for a spike
