"""Checkpoints are written atomically, and a damaged one is never used."""

import errno
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gpt_numpy.config import GPTConfig
from gpt_numpy.engine import Engine
from gpt_numpy.workshop import io
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.runs import checkpoint
from gpt_numpy.workshop.runs.checkpoint import Checkpoint, Damaged, load_checkpoint, save_checkpoint
from gpt_numpy.workshop.runs.run_dir import RunDir
from tests.support.engines import batch_of
from tests.support.runs import (
    FILES,
    PLAY,
    Train,
    Trained,
    assert_same_run,
    latest,
    records,
    rewrite_state,
    save_in_turns,
)

LATEST, BEST = Path("a/checkpoints/latest"), Path("a/checkpoints/best")


# ---- atomic writes ----------------------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


def next_of(old: Checkpoint) -> Checkpoint:
    """The checkpoint after one more step."""
    engine = Engine(old.state.config, old.state.recipe, threads=1)
    engine.load(old.weights, old.optimizer_state, old.state.step)
    engine.train_step(batch_of(np.arange(9)[None] % 2), old.state.step)
    state = replace(old.state, step=old.state.step + 1)
    return Checkpoint(state, old.tokenizer, engine.weights(), engine.optimizer_state())


@pytest.mark.parametrize("call", range(11))
def test_interrupted_save_leaves_old_or_new_checkpoint(
    call: int, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted at each fsync, rename and removal in turn: the old or the new checkpoint can be loaded."""
    trained("a")
    old = load_checkpoint(LATEST, with_optimizer=True)
    new = next_of(old)
    calls = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def function(*arguments: Any, **settings: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call + 1:
                raise Interrupted
            return original(*arguments, **settings)

        return function

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_fsynced", counted(io.write_fsynced))
        patch.setattr(checkpoint, "fsync_folder", counted(io.fsync_folder))
        patch.setattr(Path, "rename", counted(Path.rename))
        patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
        with pytest.raises(Interrupted):
            save_checkpoint(LATEST, new)
    found = load_checkpoint(LATEST, with_optimizer=True)
    expected = {20: old, 21: new}[found.state.step]
    assert found.state == expected.state
    for kind in ("weights", "optimizer_state"):
        arrays, wanted = getattr(found, kind), getattr(expected, kind)
        assert arrays.keys() == wanted.keys()
        assert all(np.array_equal(array, arrays[name]) for name, array in wanted.items())
    save_checkpoint(LATEST, new)  # the next save removes leftovers
    assert load_checkpoint(LATEST).state == new.state
    assert [path.name for path in LATEST.parent.iterdir() if path.name.startswith(".")] == []


def test_whole_content_is_fsynced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    digest = io.write_fsynced(tmp_path / "a", [b"one", memoryview(b", two")])
    assert (tmp_path / "a").read_bytes() == b"one, two"
    assert sizes == [8]
    assert digest == hashlib.sha256(b"one, two").hexdigest()


def test_checkpoint_is_fsynced_before_it_is_renamed(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    trained("a")
    done: list[str] = []

    def logged(what: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def function(*given: Any) -> Any:
            done.append(what)
            return original(*given)

        return function

    old = load_checkpoint(LATEST, with_optimizer=True)
    monkeypatch.setattr(os, "fsync", logged("sync", os.fsync))
    monkeypatch.setattr(Path, "rename", logged("rename", Path.rename))
    monkeypatch.setattr(Path, "replace", logged("replace", Path.replace))
    RunDir(Path("a")).save_latest(old)
    # metrics.jsonl, then four files and their folder; then the renames
    assert done == ["sync", *["sync"] * 5, "rename", "rename", "sync"]
    done.clear()
    RunDir(Path("a")).truncate_to([])
    assert done == ["sync", "replace"]


def test_concurrent_reader_sees_old_or_new_checkpoint(trained: Trained) -> None:
    trained("a")
    old = load_checkpoint(LATEST, with_optimizer=True)
    new, context = next_of(old), multiprocessing.get_context("spawn")
    begun = context.Event()
    writer = context.Process(target=save_in_turns, args=(LATEST.resolve(), old, new, begun))
    writer.start()
    try:
        weights = {20: old.weights, 21: new.weights}
        assert begun.wait(60)
        changes, before, deadline = 0, 20, time.monotonic() + 60
        while changes < 20 and time.monotonic() < deadline:
            found = RunDir(Path("a")).checkpoint("latest")
            assert RunDir(Path("a")).saved_at() > 0
            changes += found.state.step != before
            before = found.state.step
            assert all(np.array_equal(found.weights[name], array) for name, array in weights[before].items())
    finally:
        writer.kill()
        writer.join()
    assert changes == 20


# ---- damaged ----------------------------------------------------------------------------------------------------


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_a_bit_flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 1
    path.write_bytes(data)


def replaced(path: Path) -> None:
    """By the file of another run with a different tokenizer and width."""
    shutil.copy(Path("b/checkpoints/latest") / path.name, path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", [cut_short, with_a_bit_flipped, replaced, Path.unlink])
def test_damaged_checkpoint_is_reported_and_best_is_resumed(
    harm: Callable[[Path], object], name: str, train: Train, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    if harm is replaced:
        Path("other.txt").write_text(PLAY.upper(), encoding="utf-8")
        trained("b", "--data", "other.txt", "--n-embd", "16", "--steps", "15")
    trained("a", "--lr", "0", "--steps", "10")  # so that best is older than latest
    harm(LATEST / name)
    named = (
        "tokenizer.json" if harm is replaced and name == "state.json" else name
    )  # the first file whose checksum differs
    capsys.readouterr()
    if name != "optimizer.safetensors":  # which generating does not need
        with pytest.raises(UsageError, match=named):
            RunDir(Path("a")).checkpoint("latest")
    assert train("a", "--resume") == 0
    out = capsys.readouterr().out
    assert re.search(rf"^{LATEST}\b.*{named}.* It is skipped.$", out, re.MULTILINE)
    assert "resuming after step 0 of 10" in out
    assert latest("a") == 10
    assert (LATEST.parent / "latest.damaged").is_dir()  # kept for inspection
    assert [record["step"] for record in records("a", "step")] == list(range(1, 11))


def test_resuming_from_the_best_checkpoint_says_that_the_optimizer_starts_anew(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    train("a", "--eval-every", "15", "--lr", "0.01")
    cut_short(LATEST / "model.safetensors")
    capsys.readouterr()
    assert train("a", "--resume", "--steps", "25") == 0
    out = capsys.readouterr().out
    best = re.findall(r"resuming after step (\d+) of 25", out)
    assert best in (["15"], ["20"])
    assert f"{BEST} has no optimizer state: the optimizer starts anew\n" in out
    assert latest("a") == 25


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_bit_is_detected(name: str, trained: Trained) -> None:
    trained("a", "--steps", "1")
    path = LATEST / name
    data = path.read_bytes()
    random = np.random.default_rng(0)
    for bit in random.integers(0, 8 * len(data), 200):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(changed)
        if name == "state.json" and same_json(bytes(changed), data):
            continue  # white space
        with pytest.raises(Damaged, match=rf"^{LATEST}.*"):
            load_checkpoint(LATEST, with_optimizer=True)


def same_json(a: bytes, b: bytes) -> bool:
    try:
        return bool(json.loads(a) == json.loads(b))
    except ValueError:
        return False


def test_damaged_best_checkpoint_is_refused_and_run_resumes(
    train: Train, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    trained("a")
    with_a_bit_flipped(BEST / "model.safetensors")
    with pytest.raises(Damaged, match=r"best/model.safetensors is not as it was written"):
        RunDir(Path("a")).checkpoint("best")
    assert train("a", "--resume", "--steps", "25") == 0
    assert load_checkpoint(BEST).state.step == 25


def test_unreadable_checkpoint_is_not_skipped(
    train: Train, trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be undamaged, and a resumed run would overwrite it."""
    trained("a", "--lr", "0")
    before = {path: path.read_bytes() for path in Path("a").rglob("*") if path.is_file()}

    def failing(path: Path, limit: int | None) -> bytes:
        if path == LATEST / "model.safetensors":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return io.read_limited(path, limit)

    monkeypatch.setattr(checkpoint, "read_limited", failing)
    assert train("a", "--resume", "--steps", "25") == 2
    assert "latest/model.safetensors cannot be read: Input/output error\n" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("a").rglob("*") if path.is_file()} == before


