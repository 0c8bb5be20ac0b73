"""gpt_numpy and gpt_torch on the same weights and batch: each value and each gradient, by name, on any configuration.

How far a tensor may be from torch's in float64, in norm: 8 times what rounding moves it by, in float64 or in float32.
rounding.py says how much that is, for this very tensor of this very problem. In float64 it is less than 1e-10 of the
tensor's norm, unless so much cancels that float32 would keep but two digits.
"""

import re
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, example, given, settings
from torch.nn import functional as F

import gpt_numpy.model
from gpt_numpy import GPTConfig
from gpt_torch.huggingface import their_config, their_name, transpose_if_block_matrix
from tests.equivalence.pair import Attention, by_hand, in_torch, layer_by_hand, layer_in_torch
from tests.equivalence.problems import IGNORED, SEEDS, SIZES, Arrays, Problem, any_config, moved, problem, problems
from tests.equivalence.rounding import TIMES, moves, rounding
from tests.support.report import REPORT, UNIT

pytestmark = pytest.mark.equivalence
as_found = settings(phases=[Phase.explicit, Phase.generate])  # a smaller seed would make no simpler problem


def compare(found: Arrays, expected: Arrays, moved_by: dict[str, float], dtype: str, inside: str = "") -> None:
    """`moved_by` is what rounding to float32 moves each tensor by; `inside` is where a layer is in the model."""
    for name, value in found.items():
        assert value.dtype == dtype, name
        assert value.shape == expected[name].shape, name
        off, norm = (float(np.linalg.norm(x)) for x in (value - expected[name], expected[name]))
        allowed = TIMES * moved_by[name] * UNIT[dtype]
        assert off <= allowed, f"{name}: off by {off:.2e}, {allowed:.2e} is allowed, its norm is {norm:.2e}"
        full = f"d {inside}{name[2:]}" if name.startswith("d ") else inside + name
        REPORT.add_tensor(full, dtype, off, norm, moved_by[name])


# ---- whole models -----------------------------------------------------------------------------------------------


LOGITS_OF_A_THOUSAND = GPTConfig(vocab_size=11, block_size=2, n_layer=1, n_head=1, n_embd=9)
ONE_POSITION = GPTConfig(vocab_size=2, block_size=1, n_layer=3, n_head=1, n_embd=3, tie_weights=True, gelu="tanh")

PROBLEMS = problems(ignored=True) | problems(dropout=0.3)


@as_found
@given(PROBLEMS)
# Cross-entropy in float32 lost its digits to the size of the logits, 11 roundings in their gradient.
@example(problem(LOGITS_OF_A_THOUSAND, seed=15, size=10.0, ids=[[7, 8]], targets=[[2, 3]]))
# Where there is one key, torch's fused attention leaves 1e-22 of Q's gradient, and a formula in stages 0.
@example(problem(ONE_POSITION, seed=0, size=0.0, ids=[[0]], targets=[[0]]))
def test_models(problem: Problem) -> None:
    moved_by = moves(lambda: in_torch(problem, "staged"), lambda: in_torch(problem, "whole"))
    ways: tuple[Attention, ...] = ("staged", "whole")
    for how in ways:
        expected = in_torch(problem, how)
        compare(by_hand(problem, how), expected, moved_by, "float64")
        compare(by_hand(problem, how, np.float32), expected, moved_by, "float32")


# ---- layers alone -----------------------------------------------------------------------------------------------

LAYERS = {"CausalSelfAttention": "blocks.0.attn.", "MLP": "blocks.0.mlp.", "Block": "blocks.0."}


