"""The same training step in other libraries, if they are installed: autograd, MyGrad, JAX.

    uv run --extra peers python -m bench peers

One function implements the model, another clipping and AdamW, with NumPy functions that all of them provide. GELU is
the tanh approximation, which all support. All use the same cores: gpt_numpy by its threads, the others by their BLAS.
"""

import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from bench.result import BLUE, Result, Row, bars, milliseconds, percent, times
from bench.settings import NUMPY, Settings, Stepping, batch
from bench.timing import turns
from bench.verify import same_steps
from gpt_numpy.config import GPTConfig
from gpt_numpy.engine import numpys_blas
from gpt_numpy.workshop.cores import available_cores
from gpt_numpy.workshop.engine import Ids
from gpt_numpy.workshop.params import initial_weights
from gpt_numpy.workshop.recipes import Recipe

Values = dict[str, Any]  # an array for each parameter
State = tuple[Values, Values, Values]  # the parameters, and AdamW's exp_avg and exp_avg_sq
Step = Callable[[State, int], tuple[Any, Any, State]]  # of a state and step number: loss, gradient norm, new state


def gpt_loss(xp: Any, w: Mapping[str, Any], ids: Ids, targets: Ids, config: GPTConfig) -> Any:
    """The mean loss; `xp` is a module with NumPy's functions, `w` has its arrays by parameter name."""
    (B, T), H, C = ids.shape, config.n_head, config.n_embd
    future = np.triu(np.full((T, T), -1e9, np.float32), 1)

    def linear(x: Any, name: str) -> Any:
        return xp.matmul(x, xp.transpose(w[f"{name}.weight"])) + w[f"{name}.bias"]

    def norm(x: Any, name: str) -> Any:
        centred = x - xp.mean(x, axis=-1, keepdims=True)
        variance = xp.mean(centred * centred, axis=-1, keepdims=True)
        return centred / xp.sqrt(variance + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def heads(x: Any) -> Any:
        return xp.transpose(xp.reshape(x, (B, T, H, C // H)), (0, 2, 1, 3))

    x = w["tok_emb.weight"][ids] + w["pos_emb.weight"][np.arange(T)]
    for i in range(config.n_layer):
        block = f"blocks.{i}"
        qkv = linear(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn")
        if hasattr(xp, "split"):  # its backward is faster than that of three slices
            parts = xp.split(qkv, 3, axis=-1)
        else:
            parts = [qkv[:, :, part * C : (part + 1) * C] for part in range(3)]
        q, k, v = map(heads, parts)
        scores = xp.matmul(q, xp.transpose(k, (0, 1, 3, 2))) * (C // H) ** -0.5 + future
        e = xp.exp(scores - xp.max(scores, axis=-1, keepdims=True))
        y = xp.matmul(e / xp.sum(e, axis=-1, keepdims=True), v)
        x = x + linear(xp.reshape(xp.transpose(y, (0, 2, 1, 3)), (B, T, C)), f"{block}.attn.c_proj")
        h = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        h = 0.5 * h * (1.0 + xp.tanh(math.sqrt(2.0 / math.pi) * (h + 0.044715 * h * h * h)))
        x = x + linear(h, f"{block}.mlp.c_proj")
    logits = xp.reshape(xp.matmul(norm(x, "ln_f"), xp.transpose(w["lm_head.weight"])), (B * T, -1))
    likely = logits[np.arange(B * T), targets.reshape(-1)]
    largest = xp.max(logits, axis=-1, keepdims=True)
    return xp.mean(xp.log(xp.sum(xp.exp(logits - largest), axis=-1)) + largest[:, 0] - likely)


def updated(xp: Any, state: State, gradients: Values, recipe: Recipe, step: int, lr: Any) -> tuple[Any, State]:
    """Clipping and AdamW: the gradient norm, and the state after the step."""
    w, m, v = state
    norm = xp.sqrt(sum(xp.sum(g * g) for g in gradients.values()))
    factor = xp.minimum(1.0, recipe.grad_clip / (norm + 1e-6))
    b1, b2 = recipe.beta1, recipe.beta2
    w, m, v = dict(w), dict(m), dict(v)
    for name, gradient in gradients.items():
        g = gradient * factor
        decay = recipe.weight_decay if w[name].ndim >= 2 else 0.0
        m[name] = b1 * m[name] + (1.0 - b1) * g
        v[name] = b2 * v[name] + (1.0 - b2) * g * g
        size = xp.sqrt(v[name]) / (1.0 - b2**step) ** 0.5 + 1e-8
        w[name] = w[name] * (1.0 - lr * decay) - (lr / (1.0 - b1**step)) * m[name] / size
    return norm, (w, m, v)


def with_autograd(ids: Ids, targets: Ids, config: GPTConfig, recipe: Recipe) -> Step:
    autograd, xp = importlib.import_module("autograd"), importlib.import_module("autograd.numpy")
    gradient = autograd.value_and_grad(lambda w: gpt_loss(xp, w, ids, targets, config))

    def step(state: State, number: int) -> tuple[Any, Any, State]:
        loss, gradients = gradient(state[0])
        return loss, *updated(np, state, gradients, recipe, number, recipe.lr_at(number - 1))

    return step


def with_mygrad(ids: Ids, targets: Ids, config: GPTConfig, recipe: Recipe) -> Step:
    xp = importlib.import_module("mygrad")
    xp.turn_memory_guarding_off()

    def step(state: State, number: int) -> tuple[Any, Any, State]:
        w = {name: xp.tensor(weight, copy=False) for name, weight in state[0].items()}
        loss = gpt_loss(xp, w, ids, targets, config)
        loss.backward()
        gradients = {name: tensor.grad for name, tensor in w.items()}
        return loss.data, *updated(np, state, gradients, recipe, number, recipe.lr_at(number - 1))

    return step


def with_jax(ids: Ids, targets: Ids, config: GPTConfig, recipe: Recipe) -> Step:
    jax, xp = importlib.import_module("jax"), importlib.import_module("jax.numpy")
    gradient = jax.value_and_grad(lambda w: gpt_loss(xp, w, ids, targets, config))

    @jax.jit  # type: ignore[untyped-decorator]
    def compiled(state: State, number: Any, lr: Any) -> tuple[Any, Any, State]:
        loss, gradients = gradient(state[0])
        return loss, *updated(xp, state, gradients, recipe, number, lr)

    return lambda state, number: jax.block_until_ready(compiled(state, float(number), recipe.lr_at(number - 1)))


PEERS = {"autograd": with_autograd, "mygrad": with_mygrad, "jax": with_jax}


class Peer:
    """Repeats training steps of one library on one batch."""

    def __init__(self, step: Step, weights: Values, threads: int) -> None:
        zeros = {name: np.zeros_like(weight) for name, weight in weights.items()}
        self.step, self.state, self.threads, self.number = step, (weights, zeros, zeros), threads, 0
        self.blas = numpys_blas()  # finding it takes milliseconds, limiting it microseconds

    def __call__(self) -> tuple[float, float]:
        self.number += 1
        with self.blas.limit(limits=self.threads):
            loss, norm, self.state = self.step(self.state, self.number)
        return float(loss), float(norm)


def measure(settings: Settings) -> Iterator[Result]:
    installed = [name for name in PEERS if importlib.util.find_spec(name)]
    if settings.cores != available_cores() and "jax" in installed:
        installed.remove("jax")  # it always uses all cores
    if not installed:
        yield Result("peers", "other libraries", [], {}, [
            "None of autograd, MyGrad and JAX is installed: uv run --extra peers python -m bench peers"
        ])  # fmt: skip
        return
    config, recipe = replace(settings.config, gelu="tanh"), settings.recipe
    ours = Stepping(settings.numpy_engine(config))
    ours.batches = [batch(config, recipe.batch_size)]
    ids, targets = ours.batches[0].ids_and_targets()
    subjects: dict[str, Callable[[], tuple[float, float]]] = {NUMPY: ours}
    for name in installed:
        step = PEERS[name](ids, targets, config, recipe)
        subjects[name] = Peer(step, initial_weights(config, seed=0), settings.cores)
    same_steps(subjects)
    for count, timings in enumerate(turns(subjects, settings.repeat, settings.turn), 1):
        rows: list[Row] = [
            {"subject": name, "time": timing.median, "spread": timing.spread,
             "of gpt_numpy's": timing.over(timings[NUMPY]), "seconds": timing.seconds}
            for name, timing in timings.items()
        ]  # fmt: skip
        yield Result(
            "peers",
            f"a training step: the {settings.preset} model, batch {recipe.batch_size}, {settings.cores} threads",
            rows,
            {"subject": str, "time": milliseconds, "spread": percent, "of gpt_numpy's": times},
            (),
            bars("subject", {"time": BLUE}, "milliseconds for a step", scale=1e3),
            done=count / settings.repeat,
        )
