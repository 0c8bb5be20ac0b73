"""What is specific to gpt_numpy's engine: threads, and memory that does not grow with the batch."""

import ast
import math
import shutil
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import integers

from gpt_numpy.engine import ALL_THREADS_TOKENS, MICRO_BATCH_TOKENS, Engine, Reader, RowStreams, divide, numpys_blas
from minitensor.optim import AdamW, clip_grad_norm_
from tests.support import ROOT
from tests.support.engines import CONFIG, RECIPE, assert_close, batch, batch_of, trained

# ---- a step -----------------------------------------------------------------------------------------------------


def test_step_is_clipped_adamw_with_gradient_of_whole_batch() -> None:
    """Compared with the same step written with minitensor's public functions."""
    engine, twin = Engine(CONFIG, RECIPE, threads=3), Engine(CONFIG, RECIPE, threads=1).model
    decayed = {"params": [p for p in twin.parameters() if p.ndim == 2], "weight_decay": 0.1}
    optimizer = AdamW([decayed, {"params": [p for p in twin.parameters() if p.ndim == 1], "weight_decay": 0.0}])
    for step in range(3):
        _, loss = twin(*batch(seed=step).ids_and_targets())
        assert loss is not None
        optimizer.zero_grad()
        loss.backward()
        norm = clip_grad_norm_(twin.parameters(), 0.5)
        assert norm.item() > 0.5
        for group in optimizer.param_groups:
            group["lr"] = RECIPE.lr_at(step)
        optimizer.step()
        reported = engine.train_step(batch(seed=step), step)
        assert reported.loss == pytest.approx(loss.item(), rel=1e-6)
        assert reported.grad_norm == pytest.approx(norm.item(), rel=1e-5)
    assert_close({name: p.array for name, p in twin.state_dict().items()}, dict(engine.weights()))


@pytest.mark.filterwarnings("error")
def test_overflow_raises_no_warning() -> None:
    """A nonfinite loss is enough."""
    engine = Engine(CONFIG, RECIPE, threads=2)
    engine.load({name: np.full_like(array, 1e30) for name, array in engine.weights().items()}, {}, 0)
    assert not np.isfinite(engine.loss(batch()))
    assert not math.isfinite(float(engine.train_step(batch(), 0).loss))


@pytest.mark.parametrize(
    ("libraries", "blas"),
    [
        ([{"internal_api": "openblas", "version": "0.3"}], "each with one thread of openblas 0.3"),
        ([], "each with a BLAS whose threads are unknown"),
    ],
)
def test_describe_names_the_blas(libraries: list[dict[str, str]], blas: str) -> None:
    engine = Engine(CONFIG, RECIPE, threads=2)
    engine.blas = SimpleNamespace(info=lambda: libraries)
    assert engine.describe() == f"NumPy {np.__version__}, float32, 2 threads, {blas}"


@pytest.mark.parametrize("threads", [1, 3])
def test_step_starts_from_reassigned_parameter_data(threads: int) -> None:
    """Also if they are views of the engine's own arrays: two layers' weights swapped, a matrix transposed."""
    engine = Engine(CONFIG, RECIPE, threads=threads)
    engine.train_step(batch(), 0)
    first, second = (engine.parameters[f"blocks.{i}.mlp.c_fc.weight"] for i in range(2))
    first.data, second.data = second.data, first.data
    square = engine.parameters["blocks.0.attn.c_proj.weight"]
    square.data = square.data.transpose(0, 1)
    expected = {name: array.copy() for name, array in engine.weights().items()}
    engine.recipe = replace(RECIPE, lr=0.0)
    engine.train_step(batch(), 1)
    assert_close(dict(engine.weights()), expected, rtol=0.0)


# ---- threads and micro-batches ----------------------------------------------------------------------------------


