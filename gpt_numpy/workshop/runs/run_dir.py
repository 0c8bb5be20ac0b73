"""A run's folder: config.json, metrics.jsonl, checkpoints/latest and best, report.html, loss.svg, and a lock."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from gpt_numpy.workshop.runs.checkpoint import (
    Checkpoint,
    Damaged,
    State,
    load_checkpoint,
    progress_of,
    save_checkpoint,
    saved_in,
)
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.io import half_written, read_limited, table_from, write_whole
from gpt_numpy.workshop.runs.lock import Held, Lock

RUNS = Path("runs")
LOCK = ".minitensor.lock"
OURS = {"config.json", "metrics.jsonl", "report.html", "loss.svg", "checkpoints"}
LONGEST_RECORD = 1_000_000  # characters
LARGEST = 1 << 53  # a whole number in a record
Record = dict[str, Any]
RECORDS: dict[str, dict[str, Any]] = {  # what is in each kind, beside its step
    "step": dict.fromkeys(("loss", "lr", "grad_norm", "characters_per_second"), float | int),
    "evaluation": {"train_loss": float | int, "val_loss": float | int, "sample": str, "diagnoses": list},
    "end": {"reason": str},
}


class Run:
    """The folder of one training run. While it trains it is held: no other process can write to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics = folder / "metrics.jsonl"
        self.lock: Lock | None = None
        self.config: Record = {}
        self._waiting = b""  # records that could not be written yet
        self._passed_over: list[Path] = []  # checkpoints that are damaged

    @property
    def latest(self) -> Path:
        return self.folder / "checkpoints" / "latest"

    @property
    def best(self) -> Path:
        return self.folder / "checkpoints" / "best"

    # -- whose it is --

    def claim(self) -> None:
        """Make the folder, before anything takes time, and hold it; WrongUse if it is somebody else's, or holds
        anything that could be lost."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            found = {path.name for path in self.folder.iterdir()}
            ours = {LOCK, *OURS, *map(half_written, OURS)}  # of a run that ended before it had saved anything
            if found and not self._saved() and not (LOCK in found and found <= ours):
                raise WrongUse(f"{self.folder} is not empty; give another folder")
            self.hold()
            if self._saved():
                self.release()
                raise WrongUse(f"{self.folder} holds a run already; go on with it by --resume, or give another folder")
        except OSError as error:
            raise WrongUse(f"{self.folder} cannot be written: {error.strerror}") from None

    def hold(self) -> None:
        """WrongUse if another process trains it."""
        try:
            self.lock = Lock(self.folder / LOCK)
        except Held as holder:
            raise WrongUse(f"{self.folder} is being trained, by {holder}; give another folder by --out") from None
        except OSError as error:
            raise WrongUse(f"{self.folder} cannot be written: {error.strerror}") from None

    def release(self) -> None:
        if self.lock is not None:
            self.lock.release()

    def give_up(self) -> None:
        """Nothing came of it: an empty folder goes."""
        with suppress(OSError):
            if {path.name for path in self.folder.iterdir()} <= {LOCK}:
                (self.folder / LOCK).unlink(missing_ok=True)
        self.release()
        with suppress(OSError):
            self.folder.rmdir()

    def made_again(self) -> bool:
        """If somebody has removed the folder while it was held, make another one; whether that was so."""
        if self.lock is None or self.lock.in_place:
            return False
        self.release()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.hold()
        self._write_config()
        return True

    # -- what happens --

    def begin(self, config: Record) -> None:
        """Say what the run is; when it is resumed, it has begun when it began."""
        with suppress(OSError, ValueError):  # it is for people; without it a run goes on as well
            before = table_from(read_limited(self.folder / "config.json", 1_000_000))
            if "started" in before:
                config = {**config, "started": before["started"]}
        self.config = config
        self._write_config()

    def _write_config(self) -> None:
        write_whole(self.folder / "config.json", json.dumps(self.config, indent=2).encode("utf-8"))

    def record(self, record: Record) -> None:
        """What cannot be written now is written with the next record."""
        self._waiting += json.dumps(record).encode("utf-8") + b"\n"
        with self.metrics.open("ab", buffering=0) as file:
            whole = file.tell()
            if file.write(self._waiting) < len(self._waiting):  # all that the disk had room for
                file.truncate(whole)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.metrics))
        self._waiting = b""

    def records(self) -> Iterator[Record]:
        """What was recorded; a line that was cut off or damaged is left out."""
        if self.metrics.exists():
            with self.metrics.open(encoding="utf-8", errors="replace") as file:
                while line := file.readline(LONGEST_RECORD):
                    with suppress(ValueError, RecursionError):
                        if is_record(record := json.loads(line)):
                            yield record

    def known_to(self, state: State) -> list[Record]:
        """What was recorded up to a checkpoint."""
        until = {"step": state.step, "evaluation": state.judged}
        return [record for record in self.records() if record["step"] <= until.get(record["kind"], -1)]

    def keep_only(self, records: Iterable[Record]) -> None:
        """Drop what was recorded after a checkpoint, and that the run ended: it goes on, and will do this again. A
        checkpoint that is damaged goes out of the way, for whoever can make something of it."""
        for folder in self._passed_over:
            aside = folder.with_name(f"{folder.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
        self._passed_over = []
        write_whole(self.metrics, "".join(json.dumps(record) + "\n" for record in records).encode("utf-8"))

    def report(self, write: Callable[[Path, Record], object]) -> None:
        write(self.folder, self.config)

    # -- its checkpoints --

    def save(self, folder: Path, checkpoint: Checkpoint) -> None:
        if self.metrics.exists():
            with self.metrics.open("ab") as file:
                os.fsync(file.fileno())  # a checkpoint knows of all this
        save_checkpoint(folder, checkpoint)

    def checkpoint(self, which: str) -> Checkpoint:
        """ "best"; or "latest", that of the most steps, which may be the best one."""
        if which == "best" and saved_in(self.best):
            return load_checkpoint(self.best)
        return load_checkpoint(self._newest_first()[0])

    def newest_whole(self, console: Console) -> Checkpoint:
        """To go on from. One that is damaged is told of and passed over."""
        for folder in self._newest_first():
            try:
                return load_checkpoint(folder, to_train=True)
            except Damaged as error:
                console.say(f"{error}. It is passed over.", "yellow")
                self._passed_over += [place for place in (saved_in(folder),) if place]
        raise WrongUse(f"{self.folder} has no checkpoint that is whole")

    def _newest_first(self) -> list[Path]:
        if not (saved := self._saved()):
            raise WrongUse(
                f"{self.folder} holds no checkpoint; a run saves one before its first step: begin it again by train "
                f"--out {self.folder}"
            )
        return sorted(saved, key=progress_of, reverse=True)

    @property
    def has_checkpoint(self) -> bool:
        return bool(self._saved())

    def _saved(self) -> list[Path]:
        return [folder for folder in (self.latest, self.best) if saved_in(folder)]

    def saved_at(self) -> int:
        """When its newest checkpoint was written, in nanoseconds; 0 if there is none."""
        written = 0
        for folder in map(saved_in, (self.latest, self.best)):
            with suppress(OSError):  # another process may just put a newer one in its place
                written = max(written, folder.stat().st_mtime_ns if folder else 0)
        return written


class Onlooker(Run):
    """A run in the eyes of a process that does not write it, because another does."""

    def hold(self) -> None:
        pass

    def give_up(self) -> None:
        pass

    def begin(self, config: Record) -> None:
        pass

    def record(self, record: Record) -> None:
        pass

    def keep_only(self, records: Iterable[Record]) -> None:
        pass

    def report(self, write: Callable[[Path, Record], object]) -> None:
        pass

    def save(self, folder: Path, checkpoint: Checkpoint) -> None:
        pass


def is_record(record: Any) -> bool:
    """Whether a line of metrics.jsonl holds what the training loop writes."""
    if not (isinstance(record, dict) and (kinds := RECORDS.get(str(record.get("kind"))))):
        return False
    return (
        all(isinstance(record.get(name), kind) for name, kind in {"step": int, **kinds}.items())
        and all(isinstance(diagnosis, str) for diagnosis in record.get("diagnoses", ()))
        and not any(isinstance(value, int) and abs(value) > LARGEST for value in record.values())
    )


def new_run(out: str | None, preset: str) -> Run:
    """A folder of its own for a run that begins, made at once, so that two that begin together get two."""
    if out is not None:
        run = Run(Path(out))
        run.claim()
        return run
    name = f"{datetime.now():%Y-%m-%d-%H%M%S}-{preset}"
    for number in range(1, 1000):
        run = Run(RUNS / (f"{name}-{number}" if number > 1 else name))
        try:
            run.folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise WrongUse(f"{run.folder} cannot be written: {error.strerror}; give another by --out") from None
        run.hold()
        return run
    raise WrongUse(f"{RUNS} has no place for {name}; give a folder by --out")


def find_run(name: str) -> Run:
    """By its folder; or the newest, by "latest"."""
    if name != "latest":
        if not Path(name).is_dir():
            raise WrongUse(f"{name} is not the folder of a run; the newest is found by: latest")
        run, inside = Run(Path(name)), sorted(Path(name).glob("seed-*"))
        if inside and not run.has_checkpoint:
            raise WrongUse(f"{name} holds {len(inside)} runs; name one of them, such as {inside[0]}")
        return run
    folders = [*RUNS.glob("*"), *RUNS.glob("*/seed-*")]
    newest = max(map(Run, folders), key=Run.saved_at, default=None)
    if newest is None or not newest.saved_at():
        raise WrongUse(f"no run in {RUNS}{os.sep} has saved a checkpoint yet; train one first, or name its folder")
    return newest
