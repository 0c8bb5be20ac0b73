"""The training loop, the same for both engines: step, judge, save, and say what the loss says."""

import math
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from gpt_numpy.workshop.console import Bar, Console
from gpt_numpy.workshop.data.dataloader import Batch, batch_at
from gpt_numpy.workshop.data.dataset import Dataset
from gpt_numpy.workshop.data.tokenizer import Tokenizer
from gpt_numpy.workshop.engine import Engine, Trained
from gpt_numpy.workshop.errors import Lost, RunFailed
from gpt_numpy.workshop.generate import Sampling, decode_stream, generate, text_start
from gpt_numpy.workshop.rng import SAMPLES
from gpt_numpy.workshop.runs.checkpoint import Checkpoint, State
from gpt_numpy.workshop.runs.run_dir import Record, Run
from gpt_numpy.workshop.runs.saver import Keeper
from gpt_numpy.workshop.train.advice import diagnose, meaning_of
from gpt_numpy.workshop.train.budget import Budget
from gpt_numpy.workshop.train.distributed import Processes
from gpt_numpy.workshop.train.evaluate import running_loss
from gpt_numpy.workshop.train.signals import Stop, stop_on_signals

SAMPLE = 160  # tokens written at each evaluation
ALONE = 20.0  # seconds to save in after a loss: a device may wait for the lost one, and torchrun ends all after 30
# What steps reported is read, which waits for the device, after so many seconds, or so many steps: a GPU may be that
# far behind the clock.
READ_EVERY, READ_STEPS = 0.25, 64
COLUMNS = (
    BarColumn(bar_width=None),
    MofNCompleteColumn(),
    TextColumn("{task.fields[figures]}"),
    TimeRemainingColumn(compact=True),
)


