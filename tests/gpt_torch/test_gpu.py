"""Tests on a real GPU. `TEST_DEVICE=cpu uv run pytest -m gpu` runs them on the CPU, to check the tests themselves."""

import math
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from gpt_numpy import GPTConfig
from gpt_numpy.engine import Engine as NumpyEngine
from gpt_numpy.workshop.errors import RunFailed
from gpt_numpy.workshop.recipes import Recipe
from gpt_torch.device import ALLOWED
from gpt_torch.engine import Engine
from gpt_torch.options import Options
from tests.support.engines import RECIPE, RECIPES, Everything, assert_same, batch, batch_of

DEVICE = os.environ.get("TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="no CUDA here"),
]
CONFIG = GPTConfig(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=128)  # heads of 64, as flash takes them

each_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


def engine_for(
    config: GPTConfig = CONFIG,
    dtype: Any = "float32",
    attention: Any = "auto",
    recipe: Recipe = RECIPE,
    weights: Any = "float32",
) -> Engine:
    options = Options(device=DEVICE, dtype=dtype, attention=attention, compile="off", weights=weights)
    return Engine(config, recipe, options)


def state(engine: Engine) -> Everything:
    return {**engine.weights(), **engine.optimizer_state()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("attention", ["fused", "math"])
def test_loss_and_gradients_match_numpy(dtype: Any, attention: Any) -> None:
    engine = engine_for(dtype=dtype, attention=attention)
    by_hand = NumpyEngine(CONFIG, RECIPE)
    loss = float(engine.backward(batch(), 0))
    assert loss == pytest.approx(by_hand.loss(batch()), rel=ALLOWED[dtype])
    by_hand_model: Any = by_hand.model
    _, expected = by_hand_model(*batch().ids_and_targets())
    expected.backward()
    for name, parameter in by_hand_model.named_parameters():
        gradient = engine.parameters[name].grad
        assert gradient is not None
        off = gradient.cpu().numpy() / engine.scaler.get_scale() - parameter.grad.array
        assert np.linalg.norm(off) <= ALLOWED[dtype] * np.linalg.norm(parameter.grad.array) + 1e-7, name


@each_recipe
def test_resumed_run_matches_uninterrupted_run(recipe: Any) -> None:
    """Up to rounding; `python -m bench gpu` measures how far it is from bit for bit."""
    uninterrupted, first, second = (engine_for(recipe=recipe) for _ in range(3))
    for step in range(10):
        uninterrupted.train_step(batch(seed=step), step)
        if step < 5:
            first.train_step(batch(seed=step), step)
    second.load(first.weights(), first.optimizer_state(), step=5)
    for step in range(5, 10):
        second.train_step(batch(seed=step), step)
    for name, weight in second.weights().items():
        if not name.endswith("attn.c_attn.bias"):  # the true gradient of the keys' bias is 0
            np.testing.assert_allclose(weight, uninterrupted.weights()[name], rtol=1e-2, atol=1e-3, err_msg=name)


@each_recipe
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nonfinite_step_and_later_steps_are_skipped(recipe: Any, dtype: Any) -> None:
    engine = engine_for(dtype=dtype, recipe=recipe)
    engine.train_step(batch(), 0)
    before = state(engine)
    scale: Any = engine.model.ln_f.weight
    hook = scale.register_hook(lambda gradient: gradient * math.nan)
    reported = engine.train_step(batch(), 1)
    hook.remove()
    engine.train_step(batch(), 2)
    assert not math.isfinite(float(reported.grad_norm))
    assert_same(state(engine), before)


@each_recipe
@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_step_as_a_graph(recipe: Any, weights: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU it is only run again, and again."""
    if DEVICE == "cpu":
        monkeypatch.setattr("gpt_torch.step.as_cuda_graph", lambda compute, *_: compute)
    config, dtype = replace(CONFIG, dropout=0.2), "float32" if weights == "float32" else "bfloat16"
    engine, usual = (engine_for(config, dtype=dtype, recipe=recipe, weights=weights) for _ in range(2))
    engine.captures = True
    rows = batch(70)
    batches = [replace(rows, starts=rows.starts[7 * i : 7 * i + 7]) for i in range(10)]
    found = [engine.train_step(each, step) for step, each in enumerate(batches)]
    expected = [usual.train_step(each, step) for step, each in enumerate(batches)]
    assert engine.captures
    assert engine.captured is not None
    for a, b in zip(found, expected, strict=True):
        assert float(a.loss) == pytest.approx(float(b.loss), rel=1e-3 if weights == "float32" else 2e-2)


@pytest.mark.skipif(DEVICE == "cpu", reason="it would take all memory of the machine")
def test_out_of_memory_names_a_micro_batch_that_fits() -> None:
    config = GPTConfig(vocab_size=65, block_size=1024, n_layer=6, n_head=6, n_embd=384)
    engine = engine_for(config, attention="math")
    large = batch_of(np.zeros((16384, 1025), np.int64))
    with pytest.raises(RunFailed, match=r"out of memory on .*; --micro-batch \d+ fits"):
        engine.train_step(large, 0)
