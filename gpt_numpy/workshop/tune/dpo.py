"""DPO: of two answers to a prompt, one is preferred; it becomes likelier than the other, compared with the start.

    m     = beta (log p/p_0 of the chosen answer - log p/p_0 of the rejected one)        p_0: the model at the start
    loss  = - log sigma(m), a mean over P pairs
    d z   = beta sigma(-m) (p - onehot) / P at tokens of the chosen answer, the negative of that at the rejected one's

beta log p/p_0 is the reward that an answer would have if p were the best policy for it under a KL penalty of beta; so m
is the difference of two such rewards, and sigma(m) how likely somebody with them prefers the chosen answer. sigma(-m)
is how wrong the model still is about the pair: pairs that it tells apart teach little.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from gpt_numpy.checked import above, at_least
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.data.tokenizer import Tokenizer
from gpt_numpy.workshop.engine import Engine, Ids, Preferences
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.probabilities import log_softmax
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.rng import ROLLOUTS
from gpt_numpy.workshop.train.evaluate import EVAL_TOKENS, EvalProgress
from gpt_numpy.workshop.tune.jsonl import Line, Lines
from gpt_numpy.workshop.tune.rewards import Reward
from gpt_numpy.workshop.tune.rollouts import ROWS, Answers, Prompts, RolloutSettings, draw_answers, rewards_of
from gpt_numpy.workshop.tune.rows import LinesTask

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class DPOSettings(RolloutSettings):
    group: Annotated[int, "answers to each prompt, of which the best and the worst become a pair", at_least(2)] = 16
    beta: Annotated[float, "scale of the log-ratios; larger keeps the model closer to its start", above(0)] = 0.1
    pairs: Annotated[int, "prompts that are answered, for pairs from a reward", at_least(1)] = 1000


class DPO(LinesTask):
    characters_per_token = 1.0

    def __init__(self, pairs: Lines, recipe: Recipe, tokenizer: Tokenizer, beta: float, reference: Engine) -> None:
        super().__init__(pairs, recipe, tokenizer)
        self.beta = beta
        self.references = {
            "training": self._log_probabilities(reference, self.training),
            "validation": self._log_probabilities(reference, self.validation),
        }

    def batch(self, step: int, engine: Engine) -> Preferences:
        places = self.lines_at(step)
        arrays = self._arrays([self.training[place] for place in places])
        return Preferences(*arrays, self.references["training"][places], self.beta)

    def evaluate(self, engine: Engine) -> Iterator[EvalProgress]:
        ratios = self._log_probabilities(engine, self.validation) - self.references["validation"]
        margins = self.beta * (ratios[:, 0] - ratios[:, 1]).astype(np.float64)
        loss = float(np.logaddexp(0.0, -margins).mean())
        yield EvalProgress(1.0, loss, {
            "accuracy": float((margins > 0).mean() + 0.5 * (margins == 0).mean()), "margin": float(margins.mean()),
            "chosen": float(ratios[:, 0].mean()), "rejected": float(ratios[:, 1].mean()),
        })  # fmt: skip

    def line(self, training: float, validation: EvalProgress, at_start: bool) -> str:
        figures = "   ".join(f"{name} {value:z.3f}" for name, value in validation.figures.items())
        return f"train {training:.3f}   val {float(validation.loss):.3f}   {figures}"

    def best(self, loss: float, step: int) -> str:
        return f"best validation loss {loss:.4f} at step {step}"

    def _log_probabilities(self, engine: Engine, pairs: Sequence[Line]) -> Floats:
        """Of both answers to each prompt, (P, 2)."""
        found, at_once = [], max(1, EVAL_TOKENS // (2 * self.length))
        for first in range(0, len(pairs), at_once):
            ids, targets, answer_mask = self._arrays(pairs[first : first + at_once])
            log_p = log_softmax(engine.logits(ids.reshape(-1, self.length))).reshape(*ids.shape, -1)
            found.append((np.take_along_axis(log_p, targets[..., None], -1)[..., 0] * answer_mask).sum(-1))
        return np.concatenate(found).astype(np.float32)

    def _arrays(self, pairs: Sequence[Line]) -> tuple[Ids, Ids, Floats]:
        """ids, targets, and 1 for targets of an answer: (P, 2, T)."""
        shape, (ids, targets, answer_mask) = (len(pairs), 2, self.length), self.rows(pairs)
        return ids.reshape(shape), targets.reshape(shape), answer_mask.reshape(shape).astype(np.float32)


def pairs_from_reward(
    settings: DPOSettings, reward: Reward, prompts: Prompts, engine: Engine, tokenizer: Tokenizer, seed: int,
    console: Console,
) -> str:  # fmt: skip
    """The best and the worst of each group of answers, as the lines of a file; groups without a difference are left
    out."""
    group, lines = settings.group, []
    count = min(settings.pairs, len(prompts.training))
    chosen = np.random.default_rng((seed, 0, ROLLOUTS)).permutation(len(prompts.training))[:count]
    at_once = max(1, ROWS // group)
    console.say(f"drawing {group} answers to each of {count:,} prompts of {prompts.about}")
    with console.bar("drawing answers", count) as bar:
        for first in range(0, count, at_once):
            some = [prompts.training[place] for place in chosen[first : first + at_once] for _ in range(group)]
            end, length = settings.end, settings.answer_length
            answers = draw_answers(engine, some, tokenizer, end, length, (seed, first, 1, ROLLOUTS))
            rewards = rewards_of(answers, reward)
            written = [answer_in_file(answers, row, tokenizer) for row in range(len(some))]
            for start in range(0, len(some), group):
                rows = [row for row in range(start, start + group) if written[row] is not None]
                best, worst = (of(rows, key=rewards.item, default=start) for of in (max, min))
                if rewards[best] > rewards[worst]:
                    line = {"prompt": answers.prompts[best], "chosen": written[best], "rejected": written[worst]}
                    lines.append(line)
            bar.at(min(count, first + at_once))
    if len(lines) < 2:
        raise UsageError(
            f"--reward {settings.reward}: {len(lines)} of {count} prompts gave a pair, and two are needed: either all "
            "answers to a prompt have the same reward, or a file cannot hold their tokens"
        )
    return "".join(f"{json.dumps(line)}\n" for line in lines)


def answer_in_file(answers: Answers, row: int, tokenizer: Tokenizer) -> str | None:
    """The answer with what ended it, as a text; None if a file cannot hold its tokens, or those of its prompt."""
    tokens = [int(token) for token in answers.targets[row, answers.answer_mask[row]]]
    prompt = [int(token) for token in answers.ids[row, : int(answers.answer_mask[row].argmax()) + 1]]
    if tokenizer.end is not None:  # which is added to each answer of a file
        if tokens[-1] != tokenizer.end:
            return None
        tokens.pop()
    text = tokenizer.decode(tokens).decode("utf-8", "replace")
    try:
        same = [tokenizer.encode(each).tolist() for each in (answers.prompts[row], text)] == [prompt, tokens]
    except UsageError:  # a character that the tokenizer does not have, made of half of one that it has
        return None
    return text if tokens and same else None