def test_resume_writes_nothing_if_all_checkpoints_are_damaged(
    train: Train, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    trained("a")
    for folder in (LATEST, BEST):
        cut_short(folder / "model.safetensors")
    before = {path: path.read_bytes() for path in Path("a").rglob("*") if path.is_file()}
    assert train("a", "--resume", "--steps", "22") == 2
    assert "a has no checkpoint that is undamaged" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("a").rglob("*") if path.is_file()} == before


# ---- invalid content --------------------------------------------------------------------------------------------


def without_a_tensor(arrays: dict[str, Any]) -> None:
    arrays.popitem()


def with_another_shape(arrays: dict[str, Any]) -> None:
    name = next(iter(arrays))
    arrays[name] = arrays[name][:-1].copy()


def with_integers(arrays: dict[str, Any]) -> None:
    name = next(iter(arrays))
    arrays[name] = np.zeros(arrays[name].shape, np.int32)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("change", [without_a_tensor, with_another_shape, with_integers])
def test_arrays_not_matching_the_model_are_refused_despite_valid_checksums(
    file: str, change: Callable[[dict[str, Any]], None], trained: Trained
) -> None:
    trained("a", "--steps", "1")
    arrays = load_file(LATEST / file)
    change(arrays)
    save_file(arrays, LATEST / file)
    rewrite_state(LATEST)
    with pytest.raises(Damaged, match=r"is damaged: (exp_avg_?s?q?\.)?[a-z_.0]+ should be numbers \("):
        load_checkpoint(LATEST, with_optimizer=True)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors"])
