"""The losses of a run: read from the engine, averaged, recorded, and looked at for what may be wrong."""

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gpt_numpy.workshop.engine import StepResult
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.runs.run_dir import Record
from gpt_numpy.workshop.train.budget import TimeBudget

# To read a loss is to wait for the device. So those of some steps are read together: after so many seconds, and after
# so many steps, since a GPU may be that far behind.
FLUSH_SECONDS, FLUSH_STEPS = 0.25, 64


@dataclass(frozen=True)
class Throughput:
    tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Throughput") -> "Throughput":
        return Throughput(self.tokens + other.tokens, self.seconds + other.seconds)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


class Evaluation(NamedTuple):
    step: int
    training: float  # mean loss of the latest steps
    validation: float


class Metrics:
    """What was measured so far. `records` is the content of metrics.jsonl."""

    def __init__(
        self, tokens_per_step: int, characters_per_token: float, budget: TimeBudget, records: Sequence[Record] = (),
        loss_factor: float = 1.0,
    ) -> None:  # fmt: skip
        self.tokens_per_step, self.characters_per_token, self.budget = tokens_per_step, characters_per_token, budget
        self.loss_factor = loss_factor
        self.records: list[Record] = []
        self.losses: list[float] = []
        self.evaluations: list[Evaluation] = []
        for record in records:
            self.add_record(record)
        # Results not read yet, with their steps and what else was measured of these.
        self.pending: list[tuple[int, StepResult, Mapping[str, float]]] = []
        self._host_seconds = 0.0  # spent on these steps
        self._flushed = time.perf_counter()
        self._recent: deque[Throughput] = deque(maxlen=10)
        self.warm: Throughput | None = None  # of all steps but the first, in which engines warm up

    def add_record(self, record: Record) -> None:
        self.records.append(record)
        if record["kind"] == "step":
            self.losses.append(record["loss"])
        elif record["kind"] == "evaluation":
            self.evaluations.append(Evaluation(record["step"], record["train_loss"], record["val_loss"]))

    def add_step(
        self, step: int, result: StepResult, seconds: float, figures: Mapping[str, float] | None = None
    ) -> None:
        self.pending.append((step, result, figures or {}))
        self._host_seconds += seconds

    @property
    def flush_is_due(self) -> bool:
        waited = time.perf_counter() - self._flushed
        return bool(self.pending) and (self.warm is None or waited >= FLUSH_SECONDS or len(self.pending) >= FLUSH_STEPS)

    def flush(self, recipe: Recipe) -> list[Record]:
        """Records of the pending steps, which may not be finite."""
        start = time.perf_counter()
        results = [
            (step, float(one.loss) / self.loss_factor, float(one.grad_norm), figures)
            for step, one, figures in self.pending
        ]
        seconds = self._host_seconds + time.perf_counter() - start
        measured = Throughput(len(results) * self.tokens_per_step, seconds)
        self.budget.seconds["first step" if self.warm is None else "other steps"] += seconds
        self.warm = Throughput() if self.warm is None else self.warm + measured
        speed = sum(self._recent, measured).tokens_per_second * self.characters_per_token
        if self.warm.seconds:
            self._recent.append(measured)
        self.pending, self._host_seconds, self._flushed = [], 0.0, time.perf_counter()
        return [
            {
                "kind": "step", "step": step + 1, "loss": loss, "lr": recipe.lr_at(step), "grad_norm": grad_norm,
                "characters_per_second": round(speed, 1), **({"figures": dict(figures)} if figures else {}),
            }
            for step, loss, grad_norm, figures in results
        ]  # fmt: skip

    def mean_loss(self, steps: int) -> float:
        """Of the latest training steps."""
        return _mean(self.losses[-steps:])

    def progress(self) -> str:
        """The figures beside the progress bar."""
        latest = next(record for record in reversed(self.records) if record["kind"] == "step")
        if figures := latest.get("figures"):
            return "  ".join(f"{name} {value:z.2f}" for name, value in figures.items())
        validation = self.evaluations[-1].validation if self.evaluations else math.nan
        return (
            f"loss {self.mean_loss(20):.3f}  val {validation:.3f}  lr {latest['lr']:.0e}  "
            f"grad {latest['grad_norm']:.1f}  {latest['characters_per_second'] / 1000:.1f}k chars/s"
        )


# ---- what may be wrong ------------------------------------------------------------------------------------------


def diagnose(losses: Sequence[float], evaluations: Sequence[Evaluation], since: int) -> list[str]:
    """Warnings about the curves.

    losses         of all training steps so far
    evaluations    oldest first
    since          steps since the previous evaluation: a spike is reported once
    """
    found = (_stuck(losses), _spike(losses, since), _overfitting(evaluations), _plateau(evaluations))
    return [warning for warning in found if warning]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _stuck(losses: Sequence[float]) -> str | None:
    if len(losses) < 100 or _mean(losses[-20:]) < 0.98 * _mean(losses[:5]):
        return None
    return "the training loss is not falling: a bug, or a learning rate that is far too high or too low"


def _spike(losses: Sequence[float], since: int) -> str | None:
    """A recent loss far above its neighbours."""
    if len(losses) < 40:
        return None
    height, step, usual = max(_heights(losses, max(0, len(losses) - since)))
    if height <= 1.0:
        return None
    return (
        f"a spike: step {step} had a loss of {losses[step - 1]:.2f}, usually {usual:.2f}; see its batch, or lower --lr"
    )


def _heights(losses: Sequence[float], first: int) -> Iterator[tuple[float, int, float]]:
    """For each stretch of a hundred steps: how far its largest loss stands out (a spike if above 1), the step of that
    loss, and the median."""
    for end in range(len(losses), first, -100):
        stretch = losses[max(0, end - 100) : end]
        ordered = sorted(stretch)
        median = ordered[len(ordered) // 2]
        usual = ordered[int(0.9 * len(ordered))] - median  # the deviation of an ordinary loss
        candidates = losses[max(first, end - 100) : end]
        largest = max(candidates)
        step = end - candidates[::-1].index(largest)
        yield (largest - median) / max(5.0 * usual, 0.5), step, median


def _overfitting(evaluations: Sequence[Evaluation]) -> str | None:
    """The last two validation losses are above the best, and rising, while the training loss fell."""
    if len(evaluations) < 4:
        return None
    best = min(range(len(evaluations)), key=lambda i: evaluations[i][2])
    step, training, validation = evaluations[best]
    _, training_now, validation_now = evaluations[-1]
    rising = evaluations[-1][2] > evaluations[-2][2]
    if len(evaluations) - best < 3 or not rising or validation_now < 1.01 * validation or training_now >= training:
        return None
    return f"overfitting: best was step {step}, validation loss {validation:.3f}; stop there, or add dropout or text"


def _plateau(evaluations: Sequence[Evaluation]) -> str | None:
    """Four evaluations in which neither loss moved by a hundredth of itself."""
    if len(evaluations) < 5:
        return None
    for losses in ([e[1] for e in evaluations[-4:]], [e[2] for e in evaluations[-4:]]):
        if max(losses) - min(losses) > 0.01 * min(losses):
            return None
    return "a plateau: neither loss moves any more; more text or a larger model would help"
