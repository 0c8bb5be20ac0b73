"""What gpt_torch's engine has of its own: precision, compilation, what does not fit, and the test of the device."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gpt_numpy import GPTConfig
from gpt_numpy.workshop.errors import RunFailed
from gpt_numpy.workshop.recipes import PRESETS, Recipe
from gpt_torch.device import find_dtype
from gpt_torch.engine import Engine, Options
from gpt_torch.selftest import self_test
from tests.support.engines import COMPILER, CONFIG, RECIPE, RECIPES, assert_close, assert_same, batch, trained

CPU = Options(device="cpu")
LAPTOP = PRESETS["laptop"].model

each_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


# ---- the same step in other ways --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "micro_batch"),
    [
        (replace(CPU, attention="math"), 0),
        (replace(CPU, recompute=True), 0),
        (replace(CPU, recompute=True), 2),
        pytest.param(replace(CPU, compile="on"), 0, marks=pytest.mark.slow("a compiler")),
    ],
    ids=["math", "recompute", "recompute, micro-batches", "compile"],
)
def test_options_change_how_a_step_is_made_and_not_what_it_is(options: Options, micro_batch: int) -> None:
    recipe = replace(RECIPE, micro_batch=micro_batch)
    engine = Engine(CONFIG, options=options)
    assert_close(trained(engine, recipe), trained(Engine(CONFIG, options=CPU), recipe), 1e-3)
    assert engine.compiled == (options.compile == "on" and COMPILER)


def test_recomputing_drops_the_same_numbers_again() -> None:
    config = replace(CONFIG, dropout=0.3)
    recomputed = Engine(config, options=replace(CPU, recompute=True))
    assert_close(trained(recomputed), trained(Engine(config, options=CPU)), 1e-3)


def test_each_piece_of_a_batch_drops_numbers_of_its_own() -> None:
    engine = Engine(replace(CONFIG, dropout=0.3), options=CPU)
    ids, targets = (np.repeat(tokens, 2, axis=0) for tokens in batch(1))
    recipe = replace(RECIPE, micro_batch=1)
    one, two = (float(engine.backward(ids[:rows], targets[:rows], recipe, 0)) for rows in (1, 2))
    assert one != pytest.approx(two, rel=1e-4)


def test_recomputing_keeps_less() -> None:
    kept = []
    for recompute in (False, True):
        engine = Engine(CONFIG, options=replace(CPU, recompute=recompute))
        sizes: list[int] = []

        def keep(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            engine.backward(*batch(), RECIPE, 0)
        kept.append(sum(sizes))
    assert kept[1] < 0.7 * kept[0]


@pytest.mark.parametrize(("dtype", "rtol"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_lower_precision_is_near_and_not_equal(dtype: Any, rtol: float) -> None:
    low, high = (Engine(CONFIG, options=replace(CPU, dtype=name)) for name in (dtype, "float32"))
    a, b = (engine.train_step(*batch(), RECIPE, 0) for engine in (low, high))
    for name in ("loss", "grad_norm"):
        assert float(getattr(a, name)) == pytest.approx(float(getattr(b, name)), rel=rtol)
    assert float(a.grad_norm) != float(b.grad_norm)
    assert all(p.dtype == torch.float32 for p in low.parameters.values())
    assert low.reader().read([1, 2]).dtype == np.float32


@each_recipe
def test_float16_skips_a_step_that_is_out_of_range_and_goes_on_smaller(recipe: Recipe) -> None:
    engine = Engine(CONFIG, options=replace(CPU, dtype="float16"))
    trained(engine, recipe)
    before, scale = engine.weights(), engine.scaler.get_scale()
    weights = {name: w * 1e4 if name == "lm_head.weight" else w for name, w in before.items()}
    memory = dict(engine.optimizer_state())
    engine.load(weights, memory, 3)
    reported = engine.train_step(*batch(), recipe, 3)
    assert np.isfinite(float(reported.grad_norm))
    assert_same(dict(engine.weights()), weights)
    without_scale = {name: array for name, array in engine.optimizer_state().items() if name != "scaler"}
    assert_same(without_scale, {name: memory[name] for name in without_scale})
    assert engine.scaler.get_scale() == scale / 2


@each_recipe
def test_float16_goes_on_bit_for_bit_even_after_a_skipped_step(recipe: Recipe) -> None:
    options = replace(CPU, dtype="float16")
    first = Engine(CONFIG, options=options)
    first.scaler.load_state_dict({**first.scaler.state_dict(), "scale": 2.0**40})  # the first steps will be skipped
    trained(first, recipe, range(25))
    assert first.optimizer_state()["scaler"][2] < 25
    second = Engine(CONFIG, seed=99, options=options)
    second.load(first.weights(), first.optimizer_state(), step=25)
    assert_same(trained(first, recipe, range(25, 30)), trained(second, recipe, range(25, 30)))


def test_the_precision_comes_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_dtype("auto", torch.device("cpu")) == find_dtype("auto", torch.device("mps")) == torch.float32
    for capability, expected in (((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, it=capability: it)
        assert find_dtype("auto", torch.device("cuda")) == expected
    assert find_dtype("float32", torch.device("cuda")) == torch.float32


# ---- what does not work -----------------------------------------------------------------------------------------


def test_without_a_compiler_training_goes_on_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_compiler(model: Any) -> Callable[..., Any]:
        def fail(*_: Any) -> None:
            raise RuntimeError("no compiler found\nand much more")

        return fail

    monkeypatch.setattr(torch, "compile", no_compiler)
    engine = Engine(CONFIG, options=replace(CPU, compile="on"))
    assert_same(trained(engine), trained(Engine(CONFIG, options=CPU)))
    said = capsys.readouterr().err
    assert said == "torch.compile does not work here, so training goes on without: no compiler found\n"


def test_a_gradient_that_no_smaller_scale_helps_is_not_hidden() -> None:
    """In float16 a step out of range is skipped and the loss scaled less; but not for ever."""
    engine = Engine(CONFIG, options=replace(CPU, dtype="float16"))
    scale: Any = engine.model.ln_f.weight
    scale.register_hook(lambda gradient: gradient * math.nan)
    before = {name: array.copy() for name, array in engine.weights().items()}
    norms = [float(engine.train_step(*batch(), RECIPE, step).grad_norm) for step in range(20)]
    assert norms[:10] == [0.0] * 10
    assert not math.isfinite(norms[-1])
    assert engine.first_not_finite(*batch(), RECIPE, 20) == "the gradient of ln_f.weight"
    assert_same(dict(engine.weights()), before)


def test_a_kept_scale_that_is_none_is_passed_over() -> None:
    engine = Engine(CONFIG, options=replace(CPU, dtype="float16"))
    trained(engine)
    for scaler in (np.ones(2), np.full(3, np.nan)):
        engine.load(engine.weights(), {**engine.optimizer_state(), "scaler": scaler}, 3)
        assert math.isfinite(float(engine.train_step(*batch(), RECIPE, 3).loss))


def on_a_card() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def in_the_machine() -> None:
    torch.empty(1 << 60)


@pytest.mark.parametrize("fail", [on_a_card, in_the_machine])
@pytest.mark.parametrize(("fits", "said"), [(3, "--micro-batch 3 fits"), (1, "--micro-batch 1 fits"), (0, "one seq")])
def test_what_does_not_fit_into_memory_says_what_does(fits: int, said: str, fail: Callable[[], None]) -> None:
    engine = Engine(CONFIG, options=CPU)
    model = engine.forward

    def small_alone(ids: torch.Tensor, targets: torch.Tensor) -> Any:
        if len(ids) > fits:
            fail()
        return model(ids, targets)

    engine.forward = small_alone
    with pytest.raises(RunFailed, match=f"out of memory on CPU, .*{said}"):
        engine.train_step(*batch(), RECIPE, 0)


@pytest.mark.parametrize("fail", [on_a_card, in_the_machine])
def test_judging_and_writing_that_do_not_fit_into_memory_are_one_error(
    fail: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(CONFIG, options=CPU)
    monkeypatch.setattr(engine.model, "forward", lambda *_, **__: fail())
    with pytest.raises(MemoryError):
        engine.loss(*batch())
    with pytest.raises(MemoryError):
        engine.reader().read([1])


# ---- the test of the device -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("model", ["laptop", "workshop"])
def test_a_sound_device_passes_with_room_to_spare(dtype: Any, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt_torch.selftest.ALLOWED", {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2})
    assert self_test(PRESETS[model].model, replace(CPU, dtype=dtype)).startswith("self-test: loss, gradients and caus")


def test_a_model_of_almost_nothing_is_no_fault_of_the_device() -> None:
    least = GPTConfig(vocab_size=1, block_size=1, n_layer=1, n_head=1, n_embd=1)
    assert self_test(least, CPU).startswith("self-test: loss, gradients and causality")


def leaky(q: Any, k: Any, v: Any, mask: Any = None, dropout: float = 0.0, is_causal: bool = False) -> Any:
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v


def backwards(q: Any, k: Any, v: Any, mask: Any = None, dropout: float = 0.0, is_causal: bool = False) -> Any:
    """Right forwards; the gradient of the keys has the wrong sign."""
    wrong = 2 * k.detach() - k if q.dtype != torch.float64 else k
    return sound(q, wrong, v, mask, dropout, is_causal=is_causal)


sound = F.scaled_dot_product_attention


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("fault", "named"), [(leaky, "the past"), (backwards, "the gradient of blocks.0")])
def test_a_device_that_computes_wrongly_is_named(
    monkeypatch: pytest.MonkeyPatch, dtype: Any, fault: Callable[..., Any], named: str
) -> None:
    monkeypatch.setattr(F, "scaled_dot_product_attention", fault)
    with pytest.raises(RunFailed, match=f"{dtype}, .*CPU, .* computes wrongly: .*{named}.*--attention math"):
        self_test(LAPTOP, replace(CPU, dtype=dtype))