def test_nonfinite_arrays_are_refused(file: str, trained: Trained) -> None:
    trained("a", "--steps", "1")
    arrays = load_file(LATEST / file)
    name = sorted(arrays)[3]
    arrays[name].flat[0] = np.inf
    save_file(arrays, LATEST / file)
    rewrite_state(LATEST)
    with pytest.raises(Damaged, match=f"cannot be used: {re.escape(name)} contains NaN or infinity"):
        load_checkpoint(LATEST, with_optimizer=True)


def test_tied_weights_are_saved_under_both_names(train: Train) -> None:
    train("a", "--tie-weights")
    assert train("a", "--resume", "--steps", "25") == 0
    arrays = load_file(LATEST / "model.safetensors")
    tied = arrays.pop("lm_head.weight")
    for changed in ({}, {"lm_head.weight": tied[:-1].copy()}):
        save_file({**arrays, **changed}, LATEST / "model.safetensors")
        rewrite_state(LATEST)
        with pytest.raises(Damaged, match=r"lm_head\.weight should be numbers"):
            load_checkpoint(LATEST)


def test_unknown_weights_are_refused(trained: Trained) -> None:
    trained("a", "--steps", "1")
    save_file({**load_file(LATEST / "model.safetensors"), "extra": np.zeros(1)}, LATEST / "model.safetensors")
    rewrite_state(LATEST)
    with pytest.raises(Damaged, match="the model has no extra"):
        load_checkpoint(LATEST)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": 4}, "a/checkpoints/latest is of format 4; this version reads 2 and 3"),
        ({"config": asdict(GPTConfig(n_layer=10**12))}, "1000000000000 blocks, and "),
        ({"config": asdict(GPTConfig(vocab_size=1))}, "tokens \\(char\\) are not those of the model"),
        ({"config": []}, "state.json cannot be understood"),
        ({"config": {"from_the_future": 1}}, "state.json cannot be understood: .*from_the_future"),
        ({"recipe": {"from_the_future": 1}}, "state.json cannot be understood: .*from_the_future"),
        ({"recipe": {"tokenizer": "bpe"}}, "tokens \\(char\\) are not those of the model"),
        ({"recipe": {"steps": -1}}, "steps is a whole number of at least 1, not -1"),
        ({"step": -1}, "step is -1"),
        ({"step": "20"}, "step is '20'"),
        ({"best_loss": "low"}, "best_loss is 'low'"),
        ({"data": 5}, "data is not a string"),
        ({"method": None}, "method is not a string"),
    ],
)
def test_invalid_state_is_a_one_line_error(changed: dict[str, Any], message: str, trained: Trained) -> None:
    trained("a", "--steps", "1")
    rewrite_state(LATEST, **changed)
    with pytest.raises(UsageError, match=message) as raised:
        load_checkpoint(LATEST)
    assert "\n" not in str(raised.value)


def test_newer_format_is_refused_and_not_skipped(
    train: Train, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is undamaged, and newer than any checkpoint that this version could resume."""
    trained("a", "--lr", "0")
    rewrite_state(LATEST, format=4)
    assert train("a", "--resume", "--steps", "22") == 2
    assert "latest is of format 4; this version reads 2 and 3" in capsys.readouterr().err


def test_format_1_is_refused(train: Train, trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    trained("a")
    content = json.loads((LATEST / "state.json").read_text(encoding="utf-8"))
    old = {name: value for name, value in content.items() if name not in ("files", "sha256")}
    (LATEST / "state.json").write_text(json.dumps(old | {"format": 1}), encoding="utf-8")
    assert train("a", "--resume", "--steps", "22") == 2
    assert "a/checkpoints/latest is of format 1; this version reads 2 and 3" in capsys.readouterr().err


def test_format_2_is_read_and_resumed(train: Train, trained: Trained) -> None:
    """Format 2 used other field names, and its best checkpoint had an optimizer state too."""
    trained("a")
    shutil.copytree("a", "b")
    names = {"last_eval_step": "judged", "evals_since_best": "since_best", "engine_options": "machine"}
    for folder in (Path("b/checkpoints/latest"), Path("b/checkpoints/best")):
        content = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        content = {names.get(name, name): value for name, value in content.items()}
        (folder / "state.json").write_text(json.dumps(content), encoding="utf-8")
        shutil.copy(LATEST / "optimizer.safetensors", folder)
        rewrite_state(folder, format=2, files=dict.fromkeys(FILES[:-1]))
    assert load_checkpoint(Path("b/checkpoints/latest")).state == load_checkpoint(LATEST).state
    for out in ("a", "b"):
        assert train(out, "--resume", "--steps", "25") == 0
    assert_same_run("a", "b")
    rewrite_state(LATEST, format=2, data="dramatist")
    assert load_checkpoint(LATEST).state.data == "synthetic"


def test_folder_without_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"state.json cannot be read: No such file"):
        load_checkpoint(tmp_path)
    (tmp_path / "state.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match=r"state.json is not as it was written: its SHA-256 differs"):
        load_checkpoint(tmp_path)
