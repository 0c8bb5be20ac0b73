"""gpt_numpy and gpt_torch on the same weights and batch: every value and gradient, by name, for any configuration.

A tensor may differ from torch's float64 result, in norm, by 8 times its rounding error in float64 or float32, which
rounding.py estimates for each tensor of each problem. In float64, this is less than 1e-10 of the norm of the tensor,
unless so much cancels that float32 would keep only two digits.
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
from tests.equivalence.pair import Attention, run_numpy, run_numpy_layer, run_torch, run_torch_layer
from tests.equivalence.problems import (
    IGNORE,
    SEEDS,
    SIZES,
    Arrays,
    Problem,
    any_config,
    any_problem,
    new_problem,
    perturb,
    problems,
)  # fmt: skip
from tests.equivalence.rounding import TOLERANCE, rounding, rounding_errors
from tests.support.report import REPORT, UNIT

pytestmark = pytest.mark.equivalence
no_shrinking = settings(phases=[Phase.explicit, Phase.generate])  # a smaller seed does not give a simpler problem


def compare(found: Arrays, expected: Arrays, errors: dict[str, float], dtype: str, prefix: str = "") -> None:
    """`errors` are the rounding errors of the tensors in float32; `prefix` is the place of a layer in the model."""
    for name, value in found.items():
        assert value.dtype == dtype, name
        assert value.shape == expected[name].shape, name
        off, norm = (float(np.linalg.norm(x)) for x in (value - expected[name], expected[name]))
        allowed = TOLERANCE * errors[name] * UNIT[dtype]
        assert off <= allowed, f"{name}: off by {off:.2e}, {allowed:.2e} is allowed, the norm is {norm:.2e}"
        full = f"d {prefix}{name[2:]}" if name.startswith("d ") else prefix + name
        REPORT.add_tensor(full, dtype, off, norm, errors[name])


# ---- whole models -----------------------------------------------------------------------------------------------


LARGE_LOGITS = GPTConfig(vocab_size=11, block_size=2, n_layer=1, n_head=1, n_embd=9)
ONE_POSITION = GPTConfig(vocab_size=2, block_size=1, n_layer=3, n_head=1, n_embd=3, tie_weights=True, gelu="tanh")

PROBLEMS = problems(ignored=True) | problems(dropout=0.3)


@no_shrinking
@given(PROBLEMS)
# Large logits, for which the gradient of cross-entropy in float32 was once off by 11 rounding errors.
@example(new_problem(LARGE_LOGITS, seed=15, size=10.0, ids=[[7, 8]], targets=[[2, 3]]))
# A single key, for which the gradient of Q is 1e-22 in torch's fused attention, and 0 in stages.
@example(new_problem(ONE_POSITION, seed=0, size=0.0, ids=[[0]], targets=[[0]]))
# Three random changes of rounding are all small here, by chance; a fourth is 4 times as large.
@example(any_problem(400, 0.3, False))
def test_models_agree(problem: Problem) -> None:
    errors = rounding_errors(lambda: run_torch(problem, "staged"), lambda: run_torch(problem, "fused"))
    ways: tuple[Attention, ...] = ("staged", "fused")
    for how in ways:
        expected = run_torch(problem, how)
        compare(run_numpy(problem, how), expected, errors, "float64")
        compare(run_numpy(problem, how, np.float32), expected, errors, "float32")


# ---- single layers ----------------------------------------------------------------------------------------------

LAYERS = {"CausalSelfAttention": "blocks.0.attn.", "MLP": "blocks.0.mlp.", "Block": "blocks.0."}


@pytest.mark.parametrize("name", LAYERS)
@no_shrinking
@given(seed=SEEDS)
def test_layers_agree(name: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    config = any_config(random)
    start = {n: p.array for n, p in getattr(gpt_numpy.model, name)(config).state_dict().items()}
    weights = perturb(start, config, seed, random.choice(SIZES))
    shape = random.integers(1, 4), random.integers(1, config.block_size + 1), config.n_embd  # (B, T, C)
    x, dy = random.standard_normal((2, *shape), np.float32).astype(np.float64)
    layer = name, config, weights, x, dy
    expected = run_torch_layer(*layer)
    errors = rounding_errors(lambda: run_torch_layer(*layer))
    for dtype in ("float64", "float32"):
        compare(run_numpy_layer(*layer, dtype=dtype), expected, errors, dtype, LAYERS[name])


# ---- tests of the comparison ------------------------------------------------------------------------------------


SETTINGS: dict[str, list[Any]] = {
    "n_layer": [1, 2, 3], "n_head": [1, 2, 3], "bias": [False, True], "tie_weights": [False, True],
    "gelu": ["exact", "tanh"], "dropout": [0.0, 0.3],
}  # fmt: skip


def test_random_problems_cover_every_setting() -> None:
    """In problems with several positions and tokens; with a single one, most gradients are 0 in any model."""
    counts: Counter[Any] = Counter()

    @given(PROBLEMS)
    def count(problem: Problem) -> None:
        config = asdict(problem.config)
        if problem.ids.shape[1] > 1 and config["vocab_size"] > 1:
            counts.update((name, config[name]) for name in SETTINGS)
            counts["some are ignored"] += IGNORE in problem.targets
            counts["one row"] += len(problem.ids) == 1

    count()
    wanted = {(name, value) for name, values in SETTINGS.items() for value in values}
    assert counts.keys() == wanted | {"some are ignored", "one row"}
    assert min(counts.values()) >= 5


def typical_problem(gelu: Any = "exact") -> Problem:
    config = GPTConfig(vocab_size=7, block_size=6, n_layer=2, n_head=2, n_embd=6, gelu=gelu)
    ids, targets = np.random.default_rng(0).integers(0, 7, (2, 2, 6))
    return new_problem(config, seed=1, size=0.3, ids=ids, targets=targets)


@pytest.mark.parametrize("gelu", ["exact", "tanh"])
def test_functions_in_elementary_steps_match_torch(gelu: str) -> None:
    expected = run_torch(typical_problem(gelu))
    with rounding(unit=0.0):
        found = run_torch(typical_problem(gelu))
    for name, value in expected.items():
        assert np.linalg.norm(found[name] - value) <= 1e-12 * np.linalg.norm(value), name


@pytest.mark.parametrize("dtype", UNIT)
def test_small_errors_are_rejected(dtype: str) -> None:
    """In each value and gradient in turn."""
    expected = run_torch(typical_problem(), "staged")
    errors = rounding_errors(lambda: run_torch(typical_problem(), "staged"))
    for name, value in expected.items():
        wrong = value * (1.0 + 1e-4 * UNIT[dtype])
        with pytest.raises(AssertionError, match=rf"^{re.escape(name)}: off by"):
            compare({name: wrong.astype(dtype)}, expected, errors, dtype)


# ---- transformers -----------------------------------------------------------------------------------------------


def their_model(problem: Problem) -> Any:
    """Hugging Face's GPT-2 with our weights."""
    import transformers  # takes seconds, which other tests need not spend

    config = transformers.GPT2Config(**their_config(problem.config))
    config._attn_implementation = "eager"  # not fused
    model = transformers.GPT2LMHeadModel(config).double()
    weights = {
        their_name(name): torch.tensor(transpose_if_block_matrix(name, weight))
        for name, weight in problem.weights.items()
    }
    absent = {name for name, _ in model.named_parameters()} - weights.keys()
    assert all(name.endswith(".bias") and not problem.config.bias for name in absent)
    model.load_state_dict(weights, strict=False)  # biases that we do not have keep their initial value, 0
    return model


