"""What is specific to gpt_torch's engine: precision, compilation, out of memory, and the self-test of the device."""

import math
import os
import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gpt_numpy import GPTConfig
from gpt_numpy.workshop.errors import RunFailed
from gpt_numpy.workshop.optim import state_shapes
from gpt_numpy.workshop.recipes import PRESETS, Recipe
from gpt_numpy.workshop.train import evaluate
from gpt_numpy.workshop.train.distributed import Processes
from gpt_torch import selftest
from gpt_torch.engine import Engine
from gpt_torch.options import Options, is_compiled, optimizer_skips, set_global_flags
from gpt_torch.selftest import self_test
from tests.support.engines import COMPILER, CONFIG, RECIPE, RECIPES, assert_close, assert_same, batch, trained

CPU = Options(device="cpu")
LAPTOP = PRESETS["laptop"].model

each_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


# ---- options ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "micro_batch"),
    [
        (replace(CPU, attention="math"), 0),
        (replace(CPU, attention="cudnn"), 0),
        (replace(CPU, recompute=True), 0),
        (replace(CPU, recompute=True), 2),
        (replace(CPU, recompute=True, attention="math"), 0),
        (replace(CPU, recompute=True, attention="cudnn"), 0),
        pytest.param(replace(CPU, compile="on"), 0, marks=pytest.mark.slow("a compiler")),
    ],
    ids=["math", "cudnn", "recompute", "recompute, micro-batches", "recompute, math", "recompute, cudnn", "compile"],
)
def test_options_do_not_change_a_steps_result(options: Options, micro_batch: int) -> None:
    recipe = replace(RECIPE, micro_batch=micro_batch)
    engine = Engine(CONFIG, recipe, options)
    assert_close(trained(engine), trained(Engine(CONFIG, recipe, CPU)), 1e-3)
    assert engine.compiled == (options.compile == "on" and COMPILER)


