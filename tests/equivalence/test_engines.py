"""What the workshop requires of an engine, for both engines, and for one that resumes from the other."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from gpt_numpy import GPTConfig
from gpt_numpy.workshop.generate import Sampling, generate, window_start
from gpt_numpy.workshop.optim import state_shapes
from gpt_numpy.workshop.params import parameter_shapes
from gpt_numpy.workshop.recipes import Recipe
from tests.support.engines import (
    CONFIG,
    ENGINES,
    RECIPE,
    RECIPES,
    Everything,
    Make,
    assert_close,
    assert_same,
    batch,
    numpy_engine,
    trained,
)

each_engine = pytest.mark.parametrize("make", ENGINES.values(), ids=ENGINES)
each_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


# ---- training ---------------------------------------------------------------------------------------------------


@each_engine
@each_recipe
def test_training_reduces_the_loss(make: Make, recipe: Recipe) -> None:
    engine = make(CONFIG, replace(recipe, steps=60))
    losses = [float(engine.train_step(batch(), step).loss) for step in range(60)]
    assert losses[0] == pytest.approx(np.log(11), abs=0.1)
    assert losses[-1] < 0.5 * losses[0]
    assert engine.loss(batch()) == pytest.approx(losses[-1], rel=0.1)


@pytest.mark.parametrize(
    "config",
    [CONFIG, replace(CONFIG, tie_weights=True), replace(CONFIG, bias=False), replace(CONFIG, gelu="tanh")],
    ids=["plain", "tied", "without biases", "tanh"],
)
@pytest.mark.equivalence
@each_recipe
def test_both_engines_take_the_same_steps(config: GPTConfig, recipe: Recipe) -> None:
    ours, theirs = (trained(make(config, recipe)) for make in ENGINES.values())
    assert_close(ours, theirs, rtol=1e-3)


@each_engine
@pytest.mark.parametrize(
    "changed", [{"muon_lr": 0.1}, {"momentum": 0.5}, {"weight_decay": 3.0}, {"optimizer": "adamw"}]
)
def test_muon_follows_the_recipe_and_leaves_the_embedding_to_adamw(make: Make, changed: dict[str, Any]) -> None:
    usual, other = (trained(make(CONFIG, recipe)) for recipe in (RECIPES["muon"], replace(RECIPES["muon"], **changed)))
    matrix = "blocks.1.mlp.c_fc.weight"
    assert np.abs(usual[matrix] - other[matrix]).max() > 1e-3
    once, again = (
        trained(make(CONFIG, recipe), range(1))  # after one step, the other parameters are not affected yet
        for recipe in (RECIPES["muon"], replace(RECIPES["muon"], **changed))
    )
    if "weight_decay" not in changed:
        assert np.array_equal(once["tok_emb.weight"], again["tok_emb.weight"])
        assert np.array_equal(once["blocks.1.mlp.c_fc.bias"], again["blocks.1.mlp.c_fc.bias"])


@each_engine
def test_grad_clip_0_disables_clipping(make: Make) -> None:
    disabled, unreached = (trained(make(CONFIG, replace(RECIPE, grad_clip=clip))) for clip in (0.0, 1e9))
    assert_close(disabled, unreached)


@each_engine
@pytest.mark.parametrize(("name", "moment"), [("beta1", "exp_avg"), ("beta2", "exp_avg_sq")])
def test_betas_follow_the_recipe(make: Make, name: str, moment: str) -> None:
    key = f"{moment}.tok_emb.weight"
    changed: dict[str, Any] = {name: 0.5}
    usual, other = trained(make(CONFIG))[key], trained(make(CONFIG, replace(RECIPE, **changed)))[key]
    assert not np.allclose(usual, other, rtol=1e-2, atol=0)


@pytest.mark.equivalence
@each_engine
@pytest.mark.parametrize("micro_batch", [1, 2, 3, 6])
def test_micro_batches_match_the_full_batch(make: Make, micro_batch: int) -> None:
    recipe = replace(RECIPE, micro_batch=micro_batch)
    assert_close(trained(make(CONFIG)), trained(make(CONFIG, recipe)))


@each_engine
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_runs_are_reproducible_bit_for_bit(make: Make, dropout: float) -> None:
    config = replace(CONFIG, dropout=dropout)
    first = trained(make(config))
    trained(make(replace(config, n_layer=1)))  # other random numbers drawn in the process must not matter
    assert_same(first, trained(make(config)))


@each_engine
def test_dropout_depends_on_seed_and_step(make: Make) -> None:
    config = replace(CONFIG, dropout=0.3)

    def loss(recipe: Recipe, step: int) -> float:
        return float(make(config, recipe).train_step(batch(), step).loss)

    assert loss(RECIPE, 0) != loss(RECIPE, 1)
    assert loss(RECIPE, 0) != loss(replace(RECIPE, seed=RECIPE.seed + 1), 0)


@each_engine
def test_dropout_differs_between_micro_batches(make: Make) -> None:
    """The same row twice, in separate micro-batches, with different dropout masks."""
    engine = make(replace(CONFIG, dropout=0.3), replace(RECIPE, lr=0.0, weight_decay=0.0, micro_batch=1))
    row = batch(rows=1)
    once = engine.train_step(row, 0)
    both = engine.train_step(replace(row, starts=np.repeat(row.starts, 2)), 0)
    assert float(both.loss) != pytest.approx(float(once.loss), rel=1e-5)


# ---- nonfinite values -------------------------------------------------------------------------------------------


def torch_as_on_cuda(config: GPTConfig, recipe: Recipe) -> Any:
    """PyTorch's engine as on CUDA, where the optimizer itself skips nonfinite steps."""
    engine = ENGINES["torch"](config, recipe)
    engine.optimizer_skips = True
    return engine


