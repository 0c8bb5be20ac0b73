"""Both engines trained side by side: equal weights, batches, clipping, schedule, accumulation and AdamW, for 200 steps.

Each step amplifies earlier differences, so even a small error shows in the end. In float64, the two stay within 1e-8
after every step, also if one resumes from the other's checkpoint half-way. In float32, the loss, the gradient norm and
the weights stay as close to torch's float64 as rounding allows (see rounding.py). That is less close for the biases of
keys: they shift all scores of a row equally, so their gradients are zero up to rounding, and AdamW takes full steps
for gradients of any size.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from gpt_numpy.workshop.data.tokenizer import CharTokenizer
from gpt_numpy.workshop.engine import Batch
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.runs.checkpoint import Checkpoint, State, load_checkpoint, save_checkpoint
from tests.equivalence.problems import Arrays
from tests.equivalence.rounding import HALF_ULP, TOLERANCE, rounding
from tests.support.engines import CONFIG, ENGINES, batch_of
from tests.support.report import REPORT

pytestmark = pytest.mark.equivalence

STEPS, HALF_WAY = 200, 100
RECIPE = Recipe(
    steps=STEPS, batch_size=4, micro_batch=2, lr=1e-2, final_lr=0.1, warmup=20, beta2=0.99, weight_decay=0.1,
    grad_clip=1.0,
)  # fmt: skip
SHOWN = (1, 2, 5, 10, 20, 50, 100, 150, 200)


class Step(NamedTuple):
    loss: float
    grad_norm: float
    weights: Arrays


def counting_batch(step: int) -> Batch:
    """Rows that count up by 1, 2, 3 or 5 from a random start, as something to learn."""
    random = np.random.default_rng(step)
    start, by = random.integers(0, CONFIG.vocab_size, (4, 1)), random.choice([1, 2, 3, 5], (4, 1))
    return batch_of((start + by * np.arange(CONFIG.block_size + 1)) % CONFIG.vocab_size)


def new_engine(engine: str, dtype: str = "float64", recipe: Recipe = RECIPE) -> Any:
    made = ENGINES[engine](CONFIG, recipe)
    return made if dtype == "float32" else to_float64(made)


def to_float64(engine: Any) -> Any:
    engine.model.double()
    return engine


def train(engine: Any, first: int = 0, last: int = STEPS) -> Iterator[Step]:
    for step in range(first, last):
        loss, grad_norm = engine.train_step(counting_batch(step), step)
        yield Step(float(loss), float(grad_norm), {name: w.copy() for name, w in engine.weights().items()})


def relative_differences(a: Step, b: Step) -> tuple[float, ...]:
    """Of the loss, the gradient norm, all weights, and each parameter of a, relative to b."""
    off = [float(np.linalg.norm(w - b.weights[name])) for name, w in a.weights.items()]
    size = [float(np.linalg.norm(w)) for w in b.weights.values()]
    weights = math.hypot(*off) / math.hypot(*size), *(o / s for o, s in zip(off, size, strict=True))
    return abs(a.loss / b.loss - 1.0), abs(a.grad_norm / b.grad_norm - 1.0), *weights


def assert_within_1e_8(number: int, differences: tuple[float, ...]) -> None:
    assert all(difference < 1e-8 for difference in differences), f"after step {number}: {differences}"  # NaN fails, too


def report(number: int, dtype: str, differences: tuple[float, ...]) -> None:
    if number in SHOWN:
        REPORT.add_step(number, dtype, differences[0], differences[2])


@pytest.fixture(scope="module")
def torch_steps() -> list[Step]:
    """torch's training in float64."""
    return list(train(new_engine("torch")))


def test_training_learns_and_clips(torch_steps: list[Step]) -> None:
    """The loss falls, and some but not all gradients are clipped."""
    assert torch_steps[0].loss > 2.0
    assert torch_steps[-1].loss < 1.0
    clipped = sum(step.grad_norm > RECIPE.grad_clip for step in torch_steps)
    assert 0 < clipped < STEPS


def test_float64_stays_within_1e_8(torch_steps: list[Step]) -> None:
    for number, (ours, theirs) in enumerate(zip(train(new_engine("numpy")), torch_steps, strict=True), 1):
        differences = relative_differences(ours, theirs)
        assert_within_1e_8(number, differences)
        report(number, "float64", differences)


@pytest.mark.parametrize(("before", "after"), [("numpy", "torch"), ("torch", "numpy")])
def test_checkpoint_of_other_engine_changes_nothing(
    torch_steps: list[Step], before: str, after: str, tmp_path: Path
) -> None:
    first, second = new_engine(before), new_engine(after)
    list(train(first, last=HALF_WAY))
    tokenizer, state = CharTokenizer("abcdefghijk"), State(CONFIG, RECIPE, data="", digest="", step=HALF_WAY)
    saved = Checkpoint(state, tokenizer, first.weights(), first.optimizer_state())
    save_checkpoint(tmp_path / "half-way", saved)
    checkpoint = load_checkpoint(tmp_path / "half-way", with_optimizer=True)
    second.load(checkpoint.weights, checkpoint.optimizer_state, checkpoint.state.step)
    rest = train(second, first=HALF_WAY)
    for number, (ours, theirs) in enumerate(zip(rest, torch_steps[HALF_WAY:], strict=True), HALF_WAY + 1):
        assert_within_1e_8(number, relative_differences(ours, theirs))


def test_float32_is_as_close_as_rounding_allows(torch_steps: list[Step]) -> None:
    at_once = replace(RECIPE, micro_batch=0)  # the same up to rounding, with half the operations
    rounded, float32_steps = new_engine("torch", recipe=at_once), train(new_engine("numpy", "float32"))
    largest = np.full(3 + len(torch_steps[0].weights), HALF_ULP)  # the largest rounding errors up to this step
    for number, (ours, theirs) in enumerate(zip(float32_steps, torch_steps, strict=True), 1):
        with rounding(number):
            (step,) = train(rounded, number - 1, number)
        largest = np.maximum(largest, relative_differences(step, theirs))
        differences = relative_differences(ours, theirs)
        times = differences / largest
        assert times.max() <= TOLERANCE, f"after step {number}: {times.max():.1f} rounding errors"
        report(number, "float32", differences)
