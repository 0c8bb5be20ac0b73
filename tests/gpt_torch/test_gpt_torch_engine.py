"""What gpt_torch's engine has of its own: precision, compilation, what does not fit, and the test of the device."""

import math
import re
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gpt_numpy import GPTConfig
from gpt_numpy.workshop.errors import RunFailed
from gpt_numpy.workshop.optim import state_shapes
from gpt_numpy.workshop.recipes import PRESETS, Recipe
from gpt_numpy.workshop.train.distributed import Processes
from gpt_torch import selftest
from gpt_torch.engine import Engine, Options, is_compiled, optimizer_skips
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
    engine = Engine(CONFIG, recipe, options)
    assert_close(trained(engine), trained(Engine(CONFIG, recipe, CPU)), 1e-3)
    assert engine.compiled == (options.compile == "on" and COMPILER)


def test_recomputing_drops_the_same_numbers_again() -> None:
    config = replace(CONFIG, dropout=0.3)
    recomputed = Engine(config, RECIPE, replace(CPU, recompute=True))
    assert_close(trained(recomputed), trained(Engine(config, RECIPE, CPU)), 1e-3)


def test_to_judge_and_to_write_between_steps_changes_no_step() -> None:
    """There nothing is dropped, in steps as before."""
    config = replace(CONFIG, dropout=0.3)
    looked_at, left_alone = (Engine(config, RECIPE, CPU) for _ in range(2))
    for step in range(3):
        looked_at.train_step(batch(seed=step), step)
        looked_at.loss(batch())
        looked_at.reader().read([1])
        np.testing.assert_array_equal(
            looked_at.logits(batch().windows()[:, :-1]), looked_at.logits(batch().windows()[:, :-1])
        )
    trained(left_alone)
    assert_same(dict(looked_at.weights()), dict(left_alone.weights()))


def test_each_piece_of_a_batch_drops_numbers_of_its_own() -> None:
    engine = Engine(replace(CONFIG, dropout=0.3), replace(RECIPE, micro_batch=1), CPU)
    row = batch(1)
    one, two = (float(engine.backward(replace(row, starts=row.starts.repeat(rows)), 0)) for rows in (1, 2))
    assert one != pytest.approx(two, rel=1e-4)


