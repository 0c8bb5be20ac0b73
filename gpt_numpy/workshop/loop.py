"""The training loop, the same for both engines: step, judge, save, and say what the loss says."""

import math
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from gpt_numpy.workshop.advice import diagnose, meaning_of
from gpt_numpy.workshop.batches import Batch, batch_at
from gpt_numpy.workshop.checkpoint import State, save_checkpoint
from gpt_numpy.workshop.console import Bar, Console
from gpt_numpy.workshop.corpus import Data
from gpt_numpy.workshop.engine import Engine, Trained
from gpt_numpy.workshop.errors import RunFailed
from gpt_numpy.workshop.judging import running_loss
from gpt_numpy.workshop.report import write_report
from gpt_numpy.workshop.runs import Run
from gpt_numpy.workshop.sampling import Sampling, generate, text_start
from gpt_numpy.workshop.streams import SAMPLES
from gpt_numpy.workshop.tokenizers import Tokenizer, streamed

SAMPLE = 160  # tokens written at each evaluation
READ_EVERY = 0.25  # seconds of work between two readings of what the steps reported: reading waits for the device
COLUMNS = (
    BarColumn(bar_width=None),
    MofNCompleteColumn(),
    TextColumn("{task.fields[figures]}"),
    TimeRemainingColumn(compact=True),
)


@dataclass
class Stop:
    """Which signal asked the loop to end, if any did."""

    signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM are noted, for the loop to stop where nothing is half done. A second one ends at once."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
        yield stop
        return
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, note)
    try:
        yield stop
    finally:
        restore()


