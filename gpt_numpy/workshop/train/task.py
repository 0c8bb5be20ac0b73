"""What a run trains on: the batch of each step, and what is measured and shown of it."""

from collections.abc import Iterator, Mapping, Sequence

from gpt_numpy.workshop.data.dataloader import batch_at
from gpt_numpy.workshop.data.dataset import Dataset
from gpt_numpy.workshop.data.tokenizer import Tokenizer
from gpt_numpy.workshop.engine import AnyBatch, Batch, Engine
from gpt_numpy.workshop.generate import Sampling, decode_stream, generate, text_start
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.rng import SAMPLES
from gpt_numpy.workshop.train.evaluate import EvalProgress, bits, evaluate
from gpt_numpy.workshop.train.metrics import Metrics, diagnose
from gpt_numpy.workshop.train.phases import meaning_of

SAMPLE = 160  # tokens of a sample


class Task:
    """A subclass defines batch, evaluate and prompt; the rest suits any loss that is a cross-entropy."""

    tokens_per_step: int
    characters_per_token: float  # in what is evaluated
    floor: float | None = None  # the lowest possible loss in nats per character, if it is known
    loss_factor = 1.0  # in the training loss; divided out before that is shown
    max_answer = SAMPLE  # tokens of the longest answer that is expected
    updates = 1  # steps that belong together: between them nothing is evaluated, saved or ended

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer) -> None:
        self.recipe, self.tokenizer = recipe, tokenizer

    def batch(self, step: int, engine: Engine) -> AnyBatch:
        """It depends on the step, the recipe and the weights alone."""
        raise NotImplementedError

    def figures(self) -> Mapping[str, float]:
        """What was measured of the latest batch, beside its loss."""
        return {}

    def evaluate(self, engine: Engine) -> Iterator[EvalProgress]:
        raise NotImplementedError

    def prompt(self) -> tuple[Sequence[int], str]:
        """What a sample continues, and how that is shown."""
        raise NotImplementedError

    def sample(self, engine: Engine, step: int) -> str:
        prompt, shown = self.prompt()
        length, seed = min(SAMPLE, self.max_answer), (self.recipe.seed, step, SAMPLES)
        tokens = generate(engine, prompt, length, Sampling(), seed, self.tokenizer.end)
        return "".join([shown, *decode_stream(self.tokenizer, tokens)])

    def beside_first(self, sample: str, first: str) -> str:
        """A sample as it is shown, with what this task's first sample was."""
        return sample

    def line(self, training: float, validation: EvalProgress, at_start: bool) -> str:
        """An evaluation as it is shown."""
        loss, per_character = float(validation.loss), 1.0 / self.characters_per_token
        details = [f"{loss * per_character:.3f} per character"] if per_character != 1.0 else []
        details += [f"floor {self.floor:.3f}"] if self.floor is not None else []
        beside = f" ({', '.join(details)})" if details else ""
        meaning = self.meaning(training * per_character, loss * per_character, at_start)
        return f"train {training:.3f}   val {loss:.3f}{beside}   {meaning}"

    def meaning(self, training: float, validation: float, at_start: bool) -> str:
        """What losses per character mean, in words."""
        return ""

    def best(self, loss: float, step: int) -> str:
        """The lowest validation loss, when all is done."""
        per_character = f"{bits(loss / self.characters_per_token):.3f} bits per character"
        return f"best validation loss {loss:.4f} at step {step}: {per_character}"

    def diagnoses(self, metrics: Metrics) -> list[str]:
        return diagnose(metrics.losses, metrics.evaluations, since=self.recipe.eval_every)


class Pretraining(Task):
    """The windows of a text."""

    def __init__(self, data: Dataset, tokenizer: Tokenizer, recipe: Recipe, block_size: int) -> None:
        super().__init__(recipe, tokenizer)
        self.data, self.block_size = data, block_size
        self.tokens_per_step = recipe.batch_size * block_size
        self.characters_per_token, self.floor = data.characters_per_token, data.floor

    def batch(self, step: int, engine: Engine) -> AnyBatch:
        return self.windows(step)

    def windows(self, step: int) -> Batch:
        return batch_at(self.data.train, self.block_size, self.recipe, step)

    def evaluate(self, engine: Engine) -> Iterator[EvalProgress]:
        return evaluate(engine, self.data.validation)

    def prompt(self) -> tuple[Sequence[int], str]:
        return text_start(self.tokenizer), ""

    def meaning(self, training: float, validation: float, at_start: bool) -> str:
        return meaning_of(training, validation, at_start)
