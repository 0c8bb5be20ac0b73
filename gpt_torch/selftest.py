"""Before a run: does this device compute what it should?

Devices, drivers and kernels have had faults that show in no error message: attention that sees the future, gradients
that are wrong from some size on, a cache that is read wrongly. So a small model with the run's settings, its context
and the size of its heads is held against float64 on the CPU. What is compiled is looked at when it first runs
(Engine.train_step).
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
from gpt_torch.engine import Engine, Options
from gpt_torch.model import GPT

PIECES = 1, 31, 33  # tokens that are read at once, one after the other: kernels have been wrong for few, and for odd
PAST_ALLOWED = 1e-6  # in any precision: what is masked has no part in a sum
PAST = "the past, when a later character changes,"
WAYS_OUT = "Ways out: --attention math, --dtype float32, --device cpu, newer PyTorch"


def self_test(config: GPTConfig, options: Options) -> str:
    """A line on how well it went; RunFailed names what is wrong, and the way out."""
    tested = Engine(small(config), Recipe(), replace(options, compile="off", parallel="ddp"))
    try:
        errors = errors_of(tested)
    except Exception as error:  # whatever this device cannot do, the run could not either
        if isinstance(error, MemoryError) or is_out_of_memory(error):
            raise RunFailed(f"{tested.describe()} has no memory for a model of two layers") from error
        reason, *_ = [*str(error).strip().splitlines(), type(error).__name__]
        raise RunFailed(f"{tested.describe()} cannot compute a step: {reason}. {WAYS_OUT}") from error
    allowed = dict.fromkeys(errors, ALLOWED[tested.precision]) | {PAST: PAST_ALLOWED}
    worst = max(errors, key=lambda name: errors[name] / allowed[name] if errors[name] < math.inf else math.inf)
    if not errors[worst] <= allowed[worst]:
        raise RunFailed(
            f"{tested.describe()} computes wrongly: {worst} is off by {errors[worst]:.1e} of its size, "
            f"{allowed[worst]:.0e} is allowed. {WAYS_OUT}"
        )
    return (
        f"self-test: loss, gradients, cache and causality as in float64; largest error {errors[worst]:.0e}, of {worst}"
    )


def small(config: GPTConfig) -> GPTConfig:
    """Two layers and heads of it; not so small that a gradient is 0, or that there is no past."""
    n_head, head_size = min(config.n_head, 2), max(config.n_embd // config.n_head, 16)
    return replace(
        config, vocab_size=min(max(config.vocab_size, 2), 256), block_size=max(config.block_size, 2),
        n_layer=min(config.n_layer, 2), n_head=n_head, n_embd=n_head * head_size, dropout=0.0,
    )  # fmt: skip


def errors_of(tested: Engine) -> dict[str, float]:
    """By what is wrong: by how much, as a part of the size of what it should be."""
    config = tested.config
    # Five times the weights of a start: with those, attention looks everywhere alike, and a fault in it hardly shows.
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
    past, same_past = (tested.logits(given)[:, :-1] for given in (ids, changed))
    errors[PAST] = float(np.abs(past - same_past).max() / np.abs(past).max())
    return errors


def errors_of_reading(tested: Engine, ids: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> dict[str, float]:
    """Piece by piece, with the keys and values of the pieces before."""
    errors, reader, done = {}, tested.reader(), 0
    for count in PIECES:
        if piece := ids[done : done + count].tolist():
            last = expected[done + len(piece) - 1]
            off = reader.read(piece) - last
            errors[f"reading {len(piece)} tokens after {done}"] = float(np.linalg.norm(off) / np.linalg.norm(last))
            done += len(piece)
    return errors
