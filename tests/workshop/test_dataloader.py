"""Which windows a step sees: a pure function of seed and step, and in an epoch each window once."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import integers

from gpt_numpy.workshop.data.dataloader import adjacent_windows, batch_at, starts_at
from gpt_numpy.workshop.recipes import Recipe

EPOCHS = Recipe(batch_size=4, order="epochs", seed=1)
RANDOM = replace(EPOCHS, order="random")
TOKENS = np.arange(1000, dtype=np.uint16)


@pytest.mark.parametrize("recipe", [EPOCHS, RANDOM], ids=["epochs", "random"])
def test_batch_is_windows_and_next_tokens(recipe: Recipe) -> None:
    x, y = batch_at(TOKENS, 8, recipe, 3).ids_and_targets()
    assert x.shape == y.shape == (4, 8)
    assert x.dtype == y.dtype == np.int64
    assert np.array_equal(y, x + 1)  # the text counts up
    assert np.array_equal(x, x[:, :1] + np.arange(8))


@pytest.mark.parametrize("recipe", [EPOCHS, RANDOM], ids=["epochs", "random"])
def test_batch_depends_on_seed_and_step_only(recipe: Recipe) -> None:
    def starts(recipe: Recipe, step: int) -> list[int]:
        return list(starts_at(1000, 8, recipe, step))

    later = [starts(recipe, step) for step in (90, 5, 31)]
    assert [starts(recipe, step) for step in (90, 5, 31)] == later
    assert starts(recipe, 5) != starts(recipe, 6)
    other = replace(recipe, seed=2)
    assert starts(recipe, 5) != starts(other, 5)
    assert starts(recipe, 6) != starts(other, 5)


@given(length=integers(10, 300), block_size=integers(1, 9), batch_size=integers(1, 50), step=integers(0, 1000))
def test_windows_are_within_the_text(length: int, block_size: int, batch_size: int, step: int) -> None:
    for recipe in (EPOCHS, RANDOM):
        starts = starts_at(length, block_size, replace(recipe, batch_size=batch_size), step)
        assert len(starts) == batch_size
        assert min(starts) >= 0
        assert max(starts) + block_size + 1 <= length


def test_random_windows_reach_both_ends() -> None:
    starts = [s for step in range(200) for s in starts_at(20, 8, RANDOM, step)]
    assert set(starts) == set(range(12))


@pytest.mark.parametrize("batch_size", [1, 4, 61, 200])
def test_epoch_has_each_window_once_in_a_new_order(batch_size: int) -> None:
    recipe = replace(EPOCHS, batch_size=batch_size)
    count = (1000 - 16) // 16
    stream = [s for step in range(3 * count // batch_size + 2) for s in starts_at(1000, 16, recipe, step)]
    epochs = [stream[i * count : (i + 1) * count] for i in range(3)]
    for starts in epochs:
        assert np.diff(sorted(starts)).tolist() == [16] * (count - 1)  # adjacent, none twice
    assert len({tuple(np.argsort(starts).tolist()) for starts in epochs}) == 3
    assert len({min(starts) for starts in epochs}) > 1  # with different offsets


@given(length=integers(2, 200), block_size=integers(1, 20), at_once=integers(1, 7))
def test_evaluation_predicts_each_token_once_except_the_first(length: int, block_size: int, at_once: int) -> None:
    predicted: Counter[int] = Counter()
    for batch in adjacent_windows(np.arange(length), block_size, at_once):
        x, y = batch.ids_and_targets()
        assert np.array_equal(y, x + 1)
        assert x.shape[0] <= at_once
        assert x.shape[1] <= block_size
        predicted.update(y.ravel().tolist())
    assert predicted == Counter(range(1, length))
