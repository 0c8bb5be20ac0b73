"""gpt_numpy's engine: threads change nothing, equal runs are equal bit for bit, cached reading is reading."""

import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import integers

import minitensor as mt
from gpt_numpy import GPTConfig
from gpt_numpy.engine import AT_ONCE, Engine, divide
from gpt_numpy.workshop.engine import Ids
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.sampling import Sampling, generate, window_start
from minitensor.optim import AdamW, clip_grad_norm_

CONFIG = GPTConfig(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=8)
RECIPE = Recipe(steps=10, batch_size=7, lr=1e-2, warmup=2, grad_clip=0.5, weight_decay=0.1)


def batch(rows: int = 7, seed: int = 0) -> tuple[Ids, Ids]:
    tokens = np.random.default_rng(seed).integers(0, CONFIG.vocab_size, (rows, CONFIG.block_size + 1))
    return tokens[:, :-1], tokens[:, 1:]


def trained(engine: Engine, recipe: Recipe = RECIPE, steps: range = range(3)) -> dict[str, np.ndarray]:
    """Everything that a few steps lead to, the reported numbers too."""
    reported = [engine.train_step(*batch(seed=step), recipe, step) for step in steps]
    return {**engine.weights(), **engine.optimizer_state(), "reported": np.array(reported)}


def assert_close(a: dict[str, np.ndarray], b: dict[str, np.ndarray], rtol: float = 1e-4) -> None:
    """Equal but for the order of sums in float32."""
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_allclose(value, b[name], rtol, atol=rtol * np.abs(value).max(), err_msg=name)


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert np.array_equal(value, b[name]), name


# ---- what a step is ---------------------------------------------------------------------------------------------


def test_a_step_is_the_gradient_of_the_whole_batch_clipped_and_given_to_adamw() -> None:
    """The same with the plain pieces of minitensor, one after the other."""
    engine, twin = Engine(CONFIG, threads=3), Engine(CONFIG, threads=1).model
    decayed = {"params": [p for p in twin.parameters() if p.ndim == 2], "weight_decay": 0.1}
    optimizer = AdamW([decayed, {"params": [p for p in twin.parameters() if p.ndim == 1], "weight_decay": 0.0}])
    for step in range(3):
        ids, targets = batch(seed=step)
        _, loss = twin(ids, targets)
        assert loss is not None
        optimizer.zero_grad()
        loss.backward()
        norm = clip_grad_norm_(twin.parameters(), 0.5)
        assert norm.item() > 0.5
        for group in optimizer.param_groups:
            group["lr"] = RECIPE.lr_at(step)
        optimizer.step()
        reported = engine.train_step(ids, targets, RECIPE, step)
        assert reported.loss == pytest.approx(loss.item(), rel=1e-6)
        assert reported.grad_norm == pytest.approx(norm.item(), rel=1e-5)
    assert_close({name: p.array for name, p in twin.state_dict().items()}, dict(engine.weights()))


def test_training_learns() -> None:
    engine = Engine(CONFIG, threads=2)
    recipe = replace(RECIPE, steps=60)
    losses = [engine.train_step(*batch(), recipe, step).loss for step in range(60)]
    assert losses[0] == pytest.approx(np.log(11), abs=0.1)
    assert losses[-1] < 0.5 * losses[0]
    assert engine.loss(*batch()) == pytest.approx(losses[-1], rel=0.1)


# ---- threads and pieces -----------------------------------------------------------------------------------------


@given(rows=integers(1, 80), threads=integers(1, 9), at_once=integers(1, 20), limit=integers(0, 90))
def test_a_batch_is_divided_into_each_row_once_within_the_limits(
    rows: int, threads: int, at_once: int, limit: int
) -> None:
    shares = divide(rows, threads, at_once, limit)
    taken = [row for share in shares for piece in share for row in range(piece.start, piece.stop)]
    assert taken == list(range(rows))
    assert len(shares) <= threads
    largest = [max(piece.stop - piece.start for piece in share) for share in shares]
    assert max(largest) <= at_once
    assert sum(largest) <= (limit or rows)
    counts = [sum(piece.stop - piece.start for piece in share) for share in shares]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_threads_change_nothing_but_the_order_of_sums(threads: int) -> None:
    assert_close(trained(Engine(CONFIG, threads=1)), trained(Engine(CONFIG, threads=threads)))
    ids, targets = batch()
    loss = Engine(CONFIG, threads=threads).loss(ids, targets)
    assert loss == pytest.approx(Engine(CONFIG, threads=1).loss(ids, targets), rel=1e-6)


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 6])
def test_micro_batches_add_up_to_the_whole_batch(micro_batch: int) -> None:
    recipe = replace(RECIPE, micro_batch=micro_batch)
    assert_close(trained(Engine(CONFIG, threads=2)), trained(Engine(CONFIG, threads=2), recipe))