@pytest.mark.together("transformers")
@no_shrinking
@given(problems(ignored=True))
def test_gpt_numpy_matches_transformers(problem: Problem) -> None:
    model = their_model(problem)
    logits = model(torch.from_numpy(problem.ids)).logits
    loss = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(problem.targets).flatten())
    torch.autograd.backward(loss)
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    ours = [name for name in problem.weights if name != "lm_head.weight" or not problem.config.tie_weights]
    expected = {"loss": loss.detach().numpy(), "logits": logits.detach().numpy()}
    expected |= {f"d {name}": transpose_if_block_matrix(name, gradients[their_name(name)]) for name in ours}
    found = run_numpy(problem)
    errors = rounding_errors(lambda: run_torch(problem))
    compare({name: found[name] for name in expected}, expected, errors, "float64")
    if problem.ids.shape[1] > 1:
        check_transformers_loss(model, problem)


def check_transformers_loss(model: Any, problem: Problem) -> None:
    """transformers takes the ids as labels, shifts them itself, and computes the loss in float32."""
    text = torch.from_numpy(problem.ids)
    theirs = model(text, labels=text).loss.item()
    problem = problem._replace(ids=problem.ids[:, :-1], targets=problem.ids[:, 1:])
    errors = rounding_errors(lambda: run_torch(problem, times=0.0))
    assert abs(theirs - run_numpy(problem)["loss"]) <= TOLERANCE * errors["loss"]
