"""A checkpoint: one folder with all that either engine needs to go on, or to write.

    model.safetensors        the weights, by parameter
    optimizer.safetensors    exp_avg.NAME and exp_avg_sq.NAME
    tokenizer.json
    state.json               config, recipe, step, corpus, versions

It is written beside, brought to the disk, and renamed. Between the two renames that put it in place of the one before,
that one is whole under another name, where reading finds it.
"""

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.engine import Arrays
from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.tokenizers import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class State:
    """What a checkpoint knows beside weights: enough to go on as if nothing had happened."""

    config: GPTConfig
    recipe: Recipe
    data: str  # what --data finds the corpus by; empty for a model that came from elsewhere
    digest: str  # SHA-256 of the corpus
    step: int = 0  # steps done
    best_step: int = 0
    best_loss: float | None = None  # on the validation split; None before the first evaluation
    since_best: int = 0  # evaluations
    threads: int = 0  # of the engine: with as many, the run goes on bit for bit
    processes: int = 1  # each with as many threads

    def to_json(self) -> str:
        return json.dumps({"format": 1, **asdict(self), "versions": versions()}, indent=2)


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), "numpy": np.__version__}


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    state: State
    tokenizer: Tokenizer

    def weights(self) -> Arrays:
        return _load_arrays(self.folder / "model.safetensors")

    def optimizer_state(self) -> Arrays:
        return _load_arrays(self.folder / "optimizer.safetensors")

    def digest(self) -> str:
        """SHA-256 of the weights."""
        with (self.folder / "model.safetensors").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


class Saved(Protocol):
    """Something with weights, such as an engine."""

    def weights(self) -> Arrays: ...

    def optimizer_state(self) -> Arrays: ...


def save_checkpoint(folder: Path, model: Saved, tokenizer: Tokenizer, state: State) -> None:
    beside, before = _beside(folder, "new"), _beside(folder, "old")
    weights = _plain(model.weights())  # which other processes may have to hand over, and may fail to
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    _write(beside / "model.safetensors", lambda path: save_file(weights, path))
    _write(beside / "optimizer.safetensors", lambda path: save_file(_plain(model.optimizer_state()), path))
    _write(beside / "tokenizer.json", lambda path: path.write_text(tokenizer.to_json(), encoding="utf-8"))
    _write(beside / "state.json", lambda path: path.write_text(state.to_json(), encoding="utf-8"))
    _sync(beside)
    if folder.exists():
        shutil.rmtree(before, ignore_errors=True)
        folder.rename(before)
    beside.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(before, ignore_errors=True)


def load_checkpoint(folder: Path) -> Checkpoint:
    folder = saved_in(folder) or folder
    path = folder / "state.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        plain = {field.name: kept[field.name] for field in fields(State) if field.name in kept}
        state = State(**{**plain, "config": GPTConfig(**kept["config"]), "recipe": Recipe(**kept["recipe"])})
        tokenizer = load_tokenizer(folder / "tokenizer.json")
        if tokenizer.vocab_size > state.config.vocab_size:
            raise ValueError(f"the tokenizer has {tokenizer.vocab_size} tokens, the model {state.config.vocab_size}")
    except OSError as error:
        raise WrongUse(f"{folder} holds no checkpoint: {path.name}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise WrongUse(f"{path} cannot be understood: {error}") from None
    return Checkpoint(folder, state, tokenizer)


def saved_in(folder: Path) -> Path | None:
    """Where a checkpoint by this name is, if there is one; a writing that ended between its renames left it aside."""
    return next((path for path in (folder, _beside(folder, "old")) if (path / "state.json").is_file()), None)


def _load_arrays(path: Path) -> Arrays:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise WrongUse(f"{path} cannot be read: {error}") from None


def _plain(arrays: Arrays) -> dict[str, Any]:
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _write(path: Path, write: Callable[[Path], object]) -> None:
    write(path)
    _sync(path)


def _sync(path: Path) -> None:
    """Wait until the disk has it."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no such call for folders
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(folder: Path, mark: str) -> Path:
    return folder.with_name(f".{folder.name}.{mark}")