@pytest.mark.parametrize("judging", [False, True])
def test_memory_does_not_grow_with_the_batch(judging: bool) -> None:
    config = replace(CONFIG, block_size=64, n_embd=64)
    engine = Engine(config, threads=2)
    peaks = []
    for rows in (2 * AT_ONCE // 64, 16 * AT_ONCE // 64):
        tokens = np.random.default_rng(0).integers(0, config.vocab_size, (rows, 65))
        tracemalloc.start()
        if judging:
            engine.loss(tokens[:, :-1], tokens[:, 1:])
        else:
            engine.train_step(tokens[:, :-1], tokens[:, 1:], RECIPE, 0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[0] > 2 * AT_ONCE * 4 * config.n_embd * 4  # it counts NumPy's memory: both threads' widest arrays
    assert peaks[1] < 1.3 * peaks[0]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_two_runs_agree_bit_for_bit(dropout: float) -> None:
    config = replace(CONFIG, dropout=dropout)
    first = trained(Engine(config, threads=3))
    mt.manual_seed(1)
    mt.randn(5)  # what else is drawn in the process does not matter
    assert_same(first, trained(Engine(config, threads=3)))


def test_dropout_depends_on_seed_and_step() -> None:
    config = replace(CONFIG, dropout=0.3)

    def loss(recipe: Recipe, step: int) -> float:
        return Engine(config, threads=2).train_step(*batch(), recipe, step).loss

    assert loss(RECIPE, 0) != loss(RECIPE, 1)
    assert loss(RECIPE, 0) != loss(replace(RECIPE, seed=RECIPE.seed + 1), 0)
    engine = Engine(config, threads=2)
    assert engine.loss(*batch()) == engine.loss(*batch())


def test_blas_keeps_to_one_thread_beside_ours() -> None:
    code = (
        "from gpt_numpy import GPTConfig\n"
        "from gpt_numpy.engine import Engine\n"
        "from threadpoolctl import threadpool_info\n"
        "Engine(GPTConfig(vocab_size=3, block_size=2, n_layer=1, n_head=1, n_embd=2))\n"
        "print([pool['num_threads'] for pool in threadpool_info() if pool['user_api'] == 'blas'])"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[1]"


# ---- its state --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, tie_weights=True), replace(CONFIG, dropout=0.2)])
def test_another_engine_goes_on_from_a_state_as_the_first_would(config: GPTConfig) -> None:
    first = Engine(config, threads=2)
    trained(first)
    second = Engine(config, seed=99, threads=2)
    second.load(first.weights(), first.optimizer_state(), step=3)
    assert_same(trained(first, steps=range(3, 6)), trained(second, steps=range(3, 6)))


def test_what_an_engine_hands_out_is_a_snapshot() -> None:
    engine = Engine(CONFIG, threads=1)
    trained(engine)
    kept = {**engine.weights(), **engine.optimizer_state()}
    before = {name: value.copy() for name, value in kept.items()}
    trained(engine, steps=range(3, 5))
    assert_same(kept, before)


def test_the_optimizer_state_has_two_moments_for_each_parameter() -> None:
    engine = Engine(replace(CONFIG, tie_weights=True), threads=1)
    assert engine.optimizer_state() == {}
    trained(engine)
    names = [name for name, _ in engine.model.named_parameters()]
    assert list(engine.optimizer_state()) == [f"{kind}.{n}" for kind in ("exp_avg", "exp_avg_sq") for n in names]


# ---- reading and writing ----------------------------------------------------------------------------------------


def lively(config: GPTConfig = CONFIG) -> Engine:
    engine = Engine(config, threads=1)
    random = np.random.default_rng(1)
    weights = {name: w + 0.3 * random.standard_normal(w.shape, np.float32) for name, w in engine.weights().items()}
    engine.load(weights, {}, 0)
    return engine


@pytest.mark.parametrize("block_size", [1, 2, 3, 8])
@pytest.mark.parametrize("prompt", [1, 5, 20])
def test_cached_writing_is_writing_with_the_whole_window_read_anew_far_past_the_context(
    block_size: int, prompt: int
) -> None:
    engine = lively(replace(CONFIG, block_size=block_size))
    engine.model.double()
    text = [i % CONFIG.vocab_size for i in range(prompt)]
    seen = []
    read = engine.reader

    class Recording:
        def __init__(self) -> None:
            self.reader = read()

        def read(self, ids: list[int]) -> np.ndarray:
            seen.append(self.reader.read(ids))
            return seen[-1]

    engine.reader = Recording  # type: ignore[assignment, method-assign]
    written = text + list(generate(engine, text, 40, Sampling(), seed=3))
    assert len(seen) == 40
    for i, logits in enumerate(seen):
        so_far = written[: prompt + i]
        window = so_far[window_start(len(so_far), block_size) :]
        with mt.no_grad():
            whole = engine.model(np.array([window]))[0].array[0, -1]
        np.testing.assert_allclose(logits, whole, rtol=1e-9, atol=1e-9)


def test_dropout_is_off_while_reading_and_judging() -> None:
    engine = lively(replace(CONFIG, dropout=0.5))
    plain = lively()
    ids, targets = batch()
    engine.train_step(ids, targets, replace(RECIPE, lr=0.0, weight_decay=0.0), 0)
    assert engine.loss(ids, targets) == plain.loss(ids, targets)
    assert np.array_equal(engine.reader().read([1, 2, 3]), plain.reader().read([1, 2, 3]))