@given(rows=integers(1, 80), threads=integers(1, 9), at_once=integers(1, 20), limit=integers(0, 90))
def test_divide_covers_each_row_once_within_limits(rows: int, threads: int, at_once: int, limit: int) -> None:
    shares = divide(rows, threads, at_once, limit)
    taken = [row for share in shares for piece in share for row in range(piece.start, piece.stop)]
    assert taken == list(range(rows))
    assert len(shares) <= threads
    largest = [max(piece.stop - piece.start for piece in share) for share in shares]
    assert max(largest) <= at_once
    assert sum(largest) <= (limit or rows)
    counts = [sum(piece.stop - piece.start for piece in share) for share in shares]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("threads", [2, 3, 16])
@pytest.mark.parametrize("micro_batch", [0, 1, 3])
def test_threads_and_micro_batches_change_results_only_by_rounding(
    threads: int, micro_batch: int, dropout: float
) -> None:
    config, recipe = replace(CONFIG, dropout=dropout), replace(RECIPE, micro_batch=micro_batch)
    assert_close(trained(Engine(config, RECIPE, threads=1)), trained(Engine(config, recipe, threads=threads)))
    loss = Engine(CONFIG, recipe, threads=threads).loss(batch())
    assert loss == pytest.approx(Engine(CONFIG, RECIPE, threads=1).loss(batch()), rel=1e-6)


def test_rows_have_independent_dropout() -> None:
    first, second = RowStreams([(1, 2, 0), (1, 2, 1)]).random((2, 3, 4), np.float32)
    assert (first != second).all()
    assert np.array_equal(RowStreams([(1, 2, 1)]).random((1, 3, 4), np.float32)[0], second)


