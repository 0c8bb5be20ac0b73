"""What a loss says: the phases that a character model passes through, and what a curve warns of."""

from collections.abc import Sequence
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


def phase_of(loss: float, training: bool = False) -> str:
    """What a model of this loss has learned."""
    phases = [phase for phase in PHASES if training or not phase.training_only]
    return next((phase.meaning for phase in phases if loss > phase.above), phases[-1].meaning)


def diagnose(losses: Sequence[float], evaluations: Sequence[tuple[int, float, float]]) -> list[str]:
    """What is likely wrong, if anything is.

    losses         of all training steps so far
    evaluations    step, training loss around it, validation loss; oldest first
    """
    found = (_stuck(losses), _spike(losses), _overfitting(evaluations), _plateau(evaluations))
    return [warning for warning in found if warning]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _stuck(losses: Sequence[float]) -> str | None:
    if len(losses) < 100 or _mean(losses[-20:]) < 0.98 * _mean(losses[:5]):
        return None
    return "the training loss is not falling: a bug, or a learning rate that is far too high or too low"


def _spike(losses: Sequence[float]) -> str | None:
    """One of the last 100 losses far above its neighbours."""
    if len(losses) < 40:
        return None
    recent = sorted(losses[-100:])
    middle = recent[len(recent) // 2]
    usual = recent[int(0.9 * len(recent))] - middle  # how far above the middle a loss may well be
    if recent[-1] < middle + max(5.0 * usual, 0.5):
        return None
    step = len(losses) - losses[::-1].index(recent[-1])
    return f"a spike: the loss of step {step} was {recent[-1]:.2f}, usually {middle:.2f}; see its text, or lower --lr"


def _overfitting(evaluations: Sequence[tuple[int, float, float]]) -> str | None:
    """The validation loss has risen twice since its best, while the training loss fell."""
    if len(evaluations) < 4:
        return None
    best = min(range(len(evaluations)), key=lambda i: evaluations[i][2])
    step, training, validation = evaluations[best]
    _, training_now, validation_now = evaluations[-1]
    if len(evaluations) - best < 3 or validation_now < 1.01 * validation or training_now >= training:
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
