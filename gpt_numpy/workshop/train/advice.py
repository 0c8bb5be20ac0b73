"""What a loss says: the phases that a character model passes through, and what a curve warns of."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Phase(NamedTuple):
    """From `above` up to the phase before it, in nats per character."""

    above: float
    meaning: str
    training_only: bool = False  # the validation loss does not get there by learning


# Measured on English plays in 65 characters; ln 65 = 4.17 is a guess among all of them.
PHASES = (
    Phase(3.6, "knows nothing"),
    Phase(2.8, "how often each character occurs"),
    Phase(2.0, 'common pairs such as "th", parts of words'),
    Phase(1.2, "real words"),
    Phase(1.0, "names, phrases", training_only=True),
    Phase(0.0, "learning by heart: watch the validation loss", training_only=True),
)


def phase_of(loss: float, training: bool = False, at_start: bool = False) -> str:
    """What a model of this loss has learned. At the start it knows nothing, however long its tokens are."""
    if at_start:
        return PHASES[0].meaning
    phases = [phase for phase in PHASES if training or not phase.training_only]
    return next((phase.meaning for phase in phases if loss > phase.above), phases[-1].meaning)


def meaning_of(training: float, validation: float, at_start: bool) -> str:
    """What both losses of an evaluation say: the phase, and what is known of the training text alone."""
    learned, by_heart = phase_of(validation, at_start=at_start), phase_of(training, training=True)
    only_there = any(phase.training_only and phase.meaning == by_heart for phase in PHASES)
    return f"{learned}; in training: {by_heart}" if only_there and not at_start else learned


def diagnose(losses: Sequence[float], evaluations: Sequence[tuple[int, float, float]], since: int) -> list[str]:
    """What is likely wrong, if anything is.

    losses         of all training steps so far
    evaluations    step, training loss around it, validation loss; oldest first
    since          steps since the evaluation before: a spike is told of once
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
    """One of the last losses far above its neighbours."""
    if len(losses) < 40:
        return None
    height, step, usual = max(_heights(losses, max(0, len(losses) - since)))
    if height <= 1.0:
        return None
    return (
        f"a spike: the loss of step {step} was {losses[step - 1]:.2f}, usually {usual:.2f}; see its text, or lower --lr"
    )


def _heights(losses: Sequence[float], first: int) -> Iterator[tuple[float, int, float]]:
    """For stretches of a hundred steps: how far its largest loss stands out (above 1 it is a spike), its step, and the
    middle of the stretch.
    """
    for end in range(len(losses), first, -100):
        stretch = losses[max(0, end - 100) : end]
        ordered = sorted(stretch)
        middle = ordered[len(ordered) // 2]
        usual = ordered[int(0.9 * len(ordered))] - middle  # how far above the middle a loss may well be
        candidates = losses[max(first, end - 100) : end]
        largest = max(candidates)
        step = end - candidates[::-1].index(largest)
        yield (largest - middle) / max(5.0 * usual, 0.5), step, middle


def _overfitting(evaluations: Sequence[tuple[int, float, float]]) -> str | None:
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


def _plateau(evaluations: Sequence[tuple[int, float, float]]) -> str | None:
    """Four evaluations in which neither loss moved by a hundredth of itself."""
    if len(evaluations) < 5:
        return None
    for losses in ([e[1] for e in evaluations[-4:]], [e[2] for e in evaluations[-4:]]):
        if max(losses) - min(losses) > 0.01 * min(losses):
            return None
    return "a plateau: neither loss moves any more; more text or a larger model would help"