@dataclass(frozen=True)
class Work:
    """Training that was done, and how long it took."""

    tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.tokens + other.tokens, self.seconds + other.seconds)

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass
class Training:
    """A run under way: the engine trains, the state says how far it is, the folder keeps what happened."""

    engine: Engine
    tokenizer: Tokenizer
    data: Dataset
    state: State
    run: Run
    console: Console
    processes: Processes
    before: list[Record] = field(default_factory=list)  # what was recorded up to here, of a run that is resumed
    is_latest: bool = False  # whether checkpoints/latest is of this state
    budget: Budget = field(default_factory=Budget)
    losses: list[float] = field(default_factory=list)  # of each step
    evaluations: list[tuple[int, float, float]] = field(default_factory=list)  # step, training and validation loss

    def __post_init__(self) -> None:
        for record in self.before:
            if record["kind"] == "step":
                self.losses.append(record["loss"])
            elif record["kind"] == "evaluation":
                self.evaluations.append((record["step"], record["train_loss"], record["val_loss"]))
        self._saved = self._progress if self.is_latest else None  # of checkpoints/latest
        self.keeper = Keeper(self.run, self.console, self.state.step)
        self._read_at = time.perf_counter()
        self._unread: list[tuple[int, Trained]] = []  # what steps reported, after the step's number
        self._busy = 0.0  # seconds of work on them
        self._latest: deque[Work] = deque(maxlen=10)  # of the latest readings
        self.steady: Work | None = None  # all but the first step, in which engines warm up

    def go(self) -> Stop:
        """Train until the recipe is done, nothing improves any more, or somebody asks to stop."""
        with stop_on_signals(self.processes) as stop:
            try:
                self._go(stop)
            except Lost as error:
                saved = "; --resume goes on from the newest checkpoint" if self.evaluations else ""
                self._keep_alone()
                raise Lost(f"{error} after step {self.state.step}{saved}") from error
            except RunFailed as error:
                self._end(f"it failed: {error}")
                raise
            with suppress(Lost):  # a launcher ends all where one ends early, and the first has most to write
                self.processes.largest(0)
        return stop

    def _go(self, stop: Stop) -> None:
        recipe = self.state.recipe
        if self._saved is None:  # so that a run can be resumed from its first moment on, or else ends in it
            with self.budget.spent_on("saving"):
                self.run.save(self.run.latest, self._checkpoint())
        with self.console.bar("", recipe.steps, *COLUMNS) as bar:
            while True:
                step = self.state.step
                stop.signal, read, made_again = self.processes.largest(
                    stop.noted, self._should_read(), self.keeper.made_again
                )
                if read:
                    self._read(bar)
                done = step >= recipe.steps
                if (done or step % recipe.eval_every == 0) and self.state.judged != step and not stop:
                    self._judge(bar, stop)
                tired = 0 < recipe.patience <= self.state.since_best
                last = done or tired or bool(stop)
                due = last or (step > 0 and step % recipe.checkpoint_every == 0)
                if (due and self._saved != self._progress) or made_again:
                    self._save(bar, last)
                if last:
                    break
                self._step()
        if stop:
            self.console.say(f"stopped and saved at step {step}; go on with --resume", "yellow")
            self._end("it was stopped")
        elif tired and not done:
            self.console.say(f"no better in {recipe.patience} evaluations: ended early, at step {step}", "yellow")
            self._end(f"it was no better in {recipe.patience} evaluations")
        else:
            self._end("all steps are done")

    def _end(self, reason: str) -> None:
        end: Record = {"kind": "end", "step": self.state.step, "reason": reason}
        if not self.before and self.steady:  # in one sitting, so that its time says something
            budget = {part: round(seconds, 3) for part, seconds in self.budget.seconds.items()}
            end.update(seconds=self.budget.total, seconds_in_steps=self.steady.seconds, budget=budget)
        self.keeper.record(end)
        self._report()

    def _report(self) -> None:
        with self.budget.spent_on("report"):
            self.keeper.report()

    def _keep_alone(self) -> None:
        """Another process has gone. What this one has is as it was after the latest step. But an engine that has only a
        part of the weights cannot save them, nor can one whose device waits for the lost process; then the checkpoint
        before stays the newest."""

        def save() -> None:
            try:
                if self._saved != self._progress:
                    self._save(Bar(), is_last=True)
                self.console.say(f"saved at step {self.state.step}; go on with --resume", "yellow")
            except Lost:
                pass
            except RunFailed as error:
                self.console.say(str(error), "yellow")

        saving = threading.Thread(target=save, daemon=True)
        saving.start()
        saving.join(ALONE)
        self._end("another process was lost")

    def _step(self) -> None:
        step = self.state.step
        began = time.perf_counter()
        self._unread.append((step, self.engine.train_step(*self._batch(step), self.state.recipe, step)))
        self._busy += time.perf_counter() - began
        self.state = replace(self.state, step=step + 1)

    def _should_read(self) -> bool:
        waited = time.perf_counter() - self._read_at
        return bool(self._unread) and (self.steady is None or waited >= READ_EVERY or len(self._unread) >= READ_STEPS)

    def _read(self, bar: Bar) -> None:
        """Record and show what the latest steps reported."""
        if not self._unread:
            return
        began = time.perf_counter()
        reported = [(step, float(trained.loss), float(trained.grad_norm)) for step, trained in self._unread]
        seconds = self._busy + time.perf_counter() - began
        recipe, tokens = self.state.recipe, self.state.recipe.batch_size * self.state.config.block_size
        done = Work(len(reported) * tokens, seconds)
        self.budget.seconds["first step" if self.steady is None else "other steps"] += seconds
        self.steady = Work() if self.steady is None else self.steady + done
        recent = sum(self._latest, done)
        if self.steady.seconds:
            self._latest.append(done)
        speed = recent.speed * self.data.characters_per_token
        self._unread, self._busy, self._read_at = [], 0.0, time.perf_counter()
        for step, loss, grad_norm in reported:
            if not (math.isfinite(loss) and math.isfinite(grad_norm)):
                self.state = replace(self.state, step=step)
                first = self.engine.first_not_finite(*self._batch(step), recipe, step)
                raise RunFailed(
                    f"step {step + 1}: the loss is {loss}, the norm of the gradient {grad_norm}"
                    f"{f' (the first is {first})' if first else ''}. {self._way_out()}"
                )
            self.losses.append(loss)
            self.keeper.record({
                "kind": "step", "step": step + 1, "loss": loss, "lr": recipe.lr_at(step), "grad_norm": grad_norm,
                "characters_per_second": round(speed, 1),
            })  # fmt: skip
        latest = self.losses[-20:]
        loss, validation = sum(latest) / len(latest), self.evaluations[-1][2] if self.evaluations else math.nan
        figures = f"loss {loss:.3f}  val {validation:.3f}  lr {recipe.lr_at(step):.0e}  grad {grad_norm:.1f}"
        bar.at(step + 1, f"{figures}  {speed / 1000:.1f}k chars/s")

    def _batch(self, step: int) -> Batch:
        return batch_at(self.data.train, self.state.config.block_size, self.state.recipe, step)

    def _judge(self, bar: Bar, stop: Stop) -> None:
        """An evaluation, unless asked to stop on the way."""
        self._read(bar)
        state = self.state
        with self.budget.spent_on("evaluation"):
            for judged in running_loss(self.engine, self.data.validation):
                stop.listen()
                if stop:
                    return
                bar.at(state.step, f"judging {judged.part:.0%}")
        validation = judged.mean
        if not math.isfinite(validation):
            raise RunFailed(f"step {state.step}: the validation loss is {validation}. {self._way_out()}")
        latest = self.losses[-min(100, state.recipe.eval_every) :] or [self.engine.loss(*self._batch(0))]
        training = sum(latest) / len(latest)
        self.evaluations.append((state.step, training, validation))
        best = state.best_loss is None or validation < state.best_loss
        if best:
            state = replace(state, best_step=state.step, best_loss=validation, since_best=0)
        else:
            state = replace(state, since_best=state.since_best + 1)
        self.state = replace(state, judged=state.step)
        diagnoses = diagnose(self.losses, self.evaluations, since=state.recipe.eval_every)
        with self.budget.spent_on("samples"):
            sample = self._sample()
        self.keeper.record({
            "kind": "evaluation", "step": state.step, "train_loss": training, "val_loss": validation, "best": best,
            "sample": sample, "diagnoses": diagnoses,
        })  # fmt: skip
        self._show(training, validation, sample, diagnoses)
        if best:
            with self.budget.spent_on("saving"):
                self.keeper.best(self._checkpoint())
        self._report()

    def _sample(self) -> str:
        start = text_start(self.tokenizer)
        tokens = generate(self.engine, start, SAMPLE, Sampling(), (self.state.recipe.seed, self.state.step, SAMPLES))
        return "".join(decode_stream(self.tokenizer, tokens))

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

    @property
    def _progress(self) -> tuple[int, int]:
        return self.state.step, self.state.judged

    def _checkpoint(self) -> Checkpoint:
        """What is saved is sound, so that a run can go on from it: losses tell of a step only after the next one."""
        weights, memory = self.engine.weights(), self.engine.optimizer_state()
        for name, array in {**weights, **memory}.items():
            if not np.isfinite(array).all():
                raise RunFailed(f"step {self.state.step} has made {name} not finite. {self._way_out()}")
        return Checkpoint(self.state, self.tokenizer, weights, memory)

    def _save(self, bar: Bar, is_last: bool) -> None:
        self._read(bar)  # a step that went wrong ends the run here
        self._saved = self._progress
        with self.budget.spent_on("saving"):
            self.keeper.latest(self._checkpoint(), is_last)

    def _way_out(self) -> str:
        return f"{self.keeper.newest.capitalize()}; a lower --lr or --grad-clip 1 may help, also with --resume"