@pytest.mark.parametrize("name", LAYERS)
@as_found
@given(seed=SEEDS)
def test_layers(name: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    config = any_config(random)
    start = {n: p.array for n, p in getattr(gpt_numpy.model, name)(config).state_dict().items()}
    weights = moved(start, config, seed, random.choice(SIZES))
    shape = random.integers(1, 4), random.integers(1, config.block_size + 1), config.n_embd  # (B, T, C)
    x, dy = random.standard_normal((2, *shape), np.float32).astype(np.float64)
    layer = name, config, weights, x, dy
    expected = layer_in_torch(*layer)
    moved_by = moves(lambda: layer_in_torch(*layer))
    for dtype in ("float64", "float32"):
        compare(layer_by_hand(*layer, dtype=dtype), expected, moved_by, dtype, LAYERS[name])


# ---- the judge is judged ----------------------------------------------------------------------------------------


SETTINGS: dict[str, list[Any]] = {
    "n_layer": [1, 2, 3], "n_head": [1, 2, 3], "bias": [False, True], "tie_weights": [False, True],
    "gelu": ["exact", "tanh"], "dropout": [0.0, 0.3],
}  # fmt: skip


def test_every_setting_is_tried_where_it_matters() -> None:
    """In problems of several positions and tokens: of one alone most gradients are 0, whatever the model."""
    tried: Counter[Any] = Counter()

    @given(PROBLEMS)
    def look_at(problem: Problem) -> None:
        config = asdict(problem.config)
        if problem.ids.shape[1] > 1 and config["vocab_size"] > 1:
            tried.update((name, config[name]) for name in SETTINGS)
            tried["some are ignored"] += IGNORED in problem.targets
            tried["one row"] += len(problem.ids) == 1

    look_at()
    wanted = {(name, value) for name, values in SETTINGS.items() for value in values}
    assert tried.keys() == wanted | {"some are ignored", "one row"}
    assert min(tried.values()) >= 5


def usual(gelu: Any = "exact") -> Problem:
    config = GPTConfig(vocab_size=7, block_size=6, n_layer=2, n_head=2, n_embd=6, gelu=gelu)
    ids, targets = np.random.default_rng(0).integers(0, 7, (2, 2, 6))
    return problem(config, seed=1, size=0.3, ids=ids, targets=targets)


@pytest.mark.parametrize("gelu", ["exact", "tanh"])
def test_the_small_steps_of_rounding_give_what_torch_gives(gelu: str) -> None:
    expected = in_torch(usual(gelu))
    with rounding(unit=0.0):
        found = in_torch(usual(gelu))
    for name, value in expected.items():
        assert np.linalg.norm(found[name] - value) <= 1e-12 * np.linalg.norm(value), name


@pytest.mark.parametrize("dtype", UNIT)
def test_what_is_slightly_too_large_is_rejected(dtype: str) -> None:
    """Each value and gradient in turn."""
    expected = in_torch(usual(), "staged")
    moved_by = moves(lambda: in_torch(usual(), "staged"))
    for name, value in expected.items():
        spoilt = value * (1.0 + 1e-4 * UNIT[dtype])
        with pytest.raises(AssertionError, match=rf"^{re.escape(name)}: off by"):
            compare({name: spoilt.astype(dtype)}, expected, moved_by, dtype)


# ---- an outside judge -------------------------------------------------------------------------------------------


def their_model(problem: Problem) -> Any:
    """Hugging Face's GPT-2 with our weights."""
    import transformers  # seconds, for which other tests need not wait

    config = transformers.GPT2Config(**their_config(problem.config))
    config._attn_implementation = "eager"  # attention written out
    model = transformers.GPT2LMHeadModel(config).double()
    weights = {
        their_name(name): torch.tensor(transpose_if_block_matrix(name, weight))
        for name, weight in problem.weights.items()
    }
    absent = {name for name, _ in model.named_parameters()} - weights.keys()
    assert all(name.endswith(".bias") and not problem.config.bias for name in absent)
    model.load_state_dict(weights, strict=False)  # where we have no bias, theirs is 0, as at their start
    return model


@as_found
@given(problems(ignored=True))
def test_transformers_finds_the_same(problem: Problem) -> None:
    model = their_model(problem)
    logits = model(torch.from_numpy(problem.ids)).logits
    loss = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(problem.targets).flatten())
    torch.autograd.backward(loss)
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    ours = [name for name in problem.weights if name != "lm_head.weight" or not problem.config.tie_weights]
    expected = {"loss": loss.detach().numpy(), "logits": logits.detach().numpy()}
    expected |= {f"d {name}": transpose_if_block_matrix(name, gradients[their_name(name)]) for name in ours}
    found = by_hand(problem)
    moved_by = moves(lambda: in_torch(problem))
    compare({name: found[name] for name in expected}, expected, moved_by, "float64")
    if problem.ids.shape[1] > 1:
        check_their_own_loss(model, problem)


def check_their_own_loss(model: Any, problem: Problem) -> None:
    """It is given the text alone, takes the next token as the target itself, and computes the loss in float32."""
    text = torch.from_numpy(problem.ids)
    theirs = model(text, labels=text).loss.item()
    problem = problem._replace(ids=problem.ids[:, :-1], targets=problem.ids[:, 1:])
    moved_by = moves(lambda: in_torch(problem, times=0.0))
    assert abs(theirs - by_hand(problem)["loss"]) <= TIMES * moved_by["loss"]
