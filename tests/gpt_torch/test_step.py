"""A step as a CUDA graph, in a simulation that runs again what was captured; and bfloat16 weights."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gpt_numpy import GPTConfig
from gpt_numpy.workshop.engine import Batch, Examples
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.train.metrics import FLUSH_STEPS
from gpt_torch import step as step_module
from gpt_torch import transfer
from gpt_torch.engine import Engine
from gpt_torch.options import Options
from gpt_torch.step import RING, WARM_UP
from gpt_torch.transfer import windows_of
from tests.support.engines import CONFIG, RECIPE, RECIPES, assert_close, assert_same, batch, numpy_engine

CPU = Options(device="cpu")
LOW = replace(CPU, dtype="bfloat16", weights="bfloat16")
TEXT = np.random.default_rng(0).integers(0, CONFIG.vocab_size, 200).astype(np.uint8)

# A graph has the learning rate in float32. This one is the same there, in each step.
EXACT = replace(RECIPE, lr=2.0**-7, warmup=0, final_lr=1.0)

each_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


def at(step: int, tokens: np.ndarray[Any, Any] = TEXT) -> Batch:
    starts = np.random.default_rng(step).integers(0, len(tokens) - CONFIG.block_size, RECIPE.batch_size)
    return Batch(tokens, starts, CONFIG.block_size)


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What was captured. A replay runs it again, with new memory for all but what a real one also finds in place."""
    captured: list[Callable[[], None]] = []

    def simulated(compute: Callable[[], None], forget: Callable[[], None], device: object) -> Callable[[], None]:
        captured.append(compute)
        for _ in range(WARM_UP):
            compute()
        forget()
        return compute

    monkeypatch.setattr(step_module, "as_cuda_graph", simulated)
    return captured


def capturing(recipe: Recipe, config: GPTConfig = CONFIG, options: Options = CPU) -> Engine:
    engine = Engine(config, recipe, options)
    engine.captures = engine.optimizer_skips = True  # as on CUDA
    return engine


def state(engine: Engine) -> dict[str, Any]:
    return {**engine.weights(), **engine.optimizer_state()}


# ---- captured ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [CPU, LOW], ids=["float32", "bfloat16 weights"])
def test_replayed_steps_are_those_of_an_engine_without_a_graph(options: Options, captures: list[Any]) -> None:
    config = replace(CONFIG, dropout=0.3)
    engine, usual = capturing(EXACT, config, options), Engine(config, EXACT, options)
    results = [(engine.train_step(at(step), step), usual.train_step(at(step), step)) for step in range(6)]
    assert_same(state(engine), state(usual))
    for found, expected in results:  # read late, as the trainer does
        assert [float(number) for number in found] == [float(number) for number in expected]
    assert len(captures) == 1


@each_recipe
def test_learning_rates_are_filled_in_before_a_replay(recipe: Recipe, captures: list[Any]) -> None:
    engine, usual = capturing(recipe), Engine(CONFIG, recipe, CPU)
    for step in range(6):
        engine.train_step(at(step), step)
        usual.train_step(at(step), step)
    assert_close(state(engine), state(usual), 1e-5)


def test_capturing_changes_nothing(captures: list[Any]) -> None:
    engine, usual = capturing(EXACT), Engine(CONFIG, EXACT, CPU)
    for each in (engine, usual):
        each.train_step(at(0), 0)
    engine._captured(at(1))
    assert captures
    assert_same(state(engine), state(usual))
    assert not engine.nonfinite


def test_other_batches_and_loaded_weights(captures: list[Any]) -> None:
    """A batch of another text or size is computed without the graph; a loaded model gets a new one."""
    engine, usual = capturing(EXACT), Engine(CONFIG, EXACT, CPU)
    other = TEXT[::-1].copy()
    batches = [at(0), at(1), at(2, other), replace(at(3), starts=at(3).starts[:2]), at(4)]
    for step, each in enumerate(batches):
        found, expected = engine.train_step(each, step), usual.train_step(each, step)
        assert float(found.loss) == float(expected.loss)
    assert len(captures) == 1
    engine.load(engine.weights(), engine.optimizer_state(), 5)
    engine.train_step(at(5), 5)
    usual.train_step(at(5), 5)
    assert len(captures) == 2
    assert_same(state(engine), state(usual))


