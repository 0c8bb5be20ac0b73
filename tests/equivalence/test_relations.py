"""What must hold of a GPT whatever its weights, and needs no second model to compare with. Asked of both.

In float64. Where sums are made in another order, a value may differ by 1e-12 of its norm, the loss by 1e-12 of the
norm of the logits, a gradient by 1e-12 of the norm of all gradients together; everything else is equal in every bit.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as torch_F

import gpt_numpy
import gpt_torch
import minitensor as mt
from minitensor import functional as mini_F
from tests.equivalence.pair import by_hand, in_torch, torch_weights
from tests.equivalence.problems import IGNORED, Arrays, Problem, problems

pytestmark = pytest.mark.equivalence

Run = Callable[..., Arrays]

each_model = pytest.mark.parametrize("run", [by_hand, in_torch])
several_positions = problems().filter(lambda problem: problem.ids.shape[1] > 1)
TINY = 1e-290  # below it, numbers lose digits


def assert_close(found: Arrays, expected: Arrays, lost: float = 1.0) -> None:
    """`lost` is how many times more a gradient may differ, since its numbers cancel."""
    slope = lost * math.hypot(*(float(np.linalg.norm(g)) for name, g in expected.items() if name.startswith("d ")))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        size = slope if name.startswith("d ") else float(np.linalg.norm(expected[name if name != "loss" else "logits"]))
        assert np.linalg.norm(value - expected[name]) <= 1e-12 * size, name


def parameters(problem: Problem) -> list[str]:
    """The names under which their gradients are found."""
    tied = problem.config.tie_weights
    return [f"d {name}" for name in problem.weights if not (tied and name == "lm_head.weight")]


def of_tokens(found: Arrays, problem: Problem) -> list[str]:
    """The names of what has a row for each row of the batch."""
    return [name for name in found if name not in {"loss", *parameters(problem)}]


# ---- along the time ---------------------------------------------------------------------------------------------


@each_model
@given(problem=several_positions, data=st.data())
def test_the_future_never_changes_the_past(run: Run, problem: Problem, data: Any) -> None:
    now = data.draw(st.integers(1, problem.ids.shape[1] - 1))
    other = problem.ids.copy()
    other[:, now:] = (other[:, now:] + 1) % problem.config.vocab_size
    logits, changed = (run(problem._replace(ids=ids))["logits"] for ids in (problem.ids, other))
    assert np.array_equal(logits[:, :now], changed[:, :now])


@each_model
@given(problem=several_positions, data=st.data())
def test_what_was_is_not_blamed_on_what_came_after(run: Run, problem: Problem, data: Any) -> None:
    now = data.draw(st.integers(1, problem.ids.shape[1] - 1))
    targets = problem.targets.copy()
    targets[:, now:] = IGNORED
    found = run(problem._replace(targets=targets), "staged")
    assert not found["d embedded"][:, now:].any()
    for name, gradient in found.items():
        if name.startswith("d blocks") and gradient.ndim == 4:  # (B, H, T, ...)
            assert not gradient[:, :, now:].any(), name


# ---- with a cache -----------------------------------------------------------------------------------------------


class InNumPy:
    """The model of a problem, read with a cache or without: arrays in, arrays out."""

    no_grad = staticmethod(mt.no_grad)

    def __init__(self, problem: Problem) -> None:
        self.model: Any = gpt_numpy.GPT(problem.config, dtype=np.float64)
        self.model.load_state_dict(problem.weights)

    def cache(self, rows: int) -> Any:
        return gpt_numpy.cache.Cache(self.model.config, rows, np.float64)

    def read(self, ids: Any, cache: Any = None) -> Any:
        return self.model(ids, cache=cache)[0].numpy()


class InTorch:
    no_grad = staticmethod(torch.no_grad)

    def __init__(self, problem: Problem) -> None:
        self.model: Any = gpt_torch.GPT(problem.config).double()
        self.model.load_state_dict(torch_weights(problem.weights, torch.float64))

    def cache(self, rows: int) -> Any:
        return gpt_torch.cache.Cache(self.model.config, rows, torch.float64)

    def read(self, ids: Any, cache: Any = None) -> Any:
        return self.model(torch.from_numpy(ids), cache=cache)[0].numpy()


each_reader = pytest.mark.parametrize("library", [InNumPy, InTorch])


@each_reader
@given(problem=problems(), data=st.data())
def test_what_is_read_piece_by_piece_with_a_cache_gives_the_logits_of_the_whole_without(
    library: Any, problem: Problem, data: Any
) -> None:
    B, T = problem.ids.shape
    cuts = sorted(data.draw(st.sets(st.integers(1, T - 1)))) if T > 1 else []
    reader = library(problem)
    with reader.no_grad():
        cache = reader.cache(B)
        pieces = [reader.read(ids, cache) for ids in np.split(problem.ids, cuts, axis=1)]
        whole = reader.read(problem.ids)
    assert cache.lengths == [T] * B
    assert_close({"logits": np.concatenate(pieces, axis=1)}, {"logits": whole})


@each_reader
@given(problem=several_positions, data=st.data())
def test_rows_of_different_lengths_read_together_give_the_logits_of_each_alone(
    library: Any, problem: Problem, data: Any
) -> None:
    """Padded to the longest, and what was read too much is taken back by the lengths; then all go on together."""
    B, T = problem.ids.shape
    start = data.draw(st.integers(1, T - 1))
    lengths = data.draw(st.lists(st.integers(1, start), min_size=B, max_size=B))
    reader = library(problem)
    with reader.no_grad():
        cache = reader.cache(B)
        reader.read(problem.ids[:, :start], cache)
        cache.lengths = lengths
        rest = problem.ids[:, start:]
        together = reader.read(rest, cache)
        assert cache.lengths == [length + T - start for length in lengths]
        for row, length in enumerate(lengths):
            text = np.concatenate([problem.ids[row, :length], rest[row]])
            alone = reader.read(text[None])[0, length:]
            assert_close({"logits": together[row]}, {"logits": alone})


@each_reader
@given(problem=problems())
def test_what_a_cache_cannot_hold_is_refused_and_changes_nothing(library: Any, problem: Problem) -> None:
    B, T = problem.ids.shape
    room = problem.config.block_size
    one = problem.ids[:, :1]
    reader = library(problem)
    cache = reader.cache(B)
    with pytest.raises(RuntimeError, match="no gradient goes through a cache"):
        reader.read(problem.ids, cache)
    with reader.no_grad():
        reader.read(problem.ids, cache)
        cache.lengths = [room] * B
        with pytest.raises(ValueError, match=f"{room + 1} tokens do not fit the context, block_size {room}"):
            reader.read(one, cache)
        cache.lengths = [T] * B
        with pytest.raises(ValueError, match=f"the cache holds {B} rows of tokens, the ids {B + 1}"):
            reader.read(np.concatenate([one, one[:1]]), cache)
        assert cache.lengths == [T] * B


# ---- along the batch --------------------------------------------------------------------------------------------


@each_model
@given(problem=problems(), data=st.data())
def test_the_order_of_the_batch_permutes_the_result(run: Run, problem: Problem, data: Any) -> None:
    order = data.draw(st.permutations(range(len(problem.ids))))
    found = run(problem._replace(ids=problem.ids[order], targets=problem.targets[order]))
    expected = run(problem)
    for name in of_tokens(expected, problem):
        expected[name] = expected[name][order]
    assert_close(found, expected)


@each_model
@given(problem=problems())
def test_the_whole_batch_is_the_mean_of_its_rows(run: Run, problem: Problem) -> None:
    B = len(problem.ids)
    rows = [run(problem._replace(ids=problem.ids[i : i + 1], targets=problem.targets[i : i + 1])) for i in range(B)]
    expected = run(problem)
    found = {}
    for name in expected:
        if name not in of_tokens(expected, problem):
            found[name] = np.mean([row[name] for row in rows], axis=0)
        else:  # a row that is alone counts B times as much
            found[name] = np.concatenate([row[name] for row in rows]) / (B if name.startswith("d ") else 1)
    assert_close(found, expected)


# ---- along the vocabulary ---------------------------------------------------------------------------------------


@each_model
@given(problem=problems(), data=st.data())
def test_it_does_not_matter_how_tokens_are_numbered(run: Run, problem: Problem, data: Any) -> None:
    number = np.array(data.draw(st.permutations(range(problem.config.vocab_size))))  # the new one of each
    weights = dict(problem.weights)
    for name in ("tok_emb.weight", "lm_head.weight"):
        weights[name] = np.empty_like(problem.weights[name])
        weights[name][number] = problem.weights[name]
    found = run(problem._replace(weights=weights, ids=number[problem.ids], targets=number[problem.targets]))
    for name in ("d tok_emb.weight", "d lm_head.weight"):
        if name in found:
            found[name] = found[name][number]
    for name in ("logits", "d logits"):
        found[name] = found[name][..., number]
    # The sum below softmax is made in another order. Where a target is nearly sure, p - 1 leaves few of its digits.
    expected = run(problem)
    left = float(np.linalg.norm(expected["d logits"])) * math.sqrt(problem.targets.size)  # of 1
    assert_close(found, expected, lost=max(1.0, 1.0 / left) if left else 1.0)


@each_model
@given(problem=problems())
def test_a_constant_added_to_all_logits_changes_nothing(run: Run, problem: Problem) -> None:
    found = run(problem)
    largest = np.abs(found["d logits"]).sum(-1)
    assert (np.abs(found["d logits"].sum(-1)) <= 1e-14 * (largest + 1 / problem.targets.size)).all()
    shifted = found["logits"] + np.arange(problem.targets.size).reshape(*problem.targets.shape, 1)  # other by row
    rows, targets = shifted.reshape(-1, problem.config.vocab_size), problem.targets.reshape(-1)
    if run is by_hand:
        loss = mini_F.cross_entropy(mt.tensor(rows), mt.tensor(targets)).item()
    else:
        loss = torch_F.cross_entropy(torch.from_numpy(rows), torch.from_numpy(targets)).item()
    assert abs(loss - found["loss"]) <= 1e-14 * np.abs(shifted).max(initial=1.0)


# ---- the loss itself --------------------------------------------------------------------------------------------


@each_model
@given(problem=problems() | problems(dropout=0.3), power=st.integers(-9, 9), sign=st.sampled_from([-1.0, 1.0]))
def test_a_loss_times_a_number_has_every_gradient_times_that(
    run: Run, problem: Problem, power: int, sign: float
) -> None:
    """A power of 2, which changes no digit."""
    expected, found = run(problem), run(problem, times=sign * 2.0**power)
    for name, value in expected.items():
        times = sign * 2.0**power if name.startswith("d ") else 1.0
        np.testing.assert_allclose(found[name], value * times, rtol=0, atol=TINY, err_msg=name)
