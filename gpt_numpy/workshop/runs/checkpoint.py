"""A checkpoint: one folder from which either engine can resume or generate.

    model.safetensors        the weights, by parameter
    optimizer.safetensors    exp_avg.NAME and exp_avg_sq.NAME, or momentum_buffer.NAME of Muon; not in the best one
    tokenizer.json
    state.json               config, recipe, step, corpus, versions; SHA-256 of each other file, and of itself

It is written to a folder beside its place, fsynced, and renamed. Between the two renames that replace the previous one,
that one has another name, under which readers find it. What is read is checked against its SHA-256, and against the
model that it claims to be of, before anything is made of it.
"""

import json
import math
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.data.tokenizer import MAX_JSON, Tokenizer, tokenizer_from
from gpt_numpy.workshop.engine import Arrays
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.io import Pieces, fsync_folder, parse_object, read_limited, sha256, write_fsynced
from gpt_numpy.workshop.optim import state_shapes
from gpt_numpy.workshop.params import parameter_shapes
from gpt_numpy.workshop.recipes import Recipe

FORMAT = 3  # of state.json
MAX_STATE = 1_000_000  # bytes of it
MODEL, OPTIMIZER, TOKENIZER, STATE = "model.safetensors", "optimizer.safetensors", "tokenizer.json", "state.json"


class Damaged(UsageError):
    """A checkpoint is not as it was written."""


@dataclass(frozen=True)
class State:
    """All of a checkpoint but its arrays."""

    config: GPTConfig
    recipe: Recipe
    data: str  # the value of --data that finds the corpus; empty for a model from elsewhere
    digest: str  # SHA-256 of the corpus
    step: int = 0  # steps done
    last_eval_step: int = -1
    best_step: int = 0
    best_loss: float | None = None  # on the validation part; None before the first evaluation
    evals_since_best: int = 0
    threads: int = 0  # of the engine: with as many, the run continues bit for bit
    processes: int = 1  # each with as many threads
    engine_options: Mapping[str, Any] = field(default_factory=dict)  # those that decide numbers, such as a precision
    method: str = ""  # of tuning, such as sft; empty for training on the text
    tuned_on: str = ""  # a file, or the folders of other models, a line each
    tuned_on_digest: str = ""  # SHA-256 of the file, or of these models' weights
    tuning: Mapping[str, Any] = field(default_factory=dict)  # settings of the method

    def __post_init__(self) -> None:
        counts = {"step": 0, "last_eval_step": -1, "best_step": 0, "evals_since_best": 0, "threads": 0}
        for name, least in counts.items():
            if type(value := getattr(self, name)) is not int or value < least:
                raise ValueError(f"{name} is {value!r}")
        for name in ("data", "digest", "method", "tuned_on", "tuned_on_digest"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is not a string")
        for name in ("engine_options", "tuning"):
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"{name} is not an object")
        if self.best_loss is not None and not (isinstance(self.best_loss, float) and math.isfinite(self.best_loss)):
            raise ValueError(f"best_loss is {self.best_loss!r}")


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), "numpy": np.__version__}


@dataclass(frozen=True)
class Checkpoint:
    state: State
    tokenizer: Tokenizer
    weights: Arrays
    optimizer_state: Arrays = field(default_factory=dict)  # empty before the first step, and where it is not needed
    folder: Path = Path()  # where it was read from
    digest: str = ""  # SHA-256 of the weights as they were read


# ---- writing ----------------------------------------------------------------------------------------------------


def save_checkpoint(folder: Path, checkpoint: Checkpoint, with_optimizer: bool = True) -> None:
    """OSError if it cannot be written; then the previous one is as it was."""
    temporary, previous = _beside(folder, "new"), _beside(folder, "old")
    shutil.rmtree(temporary, ignore_errors=True)
    files: dict[str, Pieces] = {
        MODEL: _safetensors(checkpoint.weights),
        TOKENIZER: [checkpoint.tokenizer.to_json().encode("utf-8")],
        **({OPTIMIZER: _safetensors(checkpoint.optimizer_state)} if with_optimizer else {}),
    }
    try:
        temporary.mkdir(parents=True)
        digests = {name: write_fsynced(temporary / name, pieces) for name, pieces in files.items()}
        write_fsynced(temporary / STATE, [_state_json(checkpoint.state, digests)])
        fsync_folder(temporary)
        if folder.exists():
            shutil.rmtree(previous, ignore_errors=True)
            folder.rename(previous)
        temporary.rename(folder)
        fsync_folder(folder.parent)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)  # a full disk may need the room
        raise
    shutil.rmtree(previous, ignore_errors=True)


def _safetensors(arrays: Arrays) -> Pieces:
    """The pieces of such a file: the length of a header, the header, and the arrays themselves. The library would copy
    them all into one, twice, and hold the GIL, so that no other thread could go on meanwhile."""
    header, end = dict[str, Any](), 0
    largest_items_first = sorted(arrays.items(), key=lambda item: -item[1].itemsize)
    for name, array in largest_items_first:
        begin, end = end, end + array.nbytes
        kind = f"{array.dtype.kind.upper()}{8 * array.itemsize}"  # F32
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode("utf-8")
    text += b" " * (-len(text) % 8)
    data = [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for _, array in largest_items_first]
    return [len(text).to_bytes(8, "little"), text, *data]


def _state_json(state: State, digests: Mapping[str, str]) -> bytes:
    content = {"format": FORMAT, **asdict(state), "versions": versions(), "files": digests}
    return json.dumps({**content, "sha256": _digest_of(content)}, indent=2).encode("utf-8")


