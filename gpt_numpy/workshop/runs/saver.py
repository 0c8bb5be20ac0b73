"""What a training writes to its run's folder. Training continues while a checkpoint is written, and while the disk is
full or the folder read-only."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock, Thread

import numpy as np

from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.errors import RunFailed, UsageError
from gpt_numpy.workshop.runs.checkpoint import Checkpoint, State
from gpt_numpy.workshop.runs.run_dir import Record, RunDir

WriteReport = Callable[[Path, Record, list[Record]], object]  # to a folder, from config.json and the records


class Saver:
    """A file that cannot be written is reported once, and again only after it could be written. Without the lock of the
    folder, as in all but the first of several processes, nothing is written.

    Checkpoints are written by a thread of their own, one after the other. While it writes, one best and one latest may
    wait, and a newer one takes the place of the one that waits.
    """

    def __init__(
        self,
        run_dir: RunDir,
        console: Console,
        write_report: WriteReport,
        last_saved: State | None,
        best_loss: float,
        log: Callable[[Record], object] | None = None,
    ) -> None:
        self.run_dir, self.console = run_dir, console
        self.write_report = write_report
        self.log = log  # gets the records, too
        self.last_saved = last_saved  # in checkpoints/latest
        self.best_loss = best_loss  # of checkpoints/best, which may be of a later step than the latest
        self._unwritten_best: Checkpoint | None = None
        self._reasons: dict[str, str] = {}  # why a file could not be written the last time
        self._lock = Lock()  # of these three
        self._waiting: dict[str, Checkpoint] = {}  # at most a "best" and a "latest"
        self._thread: Thread | None = None  # that writes what waits; it ends when nothing does
        self._failure: BaseException | None = None  # of the thread

    def record(self, record: Record) -> None:
        self._raise_failure()
        self._write("metrics.jsonl", record["step"], lambda: self.run_dir.append_record(record))
        if log := self.log:
            self._write("log", record["step"], lambda: log(record))

    def report(self, step: int, records: list[Record]) -> None:
        run_dir = self.run_dir
        self._write("report.html", step, lambda: self.write_report(run_dir.folder, run_dir.config, records))

    def save(self, checkpoint: Checkpoint, kinds: Sequence[str]) -> None:
        """As "best", "latest" or both; soon. What fails then is raised by the next call of this or of `record`."""
        self._raise_failure()
        with self._lock:
            self._waiting |= dict.fromkeys(kinds, checkpoint)
            if self._thread is None:
                self._thread = Thread(target=self._write_waiting, name="checkpoints", daemon=True)
                self._thread.start()

    def save_last(self, checkpoint: Checkpoint, kinds: Sequence[str]) -> None:
        """At once. RunFailed if the latest cannot be written to the folder, which says where it is instead."""
        self.wait()
        self._raise_failure()
        self._save(dict.fromkeys(kinds, checkpoint))
        if "latest" in kinds and self.last_saved is not checkpoint.state:
            self._save_elsewhere(checkpoint)

    def wait(self) -> None:
        """Until all is written."""
        while thread := self._thread:
            thread.join()

    def _write_waiting(self) -> None:
        while True:
            with self._lock:
                waiting, self._waiting = self._waiting, {}
                if not waiting or self._failure:
                    self._thread = None
                    return
            try:
                self._save(waiting)
            except BaseException as error:
                with self._lock:
                    self._failure = error

    def _raise_failure(self) -> None:
        with self._lock:
            failure, self._failure = self._failure, None
        if failure:
            raise failure

    def _save(self, checkpoints: Mapping[str, Checkpoint]) -> None:
        for checkpoint in checkpoints.values():
            self._check_finite(checkpoint)
        if best := checkpoints.get("best"):
            self._save_best(best)
        if latest := checkpoints.get("latest"):
            self._save_latest(latest)

    def _check_finite(self, checkpoint: Checkpoint) -> None:
        """RunFailed otherwise: the loss shows a bad update only in the next step."""
        for name, array in {**checkpoint.weights, **checkpoint.optimizer_state}.items():
            if not np.isfinite(array).all():
                raise RunFailed(f"step {checkpoint.state.step} has made {name} not finite. {self.hint}")

    def _save_best(self, checkpoint: Checkpoint) -> None:
        """Unless there is one with a lower loss. After a failure, _save_latest tries again."""
        loss = checkpoint.state.best_loss
        if loss is None or loss > self.best_loss:
            return
        step = checkpoint.state.step
        saved = self._write("checkpoints/best", step, lambda: self.run_dir.save_best(checkpoint))
        self._unwritten_best = None if saved else checkpoint
        if saved:
            self.best_loss = loss

    def _save_latest(self, checkpoint: Checkpoint) -> None:
        if self._unwritten_best is not None:
            self._save_best(self._unwritten_best)
        step = checkpoint.state.step
        if self._write("checkpoints/latest", step, lambda: self.run_dir.save_latest(checkpoint)):
            self.last_saved = checkpoint.state

    @property
    def newest(self) -> str:
        if self.last_saved is None:
            return "there is no checkpoint"
        return f"the newest checkpoint is of step {self.last_saved.step}"

    @property
    def hint(self) -> str:
        return f"{self.newest.capitalize()}; a lower --lr or --grad-clip 1 may help, also with --resume"

    def _save_elsewhere(self, checkpoint: Checkpoint) -> None:
        step, folder, reason = checkpoint.state.step, self.run_dir.folder, self._reasons["checkpoints/latest"]
        try:
            other = RunDir(Path(tempfile.mkdtemp(prefix="minitensor-")))
            other.save_latest(checkpoint)
            if self._unwritten_best is not None:
                other.save_best(self._unwritten_best)
        except OSError as error:
            raise RunFailed(
                f"step {step} is lost: neither {folder} ({reason}) nor a temporary folder ({error.strerror}) can be "
                f"written; {self.newest}"
            ) from None
        raise RunFailed(
            f"{folder} cannot be written ({reason}), so step {step} is saved in {other.folder}; "
            f"continue from there with --resume --out {other.folder}"
        )

    def _write(self, file: str, step: int, write: Callable[[], object]) -> bool:
        """Whether it was written."""
        if not self.run_dir.is_locked:
            return True
        if self.run_dir.was_removed:
            raise RunFailed(f"{self.run_dir.folder} was removed while it was trained; the run ends at step {step}")
        try:
            write()
        except (OSError, ValueError, UsageError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            if file not in self._reasons:
                self.console.say(
                    f"step {step}: {self.run_dir.folder / file} cannot be written: {reason}; {self.newest}", "red"
                )
            self._reasons[file] = reason
            return False
        self._reasons.pop(file, None)
        return True
