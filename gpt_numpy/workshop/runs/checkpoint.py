"""A checkpoint: one folder with all that either engine needs to go on, or to write.

    model.safetensors        the weights, by parameter
    optimizer.safetensors    exp_avg.NAME and exp_avg_sq.NAME; momentum_buffer.NAME of what Muon trains
    tokenizer.json
    state.json               config, recipe, step, corpus, versions; SHA-256 of each other file, and of itself

It is written beside, brought to the disk, and renamed. Between the two renames that put it in place of the one before,
that one is whole under another name, where reading finds it. What is read is checked against its sum, and against the
model that it is said to be of, before anything is made of it.
"""

import json
import math
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.engine import Arrays
from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.io import read_limited, sha256, sync_folder, table_from, write_synced
from gpt_numpy.workshop.optim import memory_shapes
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.data.tokenizer import MAX_JSON, Tokenizer, tokenizer_from
from gpt_numpy.workshop.params import parameter_shapes

FORMAT = 2  # of state.json; 1 had no sums
LARGEST_STATE = 1_000_000  # bytes
MODEL, OPTIMIZER, TOKENIZER, STATE = "model.safetensors", "optimizer.safetensors", "tokenizer.json", "state.json"


class Damaged(WrongUse):
    """A checkpoint that is not as it was written."""


@dataclass(frozen=True)
class State:
    """What a checkpoint knows beside weights: enough to go on as if nothing had happened."""

    config: GPTConfig
    recipe: Recipe
    data: str  # what --data finds the corpus by; empty for a model that came from elsewhere
    digest: str  # SHA-256 of the corpus
    step: int = 0  # steps done
    judged: int = -1  # the step of the latest evaluation that it knows of
    best_step: int = 0
    best_loss: float | None = None  # on the validation split; None before the first evaluation
    since_best: int = 0  # evaluations
    threads: int = 0  # of the engine: with as many, the run goes on bit for bit
    processes: int = 1  # each with as many threads
    machine: Mapping[str, Any] = field(default_factory=dict)  # what else the engine was asked for, such as a precision

    def __post_init__(self) -> None:
        for name, least in {"step": 0, "judged": -1, "best_step": 0, "since_best": 0, "threads": 0}.items():
            if type(value := getattr(self, name)) is not int or value < least:
                raise ValueError(f"{name} is {value!r}")
        if not (isinstance(self.data, str) and isinstance(self.digest, str)):
            raise ValueError("data and digest are texts")
        if not isinstance(self.machine, dict):
            raise ValueError("machine is no table")
        if self.best_loss is not None and not (isinstance(self.best_loss, float) and math.isfinite(self.best_loss)):
            raise ValueError(f"best_loss is {self.best_loss!r}")


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), "numpy": np.__version__}


@dataclass(frozen=True)
class Checkpoint:
    state: State
    tokenizer: Tokenizer
    weights: Arrays
    optimizer_state: Arrays  # empty before the first step, and where nobody asked for it
    folder: Path = Path()  # where it was read from
    digest: str = ""  # SHA-256 of the weights as they were read


# ---- writing ----------------------------------------------------------------------------------------------------


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """OSError where it cannot be written; then the one before is as it was."""
    files: dict[str, Callable[[], bytes]] = {
        MODEL: lambda: safetensors.numpy.save(_plain(checkpoint.weights)),
        OPTIMIZER: lambda: safetensors.numpy.save(_plain(checkpoint.optimizer_state)),
        TOKENIZER: lambda: checkpoint.tokenizer.to_json().encode("utf-8"),
    }
    beside, before = _beside(folder, "new"), _beside(folder, "old")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        sums = {}
        for name, content in files.items():
            data = content()
            write_synced(beside / name, data)
            sums[name] = sha256(data)
        write_synced(beside / STATE, _stated(checkpoint.state, sums))
        sync_folder(beside)
        if folder.exists():
            shutil.rmtree(before, ignore_errors=True)
            folder.rename(before)
        beside.rename(folder)
        sync_folder(folder.parent)
    except OSError:
        shutil.rmtree(beside, ignore_errors=True)  # what there is of it may be all that a full disk has room for
        raise
    shutil.rmtree(before, ignore_errors=True)


def _plain(arrays: Arrays) -> dict[str, Any]:
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _stated(state: State, sums: Mapping[str, str]) -> bytes:
    content = {"format": FORMAT, **asdict(state), "versions": versions(), "files": sums}
    return json.dumps({**content, "sha256": _sum_of(content)}, indent=2).encode("utf-8")


def _sum_of(content: Mapping[str, Any]) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode("utf-8"))


# ---- reading ----------------------------------------------------------------------------------------------------


def load_checkpoint(folder: Path, to_train: bool = False) -> Checkpoint:
    """All of it, but what the optimizer remembers only if it is to train. Damaged if it is not as it was written."""
    while True:
        place = saved_in(folder) or folder
        before = _identity(place)
        try:
            return _load(place, to_train)
        except Damaged:
            now = saved_in(folder) or folder
            if (now, _identity(now)) == (place, before):
                raise  # otherwise a training process has put a newer one in its place meanwhile