@pytest.mark.parametrize("attention", ["math", "fused"])
def test_attention_of_the_options_computes(attention: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    @contextmanager
    def noted(attention: str, device: torch.device) -> Iterator[None]:
        asked.append(attention)
        yield
        asked.append("end")

    engine = Engine(CONFIG, RECIPE, replace(CPU, attention=attention))
    monkeypatch.setattr("gpt_torch.engine.attending", noted)
    engine.train_step(batch(), 0)
    engine.loss(batch())
    engine.logits(batch().windows()[:, :-1])
    engine.reader().read([[1]])
    assert asked == [attention, "end"] * 4


def test_recompute_repeats_the_same_dropout() -> None:
    config = replace(CONFIG, dropout=0.3)
    recomputed = Engine(config, RECIPE, replace(CPU, recompute=True))
    assert_close(trained(recomputed), trained(Engine(config, RECIPE, CPU)), 1e-3)


def test_evaluating_and_generating_do_not_affect_training() -> None:
    """They apply no dropout, and steps apply the same dropout as without them."""
    config = replace(CONFIG, dropout=0.3)
    disturbed, undisturbed = (Engine(config, RECIPE, CPU) for _ in range(2))
    for step in range(3):
        disturbed.train_step(batch(seed=step), step)
        disturbed.loss(batch())
        disturbed.reader().read([[1]])
        np.testing.assert_array_equal(
            disturbed.logits(batch().windows()[:, :-1]), disturbed.logits(batch().windows()[:, :-1])
        )
    trained(undisturbed)
    assert_same(dict(disturbed.weights()), dict(undisturbed.weights()))


def test_cpu_evaluates_few_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, taken = Engine(CONFIG, RECIPE, CPU), list[int]()
    expected = float(engine.loss(batch(7)))
    loss_of = engine._loss_of

    def noted(forward: Any, batch: Any, rows: slice) -> torch.Tensor:
        taken.append(rows.stop - rows.start)
        return loss_of(forward, batch, rows)

    monkeypatch.setattr(engine, "_loss_of", noted)
    monkeypatch.setattr("gpt_torch.engine.AT_ONCE_ON_CPU", 2 * CONFIG.block_size + 1)
    assert float(engine.loss(batch(7))) == pytest.approx(expected, rel=1e-6)
    assert taken == [1, 2, 2, 2]
    monkeypatch.setattr("gpt_torch.engine.AT_ONCE_ON_CPU", 1)  # less than a row
    assert float(engine.loss(batch(7))) == pytest.approx(expected, rel=1e-6)
    assert taken[4:] == [1] * 7


def test_evaluation_waits_for_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def asking(name: str) -> Callable[[torch.Tensor], Any]:
        original = getattr(torch.Tensor, name)

        def function(tensor: torch.Tensor) -> Any:
            asked.append(original(tensor))
            return asked[-1]

        return function

    engine = Engine(CONFIG, RECIPE, CPU)
    tokens = np.arange(1000) % CONFIG.vocab_size
    monkeypatch.setattr(evaluate, "EVAL_TOKENS", 10 * CONFIG.block_size)
    for name in ("__float__", "__bool__", "item", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, asking(name))
    *before, last = evaluate.evaluate(engine, tokens)
    assert len(before) > 5
    assert asked == []
    assert float(last.loss) == asked[0]
    assert len(asked) == 1


def test_micro_batches_have_independent_dropout() -> None:
    engine = Engine(replace(CONFIG, dropout=0.3), replace(RECIPE, micro_batch=1), CPU)
    row = batch(1)
    one, two = (float(engine.backward(replace(row, starts=row.starts.repeat(rows)), 0)) for rows in (1, 2))
    assert one != pytest.approx(two, rel=1e-4)


def test_recompute_saves_fewer_activations() -> None:
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
def test_lower_precision_is_close_but_not_equal(dtype: Any, rtol: float) -> None:
    low, high = (Engine(CONFIG, RECIPE, replace(CPU, dtype=name)) for name in (dtype, "float32"))
    a, b = (engine.train_step(batch(), 0) for engine in (low, high))
    for name in ("loss", "grad_norm"):
        assert float(getattr(a, name)) == pytest.approx(float(getattr(b, name)), rel=rtol)
    assert float(a.grad_norm) != float(b.grad_norm)
    assert all(p.dtype == torch.float32 for p in low.parameters.values())
    assert low.reader().read([[1, 2]]).dtype == np.float32


@each_recipe
def test_float16_overflow_skips_the_step_and_halves_the_scale(recipe: Recipe) -> None:
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
def test_float16_resumes_bit_for_bit_after_skipped_steps(recipe: Recipe) -> None:
    options = replace(CPU, dtype="float16")
    first = Engine(CONFIG, recipe, options)
    first.scaler.load_state_dict({**first.scaler.state_dict(), "scale": 2.0**40})  # the first steps will be skipped
    trained(first, range(25))
    assert first.optimizer_state()["scaler"][2] < 25
    second = Engine(CONFIG, recipe, options)
    second.load(first.weights(), first.optimizer_state(), step=25)
    assert_same(trained(first, range(25, 30)), trained(second, range(25, 30)))


# ---- failures ---------------------------------------------------------------------------------------------------


def compiler(step: Callable[..., Any]) -> Callable[[Any], Callable[..., Any]]:
    """A replacement of torch.compile whose compiled model runs `step`."""
    return lambda model: lambda *given: step(model, *given)


def fails(model: Any, *_: Any) -> None:
    from torch._dynamo.exc import TorchDynamoException  # takes a second, which other tests need not wait for

    raise TorchDynamoException("no compiler found\nand much more")


def no_gradient(model: Any, ids: torch.Tensor, targets: torch.Tensor) -> Any:
    loss = model(ids, targets)
    return loss.detach() + 0.0 * loss


def one_wrong(model: Any, ids: torch.Tensor, targets: torch.Tensor) -> Any:
    """The loss is right; the gradient of one matrix is not."""
    loss = model(ids, targets)
    weight = model.model.blocks[1].mlp.c_fc.weight
    return loss + 0.001 * (weight - weight.detach()).sum()


FAULTS: list[tuple[Callable[..., Any], str]] = [
    (fails, "no compiler found"),
    (no_gradient, "the gradient of .* has a relative error of 1.0e.00"),
    (one_wrong, r"the gradient of blocks.1.mlp.c_fc.weight has a relative error of .*"),
]


@pytest.mark.parametrize(("fault", "reason"), FAULTS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_failed_compilation_falls_back_to_eager_with_a_warning(
    fault: Callable[..., Any], reason: str, dropout: float, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if fault is one_wrong and dropout:
        pytest.skip("smaller than the effect of different dropout")
    config = replace(CONFIG, dropout=dropout)
    monkeypatch.setattr(torch, "compile", compiler(fault))
    engine = Engine(config, RECIPE, replace(CPU, compile="on"))
    assert_same(trained(engine), trained(Engine(config, RECIPE, CPU)))
    message = capsys.readouterr().err
    assert re.fullmatch(f"torch.compile failed; training continues without it: {reason}\n", message)
    assert not engine.compiled


@pytest.mark.parametrize("compile", ["on", "off"])
def test_compiled_code_is_kept_in_the_cache_folder(
    compile: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "TORCHINDUCTOR_CACHE_DIR"
    monkeypatch.setenv(name, "")  # so that it is restored
    monkeypatch.setattr(torch, "compile", compiler(lambda model, *given: model(*given)))

    def kept_in(cache: Path) -> str | None:
        monkeypatch.setattr("gpt_torch.compiled.cache_folder", lambda: cache)
        monkeypatch.delenv(name, raising=False)
        Engine(CONFIG, RECIPE, replace(CPU, compile=compile))
        return os.environ.get(name)

    folder = tmp_path / "cache"
    assert kept_in(folder) == (str(folder / "compiled") if compile == "on" else None)
    assert folder.exists() == (compile == "on")
    (tmp_path / "file").touch()
    assert kept_in(tmp_path / "file") is None  # it cannot hold anything
    monkeypatch.setattr("gpt_torch.compiled.cache_folder", lambda: folder)
    monkeypatch.setenv(name, "elsewhere")
    Engine(CONFIG, RECIPE, replace(CPU, compile=compile))
    assert os.environ[name] == "elsewhere"


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_correct_compiled_step_is_kept_and_checked_once(
    dropout: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The check does not affect the steps, even if compiled dropout draws other numbers than eager dropout."""
    config, calls = replace(CONFIG, dropout=dropout), 0

    def other_draws(model: Any, *given: torch.Tensor) -> Any:
        nonlocal calls
        calls += 1
        torch.manual_seed(torch.initial_seed() + 1)
        return model(*given)

    monkeypatch.setattr(torch, "compile", compiler(other_draws))
    checked, unchecked = (Engine(config, RECIPE, replace(CPU, compile="on", self_test=on)) for on in (True, False))
    assert_same(trained(checked), trained(unchecked))
    assert calls == 6
    assert checked.compiled
    assert capsys.readouterr().err == ""


def test_other_errors_are_not_reported_as_failed_compilation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(model: Any, *_: Any) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch, "compile", compiler(fail))
    engine = Engine(CONFIG, RECIPE, replace(CPU, compile="on"))
    with pytest.raises(RuntimeError, match="device-side assert"):
        engine.train_step(batch(), 0)
    assert capsys.readouterr().err == ""


def test_compiled_step_is_not_checked_if_eager_step_runs_out_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", compiler(lambda model, *given: model.forward(*given)))
    engine = Engine(CONFIG, RECIPE, replace(CPU, compile="on"))
    monkeypatch.setattr(type(engine.eager_loss), "__call__", lambda *_: cuda_out_of_memory())
    found = engine.train_step(batch(), 0)
    monkeypatch.undo()
    expected = Engine(CONFIG, RECIPE, CPU).train_step(batch(), 0)
    assert (float(found.loss), float(found.grad_norm)) == (float(expected.loss), float(expected.grad_norm))


def test_persistent_nonfinite_gradient_is_reported() -> None:
    """On overflow float16 skips the step and lowers the loss scale, but not for ever."""
    engine = Engine(CONFIG, RECIPE, replace(CPU, dtype="float16"))
    scale: Any = engine.model.ln_f.weight
    scale.register_hook(lambda gradient: gradient * math.nan)
    before = {name: array.copy() for name, array in engine.weights().items()}
    norms = [float(engine.train_step(batch(), step).grad_norm) for step in range(20)]
    assert norms[:10] == [0.0] * 10
    assert not math.isfinite(norms[-1])
    assert engine.first_nonfinite(batch(), 20) == "the gradient of ln_f.weight"
    assert_same(dict(engine.weights()), before)


def test_skipped_float16_steps_are_not_counted_in_another_precision() -> None:
    low = Engine(CONFIG, RECIPE, replace(CPU, dtype="float16"))
    low.scaler.load_state_dict({**low.scaler.state_dict(), "scale": 2.0**40})  # the first steps will be skipped
    trained(low, steps=range(25))
    memory = low.optimizer_state()
    other = Engine(CONFIG, RECIPE, CPU)
    other.load(low.weights(), memory, step=25)
    assert other.optimizer.steps == float(memory["scaler"][2]) < 25


@each_recipe
def test_optimizer_skips_nonfinite_step_as_on_cuda(recipe: Recipe) -> None:
    """CUDA skips without waiting for the norm on the host; PyTorch can do the same on the CPU."""
    engine, usual = (Engine(CONFIG, recipe, CPU) for _ in range(2))
    engine.optimizer_skips = True
    assert_same(trained(engine), trained(usual))
    before = {**engine.weights(), **engine.optimizer_state()}
    scale: Any = engine.model.ln_f.weight
    hook = scale.register_hook(lambda gradient: gradient * math.nan)
    for step in (3, 4):  # later steps are skipped too
        engine.train_step(batch(), step)
        hook.remove()
    assert_same({**engine.weights(), **engine.optimizer_state()}, before)


def test_optimizer_skips_steps_only_on_cuda_with_ddp_and_bfloat16() -> None:
    cases = [
        (device, parallel, precision)
        for device in ("cuda", "cpu")
        for parallel in ("ddp", "fsdp")
        for precision in ("bfloat16", "float16")
    ]
    skipping = [case for case in cases if optimizer_skips(torch.device(case[0]), *case[1:])]
    assert skipping == [("cuda", "ddp", "bfloat16")]


def test_compilation_depends_on_the_device() -> None:
    cases = [(how, device) for how in ("auto", "on", "off") for device in ("cuda", "mps", "cpu")]
    compiled = [case for case in cases if is_compiled(case[0], torch.device(case[1]))]
    assert compiled == [("auto", "cuda"), ("on", "cuda"), ("on", "mps"), ("on", "cpu")]


def test_peak_is_summed_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Two(Processes):
        size = 2

    monkeypatch.setattr("gpt_torch.engine.peak_of", lambda *_: 1e12)
    monkeypatch.setattr("gpt_torch.engine.parallelize", lambda model, *_: model)
    assert Engine(CONFIG, RECIPE, CPU, processes=Two()).peak == 2e12
    assert Engine(CONFIG, RECIPE, CPU).peak == 1e12


def test_describe() -> None:
    processes = Processes()
    processes.size = 2
    engine = Engine(CONFIG, RECIPE, CPU)
    description = engine.describe()
    assert re.fullmatch(r"PyTorch \S+, float32, fused attention, CPU, 1 thread", description)
    engine.processes = processes
    assert engine.describe() == f"{description}, in each of 2 processes (ddp)"
    engine.options = replace(CPU, deterministic=True)
    assert ", fused attention, deterministic, CPU" in engine.describe()
    engine.model_loss = lambda *_: None
    assert ", fused attention, compiled, deterministic, CPU" in engine.describe()


def test_options_are_optional() -> None:
    assert Engine(CONFIG, RECIPE).options == Options()


@pytest.mark.parametrize(("dtype", "precision"), [("tf32", "high"), ("float32", "highest")])
def test_precision_of_matrix_products_is_set(dtype: str, precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        set_global_flags(dtype, deterministic=False)
        assert torch.get_float32_matmul_precision() == precision
    finally:  # it is of the whole process
        torch.set_float32_matmul_precision(before)


def test_invalid_saved_scale_is_ignored() -> None:
    engine = Engine(CONFIG, RECIPE, replace(CPU, dtype="float16"))
    trained(engine)
    for scaler in (np.ones(2), np.full(3, np.nan)):
        engine.load(engine.weights(), {**engine.optimizer_state(), "scaler": scaler}, 3)
        assert math.isfinite(float(engine.train_step(batch(), 3).loss))


def cuda_out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def cpu_out_of_memory() -> None:
    torch.empty(1 << 60)


@pytest.mark.parametrize("fail", [cuda_out_of_memory, cpu_out_of_memory])
@pytest.mark.parametrize(
    ("fits", "message"), [(3, "--micro-batch 3 fits"), (1, "--micro-batch 1 fits"), (0, "one seq")]
)
@each_recipe
def test_out_of_memory_names_a_micro_batch_that_fits(
    fits: int, message: str, fail: Callable[[], None], recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search compiles nothing, and holds the memory that the optimizer will need."""
    engine = Engine(CONFIG, recipe, CPU)
    model, to_come = engine.model.loss, engine._optimizer_memory
    held: list[Any] = []
    seen: list[int] = []  # numbers held for the optimizer, at each try

    def small_alone(ids: torch.Tensor, targets: torch.Tensor, *_: Any) -> Any:
        seen.append(sum(tensor().numel() for tensor in held if tensor() is not None))
        if len(ids) > fits:
            fail()
        return model(ids, targets)

    def hold() -> list[torch.Tensor]:
        tensors = to_come()
        held.extend(map(weakref.ref, tensors))
        return tensors

    monkeypatch.setattr(engine.model, "loss", small_alone)
    monkeypatch.setattr(engine, "_optimizer_memory", hold)
    with pytest.raises(RunFailed, match=f"out of memory on CPU, .*{message}"):
        engine.train_step(batch(), 0)
    shapes = state_shapes({name: tuple(p.shape) for name, p in engine.parameters.items()}, recipe.optimizer)
    assert seen == [0, *[sum(map(math.prod, shapes.values()))] * (len(seen) - 1)]
    trained(engine := Engine(CONFIG, recipe, CPU))
    assert engine._optimizer_memory() == []  # already allocated


@pytest.mark.parametrize("fail", [cuda_out_of_memory, cpu_out_of_memory])
def test_out_of_memory_in_loss_and_reader_is_a_memory_error(
    fail: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(CONFIG, RECIPE, CPU)
    monkeypatch.setattr(engine.model, "hidden", lambda *_, **__: fail())
    with pytest.raises(MemoryError):
        engine.loss(batch())
    with pytest.raises(MemoryError):
        engine.reader().read([[1]])


# ---- self-test --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("model", ["laptop", "workshop"])
def test_correct_device_passes_self_test_with_margin(dtype: Any, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "ALLOWED", {"float32": 1e-5, "float16": 5e-3, "bfloat16": 3e-2})
    assert self_test(PRESETS[model].model, replace(CPU, dtype=dtype)).startswith("self-test: loss, gradients, cache")


def test_smallest_model_passes_self_test() -> None:
    least = GPTConfig(vocab_size=1, block_size=1, n_layer=1, n_head=1, n_embd=1)
    assert self_test(least, CPU).startswith("self-test: loss, gradients, cache and causality")


def leaky(q: Any, k: Any, v: Any, mask: Any = None, dropout: float = 0.0, is_causal: bool = False) -> Any:
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v


def backwards(q: Any, k: Any, v: Any, mask: Any = None, dropout: float = 0.0, is_causal: bool = False) -> Any:
    """Correct forward; the gradient of the keys has the wrong sign."""
    wrong = 2 * k.detach() - k if q.dtype != torch.float64 else k
    return correct_attention(q, wrong, v, mask, dropout, is_causal=is_causal)


correct_attention = F.scaled_dot_product_attention


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("fault", "reported"), [(leaky, "earlier logits"), (backwards, "the gradient of blocks.0")])
def test_self_test_reports_wrong_results(
    monkeypatch: pytest.MonkeyPatch, dtype: Any, fault: Callable[..., Any], reported: str
) -> None:
    monkeypatch.setattr(F, "scaled_dot_product_attention", fault)
    with pytest.raises(RunFailed, match=f"{dtype}, .*CPU, .* computes wrong results: .*{reported}.*--attention math"):
        self_test(LAPTOP, replace(CPU, dtype=dtype))


def test_self_test_reports_wrong_cache_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug for few new tokens after a cache of odd length, as some kernels have had."""

    def wrong_read(q: Any, k: Any, v: Any, mask: Any = None, dropout: float = 0.0, is_causal: bool = False) -> Any:
        if q.shape[2] < k.shape[2] and k.shape[2] % 32:
            k = torch.cat((k[:, :, 1:], k[:, :, :1]), dim=2)
        return correct_attention(q, k, v, mask, dropout, is_causal=is_causal)

    monkeypatch.setattr(F, "scaled_dot_product_attention", wrong_read)
    with pytest.raises(RunFailed, match="in reading 33 tokens after 32; 1e-04 is allowed"):
        self_test(replace(LAPTOP, block_size=80), CPU)


def test_self_test_uses_the_context_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong_for_long(q: Any, k: Any, v: Any, *given: Any, **named: Any) -> Any:
        return correct_attention(q, k, v * (1.0 if v.shape[2] < 200 else 1.1), *given, **named)

    monkeypatch.setattr(F, "scaled_dot_product_attention", wrong_for_long)
    assert self_test(LAPTOP, CPU)
    with pytest.raises(RunFailed, match="computes wrong results"):
        self_test(replace(LAPTOP, block_size=256), CPU)


def test_self_test_failure_to_compute_is_one_line_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise TypeError("Cannot convert a tensor to this device\nand more")  # as for float64 on MPS

    monkeypatch.setattr(F, "scaled_dot_product_attention", refused)
    with pytest.raises(RunFailed, match=r"cannot compute a step: Cannot convert .* device. Try --attention"):
        self_test(LAPTOP, CPU)


def test_self_test_uses_float64_only_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """MPS has no float64; a tensor counts as on the device until it is copied to the CPU."""
    cpu = torch.Tensor.cpu
    on_cpu: list[int] = []

    def to_cpu(tensor: torch.Tensor) -> torch.Tensor:
        copy = cpu(tensor).clone()
        on_cpu.append(id(copy))
        copies.append(copy)
        return copy

    def double(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in on_cpu:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return tensor.to(torch.float64)

    copies: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "cpu", to_cpu)
    monkeypatch.setattr(torch.Tensor, "double", double)
    assert self_test(LAPTOP, CPU)
    assert on_cpu
