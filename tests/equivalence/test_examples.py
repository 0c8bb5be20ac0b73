"""Steps on what tuning trains on: examples, rollouts and preferences, in both engines."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from gpt_numpy.workshop.engine import AnyBatch, Examples, Preferences, Rollouts
from gpt_numpy.workshop.recipes import Recipe
from tests.equivalence.test_lockstep import to_float64
from tests.support.engines import CONFIG, ENGINES, RECIPE, RECIPES, assert_close, batch

pytestmark = pytest.mark.equivalence

V, T = CONFIG.vocab_size, CONFIG.block_size
each_engine = pytest.mark.parametrize("name", ENGINES)


def examples(step: int, kind: str = "ids", rows: int = 7) -> Examples:
    """Weights as of fine-tuning on answers: 0 for a prompt, the same for all tokens of the answers."""
    random = np.random.default_rng(step)
    ids, targets = random.integers(0, V, (2, rows, T))
    mask = np.arange(T) >= random.integers(0, T, (rows, 1))
    if kind == "distributions":
        return Examples(ids, random.dirichlet(np.ones(V), (rows, T)), mask / mask.sum(dtype=np.float32))
    return Examples(ids, targets, (mask / mask.sum()).astype(np.float32))


def rollouts(step: int, rows: int = 7, kl: bool = True) -> Rollouts:
    """As if drawn some steps ago: some ratios are clipped."""
    given, random = examples(step, rows=rows), np.random.default_rng(step + 100)
    advantages = random.standard_normal((rows, 1)).astype(np.float32)
    old = np.log(random.uniform(0.06, 0.13, (rows, T))).astype(np.float32)  # near 1 in 11
    log_r = np.log(random.dirichlet(np.ones(V), (rows, T))).astype(np.float32)
    weights = given.weights * advantages
    return Rollouts(given.ids, given.targets, weights, old, 0.2, *((log_r, 0.3 * given.weights) if kl else ()))


def preferences(step: int, rows: int = 7) -> Preferences:
    given, random = examples(step, rows=2 * rows), np.random.default_rng(step + 100)
    counted = (given.weights > 0).astype(np.float32)
    reference = -2.4 * counted.reshape(rows, 2, T).sum(-1) + random.standard_normal((rows, 2), np.float32)
    shape = rows, 2, T
    return Preferences(
        given.ids.reshape(shape), given.targets.reshape(shape), counted.reshape(shape), reference, beta=0.5
    )


KINDS: dict[str, Callable[..., AnyBatch]] = {
    "ids": examples,
    "distributions": partial(examples, kind="distributions"),
    "temperature": lambda step, **rows: replace(examples(step, "distributions", **rows), temperature=2.0),
    "rollouts": rollouts,
    "rollouts without a reference": partial(rollouts, kl=False),
    "preferences": preferences,
}


def engine_of(name: str, recipe: Recipe) -> Any:
    return to_float64(ENGINES[name](CONFIG, recipe))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("micro_batch", [0, 2])
def test_both_engines_take_the_same_steps(kind: str, micro_batch: int) -> None:
    ours, theirs = (engine_of(name, replace(RECIPE, micro_batch=micro_batch)) for name in ENGINES)
    for step in range(10):
        a, b = (engine.train_step(KINDS[kind](step), step) for engine in (ours, theirs))
        assert float(a.loss) == pytest.approx(float(b.loss), rel=1e-9, abs=1e-12)
        assert float(a.grad_norm) == pytest.approx(float(b.grad_norm), rel=1e-7)
    for name, weight in ours.weights().items():
        np.testing.assert_allclose(weight, theirs.weights()[name], 1e-6, 1e-8, err_msg=name)


def test_both_engines_take_the_same_steps_of_muon() -> None:
    ours, theirs = (make(CONFIG, RECIPES["muon"]) for make in ENGINES.values())
    for step in range(3):
        a, b = (engine.train_step(examples(step), step) for engine in (ours, theirs))
        assert float(a.loss) == pytest.approx(float(b.loss), rel=1e-5)
    assert_close(dict(ours.weights()), dict(theirs.weights()), 1e-3)


@each_engine
@pytest.mark.parametrize("kind", KINDS)
def test_loss_is_the_same_however_a_batch_is_divided(kind: str, name: str) -> None:
    """And the shares of single rows add up to it."""
    engine, given = engine_of(name, RECIPE), KINDS[kind](0)
    whole = float(engine.loss(given))
    assert float(engine.train_step(given, 0).loss) == pytest.approx(whole, rel=1e-9)
    single = engine_of(name, replace(RECIPE, micro_batch=1))
    assert float(single.train_step(given, 0).loss) == pytest.approx(whole, rel=1e-9)


@each_engine
def test_equal_weights_are_a_batch(name: str) -> None:
    by_batch, by_examples = (engine_of(name, RECIPE) for _ in range(2))
    for step in range(3):
        ids, targets = batch(seed=step).ids_and_targets()
        each = Examples(ids, targets, np.full(ids.shape, 1.0 / ids.size))  # exactly the mean
        a, b = by_batch.train_step(batch(seed=step), step), by_examples.train_step(each, step)
        assert float(a.loss) == pytest.approx(float(b.loss), rel=1e-12)
    for parameter, weight in by_batch.weights().items():
        np.testing.assert_allclose(weight, by_examples.weights()[parameter], 1e-9, 1e-12, err_msg=parameter)


@each_engine
def test_loss_is_the_weighted_sum_over_the_tokens_that_count(name: str) -> None:
    engine, given = engine_of(name, RECIPE), examples(0)
    z = np.asarray(engine.logits(given.ids)) if name == "torch" else engine.model(given.ids)[0].detach().numpy()
    logp = z - z.max(-1, keepdims=True)
    logp -= np.log(np.exp(logp).sum(-1, keepdims=True))
    expected = -(given.weights * np.take_along_axis(logp, given.targets[..., None], -1)[..., 0]).sum()
    assert float(engine.loss(given)) == pytest.approx(expected, rel=1e-6)
    other = replace(given, targets=np.where(given.weights > 0, given.targets, (given.targets + 1) % V))
    assert float(engine.loss(other)) == float(engine.loss(given))


@each_engine
def test_first_nonfinite_and_lengths(name: str) -> None:
    engine, short = engine_of(name, RECIPE), examples(0)
    short = Examples(short.ids[:, :3], short.targets[:, :3], short.weights[:, :3])
    assert (short.rows, short.length) == (7, 3)
    assert np.isfinite(float(engine.train_step(short, 0).loss))
    assert engine.first_nonfinite(short, 1) is None


def test_logits_of_a_large_vocabulary_are_not_all_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rollouts and preferences, whose logits are not taken in pieces: a step takes few rows at a time."""
    given = {"rollouts": rollouts(0), "preferences": preferences(0)}
    whole = {kind: float(engine_of("torch", RECIPE).train_step(batch, 0).loss) for kind, batch in given.items()}
    monkeypatch.setattr("gpt_torch.objectives.PIECE", 2 * T * V)
    for kind, expected in (("rollouts", [1, 2, 2, 2]), ("preferences", [2] * 7)):
        engine, taken = engine_of("torch", RECIPE), list[int]()
        engine.model.lm_head.register_forward_hook(lambda *called, taken=taken: taken.append(len(called[-1])))
        assert float(engine.train_step(given[kind], 0).loss) == pytest.approx(whole[kind], rel=1e-9)
        assert sorted(taken) == expected
