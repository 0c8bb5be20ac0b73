"""A run's folder: config.json, recipe.toml, metrics.jsonl, checkpoints/latest and best, report.html, loss.svg, and a
lock."""

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.io import parse_object, read_limited, temporary_name, write_atomic
from gpt_numpy.workshop.runs.checkpoint import (
    Checkpoint,
    Damaged,
    State,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from gpt_numpy.workshop.runs.lock import Held, Lock

RUNS = Path("runs")
LOCK = ".minitensor.lock"
CONTENT = {"config.json", "recipe.toml", "metrics.jsonl", "report.html", "loss.svg", "checkpoints", "tensorboard"}
MAX_LINE = 1_000_000  # characters of a record
MAX_INTEGER = 1 << 53
Record = dict[str, Any]
FIELDS: dict[str, dict[str, Any]] = {  # of each kind of record, beside its step
    "step": dict.fromkeys(("loss", "lr", "grad_norm", "characters_per_second"), float | int),
    "evaluation": {"train_loss": float | int, "val_loss": float | int, "sample": str, "diagnoses": list},
    "end": {"reason": str},
}


class RunDir:
    """The folder of one training run. The process that trains it holds its lock, and is the only one to write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics = folder / "metrics.jsonl"
        self.latest = folder / "checkpoints" / "latest"
        self.best = folder / "checkpoints" / "best"
        self.config: Record = {}
        self._lock: Lock | None = None
        self._unwritten = b""  # records that did not fit on the disk
        self._damaged: list[Path] = []  # checkpoints

    # -- the lock --

    def create(self) -> None:
        """Create and lock the folder; UsageError if it holds a run, or anything else that could be lost."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            found = {path.name for path in self.folder.iterdir()}
            left_over = {LOCK, *CONTENT, *map(temporary_name, CONTENT)}  # by a run that ended before it saved anything
            if found and not self.has_checkpoint and not (LOCK in found and found <= left_over):
                raise UsageError(f"{self.folder} is not empty; give another folder")
            self.lock()
            if self.has_checkpoint:
                self.close()
                raise UsageError(
                    f"{self.folder} holds a run already; continue it with --resume, or give another folder"
                )
        except OSError as error:
            raise UsageError(f"{self.folder} cannot be written: {error.strerror}") from None

    def lock(self) -> None:
        """UsageError if another process trains this run."""
        try:
            self._lock = Lock(self.folder / LOCK)
        except Held as holder:
            raise UsageError(f"{self.folder} is being trained, by {holder}; give another folder by --out") from None
        except OSError as error:
            raise UsageError(f"{self.folder} cannot be written: {error.strerror}") from None

    @property
    def is_locked(self) -> bool:
        """By this process."""
        return self._lock is not None

    @property
    def was_removed(self) -> bool:
        """Although this process has locked it; another folder may be in its place."""
        return self._lock is not None and not self._lock.in_place

    def close(self) -> None:
        """Release the lock; a folder with nothing else in it is removed, and runs/ if that leaves it empty."""
        if self._lock is None:
            return
        with suppress(OSError):
            if not self.was_removed and {path.name for path in self.folder.iterdir()} <= {LOCK}:
                (self.folder / LOCK).unlink(missing_ok=True)
                self.folder.rmdir()
                if self.folder.parent == RUNS:
                    RUNS.rmdir()  # OSError if it holds others
        self._lock.release()

    # -- config.json and metrics.jsonl --

    def write_config(self, config: Record, recipe: str = "") -> None:
        """config.json, and recipe.toml if there is one. A resumed run keeps the time at which it started."""
        with suppress(OSError, ValueError):  # config.json is for people; resuming does not depend on it
            before = parse_object(read_limited(self.folder / "config.json", 1_000_000))
            if "started" in before:
                config = {**config, "started": before["started"]}
        self.config = config
        write_atomic(self.folder / "config.json", json.dumps(config, indent=2).encode("utf-8"))
        if recipe:
            write_atomic(self.folder / "recipe.toml", recipe.encode("utf-8"))

    def append_record(self, record: Record) -> None:
        """After a failure, the next call writes this record, too."""
        self._unwritten += json.dumps(record).encode("utf-8") + b"\n"
        with self.metrics.open("ab", buffering=0) as file:
            size = file.tell()
            if file.write(self._unwritten) < len(self._unwritten):  # a full disk took a part
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.metrics))
        self._unwritten = b""

    def records(self) -> Iterator[Record]:
        """Those of metrics.jsonl, without lines that are cut off or damaged."""
        if self.metrics.exists():
            with self.metrics.open(encoding="utf-8", errors="replace") as file:
                while line := file.readline(MAX_LINE):
                    with suppress(ValueError, RecursionError):
                        if is_record(record := json.loads(line)):
                            yield record

    def records_until(self, state: State) -> list[Record]:
        """Those of what had happened when a checkpoint was written."""
        last = {"step": state.step, "evaluation": state.last_eval_step}
        return [record for record in self.records() if record["step"] <= last.get(record["kind"], -1)]

    def truncate_to(self, records: Iterable[Record]) -> None:
        """Drop all other records, which the resumed run will write again; rename damaged checkpoints."""
        for folder in self._damaged:
            renamed = folder.with_name(f"{folder.name}.damaged")
            shutil.rmtree(renamed, ignore_errors=True)
            folder.rename(renamed)
        self._damaged = []
        write_atomic(self.metrics, "".join(json.dumps(record) + "\n" for record in records).encode("utf-8"))

    # -- checkpoints --

    def save_latest(self, checkpoint: Checkpoint) -> None:
        if self.metrics.exists():
            with self.metrics.open("ab") as file:
                os.fsync(file.fileno())  # the records until this checkpoint are on the disk before it is
        save_checkpoint(self.latest, checkpoint)

    def save_best(self, checkpoint: Checkpoint) -> None:
        save_checkpoint(self.best, checkpoint, with_optimizer=False)

    def checkpoint(self, which: str) -> Checkpoint:
        """The "best" or the "latest"; if there is only one of them, that one."""
        return load_checkpoint(self.checkpoints(which)[0])

    def checkpoint_to_resume(self, console: Console) -> Checkpoint:
        """The latest; if that is damaged, the best, which has no optimizer state."""
        for folder in self.checkpoints("latest"):
            try:
                checkpoint = load_checkpoint(folder, with_optimizer=True)
                if checkpoint.state.step and not checkpoint.optimizer_state:
                    console.say(f"{checkpoint.folder} has no optimizer state: the optimizer starts anew", "yellow")
                return checkpoint
            except Damaged as error:
                console.say(f"{error}. It is skipped.", "yellow")
                self._damaged += [place for place in (find_checkpoint(folder),) if place]
        raise UsageError(f"{self.folder} has no checkpoint that is undamaged")

    def checkpoints(self, first: str) -> list[Path]:
        """Those that exist; UsageError if there is none."""
        folders = [self.best, self.latest] if first == "best" else [self.latest, self.best]
        if not (found := [folder for folder in folders if find_checkpoint(folder)]):
            raise UsageError(f"{self.folder} is not the folder of a run: it holds no checkpoint")
        return found

    @property
    def has_checkpoint(self) -> bool:
        return bool(find_checkpoint(self.latest) or find_checkpoint(self.best))

    def saved_at(self) -> int:
        """When its newest checkpoint was written, in nanoseconds; 0 if there is none."""
        written = 0
        for folder in map(find_checkpoint, (self.latest, self.best)):
            with suppress(OSError):  # another process may be replacing it
                written = max(written, folder.stat().st_mtime_ns if folder else 0)
        return written