def with_nan(weights: Everything) -> None:
    weights["blocks.1.mlp.c_fc.bias"][3] = np.nan


def with_huge_weights(weights: Everything) -> None:
    weights["lm_head.weight"][:] = 3e38 * np.sign(weights["lm_head.weight"])


def with_huge_norm(weights: Everything) -> None:
    weights["ln_f.bias"][:] = 1e30


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("make", [*ENGINES.values(), torch_as_on_cuda], ids=[*ENGINES, "torch as on CUDA"])
@pytest.mark.parametrize(
    ("corrupt", "first"),
    [
        (with_nan, "blocks.1.mlp.c_fc.bias"),
        (with_huge_weights, "the gradient of tok_emb.weight"),
        (with_huge_norm, None),  # all gradients are finite, their norm is not
    ],
)
@each_recipe
def test_nonfinite_step_changes_nothing_and_its_cause_is_named(
    make: Make, corrupt: Callable[[Everything], None], first: str | None, recipe: Recipe
) -> None:
    engine, as_tensor = make(CONFIG, recipe), np.asarray if make is numpy_engine else torch.tensor
    trained(engine)
    weights = {name: array.copy() for name, array in engine.weights().items()}
    moments = {name: array.copy() for name, array in engine.optimizer_state().items()}
    invalid = {name: array.copy() for name, array in weights.items()}
    corrupt(invalid)
    engine.load(invalid, moments, 3)
    found = engine.train_step(batch(seed=3), 3)
    assert not (np.isfinite(float(found.loss)) and np.isfinite(float(found.grad_norm)))
    engine.loss(batch())
    assert engine.first_nonfinite(batch(seed=3), 3) == first
    assert engine.model.training  # with the dropout of that step
    state = {name: as_tensor(array) for name, array in weights.items()}
    engine.model.load_state_dict(state)  # valid weights again, but the engine skips all steps until load
    engine.train_step(batch(seed=4), 4)
    assert_same(dict(engine.weights()), weights)
    assert_same(dict(engine.optimizer_state()), moments)
    engine.load(weights, moments, 3)
    fresh = make(CONFIG, recipe)
    fresh.load(weights, moments, 3)
    assert_same(trained(engine, range(3, 6)), trained(fresh, range(3, 6)))


# ---- state ------------------------------------------------------------------------------------------------------


@each_engine
@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, tie_weights=True), replace(CONFIG, dropout=0.2)])
@each_recipe
def test_loaded_engine_continues_like_the_first(make: Make, config: GPTConfig, recipe: Recipe) -> None:
    first = make(config, recipe)
    trained(first)
    second = make(config, recipe)
    second.load(first.weights(), first.optimizer_state(), step=3)
    assert_same(trained(first, range(3, 6)), trained(second, range(3, 6)))


