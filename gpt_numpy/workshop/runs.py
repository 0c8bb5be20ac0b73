"""A run's folder: config.json, metrics.jsonl, checkpoints/latest, checkpoints/best, report.html."""

import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from gpt_numpy.workshop.checkpoint import Checkpoint, load_checkpoint
from gpt_numpy.workshop.errors import WrongUse

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

    def begin(self, config: Record) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        except OSError as error:
            raise WrongUse(f"{self.folder} cannot be written: {error.strerror}") from None

    def record(self, record: Record) -> None:
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def records(self) -> Iterator[Record]:
        """What was recorded; without a last line that was cut off."""
        if self.metrics.exists():
            for line in self.metrics.read_text(encoding="utf-8").splitlines():
                try:
                    yield json.loads(line)
                except ValueError:
                    return

    def forget_after(self, step: int) -> None:
        """Drop what was recorded after this step: it will be done again."""
        kept = [record for record in self.records() if record["step"] <= step]
        beside = self.metrics.with_suffix(".new")
        beside.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        os.replace(beside, self.metrics)

    def checkpoint(self, which: str) -> Checkpoint:
        """ "best" or "latest"; the latest too where no evaluation has chosen a best yet."""
        if which == "best" and not self.best.exists():
            which = "latest"
        return load_checkpoint(self.folder / "checkpoints" / which)


def new_run(out: str | None, preset: str) -> Run:
    """A folder of its own for a run that begins."""
    if out is not None:
        if Run(Path(out)).metrics.exists():
            raise WrongUse(f"{out} holds a run already; go on with it by --resume, or give another folder")
        return Run(Path(out))
    name = f"{datetime.now():%Y-%m-%d-%H%M%S}-{preset}"
    return Run(next(folder for folder in _numbered(RUNS / name) if not folder.exists()))


def _numbered(folder: Path) -> Iterator[Path]:
    yield folder
    for number in range(2, 1000):
        yield folder.with_name(f"{folder.name}-{number}")


def find_run(name: str) -> Run:
    """By its folder; or the newest, by "latest"."""
    if name != "latest":
        if not Path(name).is_dir():
            raise WrongUse(f"{name} is not the folder of a run; the newest is found by: latest")
        return Run(Path(name))
    found = [path for path in RUNS.glob("*/checkpoints/latest/state.json") if path.is_file()]
    if not found:
        raise WrongUse(f"no run in {RUNS}{os.sep} has saved a checkpoint yet; train one first, or name its folder")
    return Run(max(found, key=lambda path: path.stat().st_mtime_ns).parents[2])