def is_record(record: Any) -> bool:
    """Whether a line of metrics.jsonl has the fields of its kind."""
    if not (isinstance(record, dict) and (kinds := FIELDS.get(str(record.get("kind"))))):
        return False
    figures = record.get("figures", {})
    if not (isinstance(figures, dict) and all(isinstance(value, float | int) for value in figures.values())):
        return False
    values = (*record.values(), *figures.values())
    return (
        all(isinstance(record.get(name), kind) for name, kind in {"step": int, **kinds}.items())
        and all(isinstance(diagnosis, str) for diagnosis in record.get("diagnoses", ()))
        and not any(isinstance(value, int) and abs(value) > MAX_INTEGER for value in values)
    )


def new_run_dir(out: str | None, preset: str) -> RunDir:
    """Created and locked at once, so that two runs that begin together get two folders."""
    if out is not None:
        run_dir = RunDir(Path(out))
        run_dir.create()
        return run_dir
    name = f"{datetime.now():%Y-%m-%d-%H%M%S}-{preset}"
    for number in range(1, 1000):
        run_dir = RunDir(RUNS / (f"{name}-{number}" if number > 1 else name))
        try:
            run_dir.folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(f"{run_dir.folder} cannot be written: {error.strerror}; give another by --out") from None
        run_dir.lock()
        return run_dir
    raise UsageError(f"{RUNS} has no place for {name}; give a folder by --out")


def find_run_dir(name: str) -> RunDir:
    """By its folder; or the one that was saved last, by "latest"."""
    if name != "latest":
        if not Path(name).is_dir():
            raise UsageError(f"{name} is not the folder of a run; `latest` stands for the newest")
        run_dir, inside = RunDir(Path(name)), sorted(Path(name).glob("seed-*"))
        if inside and not run_dir.has_checkpoint:
            raise UsageError(f"{name} holds {len(inside)} runs; name one of them, such as {inside[0]}")
        return run_dir
    folders = [*RUNS.glob("*"), *RUNS.glob("*/seed-*")]
    newest = max(map(RunDir, folders), key=RunDir.saved_at, default=None)
    if newest is None or not newest.saved_at():
        raise UsageError(f"no run in {RUNS}{os.sep} has saved a checkpoint yet; train one first, or name its folder")
    return newest
