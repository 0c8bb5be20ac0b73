"""The phases that a character model passes through, by its loss."""

from typing import NamedTuple


class Phase(NamedTuple):
    above: float  # nats per character; up to that of the phase before
    meaning: str
    training_only: bool = False  # no validation loss gets there by learning


# Measured on English plays in 65 characters; ln 65 = 4.17 is a guess among all of them.
PHASES = (
    Phase(3.6, "knows nothing"),
    Phase(2.8, "how often each character occurs"),
    Phase(2.0, 'common pairs such as "th", parts of words'),
    Phase(1.2, "real words"),
    Phase(1.0, "names, phrases", training_only=True),
    Phase(0.0, "memorizing the text: watch the validation loss", training_only=True),
)


def phase_of(loss: float, training: bool = False, at_start: bool = False) -> str:
    """What a model with this loss has learned; at the start nothing, whatever the loss per character is."""
    if at_start:
        return PHASES[0].meaning
    phases = [phase for phase in PHASES if training or not phase.training_only]
    return next((phase.meaning for phase in phases if loss > phase.above), phases[-1].meaning)


def meaning_of(training: float, validation: float, at_start: bool) -> str:
    """The phase of the validation loss; and that of the training loss, if no validation loss gets there."""
    learned, by_heart = phase_of(validation, at_start=at_start), phase_of(training, training=True)
    training_only = any(phase.training_only and phase.meaning == by_heart for phase in PHASES)
    return f"{learned}; in training: {by_heart}" if training_only and not at_start else learned