def test_examples_are_not_captured(captures: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    engine, usual = capturing(EXACT), Engine(CONFIG, EXACT, CPU)
    ids, targets = at(0).ids_and_targets()
    examples = Examples(ids, targets, np.full(ids.shape, 1.0 / ids.size, np.float32))
    for step in range(2):
        engine.train_step(examples, step)
        usual.train_step(examples, step)
    assert not captures
    assert_same(state(engine), state(usual))
    reason = "it is for the windows of a text"
    assert capsys.readouterr().err == f"no CUDA graph; training continues without it: {reason}\n"


def test_replay_skips_a_nonfinite_step_and_all_later_ones(captures: list[Any]) -> None:
    engine = capturing(RECIPE)
    for step in range(3):
        engine.train_step(at(step), step)
    before = state(engine)
    scale: Any = engine.model.ln_f.weight
    hook = scale.register_hook(lambda gradient: gradient * np.nan)
    bad = engine.train_step(at(3), 3)
    hook.remove()
    engine.train_step(at(4), 4)
    assert np.isnan(float(bad.grad_norm))
    assert_same(state(engine), before)


def test_ring_holds_the_results_of_the_latest_steps(captures: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_module, "RING", 4)
    engine, usual = capturing(EXACT), Engine(CONFIG, EXACT, CPU)
    results = [(engine.train_step(at(i), i), usual.train_step(at(i), i)) for i in range(8)]
    for found, expected in results[-4:]:
        assert float(found.loss) == float(expected.loss)
        assert float(found.grad_norm) == float(expected.grad_norm)
    assert float(results[-5][0].loss) == float(results[-1][0].loss) != float(results[-5][1].loss)  # overwritten
    assert RING > FLUSH_STEPS  # more than the trainer leaves unread


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore"),
        torch.OutOfMemoryError("CUDA out of memory."),
    ],
)
def test_training_continues_without_a_graph_that_fails(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(compute: Callable[[], None], *_: Any) -> Any:
        compute()
        raise error

    monkeypatch.setattr(step_module, "as_cuda_graph", failing)
    engine, usual = capturing(EXACT), Engine(CONFIG, EXACT, CPU)
    for step in range(3):
        assert float(engine.train_step(at(step), step).loss) == float(usual.train_step(at(step), step).loss)
    assert_same(state(engine), state(usual))
    reason = str(error).splitlines()[0]
    assert capsys.readouterr().err == f"no CUDA graph; training continues without it: {reason}\n"


@pytest.mark.parametrize(
    ("changes", "reason"), [({"micro_batch": 2}, "--micro-batch"), ({"decay_schedule": "falling"}, "--decay-schedule")]
)
def test_recipes_that_cannot_be_captured(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        step_module.check_capture(replace(RECIPE, **changes))
    step_module.check_capture(replace(RECIPE, micro_batch=RECIPE.batch_size))


# ---- bfloat16 weights -------------------------------------------------------------------------------------------


def test_bfloat16_weights_are_updated_in_float32() -> None:
    """Against PyTorch's AdamW on float32 weights, with the gradients of their bfloat16 copies."""
    recipe = replace(RECIPE, weight_decay=0.0)
    engine = Engine(CONFIG, recipe, LOW)
    masters = {name: torch.tensor(weight) for name, weight in engine.weights().items() if name != "lm_head.weight"}
    optimizer = torch.optim.AdamW(masters.values(), lr=0.0, betas=(0.9, 0.999), weight_decay=0.0, fused=True)
    for step in range(4):
        copies: dict[str, Tensor] = {name: p.detach().clone() for name, p in engine.model.named_parameters()}
        assert {p.dtype for p in copies.values()} == {torch.bfloat16}
        for name, master in masters.items():
            assert torch.equal(copies[name], master.bfloat16())
        engine.train_step(at(step), step)
        gradients = {name: p.grad for name, p in engine.parameters.items()}  # clipped
        for name, master in masters.items():
            master.grad = gradients[name]
        optimizer.param_groups[0]["lr"] = recipe.lr_at(step)
        optimizer.step()
    found = engine.weights()
    for name, master in masters.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], master.numpy(), err_msg=name)


def test_small_updates_are_not_lost() -> None:
    engine = Engine(CONFIG, replace(RECIPE, lr=1e-6, warmup=0), LOW)
    before = engine.weights()["blocks.0.mlp.c_fc.weight"]
    for step in range(5):
        engine.train_step(at(step), step)
    moved = np.abs(engine.weights()["blocks.0.mlp.c_fc.weight"] - before)
    assert 1e-6 < moved.max() < 6e-6  # bfloat16 weights of 0.02 have a distance of 1e-4


@each_recipe
def test_bfloat16_weights_train_about_as_float32_ones(recipe: Recipe) -> None:
    low, usual = (Engine(CONFIG, recipe, options) for options in (LOW, replace(CPU, dtype="bfloat16")))
    found, expected = ([float(engine.train_step(at(i), i).loss) for i in range(6)] for engine in (low, usual))
    assert found == pytest.approx(expected, rel=2e-2)
    assert found != expected


def test_micro_batches_add_up_in_float32() -> None:
    engine = Engine(CONFIG, replace(RECIPE, micro_batch=2), LOW)
    engine.backward(at(0), 0)
    found = {name: p.grad for name, p in engine.parameters.items()}
    parts = []
    for rows in (slice(0, 1), slice(1, 3), slice(3, 5), slice(5, 7)):
        single = Engine(CONFIG, RECIPE, LOW)
        share = torch.tensor((rows.stop - rows.start) / 7)
        with torch.autocast("cpu", torch.bfloat16):
            ids, targets = map(torch.tensor, at(0).ids_and_targets(rows))
            (single.model(ids, targets)[1] * share).backward()
        parts.append({name: p.grad.float() for name, p in single.model.named_parameters() if p.grad is not None})
    for name, gradient in found.items():
        assert gradient is not None
        assert gradient.dtype == torch.float32
        expected = parts[0][name] + parts[1][name] + parts[2][name] + parts[3][name]
        assert torch.equal(gradient, expected), name