@pytest.mark.equivalence
@pytest.mark.parametrize("tie_weights", [False, True])
@pytest.mark.parametrize(("before", "after"), [("numpy", "torch"), ("torch", "numpy")])
@each_recipe
def test_each_engine_continues_from_the_other(before: str, after: str, tie_weights: bool, recipe: Recipe) -> None:
    config = replace(CONFIG, tie_weights=tie_weights)
    first, second = ENGINES[before](config, recipe), ENGINES[after](config, recipe)
    trained(first)
    second.load(first.weights(), first.optimizer_state(), step=3)
    assert_close(trained(first, range(3, 6)), trained(second, range(3, 6)), rtol=1e-3)


@each_engine
@each_recipe
def test_weights_and_optimizer_state_are_snapshots(make: Make, recipe: Recipe) -> None:
    engine = make(CONFIG, recipe)
    trained(engine)
    arrays = {**engine.weights(), **engine.optimizer_state()}
    before = {name: value.copy() for name, value in arrays.items()}
    trained(engine, range(3, 5))
    assert_same(arrays, before)


@each_engine
@each_recipe
def test_optimizer_state_has_the_shapes_checkpoints_require(make: Make, recipe: Recipe) -> None:
    config = replace(CONFIG, tie_weights=True)
    engine = make(config, recipe)
    assert engine.optimizer_state() == {}
    trained(engine)
    shapes = state_shapes(parameter_shapes(config), recipe.optimizer)
    assert {name: array.shape for name, array in engine.optimizer_state().items()} == shapes
    assert list(engine.optimizer_state()) == list(shapes)
    count = len(parameter_shapes(config))
    hidden = 4 * config.n_layer if recipe.optimizer == "muon" else 0
    assert len(shapes) == 2 * (count - hidden) + hidden


# ---- generation -------------------------------------------------------------------------------------------------


def with_large_weights(make: Make, config: GPTConfig = CONFIG, recipe: Recipe = RECIPE) -> Any:
    """An engine whose weights are large enough for every part to matter."""
    engine = make(config, recipe)
    random = np.random.default_rng(1)
    weights = {name: w + 0.3 * random.standard_normal(w.shape, np.float32) for name, w in engine.weights().items()}
    engine.load(weights, {}, 0)
    return engine


@pytest.mark.equivalence
@each_engine
@pytest.mark.parametrize("block_size", [1, 2, 3, 8])
@pytest.mark.parametrize("prompt", [1, 5, 20])
def test_cached_generation_matches_uncached_model_far_past_the_context(
    make: Make, block_size: int, prompt: int
) -> None:
    engine = with_large_weights(make, replace(CONFIG, block_size=block_size))
    model = engine.model.double().eval()
    as_input = np.asarray if make is numpy_engine else torch.tensor
    text = [i % CONFIG.vocab_size for i in range(prompt)]
    seen = []
    read = engine.reader

    class Recording:
        def __init__(self) -> None:
            self.reader = read()

        def read(self, ids: list[list[int]]) -> Any:
            found = self.reader.read(ids)
            seen.append(found[0])
            return found

    engine.reader = Recording
    tokens = text + list(generate(engine, text, 25, Sampling(), seed=3))
    assert len(seen) == 25
    for i, logits in enumerate(seen):
        so_far = tokens[: prompt + i]
        window = so_far[window_start(len(so_far), block_size) :]
        expected = model(as_input([window]))[0][0, -1].detach().numpy()  # without a cache
        digits = 1e-9 + np.finfo(logits.dtype).eps  # torch's engine returns them in float32
        np.testing.assert_allclose(logits, expected, rtol=digits, atol=digits)


@each_engine
def test_dropout_is_off_in_generation_and_evaluation(make: Make) -> None:
    engine = with_large_weights(make, replace(CONFIG, dropout=0.5), replace(RECIPE, lr=0.0, weight_decay=0.0))
    plain = with_large_weights(make)
    assert np.array_equal(engine.reader().read([[1, 2, 3]]), plain.reader().read([[1, 2, 3]]))
    engine.train_step(batch(), 0)
    assert engine.loss(batch()) == plain.loss(batch())
    assert np.array_equal(engine.reader().read([[1, 2, 3]]), plain.reader().read([[1, 2, 3]]))