@dataclass
class Training:
    """A run under way: the engine trains, the state says how far it is, the folder keeps what happened."""

    engine: Engine
    tokenizer: Tokenizer
    data: Data
    state: State
    run: Run
    console: Console
    losses: list[float] = field(default_factory=list)  # of each step
    evaluations: list[tuple[int, float, float]] = field(default_factory=list)  # step, training and validation loss

    def __post_init__(self) -> None:
        for record in self.run.records():  # of a run that is resumed
            if record["kind"] == "step":
                self.losses.append(record["loss"])
            elif record["kind"] == "evaluation":
                self.evaluations.append((record["step"], record["train_loss"], record["val_loss"]))
        self._saved = self.state.step or None  # the step of the latest checkpoint
        self._unread: list[tuple[int, Trained]] = []  # what steps reported, after the step's number
        self._busy = 0.0  # seconds of work on them
        self._speeds: deque[tuple[float, float]] = deque(maxlen=10)  # characters and seconds, of the latest readings

    def go(self) -> Stop:
        """Train until the recipe is done, nothing improves any more, or somebody asks to stop."""
        try:
            return self._go()
        except RunFailed as error:
            self._end(f"it failed: {error}")
            raise

    def _go(self) -> Stop:
        recipe = self.state.recipe
        with stop_on_signals() as stop, self.console.bar("", recipe.steps, *COLUMNS) as bar:
            while True:
                step = self.state.step
                done = step >= recipe.steps
                if (done or step % recipe.eval_every == 0) and not self._judged(step) and not stop:
                    self._judge(bar, stop)
                tired = 0 < recipe.patience <= self.state.since_best
                due = step > 0 and step % recipe.checkpoint_every == 0
                if (due or done or tired or stop) and step != self._saved:
                    self._save(bar)
                if done or tired or stop:
                    break
                self._step(bar)
        if stop:
            self.console.say(f"stopped and saved at step {step}; go on with --resume", "yellow")
            self._end("it was stopped")
        elif tired and not done:
            self.console.say(f"no better in {recipe.patience} evaluations: ended early, at step {step}", "yellow")
            self._end(f"it was no better in {recipe.patience} evaluations")
        else:
            self._end("all steps are done")
        return stop

    def _end(self, reason: str) -> None:
        self.run.record({"kind": "end", "step": self.state.step, "reason": reason})
        write_report(self.run.folder)

    def _step(self, bar: Bar) -> None:
        step = self.state.step
        began = time.perf_counter()
        self._unread.append((step, self.engine.train_step(*self._batch(step), self.state.recipe, step)))
        self._busy += time.perf_counter() - began
        self.state = replace(self.state, step=step + 1)
        if self._busy >= READ_EVERY:
            self._read(bar)

    def _read(self, bar: Bar) -> None:
        """Record and show what the latest steps reported."""
        if not self._unread:
            return
        began = time.perf_counter()
        reported = [(step, float(trained.loss), float(trained.grad_norm)) for step, trained in self._unread]
        seconds = self._busy + time.perf_counter() - began
        recipe, tokens = self.state.recipe, self.state.recipe.batch_size * self.state.config.block_size
        self._speeds.append((len(reported) * tokens * self.data.characters_per_token, seconds))
        speed = sum(done for done, _ in self._speeds) / sum(seconds for _, seconds in self._speeds)
        self._unread, self._busy = [], 0.0
        for step, loss, grad_norm in reported:
            if not (math.isfinite(loss) and math.isfinite(grad_norm)):
                raise RunFailed(
                    f"step {step + 1}: the loss is {loss}, the norm of the gradient {grad_norm}. The checkpoints in "
                    f"{self.run.folder} are from before; a lower --lr or --grad-clip 1 may help"
                )
            self.losses.append(loss)
            self.run.record({
                "kind": "step", "step": step + 1, "loss": loss, "lr": recipe.lr_at(step), "grad_norm": grad_norm,
                "characters_per_second": round(speed, 1),
            })  # fmt: skip
        latest = self.losses[-20:]
        loss, validation = sum(latest) / len(latest), self.evaluations[-1][2] if self.evaluations else math.nan
        figures = f"loss {loss:.3f}  val {validation:.3f}  lr {recipe.lr_at(step):.0e}  grad {grad_norm:.1f}"
        bar.at(step + 1, f"{figures}  {speed / 1000:.1f}k chars/s")

    def _batch(self, step: int) -> Batch:
        return batch_at(self.data.train, self.state.config.block_size, self.state.recipe, step)

    def _judged(self, step: int) -> bool:
        return bool(self.evaluations) and self.evaluations[-1][0] == step

    def _judge(self, bar: Bar, stop: Stop) -> None:
        """An evaluation, unless asked to stop on the way."""
        self._read(bar)
        state = self.state
        for judged in running_loss(self.engine, self.data.validation):
            if stop:
                return
            bar.at(state.step, f"judging {judged.part:.0%}")
        validation = judged.mean
        if not math.isfinite(validation):
            raise RunFailed(
                f"step {state.step}: the validation loss is {validation}. The checkpoints in {self.run.folder} are "
                "from before; a lower --lr or --grad-clip 1 may help"
            )
        latest = self.losses[-min(100, state.recipe.eval_every) :] or [self.engine.loss(*self._batch(0))]
        training = sum(latest) / len(latest)
        self.evaluations.append((state.step, training, validation))
        best = state.best_loss is None or validation < state.best_loss
        if best:
            self.state = replace(state, best_step=state.step, best_loss=validation, since_best=0)
        else:
            self.state = replace(state, since_best=state.since_best + 1)
        diagnoses = diagnose(self.losses, self.evaluations, since=state.recipe.eval_every)
        sample = self._sample()
        self.run.record({
            "kind": "evaluation", "step": state.step, "train_loss": training, "val_loss": validation, "best": best,
            "sample": sample, "diagnoses": diagnoses,
        })  # fmt: skip
        self._show(training, validation, sample, diagnoses)
        if best:
            save_checkpoint(self.run.best, self.engine, self.tokenizer, self.state)
        write_report(self.run.folder)

    def _sample(self) -> str:
        start = text_start(self.tokenizer)
        tokens = generate(self.engine, start, SAMPLE, Sampling(), (self.state.recipe.seed, self.state.step, SAMPLES))
        return "".join(streamed(self.tokenizer, tokens))

    def _show(self, training: float, validation: float, sample: str, diagnoses: list[str]) -> None:
        per_character = 1.0 / self.data.characters_per_token
        beside = [f"{validation * per_character:.3f} a character"] if per_character != 1.0 else []
        beside += [f"floor {self.data.floor:.3f}"] if self.data.floor is not None else []
        told = f" ({', '.join(beside)})" if beside else ""
        meaning = meaning_of(training * per_character, validation * per_character, at_start=self.state.step == 0)
        self.console.say(
            f"step {self.state.step:>5}   train {training:.3f}   val {validation:.3f}{told}   {meaning}", "bold"
        )
        for line in sample.strip("\n").splitlines():
            self.console.say(f"    {line}", "dim")
        for diagnosis in diagnoses:
            self.console.say(diagnosis, "yellow")

    def _save(self, bar: Bar) -> None:
        self._read(bar)  # a step that went wrong ends the run here: what is saved is sound
        save_checkpoint(self.run.latest, self.engine, self.tokenizer, self.state)
        self._saved = self.state.step