def test_memory_does_not_grow_with_threads() -> None:
    """The tokens in flight, and so the activations, stay the same; each thread adds its gradients."""
    config = replace(CONFIG, block_size=64, n_embd=16)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2 * ALL_THREADS_TOKENS // 64, 65))
    peaks = []
    for threads in (4, 32):
        engine = Engine(config, RECIPE, threads=threads)
        tracemalloc.start()
        engine.train_step(batch_of(tokens), 0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


@pytest.mark.parametrize("evaluating", [False, True])
def test_memory_does_not_grow_with_the_batch(evaluating: bool) -> None:
    config = replace(CONFIG, block_size=64, n_embd=64)
    engine = Engine(config, RECIPE, threads=2)
    peaks = []
    for rows, times in (
        (2 * MICRO_BATCH_TOKENS // 64, 8),
        (16 * MICRO_BATCH_TOKENS // 64, 1),
    ):  # repeated as often, so the peaks of both threads may coincide
        tokens = np.random.default_rng(0).integers(0, config.vocab_size, (rows, 65))
        tracemalloc.start()
        for _ in range(times):
            if evaluating:
                engine.loss(batch_of(tokens))
            else:
                engine.train_step(batch_of(tokens), 0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (
        peaks[0] > 2 * MICRO_BATCH_TOKENS * 4 * config.n_embd * 4
    )  # NumPy's memory is traced: at least both threads' largest arrays
    assert peaks[1] < 1.3 * peaks[0]


def test_micro_batch_size_is_passed_as_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    def logged(rows: int, threads: int, at_once: int, limit: int) -> list[list[slice]]:
        limits.append(limit)
        return divide(rows, threads, at_once, limit)

    monkeypatch.setattr("gpt_numpy.engine.divide", logged)
    Engine(CONFIG, replace(RECIPE, micro_batch=2), threads=1).train_step(batch(), 0)
    assert limits == [2]


def openblas() -> str:
    """The path of NumPy's OpenBLAS, whose threads can be counted and which can be loaded twice."""
    found = numpys_blas().info()
    if [blas["internal_api"] for blas in found] != ["openblas"]:
        pytest.skip("NumPy has no OpenBLAS here")
    path: str = found[0]["filepath"]
    return path


def test_numpys_blas_uses_one_thread() -> None:
    openblas()
    code = (
        "from gpt_numpy import GPTConfig\n"
        "from gpt_numpy.engine import Engine, Recipe\n"
        "from threadpoolctl import threadpool_info\n"
        "Engine(GPTConfig(vocab_size=3, block_size=2, n_layer=1, n_head=1, n_embd=2), Recipe())\n"
        "print([pool['num_threads'] for pool in threadpool_info() if pool['user_api'] == 'blas'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[1]"


def test_few_texts_are_read_in_one_thread_and_many_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same logits; while one thread reads, BLAS has all cores, and before and after that one."""
    openblas()
    seen: list[tuple[int, int]] = []  # texts, threads of BLAS

    def read(self: Reader, ids: Any, rows: slice, cache: Any) -> Any:
        seen.append((rows.stop - rows.start, threads_of_blas(engine)))
        return real(self, ids, rows, cache)

    real = Reader._read
    monkeypatch.setattr(Reader, "_read", read)
    engine = Engine(CONFIG, RECIPE, threads=2)
    texts = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (4, 3)).tolist()
    few = engine.reader(4).read(texts)
    assert seen == [(4, 2)]
    assert threads_of_blas(engine) == 1
    monkeypatch.setattr("gpt_numpy.engine.TEXTS_EACH", 2)
    many = engine.reader(4).read(texts)
    assert seen[1:] == [(2, 1), (2, 1)]
    np.testing.assert_allclose(many, few, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("rows", "threads"), [(5, 2), (7, 3), (8, 3), (11, 5)])
def test_each_thread_reads_one_part_of_the_texts(rows: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any number of texts; all threads together read each of them once."""
    monkeypatch.setattr("gpt_numpy.engine.TEXTS_EACH", 2)
    engine = Engine(CONFIG, RECIPE, threads=threads)
    texts = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (rows, 3))
    reader = engine.reader(rows)
    assert [row for part, _ in reader.parts for row in range(rows)[part]] == list(range(rows))
    assert len(reader.parts) == min(threads, rows // 2)
    np.testing.assert_allclose(reader.read(texts.tolist()), engine.logits(texts)[:, -1], rtol=1e-5, atol=1e-6)


def threads_of_blas(engine: Engine) -> int:
    (blas,) = engine.blas.info()
    found: int = blas["num_threads"]
    return found


@pytest.mark.parametrize("place", ["torch/lib", "torch.libs"])
def test_pytorchs_blas_keeps_its_threads(place: str, tmp_path: Path) -> None:
    """Some builds of PyTorch ship OpenBLAS; here a copy of NumPy's is loaded from PyTorch's folder."""
    numpys = openblas()
    torchs = tmp_path / place / Path(numpys).name
    torchs.parent.mkdir(parents=True)
    shutil.copy(numpys, torchs)
    code = (
        "import ctypes, sys\n"
        "from gpt_numpy.engine import Engine, GPTConfig, Recipe, ThreadpoolController\n"
        "ctypes.CDLL(sys.argv[1])\n"
        "ThreadpoolController().limit(limits=2)\n"
        "Engine(GPTConfig(vocab_size=3, block_size=2, n_layer=1, n_head=1, n_embd=2), Recipe())\n"
        "found = ThreadpoolController().select(user_api='blas').info()\n"
        "print({blas['filepath']: blas['num_threads'] for blas in found})"
    )
    done = subprocess.run([sys.executable, "-c", code, torchs], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ast.literal_eval(done.stdout) == {numpys: 1, str(torchs): 2}


def test_dropout_of_a_long_context_does_not_depend_on_how_a_batch_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its masks are drawn block by block, and again in the backward, from the streams of the rows."""
    monkeypatch.setattr("minitensor.ops.attention_blocked.SAVED", 4)
    monkeypatch.setattr("minitensor.ops.attention_blocked.BLOCK", 3)
    config = replace(CONFIG, dropout=0.3)
    found = [
        trained(Engine(config, replace(RECIPE, micro_batch=micro_batch), threads=threads))
        for micro_batch, threads in ((0, 1), (2, 1), (0, 3))
    ]
    for other in found[1:]:
        assert_close(found[0], other, 1e-3)
