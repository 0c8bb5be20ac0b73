"""What a loss is said to mean, and when a curve is warned of."""

import math

import numpy as np
import pytest

from gpt_numpy.workshop.advice import diagnose, phase_of
from gpt_numpy.workshop.judging import bits, perplexity

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
        (0.9, True, "learning by heart"),
    ],
)
def test_the_table_of_phases(loss: float, training: bool, meaning: str) -> None:
    assert phase_of(loss, training).startswith(meaning)


def found(losses: list[float], evaluations: list[tuple[int, float, float]]) -> str:
    return "; ".join(diagnose(losses, evaluations))


def test_a_healthy_run_is_left_alone() -> None:
    evaluations = [(250 * i, 4.2 - 0.4 * i, 4.2 - 0.38 * i) for i in range(6)]
    for length in (0, 1, 50, 200, 1000):
        assert found(FALLING[:length], evaluations[: 1 + length // 250]) == ""


def test_a_loss_that_does_not_fall() -> None:
    flat = [4.17 + noise for noise in NOISE[:200]]
    assert "not falling" in found(flat, [])
    assert "not falling" not in found(flat[:99], [])  # too early to say


def test_a_spike_and_its_step() -> None:
    losses = FALLING.copy()
    losses[960] = 4.0
    assert "a spike: the loss of step 961 was 4.00" in found(losses, [])
    losses[960] = FALLING[960] + 0.15  # noise
    assert found(losses, []) == ""


def test_overfitting_names_the_best_step() -> None:
    evaluations = [(0, 4.2, 4.2), (250, 2.0, 2.1), (500, 1.5, 1.7), (750, 1.3, 1.75), (1000, 1.1, 1.85)]
    assert "overfitting: best was step 500, validation loss 1.700" in found(FALLING, evaluations)
    assert "overfitting" not in found(FALLING, evaluations[:-1])  # once may be chance


def test_a_loss_that_rises_everywhere_is_not_overfitting() -> None:
    evaluations = [(0, 4.2, 4.2), (250, 2.0, 2.1), (500, 2.5, 2.6), (750, 3.0, 3.1)]
    assert "overfitting" not in found(FALLING, evaluations)


def test_a_plateau() -> None:
    evaluations = [(0, 4.2, 4.2), *((250 * i, 2.0 - 0.001 * i, 2.1 - 0.001 * i) for i in range(1, 6))]
    assert "a plateau" in found(FALLING, evaluations)
    assert "a plateau" not in found(FALLING, evaluations[:4])
    falling = [(step, train - 0.0002 * step, val) for step, train, val in evaluations]
    assert "a plateau" not in found(FALLING, falling)


def test_perplexity_and_bits() -> None:
    assert perplexity(math.log(65)) == pytest.approx(65)
    assert bits(math.log(8)) == pytest.approx(3)
    assert perplexity(1e9) == math.inf
