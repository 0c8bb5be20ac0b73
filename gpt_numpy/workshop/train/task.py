"""What a training learns from: the batch of each step, and what its loss is measured on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from gpt_numpy.workshop.data.dataloader import batch_at
from gpt_numpy.workshop.data.dataset import Dataset
from gpt_numpy.workshop.data.tokenizer import Tokenizer
from gpt_numpy.workshop.engine import Batch, Engine, Examples
from gpt_numpy.workshop.generate import text_start
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.train.evaluate import EvalProgress, evaluate
from gpt_numpy.workshop.train.phases import meaning_of


class Task(Protocol):
    tokens_per_step: int
    characters_per_token: float  # in what is evaluated
    floor: float | None  # the lowest possible loss in nats per character, if it is known

    def batch(self, step: int) -> Batch | Examples:
        """It depends on the step and the recipe alone."""

    def evaluate(self, engine: Engine) -> Iterator[EvalProgress]: ...

    def prompt(self) -> tuple[Sequence[int], str]:
        """What a sample continues, and how that is shown."""

    def meaning(self, training: float, validation: float, at_start: bool) -> str:
        """Of losses per character, in words."""


@dataclass
class Pretraining:
    """The windows of a text."""

    data: Dataset
    tokenizer: Tokenizer
    recipe: Recipe
    block_size: int

    def __post_init__(self) -> None:
        self.tokens_per_step = self.recipe.batch_size * self.block_size
        self.characters_per_token = self.data.characters_per_token
        self.floor = self.data.floor

    def batch(self, step: int) -> Batch | Examples:
        return self.windows(step)

    def windows(self, step: int) -> Batch:
        return batch_at(self.data.train, self.block_size, self.recipe, step)

    def evaluate(self, engine: Engine) -> Iterator[EvalProgress]:
        return evaluate(engine, self.data.validation)

    def prompt(self) -> tuple[Sequence[int], str]:
        return text_start(self.tokenizer), ""

    def meaning(self, training: float, validation: float, at_start: bool) -> str:
        return meaning_of(training, validation, at_start)
