"""Properties that every GPT has for any weights, tested for both models without a reference.

In float64. Where sums are taken in another order, a value may differ by 1e-12 of its norm, the loss by 1e-12 of the
norm of the logits, a gradient by 1e-12 of the norm of all gradients; everything else is equal bit for bit.
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
from tests.equivalence.pair import run_numpy, run_torch, torch_weights
from tests.equivalence.problems import IGNORE, Arrays, Problem, any_problem, problems

Run = Callable[..., Arrays]

each_model = pytest.mark.parametrize("run", [run_numpy, run_torch])
several_positions = problems().filter(lambda problem: problem.ids.shape[1] > 1)
TINY = 1e-290  # below it, numbers lose digits


def assert_close(found: Arrays, expected: Arrays, lost: float = 1.0) -> None:
    """`lost` is the factor by which cancellation increases the error of gradients."""
    norm = lost * math.hypot(*(float(np.linalg.norm(g)) for name, g in expected.items() if name.startswith("d ")))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        size = norm if name.startswith("d ") else float(np.linalg.norm(expected[name if name != "loss" else "logits"]))
        assert np.linalg.norm(value - expected[name]) <= 1e-12 * size, name


def parameter_gradients(problem: Problem) -> list[str]:
    """The names of the gradients of parameters."""
    tied = problem.config.tie_weights
    return [f"d {name}" for name in problem.weights if not (tied and name == "lm_head.weight")]


def names_with_rows(found: Arrays, problem: Problem) -> list[str]:
    """The names of values with a row for each row of the batch."""
    others = {"loss", *parameter_gradients(problem)}
    return [name for name in found if name not in others]


# ---- causality --------------------------------------------------------------------------------------------------


@each_model
@given(problem=several_positions, data=st.data())
def test_later_tokens_do_not_affect_earlier_logits(run: Run, problem: Problem, data: Any) -> None:
    now = data.draw(st.integers(1, problem.ids.shape[1] - 1))
    other = problem.ids.copy()
    other[:, now:] = (other[:, now:] + 1) % problem.config.vocab_size
    logits, changed = (run(problem._replace(ids=ids))["logits"] for ids in (problem.ids, other))
    assert np.array_equal(logits[:, :now], changed[:, :now])


@pytest.mark.parametrize("seed", [62, 165, 227, 4840])
def test_later_tokens_do_not_even_change_rounding(seed: int) -> None:
    """Here scores are near the largest that can be exponentiated as they are, which a later key may exceed."""
    problem = any_problem(seed, 0.0, False)
    logits = run_numpy(problem)["logits"]
    for now in range(1, problem.ids.shape[1]):
        other = problem.ids.copy()
        other[:, now:] = (other[:, now:] + 1) % problem.config.vocab_size
        assert np.array_equal(logits[:, :now], run_numpy(problem._replace(ids=other))["logits"][:, :now])


@each_model
@given(problem=several_positions, data=st.data())
def test_later_positions_have_no_gradient_from_earlier_targets(run: Run, problem: Problem, data: Any) -> None:
    now = data.draw(st.integers(1, problem.ids.shape[1] - 1))
    targets = problem.targets.copy()
    targets[:, now:] = IGNORE
    found = run(problem._replace(targets=targets), "staged")
    assert not found["d embedded"][:, now:].any()
    for name, gradient in found.items():
        if name.startswith("d blocks") and gradient.ndim == 4:  # (B, H, T, ...)
            assert not gradient[:, :, now:].any(), name


# ---- cache ------------------------------------------------------------------------------------------------------


class NumpyModel:
    """The model of a problem, called on arrays, with or without a cache."""

    no_grad = staticmethod(mt.no_grad)

    def __init__(self, problem: Problem) -> None:
        self.model: Any = gpt_numpy.GPT(problem.config, dtype=np.float64)
        self.model.load_state_dict(problem.weights)

    def cache(self, rows: int) -> Any:
        return gpt_numpy.cache.Cache(self.model.config, rows, np.float64)

    def read(self, ids: Any, cache: Any = None) -> Any:
        return self.model(ids, cache=cache)[0].numpy()


class TorchModel:
    no_grad = staticmethod(torch.no_grad)

    def __init__(self, problem: Problem) -> None:
        self.model: Any = gpt_torch.GPT(problem.config).double()
        self.model.load_state_dict(torch_weights(problem.weights, torch.float64))

    def cache(self, rows: int) -> Any:
        return gpt_torch.cache.Cache(self.model.config, rows, torch.float64)

    def read(self, ids: Any, cache: Any = None) -> Any:
        return self.model(torch.from_numpy(ids), cache=cache)[0].numpy()


each_reader = pytest.mark.parametrize("library", [NumpyModel, TorchModel])


@each_reader
@given(problem=problems(), data=st.data())
def test_cached_pieces_give_the_logits_of_the_full_text(library: Any, problem: Problem, data: Any) -> None:
    B, T = problem.ids.shape
    cuts = sorted(data.draw(st.sets(st.integers(1, T - 1)))) if T > 1 else []
    reader = library(problem)
    with reader.no_grad():
        cache = reader.cache(B)
        pieces = [reader.read(ids, cache) for ids in np.split(problem.ids, cuts, axis=1)]
        full = reader.read(problem.ids)
    assert cache.lengths == [T] * B
    assert_close({"logits": np.concatenate(pieces, axis=1)}, {"logits": full})


@each_reader
@given(problem=several_positions, data=st.data())
def test_cached_rows_of_different_lengths_give_the_logits_of_each_row(
    library: Any, problem: Problem, data: Any
) -> None:
    """Rows are padded to the longest; setting `lengths` discards the padding, and all rows continue as one batch."""
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
def test_cache_refuses_invalid_input_and_is_unchanged(library: Any, problem: Problem) -> None:
    B, T = problem.ids.shape
    size = problem.config.block_size
    one = problem.ids[:, :1]
    reader = library(problem)
    cache = reader.cache(B)
    with pytest.raises(RuntimeError, match="no gradient goes through a cache"):
        reader.read(problem.ids, cache)
    with reader.no_grad():
        reader.read(problem.ids, cache)
        cache.lengths = [size] * B
        with pytest.raises(ValueError, match=f"{size + 1} tokens do not fit the context, block_size {size}"):
            reader.read(one, cache)
        cache.lengths = [T] * B
        with pytest.raises(ValueError, match=f"the cache holds {B} rows of tokens, the ids {B + 1}"):
            reader.read(np.concatenate([one, one[:1]]), cache)
        assert cache.lengths == [T] * B


# ---- batch ------------------------------------------------------------------------------------------------------


@each_model
@given(problem=problems(), data=st.data())
def test_permuting_the_batch_permutes_the_results(run: Run, problem: Problem, data: Any) -> None:
    order = data.draw(st.permutations(range(len(problem.ids))))
    found = run(problem._replace(ids=problem.ids[order], targets=problem.targets[order]))
    expected = run(problem)
    for name in names_with_rows(expected, problem):
        expected[name] = expected[name][order]
    assert_close(found, expected)


@each_model
@given(problem=problems())
def test_batch_is_the_mean_of_its_rows(run: Run, problem: Problem) -> None:
    B = len(problem.ids)
    rows = [run(problem._replace(ids=problem.ids[i : i + 1], targets=problem.targets[i : i + 1])) for i in range(B)]
    expected = run(problem)
    found = {}
    for name in expected:
        if name not in names_with_rows(expected, problem):
            found[name] = np.mean([row[name] for row in rows], axis=0)
        else:  # the gradient of a single row is B times as large
            found[name] = np.concatenate([row[name] for row in rows]) / (B if name.startswith("d ") else 1)
    assert_close(found, expected)


# ---- vocabulary -------------------------------------------------------------------------------------------------


@each_model
@given(problem=problems(), data=st.data())
def test_renumbering_tokens_permutes_the_results(run: Run, problem: Problem, data: Any) -> None:
    new_ids = np.array(data.draw(st.permutations(range(problem.config.vocab_size))))  # the new id of each
    weights = dict(problem.weights)
    for name in ("tok_emb.weight", "lm_head.weight"):
        weights[name] = np.empty_like(problem.weights[name])
        weights[name][new_ids] = problem.weights[name]
    found = run(problem._replace(weights=weights, ids=new_ids[problem.ids], targets=new_ids[problem.targets]))
    for name in ("d tok_emb.weight", "d lm_head.weight"):
        if name in found:
            found[name] = found[name][new_ids]
    for name in ("logits", "d logits"):
        found[name] = found[name][..., new_ids]
    # The denominator of softmax is summed in another order. For targets with p close to 1, p - 1 cancels.
    expected = run(problem)
    remaining = float(np.linalg.norm(expected["d logits"])) * math.sqrt(problem.targets.size)  # out of 1
    assert_close(found, expected, lost=max(1.0, 1.0 / remaining) if remaining else 1.0)


@each_model
@given(problem=problems())
def test_adding_a_constant_to_all_logits_changes_nothing(run: Run, problem: Problem) -> None:
    found = run(problem)
    largest = np.abs(found["d logits"]).sum(-1)
    assert (np.abs(found["d logits"].sum(-1)) <= 1e-14 * (largest + 1 / problem.targets.size)).all()
    shifted = found["logits"] + np.arange(problem.targets.size).reshape(*problem.targets.shape, 1)  # differs by row
    rows, targets = shifted.reshape(-1, problem.config.vocab_size), problem.targets.reshape(-1)
    if run is run_numpy:
        loss = mini_F.cross_entropy(mt.tensor(rows), mt.tensor(targets)).item()
    else:
        loss = torch_F.cross_entropy(torch.from_numpy(rows), torch.from_numpy(targets)).item()
    assert abs(loss - found["loss"]) <= 1e-14 * np.abs(shifted).max(initial=1.0)


# ---- loss -------------------------------------------------------------------------------------------------------


@each_model
@given(problem=problems() | problems(dropout=0.3), power=st.integers(-9, 9), sign=st.sampled_from([-1.0, 1.0]))
def test_gradients_scale_with_the_loss(run: Run, problem: Problem, power: int, sign: float) -> None:
    """By powers of 2, which are exact."""
    expected, found = run(problem), run(problem, times=sign * 2.0**power)
    for name, value in expected.items():
        times = sign * 2.0**power if name.startswith("d ") else 1.0
        np.testing.assert_allclose(found[name], value * times, rtol=0, atol=TINY, err_msg=name)
