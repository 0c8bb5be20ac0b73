"""A run's folder: config.json, metrics.jsonl, checkpoints/latest, checkpoints/best, report.html."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from gpt_numpy.workshop.checkpoint import Checkpoint, Saved, State, load_checkpoint, save_checkpoint, saved_in
from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.tokenizers import Tokenizer

RUNS = Path("runs")
Record = dict[str, Any]


class Run:
    """The folder of one training run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics = folder / "metrics.jsonl"

    @property
    def latest(self) -> Path:
        return self.folder / "checkpoints" / "latest"

    @property
    def best(self) -> Path:
        return self.folder / "checkpoints" / "best"

    def claim(self) -> None:
        """Make the folder, before anything takes time; WrongUse if it is somebody else's."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if any(self.folder.iterdir()):
                if self.metrics.exists():
                    raise WrongUse(
                        f"{self.folder} holds a run already; go on with it by --resume, or give another folder"
                    )
                raise WrongUse(f"{self.folder} is not empty; give another folder")
        except OSError as error:
            raise WrongUse(f"{self.folder} cannot be written: {error.strerror}") from None

    def give_up(self) -> None:
        """Nothing came of it: an empty folder goes."""
        with suppress(OSError):
            self.folder.rmdir()

    def begin(self, config: Record) -> None:
        """Say what the run is; when it is resumed, it has begun when it began."""
        path = self.folder / "config.json"
        with suppress(OSError, ValueError):  # it is for people; without it a run goes on as well
            before = json.loads(path.read_text(encoding="utf-8"))
            if "started" in before:
                config = {**config, "started": before["started"]}
        path.write_text(json.dumps(config, indent=2), encoding="utf-8")

    def record(self, record: Record) -> None:
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def records(self) -> Iterator[Record]:
        """What was recorded; a line that was cut off or damaged is left out."""
        if self.metrics.exists():
            for line in self.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError):
                    yield json.loads(line)

    def forget_after(self, step: int) -> None:
        """Drop what was recorded after this step, and that the run ended: it goes on, and will do this again."""
        kept = [record for record in self.records() if record["kind"] != "end" and record["step"] <= step]
        beside = self.metrics.with_suffix(".new")
        beside.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        os.replace(beside, self.metrics)

    def save(self, folder: Path, model: Saved, tokenizer: Tokenizer, state: State) -> None:
        save_checkpoint(folder, model, tokenizer, state)

    def checkpoint(self, which: str) -> Checkpoint:
        """ "best"; or "latest", that of the most steps, which may be the best one."""
        if which == "best" and saved_in(self.best):
            return load_checkpoint(self.best)
        kept = [load_checkpoint(folder) for folder in (self.latest, self.best) if saved_in(folder)]
        if not kept:
            raise WrongUse(f"{self.folder} holds no checkpoint; a run saves its first one at its first evaluation")
        return max(kept, key=lambda checkpoint: checkpoint.state.step)

    def saved_at(self) -> int:
        """When its newest checkpoint was written, in nanoseconds; 0 if there is none."""
        kept = [saved_in(folder) for folder in (self.latest, self.best)]
        return max((folder.stat().st_mtime_ns for folder in kept if folder), default=0)


class Onlooker(Run):
    """A run in the eyes of a process that does not write it, because another does."""

    def give_up(self) -> None:
        pass

    def begin(self, config: Record) -> None:
        pass

    def record(self, record: Record) -> None:
        pass

    def forget_after(self, step: int) -> None:
        pass

    def save(self, folder: Path, model: Saved, tokenizer: Tokenizer, state: State) -> None:
        model.weights(), model.optimizer_state()  # the parts that this process has go to the one that writes


def new_run(out: str | None, preset: str) -> Run:
    """A folder of its own for a run that begins, made at once, so that two that begin together get two."""
    if out is not None:
        run = Run(Path(out))
        run.claim()
        return run
    name = f"{datetime.now():%Y-%m-%d-%H%M%S}-{preset}"
    for number in range(1, 1000):
        folder = RUNS / (f"{name}-{number}" if number > 1 else name)
        try:
            folder.mkdir(parents=True)
            return Run(folder)
        except FileExistsError:
            continue
        except OSError as error:
            raise WrongUse(f"{folder} cannot be written: {error.strerror}; give another by --out") from None
    raise WrongUse(f"{RUNS} has no place for {name}; give a folder by --out")


def find_run(name: str) -> Run:
    """By its folder; or the newest, by "latest"."""
    if name != "latest":
        if not Path(name).is_dir():
            raise WrongUse(f"{name} is not the folder of a run; the newest is found by: latest")
        return Run(Path(name))
    newest = max((Run(folder) for folder in RUNS.glob("*")), key=Run.saved_at, default=None)
    if newest is None or not newest.saved_at():
        raise WrongUse(f"no run in {RUNS}{os.sep} has saved a checkpoint yet; train one first, or name its folder")
    return newest
