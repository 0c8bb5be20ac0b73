"""gpt_numpy and gpt_torch on the same weights and batch: each value and each gradient, by name, on any configuration.

How far a tensor may be from torch's in float64, in norm:

    float64    1e-10 of its norm, and what float64's rounding moves it by where numbers cancel
    float32    what float32's rounding moves it by

rounding.py says how much that is, for this very tensor of this very problem, and needs no float32 for it.
"""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import example, given
from hypothesis import strategies as st
from torch.nn import functional as F

import gpt_numpy.model
from gpt_numpy import GPTConfig
from gpt_torch.huggingface import their_config, their_name, turned
from tests.pair import Attention, by_hand, in_torch, layer_by_hand, layer_in_torch
from tests.problems import SEEDS, SIZES, Arrays, Problem, configs, moved, problem, problems
from tests.report import REPORT
from tests.rounding import TIMES, moves

pytestmark = pytest.mark.equivalence

RTOL = 1e-10
FLOAT64_IN_FLOAT32 = 2.0**-29  # a unit of float64's last place in those of float32


def compare(found: Arrays, expected: Arrays, rounding: dict[str, float], dtype: str, inside: str = "") -> None:
    """`rounding` is what rounding to float32 moves each tensor by; `inside` is where a layer is in the model."""
    for name, value in found.items():
        assert value.dtype == dtype, name
        assert value.shape == expected[name].shape, name
        off, norm = (float(np.linalg.norm(x)) for x in (value - expected[name], expected[name]))
        rounded = TIMES * rounding[name]
        allowed = rounded if dtype == "float32" else RTOL * norm + FLOAT64_IN_FLOAT32 * rounded
        assert off <= allowed, f"{name}: off by {off:.2e}, {allowed:.2e} is allowed, its norm is {norm:.2e}"
        full = f"d {inside}{name[2:]}" if name.startswith("d ") else inside + name
        REPORT.add_tensor(full, dtype, off, norm, rounding[name])


# ---- whole models -----------------------------------------------------------------------------------------------


LOGITS_OF_A_THOUSAND = GPTConfig(vocab_size=11, block_size=2, n_layer=1, n_head=1, n_embd=9)
ONE_POSITION = GPTConfig(vocab_size=2, block_size=1, n_layer=3, n_head=1, n_embd=3, tie_weights=True, gelu="tanh")


@given(problems() | problems(dropout=0.3))
# Cross-entropy in float32 lost its digits to the size of the logits, 11 roundings in their gradient.
@example(problem(LOGITS_OF_A_THOUSAND, seed=15, size=10.0, ids=[[7, 8]], targets=[[2, 3]]))
# Where there is one key, torch's fused attention leaves 1e-22 of Q's gradient, and a formula in stages 0.
@example(problem(ONE_POSITION, seed=0, size=0.0, ids=[[0]], targets=[[0]]))
def test_models(problem: Problem) -> None:
    rounding = moves(lambda: in_torch(problem, "staged"), lambda: in_torch(problem, "whole"))
    ways: tuple[Attention, ...] = ("staged", "whole")
    for how in ways:
        expected = in_torch(problem, how)
        compare(by_hand(problem, how), expected, rounding, "float64")
        compare(by_hand(problem, how, np.float32), expected, rounding, "float32")


# ---- layers alone -----------------------------------------------------------------------------------------------

LAYERS = {"CausalSelfAttention": "blocks.0.attn.", "MLP": "blocks.0.mlp.", "Block": "blocks.0."}


@pytest.mark.parametrize("name", LAYERS)
@given(config=configs(), seed=SEEDS, size=SIZES, rows=st.integers(1, 3), data=st.data())
def test_layers(name: str, config: Any, seed: int, size: float, rows: int, data: Any) -> None:
    start = {n: p.array for n, p in getattr(gpt_numpy.model, name)(config).state_dict().items()}
    shape = rows, data.draw(st.integers(1, config.block_size)), config.n_embd
    x, dy = np.random.default_rng(seed).standard_normal((2, *shape), np.float32).astype(np.float64)
    layer = name, config, moved(start, config, seed, size), x, dy
    expected = layer_in_torch(*layer)
    rounding = moves(lambda: layer_in_torch(*layer))
    for dtype in ("float64", "float32"):
        compare(layer_by_hand(*layer, dtype=dtype), expected, rounding, dtype, LAYERS[name])


# ---- an outside judge -------------------------------------------------------------------------------------------


def their_model(problem: Problem) -> Any:
    """Hugging Face's GPT-2 with our weights."""
    config = transformers.GPT2Config(**their_config(problem.config))
    config._attn_implementation = "eager"  # attention written out
    model = transformers.GPT2LMHeadModel(config).double()
    weights = {their_name(name): torch.tensor(turned(name, weight)) for name, weight in problem.weights.items()}
    absent = {name for name, _ in model.named_parameters()} - weights.keys()
    assert all(name.endswith(".bias") and not problem.config.bias for name in absent)
    model.load_state_dict(weights, strict=False)  # where we have no bias, theirs is 0, as at their start
    return model


@given(problems())
def test_transformers_finds_the_same(problem: Problem) -> None:
    model = their_model(problem)
    logits = model(torch.from_numpy(problem.ids)).logits
    loss = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(problem.targets).flatten())
    torch.autograd.backward(loss)
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    ours = [name for name in problem.weights if name != "lm_head.weight" or not problem.config.tie_weights]
    expected = {"loss": loss.detach().numpy(), "logits": logits.detach().numpy()}
    expected |= {f"d {name}": turned(name, gradients[their_name(name)]) for name in ours}
    found = by_hand(problem)
    rounding = moves(lambda: in_torch(problem))
    compare({name: found[name] for name in expected}, expected, rounding, "float64")


@given(problems().filter(lambda problem: problem.ids.shape[1] > 1))
def test_transformers_own_loss_is_the_same(problem: Problem) -> None:
    """It is given the text alone, takes the next token as the target itself, and computes the loss in float32."""
    text = torch.from_numpy(problem.ids)
    theirs = their_model(problem)(text, labels=text).loss.item()
    problem = problem._replace(ids=problem.ids[:, :-1], targets=problem.ids[:, 1:])
    rounding = moves(lambda: in_torch(problem))
    assert abs(theirs - by_hand(problem)["loss"]) <= TIMES * rounding["loss"]