def _digest_of(content: Mapping[str, Any]) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode("utf-8"))


# ---- reading ----------------------------------------------------------------------------------------------------


def load_checkpoint(folder: Path, with_optimizer: bool = False) -> Checkpoint:
    while True:
        place = find_checkpoint(folder) or folder
        before = _identity(place)
        try:
            return _load(place, with_optimizer)
        except Damaged:
            now = find_checkpoint(folder) or folder
            if (now, _identity(now)) == (place, before):
                raise  # otherwise a training process has just replaced it


def find_checkpoint(folder: Path) -> Path | None:
    """Where a checkpoint is, if there is one: a write that ended between its renames left it under another name."""
    return next((path for path in (folder, _beside(folder, "old")) if path.is_dir()), None)


def read_state(folder: Path) -> State:
    return _load_state(find_checkpoint(folder) or folder)[0]


def _identity(folder: Path) -> object:
    try:
        found = (folder / STATE).stat()
        return found.st_ino, found.st_mtime_ns
    except OSError:
        return None


def _load(folder: Path, with_optimizer: bool) -> Checkpoint:
    state, digests = _load_state(folder)
    text, _ = _read(folder / TOKENIZER, digests)
    with _damage_of(folder / TOKENIZER):
        tokenizer = tokenizer_from(text)
        if tokenizer.kind != state.recipe.tokenizer or tokenizer.vocab_size > state.config.vocab_size:
            raise ValueError(f"{tokenizer.vocab_size} tokens ({tokenizer.kind}) are not those of the model")
    weights, digest = _arrays(folder / MODEL, digests)
    has_optimizer = with_optimizer and OPTIMIZER in digests
    optimizer_state, _ = _arrays(folder / OPTIMIZER, digests) if has_optimizer else ({}, "")
    _check_arrays(folder, state, weights, optimizer_state)
    return Checkpoint(state, tokenizer, weights, optimizer_state, folder, digest)


def _load_state(folder: Path) -> tuple[State, dict[str, str]]:
    """What state.json says, and the SHA-256 of each file."""
    path = folder / STATE
    with _damage_of(path):
        content = parse_object(read_limited(path, MAX_STATE))
        digest, number = content.pop("sha256", None), content.get("format")
        if digest != _digest_of(content) and (digest, number) != (None, 1):  # format 1 has no digest
            raise _changed(path)
        if number not in (2, FORMAT):
            raise UsageError(f"{folder} is of format {number}; this version reads 2 and {FORMAT}")
        if number == 2:
            content = _from_format_2(content)
        known = {field.name: content[field.name] for field in fields(State) if field.name in content}
        state = State(**{**known, "config": GPTConfig(**content["config"]), "recipe": Recipe(**content["recipe"])})
        return state, dict(content["files"])


def _from_format_2(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of format 2 under their present names."""
    names = {"judged": "last_eval_step", "since_best": "evals_since_best", "machine": "engine_options"}
    content = {names.get(name, name): value for name, value in content.items()}
    return {**content, "data": {"dramatist": "synthetic"}.get(content["data"], content["data"])}


def _arrays(path: Path, digests: Mapping[str, str]) -> tuple[Arrays, str]:
    data, digest = _read(path, digests)
    with _damage_of(path):
        arrays = safetensors.numpy.load(data)  # returns them in any order, and all processes need the same
        return dict(sorted(arrays.items())), digest


def _read(path: Path, digests: Mapping[str, str]) -> tuple[bytes, str]:
    """The content of a file and its SHA-256, which is the expected one."""
    with _damage_of(path):
        data = read_limited(path, MAX_JSON if path.name == TOKENIZER else None)
        digest = sha256(data)
        if digests.get(path.name, digest) != digest:
            raise _changed(path)
        return data, digest


def _check_arrays(folder: Path, state: State, weights: Arrays, optimizer_state: Arrays) -> None:
    """Damaged unless these are all arrays of such a model, trained by such a recipe."""
    config = state.config
    if config.n_layer > len(weights):
        raise Damaged(f"{folder} is damaged: {config.n_layer} blocks, and {len(weights)} weights")
    expected = parameter_shapes(config)
    expected_state = state_shapes(expected, state.recipe.optimizer) if optimizer_state else {}
    if config.tie_weights:  # both names of it
        expected["lm_head.weight"] = expected["tok_emb.weight"]
    for arrays, shapes in ((weights, expected), (optimizer_state, expected_state)):
        for name, shape in shapes.items():
            found = arrays[name].shape if name in arrays else "missing"
            if found != shape or arrays[name].dtype.kind != "f":
                raise Damaged(f"{folder} is damaged: {name} should be numbers {shape}, and is {found}")
            if not np.isfinite(arrays[name]).all():
                raise Damaged(f"{folder} cannot be used: {name} contains NaN or infinity")
    if unknown := weights.keys() - expected.keys():
        raise Damaged(f"{folder} is damaged: the model has no {min(unknown)}")


@contextmanager
def _damage_of(path: Path) -> Iterator[None]:
    """What is wrong with a file, in one line. If it exists and cannot be read now, it may still be undamaged."""
    try:
        yield
    except OSError as error:
        is_gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise (Damaged if is_gone else UsageError)(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, SafetensorError) as error:
        raise Damaged(f"{path} cannot be understood: {error}") from None


def _changed(path: Path) -> Damaged:
    return Damaged(f"{path} is not as it was written: its SHA-256 differs")


def _beside(folder: Path, mark: str) -> Path:
    return folder.with_name(f".{folder.name}.{mark}")
