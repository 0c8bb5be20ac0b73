"""Checks before a run that the device computes correctly.

Devices, drivers and kernels have had silent faults: attention to future tokens, gradients that are wrong above some
size, wrong reads of the cache. So a small model with the settings, context and head size of the run is compared with
float64 on the CPU. A compiled model is checked at its first step (Engine.train_step).
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.engine import Batch
from gpt_numpy.workshop.errors import RunFailed
from gpt_numpy.workshop.params import initial_weights
from gpt_numpy.workshop.recipes import Recipe
from gpt_torch.device import ALLOWED, is_out_of_memory
from gpt_torch.engine import Engine
from gpt_torch.model import GPT
from gpt_torch.options import Options

PIECES = 1, 31, 33  # tokens of consecutive reads: kernels have been wrong for few tokens and for odd numbers
PAST_ALLOWED = 1e-6  # in any precision: masked positions contribute exactly nothing
PAST = "earlier logits when a later token changes"
ADVICE = "Try --attention math, --dtype float32, --device cpu or a newer PyTorch"


def self_test(config: GPTConfig, options: Options) -> str:
    """The result in one line; RunFailed says what is wrong and what to try."""
    tested = Engine(small(config), Recipe(), replace(options, compile="off", parallel="ddp"))
    try:
        errors = errors_of(tested)
    except Exception as error:  # the run would fail as well
        if isinstance(error, MemoryError) or is_out_of_memory(error):
            raise RunFailed(f"{tested.describe()} runs out of memory with a model of two layers") from error
        reason, *_ = [*str(error).strip().splitlines(), type(error).__name__]
        raise RunFailed(f"{tested.describe()} cannot compute a step: {reason}. {ADVICE}") from error
    allowed = dict.fromkeys(errors, ALLOWED[tested.precision]) | {PAST: PAST_ALLOWED}
    worst = max(errors, key=lambda name: errors[name] / allowed[name] if errors[name] < math.inf else math.inf)
    if not errors[worst] <= allowed[worst]:
        raise RunFailed(
            f"{tested.describe()} computes wrong results: a relative error of {errors[worst]:.1e} in {worst}; "
            f"{allowed[worst]:.0e} is allowed. {ADVICE}"
        )
    return (
        f"self-test: loss, gradients, cache and causality match float64; largest error {errors[worst]:.0e}, in {worst}"
    )


def small(config: GPTConfig) -> GPTConfig:
    """At most two layers and heads of it; large enough for nonzero gradients and an earlier position."""
    n_head, head_size = min(config.n_head, 2), max(config.n_embd // config.n_head, 16)
    return replace(
        config, vocab_size=min(max(config.vocab_size, 2), 256), block_size=max(config.block_size, 2),
        n_layer=min(config.n_layer, 2), n_head=n_head, n_embd=n_head * head_size, dropout=0.0,
    )  # fmt: skip


def errors_of(tested: Engine) -> dict[str, float]:
    """Relative errors, by what has been compared."""
    config = tested.config
    # Five times the initial weights: with those, attention is almost uniform, and a fault in it hardly shows.
    weights = {name: w if "ln_" in name else 5 * w for name, w in initial_weights(config, seed=0).items()}
    tested.load(weights, {}, 0)
    reference = GPT(config, dtype=torch.float64)
    reference.load_state_dict({name: torch.tensor(w) for name, w in weights.items()})
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, 2 * (config.block_size + 1))
    batch = Batch(tokens, np.array([0, config.block_size + 1]), config.block_size)
    ids, targets = batch.ids_and_targets()

    logits, loss = reference(torch.tensor(ids), torch.tensor(targets))
    loss.backward()
    errors = {"the loss": abs(float(tested.backward(batch, step=0)) / loss.item() - 1.0)}
    for name, parameter in reference.named_parameters():
        expected, gradient = parameter.grad, tested.parameters[name].grad
        assert expected is not None
        assert gradient is not None
        difference = gradient.cpu().double() / tested.scaler.get_scale() - expected  # MPS has no float64
        errors[f"the gradient of {name}"] = float(difference.norm() / expected.norm())
    errors |= errors_of_reading(tested, ids[0], logits[0].detach().numpy())
    changed = ids.copy()
    changed[:, -1] = (ids[:, -1] + 1) % config.vocab_size
    past, same_past = (tested.logits(each)[:, :-1] for each in (ids, changed))
    errors[PAST] = float(np.abs(past - same_past).max() / np.abs(past).max())
    return errors


def errors_of_reading(tested: Engine, ids: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> dict[str, float]:
    """Those of the last logits after each read, with a cache."""
    errors, reader, done = {}, tested.reader(), 0
    for count in PIECES:
        if piece := ids[done : done + count].tolist():
            last = expected[done + len(piece) - 1]
            error = reader.read([piece])[0] - last
            errors[f"reading {len(piece)} tokens after {done}"] = float(np.linalg.norm(error) / np.linalg.norm(last))
            done += len(piece)
    return errors
