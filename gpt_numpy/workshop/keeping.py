"""What is kept of a run under way: training goes on when the disk is full, or the folder is gone."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from gpt_numpy.workshop.checkpoint import Checkpoint
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.errors import RunFailed, WrongUse
from gpt_numpy.workshop.report import write_report
from gpt_numpy.workshop.runs import Record, Run


class Keeper:
    """Writes to the folder of a run. What cannot be written is told of once, until it could be written again."""

    def __init__(self, run: Run, console: Console, safe: int) -> None:
        self.run, self.console = run, console
        self.safe = safe  # the step of the newest checkpoint
        self.made_again = False  # the folder was removed, and the new one has no checkpoint yet
        self._reasons: dict[str, str] = {}  # why it could not be written when it was last tried, by file

    def record(self, record: Record) -> None:
        self._write("metrics.jsonl", record["step"], lambda: self.run.record(record))

    def report(self) -> None:
        self._write("report.html", self.safe, lambda: self.run.report(write_report))

    def best(self, checkpoint: Checkpoint) -> None:
        self._save(self.run.best, checkpoint)

    def latest(self, checkpoint: Checkpoint, is_last: bool) -> None:
        """RunFailed if it is the last one and cannot be written where it should be."""
        self.made_again = False
        if not self._save(self.run.latest, checkpoint) and is_last:
            self._save_elsewhere(checkpoint)

    def _save(self, folder: Path, checkpoint: Checkpoint) -> bool:
        step = checkpoint.state.step
        done = self._write(f"checkpoints/{folder.name}", step, lambda: self.run.save(folder, checkpoint))
        self.safe = step if done else self.safe
        return done

    def _save_elsewhere(self, checkpoint: Checkpoint) -> None:
        step, here, reason = checkpoint.state.step, self.run.folder, self._reasons["checkpoints/latest"]
        try:
            other = Run(Path(tempfile.mkdtemp(prefix="minitensor-")))
            other.save(other.latest, checkpoint)
        except OSError as error:
            raise RunFailed(
                f"step {step} is lost: neither {here} ({reason}) nor {tempfile.gettempdir()} ({error.strerror}) can be "
                f"written; the newest checkpoint is of step {self.safe}"
            ) from None
        raise RunFailed(
            f"{here} cannot be written ({reason}), so step {step} is saved in {other.folder}; go on from there by "
            f"--resume --out {other.folder}"
        )

    def _write(self, what: str, step: int, write: Callable[[], object]) -> bool:
        """Whether it could be written."""
        try:
            if self.run.made_again():
                self.made_again = True
                self.console.say(f"{self.run.folder} was removed: made again, for what comes from now on", "yellow")
            write()
        except (OSError, ValueError, WrongUse) as error:
            reason = getattr(error, "strerror", None) or str(error)
            if what not in self._reasons:
                newest = f"the newest checkpoint is of step {self.safe}"
                self.console.say(f"step {step}: {self.run.folder / what} cannot be written: {reason}; {newest}", "red")
            self._reasons[what] = reason
            return False
        self._reasons.pop(what, None)
        return True