def saved_in(folder: Path) -> Path | None:
    """Where a checkpoint by this name is, if there is one; a writing that ended between its renames left it aside."""
    return next((path for path in (folder, _beside(folder, "old")) if path.is_dir()), None)


def progress_of(folder: Path) -> tuple[float, float]:
    """Of a checkpoint, to find the newest: its steps, its latest evaluation. One that cannot be read may be it."""
    folder = saved_in(folder) or folder
    try:
        state = _state(folder, _content(folder))
        return state.step, state.judged
    except WrongUse:
        return math.inf, math.inf


def _identity(folder: Path) -> object:
    try:
        found = (folder / STATE).stat()
        return found.st_ino, found.st_mtime_ns
    except OSError:
        return None


def _load(folder: Path, to_train: bool) -> Checkpoint:
    content = _content(folder)
    state = _state(folder, content)
    sums = content.get("files", {})
    text, _ = _read(folder / TOKENIZER, sums)
    with _damage_of(folder / TOKENIZER):
        tokenizer = tokenizer_from(text)
        if tokenizer.kind != state.recipe.tokenizer or tokenizer.vocab_size > state.config.vocab_size:
            raise ValueError(f"{tokenizer.vocab_size} tokens ({tokenizer.kind}) are not those of the model")
    weights, digest = _arrays(folder / MODEL, sums)
    memory, _ = _arrays(folder / OPTIMIZER, sums) if to_train else ({}, "")
    _check_fit(folder, state, weights, memory)
    return Checkpoint(state, tokenizer, weights, memory, folder, digest)


def _content(folder: Path) -> dict[str, Any]:
    """What is in state.json, if it has the sum that it says."""
    path = folder / STATE
    with _damage_of(path):
        content = table_from(read_limited(path, LARGEST_STATE))
        kept = content.pop("sha256", None)
        if kept != _sum_of(content) and (kept, content.get("format")) != (None, 1):
            raise _changed(path)
        if content["format"] not in (1, FORMAT):
            raise WrongUse(f"{folder} is of format {content['format']}; this version reads up to {FORMAT}")
        if content["format"] == 1:
            content["judged"] = content["step"]
        return content


def _state(folder: Path, content: Mapping[str, Any]) -> State:
    with _damage_of(folder / STATE):
        plain = {field.name: content[field.name] for field in fields(State) if field.name in content}
        return State(**{**plain, "config": GPTConfig(**content["config"]), "recipe": Recipe(**content["recipe"])})


def _arrays(path: Path, sums: Mapping[str, str]) -> tuple[Arrays, str]:
    data, digest = _read(path, sums)
    with _damage_of(path):
        arrays = safetensors.numpy.load(data)  # in any order, while many processes need the same one
        return dict(sorted(arrays.items())), digest


def _read(path: Path, sums: Mapping[str, str]) -> tuple[bytes, str]:
    """What is in a file, and its SHA-256, which is the one that it should be."""
    with _damage_of(path):
        data = read_limited(path, MAX_JSON if path.name == TOKENIZER else None)
        digest = sha256(data)
        if sums.get(path.name, digest) != digest:
            raise _changed(path)
        return data, digest


def _check_fit(folder: Path, state: State, weights: Arrays, memory: Arrays) -> None:
    """Whether these are all arrays of such a model, trained by such a recipe."""
    config = state.config
    if config.n_layer > len(weights):
        raise Damaged(f"{folder} is damaged: {config.n_layer} blocks, and {len(weights)} weights")
    expected = parameter_shapes(config)
    remembered = memory_shapes(expected, state.recipe.optimizer) if memory else {}
    if config.tie_weights:  # both names of it
        expected["lm_head.weight"] = expected["tok_emb.weight"]
    for arrays, shapes in ((weights, expected), (memory, remembered)):
        for name, shape in shapes.items():
            found = arrays[name].shape if name in arrays else "nothing"
            if found != shape or arrays[name].dtype.kind != "f":
                raise Damaged(f"{folder} is damaged: {name} should be numbers {shape}, and is {found}")
            if not np.isfinite(arrays[name]).all():
                raise Damaged(f"{folder} is worth nothing: {name} is not finite")
    if unknown := weights.keys() - expected.keys():
        raise Damaged(f"{folder} is damaged: the model has no {min(unknown)}")


@contextmanager
def _damage_of(path: Path) -> Iterator[None]:
    """What is wrong with a file, in a line. One that is there and cannot be read now may be whole."""
    try:
        yield
    except OSError as error:
        is_gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise (Damaged if is_gone else WrongUse)(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, SafetensorError) as error:
        raise Damaged(f"{path} cannot be understood: {error}") from None


def _changed(path: Path) -> Damaged:
    return Damaged(f"{path} is not as it was written: its SHA-256 differs")


def _beside(folder: Path, mark: str) -> Path:
    return folder.with_name(f".{folder.name}.{mark}")
