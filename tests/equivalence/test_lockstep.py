"""Both engines trained side by side: equal weights, batches, clipping, schedule, accumulation and AdamW, for 200 steps.

Each step amplifies what was different before it, so what is wrong by a little anywhere shows in the end. In float64
the two stay within 1e-8 after every step, also when one goes on from the other's checkpoint half-way. In float32 the
loss, the gradient's norm and the weights stay as near to torch's float64 as rounding allows (see rounding.py). That is
less near for the biases of keys: each shifts all scores of a row alike, so its gradient is zero but for rounding, and
AdamW makes steps of any gradient, however small.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from gpt_numpy.workshop.data.tokenizer import CharTokenizer
from gpt_numpy.workshop.engine import Batch
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.runs.checkpoint import Checkpoint, State, load_checkpoint, save_checkpoint
from tests.equivalence.problems import Arrays
from tests.equivalence.rounding import HALF_A_UNIT, TIMES, rounding
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


def text(step: int) -> Batch:
    """Rows that count up by 1, 2, 3 or 5, beginning anywhere: something to learn."""
    random = np.random.default_rng(step)
    start, by = random.integers(0, CONFIG.vocab_size, (4, 1)), random.choice([1, 2, 3, 5], (4, 1))
    return batch_of((start + by * np.arange(CONFIG.block_size + 1)) % CONFIG.vocab_size)


def new(engine: str, dtype: str = "float64") -> Any:
    made = ENGINES[engine](CONFIG, RECIPE)
    return made if dtype == "float32" else in_float64(made)


def in_float64(engine: Any) -> Any:
    engine.model.double()
    return engine


def train(engine: Any, first: int = 0, last: int = STEPS) -> Iterator[Step]:
    for step in range(first, last):
        loss, grad_norm = engine.train_step(text(step), step)
        yield Step(float(loss), float(grad_norm), {name: w.copy() for name, w in engine.weights().items()})


def apart(a: Step, b: Step) -> tuple[float, ...]:
    """How far a is from b, relative: in its loss, its gradient's norm, its weights together, and each parameter."""
    off = [float(np.linalg.norm(w - b.weights[name])) for name, w in a.weights.items()]
    size = [float(np.linalg.norm(w)) for w in b.weights.values()]
    weights = math.hypot(*off) / math.hypot(*size), *(o / s for o, s in zip(off, size, strict=True))
    return abs(a.loss / b.loss - 1.0), abs(a.grad_norm / b.grad_norm - 1.0), *weights


def assert_within_1e_8(number: int, differences: tuple[float, ...]) -> None:
    assert all(difference < 1e-8 for difference in differences), f"after step {number}: {differences}"  # no NaN either


def report(number: int, dtype: str, differences: tuple[float, ...]) -> None:
    if number in SHOWN:
        REPORT.add_step(number, dtype, differences[0], differences[2])


@pytest.fixture(scope="module")
def in_torch() -> list[Step]:
    """Torch's training in float64."""
    return list(train(new("torch")))


def test_the_training_is_one(in_torch: list[Step]) -> None:
    """It learns, some of its gradients are clipped and some are not."""
    assert in_torch[0].loss > 2.0
    assert in_torch[-1].loss < 1.0
    clipped = sum(step.grad_norm > RECIPE.grad_clip for step in in_torch)
    assert 0 < clipped < STEPS


def test_float64_stays_within_1e_8(in_torch: list[Step]) -> None:
    for number, (ours, theirs) in enumerate(zip(train(new("numpy")), in_torch, strict=True), 1):
        differences = apart(ours, theirs)
        assert_within_1e_8(number, differences)
        report(number, "float64", differences)


@pytest.mark.parametrize(("before", "after"), [("numpy", "torch"), ("torch", "numpy")])
def test_a_checkpoint_handed_over_half_way_changes_nothing(
    in_torch: list[Step], before: str, after: str, tmp_path: Path
) -> None:
    first, second = new(before), new(after)
    list(train(first, last=HALF_WAY))
    tokenizer, state = CharTokenizer("abcdefghijk"), State(CONFIG, RECIPE, data="", digest="", step=HALF_WAY)
    kept = Checkpoint(state, tokenizer, first.weights(), first.optimizer_state())
    save_checkpoint(tmp_path / "half-way", kept)
    checkpoint = load_checkpoint(tmp_path / "half-way", with_optimizer=True)
    second.load(checkpoint.weights, checkpoint.optimizer_state, checkpoint.state.step)
    rest = train(second, first=HALF_WAY)
    for number, (ours, theirs) in enumerate(zip(rest, in_torch[HALF_WAY:], strict=True), HALF_WAY + 1):
        assert_within_1e_8(number, apart(ours, theirs))


def test_float32_is_as_near_as_rounding_allows(in_torch: list[Step]) -> None:
    rounded, by_hand = new("torch"), train(new("numpy", "float32"))
    largest = np.full(3 + len(in_torch[0].weights), HALF_A_UNIT)  # what rounding has moved each by, up to this step
    for number, (ours, theirs) in enumerate(zip(by_hand, in_torch, strict=True), 1):
        with rounding(number):
            (moved,) = train(rounded, number - 1, number)
        largest = np.maximum(largest, apart(moved, theirs))
        differences = apart(ours, theirs)
        times = differences / largest
        assert times.max() <= TIMES, f"after step {number}: {times.max():.1f} times what rounding does"
        report(number, "float32", differences)
