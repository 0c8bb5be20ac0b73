"""Both engines at a tiny size, and comparisons of their results."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from gpt_numpy import GPTConfig
from gpt_numpy.engine import Engine as NumpyEngine
from gpt_numpy.workshop.engine import Batch, Engine
from gpt_numpy.workshop.recipes import Recipe
from gpt_torch.engine import Engine as TorchEngine
from gpt_torch.options import Options

CONFIG = GPTConfig(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=8)
RECIPE = Recipe(steps=10, batch_size=7, seed=0, lr=1e-2, warmup=2, grad_clip=0.5, weight_decay=0.1)
RECIPES = {"adamw": RECIPE, "muon": replace(RECIPE, optimizer="muon", schedule="linear")}

COMPILER = any(map(shutil.which, ("g++", "clang++", "cl")))  # without one, torch.compile does nothing on the CPU

Make = Callable[..., Any]  # an engine from config and recipe
Everything = dict[str, np.ndarray[Any, Any]]


def numpy_engine(config: GPTConfig, recipe: Recipe = RECIPE) -> NumpyEngine:
    return NumpyEngine(config, recipe, threads=2)


def torch_engine(config: GPTConfig, recipe: Recipe = RECIPE) -> TorchEngine:
    return TorchEngine(config, recipe, Options(device="cpu"))


ENGINES: dict[str, Make] = {"numpy": numpy_engine, "torch": torch_engine}


def batch(rows: int = 7, seed: int = 0) -> Batch:
    return batch_of(np.random.default_rng(seed).integers(0, CONFIG.vocab_size, (rows, CONFIG.block_size + 1)))


def batch_of(windows: np.ndarray[Any, Any]) -> Batch:
    rows, size = windows.shape
    return Batch(windows.reshape(-1), np.arange(rows) * size, size - 1)


def trained(engine: Engine, steps: range = range(3)) -> Everything:
    """Weights, optimizer state and reported numbers after a few steps."""
    reported = [engine.train_step(batch(seed=step), step) for step in steps]
    numbers = [[float(number) for number in step] for step in reported]
    return {**engine.weights(), **engine.optimizer_state(), "reported": np.array(numbers)}


def assert_close(a: Everything, b: Everything, rtol: float = 1e-4) -> None:
    """Equal up to the order of sums in float32. The biases of keys are left out: their true gradient is 0, and AdamW
    amplifies the rounding error that is left of it."""
    assert a.keys() == b.keys()
    for name, value in a.items():
        x, y = value, b[name]
        if name.endswith("attn.c_attn.bias"):
            x, y = (np.delete(bias.reshape(3, -1), 1, axis=0) for bias in (x, y))
        np.testing.assert_allclose(x, y, rtol, atol=rtol * np.abs(x).max(), err_msg=name)


def assert_same(a: Everything, b: Everything) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert np.array_equal(value, b[name]), name
