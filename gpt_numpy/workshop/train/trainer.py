"""The training loop, the same for both engines: step, evaluate, save, stop."""

import math
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace

from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TimeRemainingColumn
from rich.progress import Task as ProgressTask
from rich.text import Text

from gpt_numpy.workshop.console import Bar, Console
from gpt_numpy.workshop.engine import Engine
from gpt_numpy.workshop.errors import PeerLost, RunFailed, UsageError
from gpt_numpy.workshop.runs.checkpoint import Checkpoint, State
from gpt_numpy.workshop.runs.run_dir import Record
from gpt_numpy.workshop.runs.saver import Saver
from gpt_numpy.workshop.train.budget import TimeBudget
from gpt_numpy.workshop.train.distributed import Processes
from gpt_numpy.workshop.train.metrics import Metrics
from gpt_numpy.workshop.train.profile import StepProfiler
from gpt_numpy.workshop.train.signals import Stop, stop_on_signals
from gpt_numpy.workshop.train.task import Task

REPORT_SECONDS = 10.0  # between two reports, at least
# Seconds to save in after another process was lost: a device may wait for that one, and torchrun kills all after 30.
SAVE_TIMEOUT = 20.0
MIN_BAR = 4  # characters


class Figures(ProgressColumn):
    """Cut where the terminal is narrow, unlike the step and the time that is left."""

    def render(self, task: ProgressTask) -> Text:
        step, time_left = 2 * len(str(task.total)) + 1, len("1:23:45")
        room = shutil.get_terminal_size().columns - MIN_BAR - step - time_left - 3  # spaces between the four
        return Text(task.fields["figures"][: max(room, 0)], no_wrap=True)


COLUMNS = (BarColumn(bar_width=None), MofNCompleteColumn(), Figures(), TimeRemainingColumn(compact=True))