def test_recomputing_keeps_less() -> None:
    kept = []
    for recompute in (False, True):
        engine = Engine(CONFIG, RECIPE, replace(CPU, recompute=recompute))
        sizes: list[int] = []

        def keep(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            engine.backward(batch(), 0)
        kept.append(sum(sizes))
    assert kept[1] < 0.7 * kept[0]


@pytest.mark.parametrize(("dtype", "rtol"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_lower_precision_is_near_and_not_equal(dtype: Any, rtol: float) -> None:
    low, high = (Engine(CONFIG, RECIPE, replace(CPU, dtype=name)) for name in (dtype, "float32"))
    a, b = (engine.train_step(batch(), 0) for engine in (low, high))
    for name in ("loss", "grad_norm"):
        assert float(getattr(a, name)) == pytest.approx(float(getattr(b, name)), rel=rtol)
    assert float(a.grad_norm) != float(b.grad_norm)
    assert all(p.dtype == torch.float32 for p in low.parameters.values())
    assert low.reader().read([1, 2]).dtype == np.float32


@each_recipe
def test_float16_skips_a_step_that_is_out_of_range_and_goes_on_smaller(recipe: Recipe) -> None:
    engine = Engine(CONFIG, recipe, replace(CPU, dtype="float16"))
    trained(engine)
    before, scale = engine.weights(), engine.scaler.get_scale()
    weights = {name: w * 1e4 if name == "lm_head.weight" else w for name, w in before.items()}
    memory = dict(engine.optimizer_state())
    engine.load(weights, memory, 3)
    reported = engine.train_step(batch(), 3)
    assert np.isfinite(float(reported.grad_norm))
    assert_same(dict(engine.weights()), weights)
    without_scale = {name: array for name, array in engine.optimizer_state().items() if name != "scaler"}
    assert_same(without_scale, {name: memory[name] for name in without_scale})
    assert engine.scaler.get_scale() == scale / 2


@each_recipe
def test_float16_goes_on_bit_for_bit_even_after_a_skipped_step(recipe: Recipe) -> None:
    options = replace(CPU, dtype="float16")
    first = Engine(CONFIG, recipe, options)
    first.scaler.load_state_dict({**first.scaler.state_dict(), "scale": 2.0**40})  # the first steps will be skipped
    trained(first, range(25))
    assert first.optimizer_state()["scaler"][2] < 25
    second = Engine(CONFIG, recipe, options)
    second.load(first.weights(), first.optimizer_state(), step=25)
    assert_same(trained(first, range(25, 30)), trained(second, range(25, 30)))


# ---- what does not work -----------------------------------------------------------------------------------------


def compiler(step: Callable[..., Any]) -> Callable[[Any], Callable[..., Any]]:
    """Stands in for torch.compile: makes of a model what takes its steps."""
    return lambda model: lambda *given: step(model, *given)


def fails(model: Any, *_: Any) -> None:
    from torch._dynamo.exc import TorchDynamoException  # a second, for which other tests need not wait

    raise TorchDynamoException("no compiler found\nand much more")


def no_gradient(model: Any, ids: torch.Tensor, targets: torch.Tensor) -> Any:
    logits, loss = model(ids, targets)
    return logits, loss.detach() + 0.0 * loss


def one_wrong(model: Any, ids: torch.Tensor, targets: torch.Tensor) -> Any:
    """The loss is right; the gradient of one matrix is not."""
    logits, loss = model(ids, targets)
    weight = model.blocks[1].mlp.c_fc.weight
    return logits, loss + 0.001 * (weight - weight.detach()).sum()


FAULTS: list[tuple[Callable[..., Any], str]] = [
    (fails, "no compiler found"),
    (no_gradient, "the gradient of .* has a relative error of 1.0e.00"),
    (one_wrong, r"the gradient of blocks.1.mlp.c_fc.weight has a relative error of .*"),
]


@pytest.mark.parametrize(("fault", "reason"), FAULTS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_where_compiling_does_not_work_training_goes_on_without_and_says_so(
    fault: Callable[..., Any], reason: str, dropout: float, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if fault is one_wrong and dropout:
        pytest.skip("small beside what another draw changes")
    config = replace(CONFIG, dropout=dropout)
    monkeypatch.setattr(torch, "compile", compiler(fault))
    engine = Engine(config, RECIPE, replace(CPU, compile="on"))
    assert_same(trained(engine), trained(Engine(config, RECIPE, CPU)))
    said = capsys.readouterr().err
    assert re.fullmatch(f"torch.compile failed; training continues without it: {reason}\n", said)
    assert not engine.compiled


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_what_is_compiled_and_right_stays_and_is_looked_at_once(
    dropout: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It takes the steps that it would take unobserved, also where it drops other numbers than an eager step."""
    config, calls = replace(CONFIG, dropout=dropout), 0

    def other_draws(model: Any, *given: torch.Tensor) -> Any:
        nonlocal calls
        calls += 1
        torch.manual_seed(torch.initial_seed() + 1)
        return model(*given)

    monkeypatch.setattr(torch, "compile", compiler(other_draws))
    looked_at, not_looked_at = (
        Engine(config, RECIPE, replace(CPU, compile="on", self_test=on)) for on in (True, False)
    )
    assert_same(trained(looked_at), trained(not_looked_at))
    assert calls == 6
    assert looked_at.compiled
    assert capsys.readouterr().err == ""


def test_an_error_that_is_not_the_compilers_is_not_called_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(model: Any, *_: Any) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch, "compile", compiler(fail))
    engine = Engine(CONFIG, RECIPE, replace(CPU, compile="on"))
    with pytest.raises(RuntimeError, match="device-side assert"):
        engine.train_step(batch(), 0)
    assert capsys.readouterr().err == ""


def test_where_an_eager_step_does_not_fit_the_compiled_one_is_not_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", compiler(lambda model, *given: model.forward(*given)))
    engine = Engine(CONFIG, RECIPE, replace(CPU, compile="on"))
    monkeypatch.setattr(type(engine.model), "__call__", lambda *_: on_a_card())
    found = engine.train_step(batch(), 0)
    monkeypatch.undo()
    expected = Engine(CONFIG, RECIPE, CPU).train_step(batch(), 0)
    assert (float(found.loss), float(found.grad_norm)) == (float(expected.loss), float(expected.grad_norm))


def test_a_gradient_that_no_smaller_scale_helps_is_not_hidden() -> None:
    """In float16 a step out of range is skipped and the loss scaled less; but not for ever."""
    engine = Engine(CONFIG, RECIPE, replace(CPU, dtype="float16"))
    scale: Any = engine.model.ln_f.weight
    scale.register_hook(lambda gradient: gradient * math.nan)
    before = {name: array.copy() for name, array in engine.weights().items()}
    norms = [float(engine.train_step(batch(), step).grad_norm) for step in range(20)]
    assert norms[:10] == [0.0] * 10
    assert not math.isfinite(norms[-1])
    assert engine.first_nonfinite(batch(), 20) == "the gradient of ln_f.weight"
    assert_same(dict(engine.weights()), before)


def test_steps_that_float16_has_skipped_are_not_counted_in_another_precision_either() -> None:
    low = Engine(CONFIG, RECIPE, replace(CPU, dtype="float16"))
    low.scaler.load_state_dict({**low.scaler.state_dict(), "scale": 2.0**40})  # the first steps will be skipped
    trained(low, steps=range(25))
    memory = low.optimizer_state()
    other = Engine(CONFIG, RECIPE, CPU)
    other.load(low.weights(), memory, step=25)
    steps = {float(state["step"]) for state in other.optimizer.state.values()}
    assert steps == {float(memory["scaler"][2])}
    assert max(steps) < 25


@each_recipe
def test_the_optimizer_leaves_a_step_out_by_itself_as_it_does_on_cuda(recipe: Recipe) -> None:
    """There nothing waits for the number that tells; here PyTorch can do the same."""
    engine, usual = (Engine(CONFIG, recipe, CPU) for _ in range(2))
    engine.optimizer_skips = True
    assert_same(trained(engine), trained(usual))
    before = {**engine.weights(), **engine.optimizer_state()}
    scale: Any = engine.model.ln_f.weight
    hook = scale.register_hook(lambda gradient: gradient * math.nan)
    for step in (3, 4):  # nor is any step after it made
        engine.train_step(batch(), step)
        hook.remove()
    assert_same({**engine.weights(), **engine.optimizer_state()}, before)


def test_where_the_optimizer_leaves_steps_out_by_itself() -> None:
    asked = [
        (device, parallel, precision)
        for device in ("cuda", "cpu")
        for parallel in ("ddp", "fsdp")
        for precision in ("bfloat16", "float16")
    ]
    by_itself = [case for case in asked if optimizer_skips(torch.device(case[0]), *case[1:])]
    assert by_itself == [("cuda", "ddp", "bfloat16")]


def test_what_is_compiled_depends_on_the_device() -> None:
    asked = [(how, device) for how in ("auto", "on", "off") for device in ("cuda", "mps", "cpu")]
    compiled = [case for case in asked if is_compiled(case[0], torch.device(case[1]))]
    assert compiled == [("auto", "cuda"), ("on", "cuda"), ("on", "mps"), ("on", "cpu")]


def test_many_devices_together_are_as_fast_as_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Two(Processes):
        size = 2

    monkeypatch.setattr("gpt_torch.engine.peak_of", lambda *_: 1e12)
    monkeypatch.setattr("gpt_torch.engine.parallelize", lambda model, *_: model)
    assert Engine(CONFIG, RECIPE, CPU, processes=Two()).peak == 2e12
    assert Engine(CONFIG, RECIPE, CPU).peak == 1e12


def test_an_engine_says_how_it_works() -> None:
    processes = Processes()
    processes.size = 2
    engine = Engine(CONFIG, RECIPE, CPU)
    told = engine.describe()
    assert re.fullmatch(r"PyTorch \S+, float32, fused attention, CPU, 1 thread", told)
    engine.processes = processes
    assert engine.describe() == f"{told}, in each of 2 processes (ddp)"
    engine.options = replace(CPU, deterministic=True)
    assert ", fused attention, deterministic, CPU" in engine.describe()


def test_a_kept_scale_that_is_none_is_passed_over() -> None:
    engine = Engine(CONFIG, RECIPE, replace(CPU, dtype="float16"))
    trained(engine)
    for scaler in (np.ones(2), np.full(3, np.nan)):
        engine.load(engine.weights(), {**engine.optimizer_state(), "scaler": scaler}, 3)
        assert math.isfinite(float(engine.train_step(batch(), 3).loss))


def on_a_card() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def in_the_machine() -> None:
    torch.empty(1 << 60)


@pytest.mark.parametrize("fail", [on_a_card, in_the_machine])
@pytest.mark.parametrize(("fits", "said"), [(3, "--micro-batch 3 fits"), (1, "--micro-batch 1 fits"), (0, "one seq")])
@each_recipe
def test_what_does_not_fit_into_memory_says_what_does(
    fits: int, said: str, fail: Callable[[], None], recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is compiled to find that out, and what the optimizer will need is there meanwhile."""
    engine = Engine(CONFIG, recipe, CPU)
    model, to_come = engine.model.forward, engine._optimizer_memory
    held: list[Any] = []
    seen: list[int] = []  # numbers held for the optimizer, at each try

    def small_alone(ids: torch.Tensor, targets: torch.Tensor) -> Any:
        seen.append(sum(tensor().numel() for tensor in held if tensor() is not None))
        if len(ids) > fits:
            fail()
        return model(ids, targets)

    def hold() -> list[torch.Tensor]:
        tensors = to_come()
        held.extend(map(weakref.ref, tensors))
        return tensors

    monkeypatch.setattr(engine.model, "forward", small_alone)
    monkeypatch.setattr(engine, "_optimizer_memory", hold)
    with pytest.raises(RunFailed, match=f"out of memory on CPU, .*{said}"):
        engine.train_step(batch(), 0)
    shapes = state_shapes({name: tuple(p.shape) for name, p in engine.parameters.items()}, recipe.optimizer)
    assert seen == [0, *[sum(map(math.prod, shapes.values()))] * (len(seen) - 1)]
    trained(engine := Engine(CONFIG, recipe, CPU))
    assert engine._optimizer_memory() == []  # it has all it needs


@pytest.mark.parametrize("fail", [on_a_card, in_the_machine])
def test_judging_and_writing_that_do_not_fit_into_memory_are_one_error(
    fail: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(CONFIG, RECIPE, CPU)
    monkeypatch.setattr(engine.model, "forward", lambda *_, **__: fail())
    with pytest.raises(MemoryError):
        engine.loss(batch())
    with pytest.raises(MemoryError):
        engine.reader().read([1])


# ---- the test of the device -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("model", ["laptop", "workshop"])
def test_a_sound_device_passes_with_room_to_spare(dtype: Any, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "ALLOWED", {"float32": 1e-5, "float16": 5e-3, "bfloat16": 3e-2})
    assert self_test(PRESETS[model].model, replace(CPU, dtype=dtype)).startswith("self-test: loss, gradients, cache")


def test_a_model_of_almost_nothing_is_no_fault_of_the_device() -> None:
    least = GPTConfig(vocab_size=1, block_size=1, n_layer=1, n_head=1, n_embd=1)
    assert self_test(least, CPU).startswith("self-test: loss, gradients, cache and causality")


def leaky(q: Any, k: Any, v: Any, mask: Any = None, dropout: float = 0.0, is_causal: bool = False) -> Any:
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v


def backwards(q: Any, k: Any, v: Any, mask: Any = None, dropout: float = 0.0, is_causal: bool = False) -> Any:
    """Right forwards; the gradient of the keys has the wrong sign."""
    wrong = 2 * k.detach() - k if q.dtype != torch.float64 else k
    return sound(q, wrong, v, mask, dropout, is_causal=is_causal)


sound = F.scaled_dot_product_attention


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("fault", "named"), [(leaky, "earlier logits"), (backwards, "the gradient of blocks.0")])
def test_a_device_that_computes_wrongly_is_named(
    monkeypatch: pytest.MonkeyPatch, dtype: Any, fault: Callable[..., Any], named: str
) -> None:
    monkeypatch.setattr(F, "scaled_dot_product_attention", fault)
    with pytest.raises(RunFailed, match=f"{dtype}, .*CPU, .* computes wrong results: .*{named}.*--attention math"):
        self_test(LAPTOP, replace(CPU, dtype=dtype))


def test_a_cache_that_is_read_wrongly_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where few are read at once after an odd number, as kernels for that have done."""

    def careless(q: Any, k: Any, v: Any, mask: Any = None, dropout: float = 0.0, is_causal: bool = False) -> Any:
        if q.shape[2] < k.shape[2] and k.shape[2] % 32:
            k = torch.cat((k[:, :, 1:], k[:, :, :1]), dim=2)
        return sound(q, k, v, mask, dropout, is_causal=is_causal)

    monkeypatch.setattr(F, "scaled_dot_product_attention", careless)
    with pytest.raises(RunFailed, match="in reading 33 tokens after 32; 1e-04 is allowed"):
        self_test(replace(LAPTOP, block_size=80), CPU)


def test_a_fault_that_begins_at_the_runs_own_context_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def short_sighted(q: Any, k: Any, v: Any, *given: Any, **named: Any) -> Any:
        return sound(q, k, v * (1.0 if v.shape[2] < 200 else 1.1), *given, **named)

    monkeypatch.setattr(F, "scaled_dot_product_attention", short_sighted)
    assert self_test(LAPTOP, CPU)
    with pytest.raises(RunFailed, match="computes wrong results"):
        self_test(replace(LAPTOP, block_size=256), CPU)


def test_what_a_device_cannot_do_at_all_is_one_line_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise TypeError("Cannot convert a tensor to this device\nand more")  # as of float64 on MPS

    monkeypatch.setattr(F, "scaled_dot_product_attention", refused)
    with pytest.raises(RunFailed, match=r"cannot compute a step: Cannot convert .* device. Try --attention"):
        self_test(LAPTOP, CPU)


def test_no_float64_is_asked_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """MPS has none, and a tensor is there until it is brought to the CPU."""
    cpu = torch.Tensor.cpu
    brought: list[int] = []

    def to_cpu(tensor: torch.Tensor) -> torch.Tensor:
        copy = cpu(tensor).clone()
        brought.append(id(copy))
        copies.append(copy)
        return copy

    def double(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in brought:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return tensor.to(torch.float64)

    copies: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "cpu", to_cpu)
    monkeypatch.setattr(torch.Tensor, "double", double)
    assert self_test(LAPTOP, CPU)
    assert brought
