"""The same forward and backward pass in other libraries, where they are installed: autograd, MyGrad, JAX.

    uv run --extra peers python -m bench peers

One function writes the model down, in the names that all of them share with NumPy. To the good of the others it leaves
out what a real program has: their softmax subtracts no maximum, and only gpt_numpy clips and updates the weights. GELU
is in its tanh form, which all of them have. All get the same cores: gpt_numpy as threads, the others as their BLAS's.
"""

import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bench.result import Result, Row, bars, milliseconds, percent, times
from bench.settings import NUMPY, Settings, Stepping, batch
from bench.timing import Work, turns
from bench.verify import CLOSE
from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.engine import Arrays, Ids
from gpt_numpy.workshop.errors import RunFailed
from gpt_numpy.workshop.weights import initial_weights

Gradient = Callable[[], tuple[float, Mapping[str, Any]]]  # the loss, and the gradient of each parameter


def gpt_loss(xp: Any, w: Mapping[str, Any], ids: Ids, targets: Ids, config: GPTConfig) -> Any:
    """The mean loss; xp is a library with NumPy's functions, w has its arrays by the names of the parameters."""
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
        q, k, v = (heads(qkv[:, :, part * C : (part + 1) * C]) for part in range(3))
        e = xp.exp(xp.matmul(q, xp.transpose(k, (0, 1, 3, 2))) * (C // H) ** -0.5 + future)
        y = xp.matmul(e / xp.sum(e, axis=-1, keepdims=True), v)
        x = x + linear(xp.reshape(xp.transpose(y, (0, 2, 1, 3)), (B, T, C)), f"{block}.attn.c_proj")
        h = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")
        h = 0.5 * h * (1.0 + xp.tanh(math.sqrt(2.0 / math.pi) * (h + 0.044715 * h * h * h)))
        x = x + linear(h, f"{block}.mlp.c_proj")
    logits = xp.reshape(xp.matmul(norm(x, "ln_f"), xp.transpose(w["lm_head.weight"])), (B * T, -1))
    likely = logits[np.arange(B * T), targets.reshape(-1)]
    return xp.mean(xp.log(xp.sum(xp.exp(logits), axis=-1)) - likely)


def with_autograd(weights: Arrays, ids: Ids, targets: Ids, config: GPTConfig) -> Gradient:
    autograd, xp = importlib.import_module("autograd"), importlib.import_module("autograd.numpy")
    gradient = autograd.value_and_grad(lambda w: gpt_loss(xp, w, ids, targets, config))
    return lambda: gradient(dict(weights))


def with_mygrad(weights: Arrays, ids: Ids, targets: Ids, config: GPTConfig) -> Gradient:
    xp = importlib.import_module("mygrad")
    xp.turn_memory_guarding_off()

    def run() -> tuple[float, Mapping[str, Any]]:
        w = {name: xp.tensor(weight) for name, weight in weights.items()}
        loss = gpt_loss(xp, w, ids, targets, config)
        loss.backward()
        return float(loss.data), {name: tensor.grad for name, tensor in w.items()}

    return run


def with_jax(weights: Arrays, ids: Ids, targets: Ids, config: GPTConfig) -> Gradient:
    jax, xp = importlib.import_module("jax"), importlib.import_module("jax.numpy")
    there = {name: xp.asarray(weight) for name, weight in weights.items()}
    gradient = jax.jit(jax.value_and_grad(lambda w: gpt_loss(xp, w, ids, targets, config)))
    return lambda: jax.block_until_ready(gradient(there))


PEERS = {"autograd": with_autograd, "mygrad": with_mygrad, "jax": with_jax}


def measure(settings: Settings) -> Iterator[Result]:
    installed = [name for name in PEERS if importlib.util.find_spec(name)]
    if not installed:
        yield Result("peers", "other libraries", [], {}, [
            "None of autograd, MyGrad and JAX is installed: uv run --extra peers python -m bench peers"
        ])  # fmt: skip
        return
    config = replace(settings.config, gelu="tanh")
    weights, (ids, targets) = initial_weights(config, seed=0), batch(config, settings.recipe.batch_size)
    stepping = Stepping(settings.numpy_engine(config), settings.recipe)
    stepping.batches = [(ids, targets)]
    others = {name: PEERS[name](weights, ids, targets, config) for name in installed}
    same_gradients(stepping, others, settings.cores)

    def with_all_cores(run: Gradient) -> Callable[[], None]:
        def work() -> None:
            with threadpool_limits(settings.cores, "blas"):
                run()

        return work

    subjects: dict[str, Work] = {NUMPY: stepping, **{name: with_all_cores(run) for name, run in others.items()}}
    for round_, found in enumerate(turns(subjects, settings.repeat, settings.turn), 1):
        rows: list[Row] = [
            {"subject": name, "time": taken.median, "spread": taken.spread, "of gpt_numpy's": taken.over(found[NUMPY]),
             "milliseconds": 1e3 * taken.median}
            for name, taken in found.items()
        ]  # fmt: skip
        yield Result(
            "peers",
            f"forward and backward: the {settings.preset} model, batch {settings.recipe.batch_size}, {settings.cores} "
            "threads",
            rows,
            {"subject": str, "time": milliseconds, "spread": percent, "of gpt_numpy's": times},
            ["gpt_numpy's time has the clipping and AdamW in it."],
            bars("subject", {"milliseconds": "#4c72b0"}, "milliseconds"),
            done=round_ / settings.repeat,
        )


def same_gradients(stepping: Stepping, others: Mapping[str, Gradient], threads: int) -> None:
    """The loss, and the norm of all gradients together, of gpt_numpy's first step."""
    loss, norm = stepping()
    for name, run in others.items():
        with threadpool_limits(threads, "blas"):
            theirs, gradients = run()
        squares = sum(float(np.square(np.asarray(gradient, np.float64)).sum()) for gradient in gradients.values())
        theirs, norms = float(theirs), math.sqrt(squares)
        if not (math.isclose(loss, theirs, rel_tol=CLOSE) and math.isclose(norm, norms, rel_tol=CLOSE)):
            raise RunFailed(f"{name} has loss {theirs} and gradient norm {norms}, gpt_numpy {loss} and {norm}")