@dataclass
class Trainer:
    engine: Engine
    task: Task
    state: State
    saver: Saver
    metrics: Metrics
    console: Console
    processes: Processes
    budget: TimeBudget
    profiler: StepProfiler | None = None

    def __post_init__(self) -> None:
        self.is_resumed = bool(self.metrics.records)
        self._reported_at = -math.inf
        self._saved_at = time.monotonic()  # or when this began

    def train(self) -> Stop:
        """To the last step, or until --target-loss, --patience, --max-minutes or a signal ends it."""
        with stop_on_signals(self.processes) as stop:
            try:
                self._train(stop)
            except PeerLost as error:
                saved = "; --resume continues from the newest checkpoint" if self.metrics.evaluations else ""
                self._save_alone()
                raise PeerLost(f"{error} after step {self.state.step}{saved}") from error
            except RunFailed as error:
                self._end(f"it failed: {error}")
                raise
            except UsageError as error:  # of a user's function; what was learned so far is as good as before
                self._flush(Bar())
                self._save_last(is_best=False)
                self._end(f"it failed: {error}")
                raise
            finally:
                self.saver.wait()
                if self.profiler:
                    self.profiler.end()
            with suppress(PeerLost):  # torchrun kills all processes when one exits, and the first may still be writing
                self.processes.all_reduce_max(0)
        return stop

    def _train(self, stop: Stop) -> None:
        recipe = self.state.recipe
        if self.saver.last_saved is None:  # so that a run can be resumed from its first moment on
            self._save_last(is_best=False)
        with self.console.bar("", recipe.steps, *COLUMNS) as bar:
            while True:
                step = self.state.step
                stop.signal, flush, late, stale = self.processes.all_reduce_max(
                    stop.received, self.metrics.flush_is_due, self._time_is_up, self._checkpoint_is_stale
                )
                if flush:
                    self._flush(bar)
                done = step >= recipe.steps
                is_best = False
                if (done or late or step % recipe.eval_every == 0) and self.state.last_eval_step != step and not stop:
                    is_best = self._evaluate(bar, stop, is_last=bool(done or late))
                reason = "all steps are done" if done else reason_to_end(self.state)
                if late and not reason:
                    reason = f"{recipe.max_minutes:g} minutes are over"
                if reason or stop:
                    self._flush(bar)
                    self._save_last(is_best)
                    break
                is_due = bool(stale) or (step > 0 and step % recipe.checkpoint_every == 0)
                is_due = is_due and self.saver.last_saved != self.state
                if is_best or is_due:
                    self._flush(bar)  # a nonfinite result ends the run here
                    self._save(is_best, is_due)
                self._step()
                while self.state.step % self.task.updates:
                    self._step()
        if stop:
            reason = "it was stopped"
            self.console.say(f"stopped and saved at step {step}; continue with --resume", "yellow")
        elif not done:
            self.console.say(f"{reason}: ended early, at step {step}", "yellow")
        self._end(reason)

    @property
    def _time_is_up(self) -> bool:
        return 0 < self.state.recipe.max_minutes <= self.budget.total / 60

    @property
    def _checkpoint_is_stale(self) -> bool:
        """By the clock of the first process; all of them save the same step."""
        minutes = self.state.recipe.checkpoint_minutes
        return self.processes.first and 0 < minutes <= (time.monotonic() - self._saved_at) / 60

    def _end(self, reason: str) -> None:
        end: Record = {"kind": "end", "step": self.state.step, "reason": reason}
        if not self.is_resumed and self.metrics.warm:  # a resumed run has not timed all of its steps
            budget = {part: round(seconds, 3) for part, seconds in self.budget.seconds.items()}
            end.update(seconds=self.budget.total, seconds_in_steps=self.metrics.warm.seconds, budget=budget)
        self._record(end)
        self._report(is_last=True)

    # -- steps --

    def _step(self) -> None:
        step = self.state.step
        if self.profiler:
            self.profiler.before_step()
        start = time.perf_counter()
        result = self.engine.train_step(self.task.batch(step, self.engine), step)
        self.metrics.add_step(step, result, time.perf_counter() - start, self.task.figures())
        self.state = replace(self.state, step=step + 1)

    def _flush(self, bar: Bar) -> None:
        """Record and show the results of the latest steps; RunFailed if one is not finite."""
        if not self.metrics.pending:
            return
        for record in self.metrics.flush(self.state.recipe):
            step, loss, grad_norm = record["step"], record["loss"], record["grad_norm"]
            if not (math.isfinite(loss) and math.isfinite(grad_norm)):
                self.state = replace(self.state, step=step - 1)
                name = self.engine.first_nonfinite(self.task.batch(step - 1, self.engine), step - 1)
                raise RunFailed(
                    f"step {step}: the loss is {loss}, the norm of the gradient {grad_norm}"
                    f"{f' (the first is {name})' if name else ''}. {self.saver.hint}"
                )
            self._record(record)
        bar.at(step, self.metrics.progress())

    # -- evaluations --

    def _evaluate(self, bar: Bar, stop: Stop, is_last: bool) -> bool:
        """Evaluate, sample, record; whether the loss is the lowest so far. A signal ends it without a result."""
        self._flush(bar)
        before = state = self.state
        metrics = self.metrics
        with self.budget.measure("evaluation"):
            for progress in self.task.evaluate(self.engine):
                stop.synchronize()
                if stop:
                    return False
                bar.at(state.step, f"evaluating {progress.done:.0%}")
            validation = float(progress.loss)
        if not math.isfinite(validation):
            raise RunFailed(f"step {state.step}: the validation loss is {validation}. {self.saver.hint}")
        latest = min(100, state.recipe.eval_every)
        first = self.task.batch(0, self.engine) if not metrics.losses else None
        training = float(self.engine.loss(first)) / self.task.loss_factor if first else metrics.mean_loss(latest)
        best = state.best_loss is None or validation < state.best_loss
        if best:
            state = replace(state, best_step=state.step, best_loss=validation, evals_since_best=0)
        else:
            state = replace(state, evals_since_best=state.evals_since_best + 1)
        self.state = replace(state, last_eval_step=state.step)
        with self.budget.measure("samples"):
            is_last = is_last or bool(reason_to_end(self.state))
            shown = is_last or is_doubling(state.step, state.recipe.eval_every)
            try:
                sample = self.task.sample(self.engine, state.step) if shown else ""
            except UsageError:
                self.state = before
                raise
        record: Record = {
            "kind": "evaluation", "step": state.step, "train_loss": training, "val_loss": validation, "best": best,
            "sample": sample, **({"figures": dict(progress.figures)} if progress.figures else {}),
        }  # fmt: skip
        metrics.add_record(record)
        record["diagnoses"] = self.task.diagnoses(metrics)
        self.saver.record(record)
        first = next(one["sample"] for one in metrics.records if one["kind"] == "evaluation")
        beside = self.task.beside_first(sample, first) if sample and state.step else sample
        self._show(self.task.line(training, progress, state.step == 0), beside, record["diagnoses"])
        self._report()
        return best

    def _show(self, line: str, sample: str, diagnoses: list[str]) -> None:
        self.console.say(f"step {self.state.step:>5}   {line}".rstrip(), "bold")
        for text in sample.strip("\n").splitlines():
            self.console.say(f"    {text}", "dim")
        for diagnosis in diagnoses:
            self.console.say(diagnosis, "yellow")

    # -- records and checkpoints --

    def _record(self, record: Record) -> None:
        self.metrics.add_record(record)
        self.saver.record(record)

    def _report(self, is_last: bool = False) -> None:
        if is_last or time.monotonic() - self._reported_at >= REPORT_SECONDS:
            with self.budget.measure("report"):
                self.saver.report(self.state.step, self.metrics.records)
            self._reported_at = time.monotonic()

    def _save(self, is_best: bool, is_due: bool) -> None:
        """The weights as the best, and everything as the latest checkpoint, while the training goes on."""
        with self.budget.measure("saving"):
            self.saver.save(self._checkpoint(is_due), ["best"] * is_best + ["latest"] * is_due)
            if is_due:
                self._saved_at = time.monotonic()

    def _save_last(self, is_best: bool) -> None:
        """The same, but returns when it is saved."""
        with self.budget.measure("saving"):
            self.saver.wait()
            is_due = self.saver.last_saved != self.state
            if is_best or is_due:
                self.saver.save_last(self._checkpoint(is_due), ["best"] * is_best + ["latest"] * is_due)

    def _checkpoint(self, with_optimizer: bool) -> Checkpoint:
        optimizer_state = self.engine.optimizer_state() if with_optimizer else {}
        return Checkpoint(self.state, self.task.tokenizer, self.engine.weights(), optimizer_state)

    def _save_alone(self) -> None:
        """After another process was lost. This one still has the state after its latest step and saves that, unless it
        holds only a shard of the weights or its device waits for the lost process."""

        def save() -> None:
            try:
                self._flush(Bar())
                self._save_last(is_best=False)
                self.console.say(f"saved at step {self.state.step}; continue with --resume", "yellow")
            except PeerLost:
                pass
            except RunFailed as error:
                self.console.say(str(error), "yellow")

        saving = threading.Thread(target=save, daemon=True)
        saving.start()
        saving.join(SAVE_TIMEOUT)
        self._end("another process was lost")


def reason_to_end(state: State) -> str:
    """Why a run ends before all its steps are done; "" if it does not."""
    recipe = state.recipe
    if recipe.target_loss > 0 and state.best_loss is not None and state.best_loss <= recipe.target_loss:
        return f"a validation loss of {recipe.target_loss:g} was reached"
    if 0 < recipe.patience <= state.evals_since_best:
        return f"it was no better in {recipe.patience} evaluations"
    return ""


def is_doubling(step: int, every: int) -> bool:
    """At 0, and at `every` times 1, 2, 4, 8 and so on: a model learns more in its first hundred steps than in a later
    thousand, so its samples may become rarer."""
    count, rest = divmod(step, every)
    return rest == 0 and count & (count - 1) == 0