def test_gradients_that_an_error_has_left_are_forgotten() -> None:
    engine, usual = (Engine(CONFIG, RECIPE, LOW) for _ in range(2))
    for p in engine.model.parameters():
        p.grad = torch.ones_like(p)
    assert float(engine.train_step(at(0), 0).grad_norm) == float(usual.train_step(at(0), 0).grad_norm)


@each_recipe
def test_checkpoint_of_bfloat16_weights(recipe: Recipe) -> None:
    """It has the float32 weights: a resumed run is the same in every bit, and gpt_numpy reads it."""
    engine, resumed = (Engine(CONFIG, recipe, LOW) for _ in range(2))
    for step in range(3):
        engine.train_step(at(step), step)
    resumed.load(engine.weights(), engine.optimizer_state(), 3)
    other = numpy_engine(CONFIG, recipe)
    other.load(engine.weights(), engine.optimizer_state(), 3)
    assert_same(dict(other.weights()), dict(engine.weights()))
    assert float(other.loss(at(3))) == pytest.approx(float(engine.loss(at(3))), rel=1e-2)
    for step in range(3, 5):
        engine.train_step(at(step), step)
        resumed.train_step(at(step), step)
    assert_same(state(resumed), state(engine))


def test_untied_bfloat16_weights_are_all_saved() -> None:
    config = replace(CONFIG, tie_weights=False)
    low, usual = Engine(config, RECIPE, LOW), Engine(config, RECIPE, CPU)
    assert_same(dict(low.weights()), dict(usual.weights()))
    low.train_step(at(0), 0)
    trained = low.weights()
    for name in ("tok_emb.weight", "lm_head.weight"):
        assert not np.array_equal(trained[name], usual.weights()[name]), name
    assert not np.array_equal(trained["tok_emb.weight"], trained["lm_head.weight"])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"weights": "bfloat16"}, "weights bfloat16 goes with --dtype bfloat16, not float32"),
        ({"weights": "half"}, "weights is float32 or bfloat16, not 'half'"),
        ({"cuda_graph": True}, "cuda_graph is for a CUDA GPU, not cpu"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(CPU, **options)


# ---- the text ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int64])
def test_text_of_any_width_stays_on_the_device(dtype: Any) -> None:
    vocab_size = 250 if dtype == np.uint8 else 60_000
    engine = Engine(replace(CONFIG, vocab_size=vocab_size), RECIPE, CPU)
    tokens = np.random.default_rng(1).integers(vocab_size - 200, vocab_size, 50).astype(dtype)
    text = engine.texts.find(tokens)
    assert text is not None
    assert text.element_size() == tokens.itemsize
    assert engine.texts.find(tokens) is text
    windows = windows_of(text, torch.tensor([3, 30]), 8)
    np.testing.assert_array_equal(windows.numpy(), [tokens[3:12], tokens[30:39]])


def test_only_the_latest_two_texts_stay_on_the_device() -> None:
    engine = Engine(CONFIG, RECIPE, CPU)
    for seed in range(5):
        engine.loss(batch(seed=seed))
    assert len(engine.texts.known) == 2


def test_text_that_is_too_large_for_the_device(monkeypatch: pytest.MonkeyPatch, captures: list[Any]) -> None:
    """Its windows come from the host, and there is no graph, which would need their place."""
    engine, usual = capturing(EXACT), Engine(CONFIG, EXACT, CPU)
    monkeypatch.setattr(transfer, "fits", lambda tokens, device: False)
    found = [engine.train_step(at(step), step) for step in range(3)]
    assert engine.texts.known == captures == []
    assert not engine.captures
    np.testing.assert_array_equal(engine.texts.windows(at(0), slice(2, 4)).numpy(), at(0).windows(slice(2, 4)))
    monkeypatch.undo()
    assert [float(one.loss) for one in found] == [float(usual.train_step(at(step), step).loss) for step in range(3)]
    assert_same(state(engine), state(usual))


def test_graph_keeps_the_text_whose_place_it_has(captures: list[Any]) -> None:
    engine, usual = capturing(EXACT), Engine(CONFIG, EXACT, CPU)
    for step in range(4):
        engine.train_step(at(step), step)
        usual.train_step(at(step), step)
        for seed in range(2):
            engine.loss(batch(seed=seed))  # texts that take its place in the list
    assert engine.captured is not None
    assert engine.captured.text is not None
    assert all(text is not engine.captured.text for _, text in engine.texts.known)
    assert_same(state(engine), state(usual))
