"""What is kept of a run under way: training goes on when the disk is full, or the folder is gone."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from gpt_numpy.workshop.runs.checkpoint import Checkpoint
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.errors import RunFailed, WrongUse
from gpt_numpy.workshop.report.report import write_report
from gpt_numpy.workshop.runs.run_dir import Record, Run


class Keeper:
    """Writes to the folder of a run. What cannot be written is told of once, until it could be written again."""

    def __init__(self, run: Run, console: Console, safe: int) -> None:
        self.run, self.console = run, console
        self.safe: int | None = safe  # the step of the newest checkpoint
        self._best: Checkpoint | None = None  # that could not be written yet
        self.made_again = False  # the folder was removed, and the new one has no checkpoint yet
        self._reasons: dict[str, str] = {}  # why it could not be written when it was last tried, by file

    def record(self, record: Record) -> None:
        self._write("metrics.jsonl", record["step"], lambda: self.run.record(record))

    def report(self) -> None:
        self._write("report.html", self.safe or 0, lambda: self.run.report(write_report))

    def best(self, checkpoint: Checkpoint) -> None:
        """Where this fails, it is tried again with each checkpoint, until there is a better one."""
        self._best = None if self._save(self.run.best, checkpoint) else checkpoint

    @property
    def newest(self) -> str:
        return "there is no checkpoint" if self.safe is None else f"the newest checkpoint is of step {self.safe}"

    def latest(self, checkpoint: Checkpoint, is_last: bool) -> None:
        """RunFailed if it is the last one and cannot be written where it should be."""
        self.made_again = False
        if self._best is not None:
            self.best(self._best)
        if not self._save(self.run.latest, checkpoint) and is_last:
            self._save_elsewhere(checkpoint)

    def _save(self, folder: Path, checkpoint: Checkpoint) -> bool:
        step = checkpoint.state.step
        done = self._write(f"checkpoints/{folder.name}", step, lambda: self.run.save(folder, checkpoint))
        self.safe = max(step, self.safe or 0) if done else self.safe
        return done

    def _save_elsewhere(self, checkpoint: Checkpoint) -> None:
        step, here, reason = checkpoint.state.step, self.run.folder, self._reasons["checkpoints/latest"]
        try:
            other = Run(Path(tempfile.mkdtemp(prefix="minitensor-")))
            other.save(other.latest, checkpoint)
            if self._best is not None:
                other.save(other.best, self._best)
        except OSError as error:
            raise RunFailed(
                f"step {step} is lost: neither {here} ({reason}) nor a folder for temporary files ({error.strerror}) "
                f"can be written; {self.newest}"
            ) from None
        raise RunFailed(
            f"{here} cannot be written ({reason}), so step {step} is saved in {other.folder}; go on from there by "
            f"--resume --out {other.folder}"
        )

    def _write(self, what: str, step: int, write: Callable[[], object]) -> bool:
        """Whether it could be written."""
        try:
            if self.run.made_again():
                self.made_again, self.safe = True, None
                self.console.say(f"{self.run.folder} was removed: made again, for what comes from now on", "yellow")
            write()
        except (OSError, ValueError, WrongUse) as error:
            reason = getattr(error, "strerror", None) or str(error)
            if what not in self._reasons:
                self.console.say(
                    f"step {step}: {self.run.folder / what} cannot be written: {reason}; {self.newest}", "red"
                )
            self._reasons[what] = reason
            return False
        self._reasons.pop(what, None)
        return True
