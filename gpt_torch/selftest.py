"""Before a run: does this device compute what it should?

Devices, drivers and kernels have had faults that show in no error message: attention that sees the future, gradients
that are wrong from some size on. So a small model with the run's settings is held against float64 on the CPU.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.errors import RunFailed
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.weights import initial_weights
from gpt_torch.engine import Engine, Options
from gpt_torch.model import GPT

# The largest error that passes, as a part of the size of the tensor it is in: of a loss, or of a gradient. Several
# times what a sound CPU shows (tests/gpt_torch/test_gpt_torch_engine.py measures it), far below what a wrong sign does.
ALLOWED = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
PAST_ALLOWED = 1e-6  # in any precision: what is masked has no part in a sum
PAST = "the past, when a later character changes,"


def self_test(config: GPTConfig, options: Options) -> str:
    """A line on how well it went; RunFailed names what is wrong, and the way out."""
    n_head, head_size = min(config.n_head, 2), max(config.n_embd // config.n_head, 16)
    small = replace(  # not so small that a gradient is 0, or that there is no past
        config, vocab_size=min(max(config.vocab_size, 2), 256), block_size=min(max(config.block_size, 2), 64),
        n_layer=min(config.n_layer, 2), n_head=n_head, n_embd=n_head * head_size, dropout=0.0,
    )  # fmt: skip
    # Five times the weights of a start: with those, attention looks everywhere alike, and a fault in it hardly shows.
    weights = {name: w if "ln_" in name else 5 * w for name, w in initial_weights(small, seed=0).items()}
    tokens = np.random.default_rng(0).integers(0, small.vocab_size, (2, small.block_size + 1))
    tested = Engine(small, options=replace(options, compile="off", parallel="ddp"))
    tested.load(weights, {}, 0)
    reference = GPT(small, dtype=torch.float64)
    reference.load_state_dict({name: torch.tensor(w) for name, w in weights.items()})

    errors = errors_of(tested, reference, tokens)
    allowed = dict.fromkeys(errors, ALLOWED[tested.dtype]) | {PAST: PAST_ALLOWED}
    worst = max(errors, key=lambda name: errors[name] / allowed[name] if errors[name] < math.inf else math.inf)
    if not errors[worst] <= allowed[worst]:
        raise RunFailed(
            f"{tested.describe()} computes wrongly: {worst} is off by {errors[worst]:.1e} of its size, "
            f"{allowed[worst]:.0e} is allowed. Ways out: --attention math, --dtype float32, --device cpu, newer PyTorch"
        )
    return f"self-test: loss, gradients and causality as in float64; largest error {errors[worst]:.0e}, of {worst}"


def errors_of(tested: Engine, reference: GPT, tokens: np.ndarray[Any, Any]) -> dict[str, float]:
    """By what is wrong: by how much, as a part of the size of what it should be."""
    ids, targets = tokens[:, :-1], tokens[:, 1:]
    _, loss = reference(torch.tensor(ids), torch.tensor(targets))
    loss.backward()
    errors = {"the loss": abs(float(tested.backward(ids, targets, Recipe(), step=0)) / loss.item() - 1.0)}
    for name, parameter in reference.named_parameters():
        expected, gradient = parameter.grad, tested.parameters[name].grad
        assert expected is not None
        assert gradient is not None
        difference = gradient.double().cpu() / tested.scaler.get_scale() - expected
        errors[f"the gradient of {name}"] = float(difference.norm() / expected.norm())
    changed = ids.copy()
    changed[:, -1] = (ids[:, -1] + 1) % tested.config.vocab_size
    past, same_past = (tested.logits(given)[:, :-1] for given in (ids, changed))
    errors[PAST] = float(np.abs(past - same_past).max() / np.abs(past).max())
    return errors
