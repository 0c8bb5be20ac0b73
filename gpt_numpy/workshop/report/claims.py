"""What the workshop "Training an LLM from Scratch, Locally" says of such a model, compared with one run and its text.

Each claim gets a number from the run, and "holds", "does not hold" or "depends": the run has not come to it, or has
another recipe or machine.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from rich.box import HORIZONTALS
from rich.table import Table
from rich.text import Text

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.data.dataset import Dataset
from gpt_numpy.workshop.data.tokenizer import Tokenizer
from gpt_numpy.workshop.params import parameter_count
from gpt_numpy.workshop.recipes import PRESETS
from gpt_numpy.workshop.runs.checkpoint import State
from gpt_numpy.workshop.runs.run_dir import Record
from gpt_numpy.workshop.tune.rollouts import known_words, words_of

HOLDS, FAILS, DEPENDS = "holds", "does not hold", "depends"
CLOSE = 0.15  # nats: within which a loss is "about" another
WORDS = 0.5  # the fraction of words in a sample that must be in the text
MAX_TOKENS = 10_000_000  # tokens that are counted


@dataclass(frozen=True)
class Claim:
    says: str
    found: str
    verdict: str


@dataclass(frozen=True)
class Evidence:
    """A run, and the text that it was trained on."""

    state: State
    tokenizer: Tokenizer
    data: Dataset
    records: Sequence[Record]

    @property
    def evaluations(self) -> list[Record]:
        """Losses per character, as the workshop has them."""
        return [
            {**record, **{name: record[name] / self.data.characters_per_token for name in ("train_loss", "val_loss")}}
            for record in self.records
            if record["kind"] == "evaluation"
        ]


def claims(run: Evidence) -> Iterator[Claim]:
    yield _parameters(run)
    yield _pairs(run)
    yield _passes(run)
    yield _knows_nothing(run)
    yield from _counting(run)
    yield _words(run)
    yield _validation_below(run, 1.2)
    yield _overfitting(run)
    yield _best_step(run)
    yield _time(run)


def _parameters(run: Evidence) -> Claim:
    model = GPTConfig(vocab_size=run.state.config.vocab_size)
    whole = parameter_count(model)
    block = parameter_count(replace(model, n_layer=2)) - parameter_count(replace(model, n_layer=1))
    return Claim(
        "its model has 1.8 million parameters",
        f"{whole:,}; one of its {model.n_layer} blocks has {block:,}",
        HOLDS if abs(whole - 1.8e6) < 0.05e6 else FAILS,
    )


def pair_counts(tokens: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """How often each pair of neighbouring tokens occurs that does, out of size * size pairs."""
    _, counts = np.unique(tokens[:-1] * size + tokens[1:], return_counts=True)
    return np.asarray(counts)


def _pairs(run: Evidence) -> Claim:
    size = run.state.config.vocab_size
    counts = pair_counts(run.data.tokens(MAX_TOKENS), size)
    return Claim(
        "the text has every pair of characters many times",
        f"{len(counts):,} of {size**2:,} pairs occur, {np.count_nonzero(counts >= 10):,} of them ten times or more",
        HOLDS if np.count_nonzero(counts >= 10) == size**2 else FAILS,
    )


def _passes(run: Evidence) -> Claim:
    seen = run.state.step * run.state.recipe.batch_size * run.state.config.block_size
    as_there = (run.state.step, run.state.recipe.batch_size, run.state.config.block_size) == (5000, 64, 256)
    return Claim(
        "5,000 steps are 82 passes over the text",
        f"{run.state.step:,} steps are {seen / len(run.data.train):.1f} passes, {seen:,} tokens",
        (HOLDS if round(seen / len(run.data.train)) == 82 else FAILS) if as_there else DEPENDS,
    )


def _knows_nothing(run: Evidence) -> Claim:
    says = "a loss of 4.17 = ln 65 is a uniform guess"
    guess = float(np.log(run.state.config.vocab_size)) / run.data.characters_per_token
    first = next((one for one in run.evaluations if one["step"] == 0), None)
    if first is None:
        return Claim(says, f"a guess is {guess:.2f} here; no evaluation before the first step", DEPENDS)
    close = abs(first["val_loss"] - guess) < CLOSE
    return Claim(
        says, f"{first['val_loss']:.2f} before the first step, a guess is {guess:.2f}", HOLDS if close else FAILS
    )


def _counting(run: Evidence) -> Iterator[Claim]:
    """What a model would reach that knows nothing but how often characters, or pairs of them, occur."""
    size = run.state.config.vocab_size
    if run.tokenizer.kind != "char" or size > 4096:
        yield Claim("about 3.3: how often characters occur; about 2.5: common pairs", "of characters alone", DEPENDS)
        return
    train, validation = (part[:MAX_TOKENS].astype(np.int64) for part in (run.data.train, run.data.validation))
    single = np.bincount(train, minlength=size) + 1.0
    alone = float(np.log(single.sum()) - np.log(single)[validation[1:]].mean())
    double = np.bincount(train[:-1] * size + train[1:], minlength=size * size).reshape(size, size)
    double = double + single / single.sum()  # a pair that never occurred is as likely as its second character
    probabilities = double / double.sum(axis=1, keepdims=True)
    paired = float(-np.log(probabilities[validation[:-1], validation[1:]]).mean())
    for loss, says, found, what in (
        (3.3, "how often characters occur", alone, "their frequencies alone"),
        (2.5, 'common pairs such as "th"', paired, "the pairs alone"),
    ):
        near = _closest([one for one in run.evaluations if one["step"] > 0], found)  # reached by learning
        yield Claim(
            f"about {loss}: {says}",
            f"{what} give {found:.2f}" + (f"; the run was there at step {near['step']:,}" if near else ""),
            HOLDS if abs(found - loss) < CLOSE else FAILS,
        )


def _closest(evaluations: Sequence[Record], loss: float) -> Record | None:
    """To a validation loss, if there is one near it."""
    near = min(evaluations, key=lambda one: abs(one["val_loss"] - loss), default=None)
    return near if near and abs(near["val_loss"] - loss) < CLOSE else None


def _words(run: Evidence) -> Claim:
    says = "1.5 to 2.0: real words"
    there = [one for one in run.evaluations if 1.5 <= one["val_loss"] <= 2.0]
    if not there:
        return Claim(says, "no evaluation of this run was there", DEPENDS)
    known = known_words(run.data, run.tokenizer)
    written = [word for one in there for word in words_of(one["sample"])[1:-1]]  # the first and last may be cut off
    part = sum(word in known for word in written) / max(1, len(written))
    return Claim(
        says,
        f"{part:.0%} of the {len(written)} words in its samples there are words of the text",
        HOLDS if part >= WORDS else FAILS,
    )


def _validation_below(run: Evidence, loss: float) -> Claim:
    says = "a loss of 1.0 to 1.2 is where it writes Shakespeare"
    if not run.evaluations:
        return Claim(says, "no evaluation", DEPENDS)
    training, validation = (min(one[name] for one in run.evaluations) for name in ("train_loss", "val_loss"))
    found = f"lowest here: {validation:.2f} in validation, {training:.2f} in training"
    return Claim(says, found, HOLDS if validation <= loss else FAILS if training <= loss else DEPENDS)


def _overfitting(run: Evidence) -> Claim:
    says = "training below 1.0 is overfitting: validation rises while training falls"
    there = [one for one in run.evaluations if one["train_loss"] < 1.0]
    if not there:
        return Claim(says, "this run did not come to it", DEPENDS)
    best, last = min(one["val_loss"] for one in run.evaluations), there[-1]
    found = f"at step {last['step']:,}: training {last['train_loss']:.2f}, validation {last['val_loss']:.2f}"
    return Claim(says, f"{found}, its best {best:.2f}", HOLDS if last["val_loss"] > 1.01 * best else FAILS)


def _best_step(run: Evidence) -> Claim:
    says = "the best step is near 2,400"
    if run.state.best_loss is None:
        return Claim(says, "no evaluation", DEPENDS)
    found = f"{run.state.best_step:,} of {run.state.step:,}, validation {run.state.best_loss:.4f}"
    if not _is_workshop(run.state):
        return Claim(says, f"{found}; another recipe", DEPENDS)
    return Claim(says, found, HOLDS if abs(run.state.best_step - 2400) <= 400 else FAILS)


def _time(run: Evidence) -> Claim:
    says = "5,000 steps take about 15 minutes"
    speeds = [record["characters_per_second"] for record in run.records if record["kind"] == "step"]
    if not speeds or not min(speeds):
        return Claim(says, "no step was timed", DEPENDS)
    batch = run.state.recipe.batch_size * run.state.config.block_size * run.data.characters_per_token
    seconds = batch * float(np.mean(1.0 / np.array(speeds)))  # of a step
    step = f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
    found = f"a step takes {step}, 5,000 of them {5000 * seconds / 60:.3g} minutes"
    if not _is_workshop(run.state, only_size=True):
        return Claim(says, f"{found}; another model or batch", DEPENDS)
    return Claim(says, found, HOLDS if 10 <= 5000 * seconds / 60 <= 20 else FAILS)


def _is_workshop(state: State, only_size: bool = False) -> bool:
    """Whether a run is the workshop's; or at least has its model and batch."""
    preset = PRESETS["workshop"]
    size = replace(state.config, vocab_size=preset.model.vocab_size) == preset.model
    size = size and state.recipe.batch_size == preset.recipe.batch_size
    kept = (
        "steps", "lr", "final_lr", "warmup", "optimizer", "schedule", "order", "weight_decay", "decay_schedule",
        "grad_clip",
    )  # fmt: skip
    same = all(getattr(state.recipe, name) == getattr(preset.recipe, name) for name in kept)
    return size and (only_size or same)


SAMPLES = (3.3, 2.5, 1.9, 1.47)  # losses that are shown with what the model writes there


def samples(run: Evidence) -> Iterator[tuple[float, Record]]:
    """The evaluation before the first step, where a loss is ln 65, and those nearest to other losses, with samples."""
    yield from ((4.17, one) for one in run.evaluations if one["step"] == 0)
    sampled = [one for one in run.evaluations if one["step"] > 0 and one["sample"]]
    for loss in SAMPLES:
        if near := _closest(sampled, loss):
            yield loss, near


def table(found: Sequence[Claim]) -> Table:
    styles = {HOLDS: "green", FAILS: "red", DEPENDS: "yellow"}
    shown = Table(box=HORIZONTALS, pad_edge=False)
    for title in ("the workshop says", "here", ""):
        shown.add_column(title, no_wrap=not title)
    for claim in found:
        shown.add_row(claim.says, claim.found, Text(claim.verdict, styles[claim.verdict]))
    return shown
