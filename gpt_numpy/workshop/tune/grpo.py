"""GRPO: a model draws a group of answers to each prompt, and the better ones of a group become likelier.

    A      = (r - mean of its group) / (standard deviation of its group + 1e-4)          r: the reward of an answer
    loss   = - sum over tokens of answers of min(rho A, clip(rho) A) / N  +  kl sum of KL(p, p_0) / N
    d z    = rho A (p - onehot) / N, 0 where the clip holds               +  kl p (log(p / p_0) - KL) / N

N tokens of answers in all; rho = p(token) / its probability when it was drawn, which is 1 in the first step on a set of
answers; p_0: the model that the run began with. A is a number: no gradient goes through it. In expectation (r - mean)
grad log p is (G - 1) / G times the gradient of the expected reward, G answers in a group: a mean without the answer
itself would change nothing, since E[grad log p] = 0. Dividing by the deviation makes groups with few good or few bad
answers count more. With a lower precision the answers are drawn without autocast, and rho is a little off 1.

If all answers of a group are equally good, A is 0 and the group teaches nothing: only the other groups are "live". The
division by N and not by each answer's own length makes a token count as much in a long answer as in a short one; else
long wrong answers would be pushed down less per token than short ones, and wrong answers would grow.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from gpt_numpy.checked import above, at_least
from gpt_numpy.workshop.data.dataset import Dataset
from gpt_numpy.workshop.data.tokenizer import Tokenizer
from gpt_numpy.workshop.engine import Engine, Rollouts
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.probabilities import log_softmax
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.rng import EVALUATIONS, ROLLOUTS
from gpt_numpy.workshop.train.evaluate import EvalProgress, evaluate
from gpt_numpy.workshop.train.metrics import Metrics
from gpt_numpy.workshop.train.task import Task
from gpt_numpy.workshop.tune.jsonl import Tokens
from gpt_numpy.workshop.tune.rewards import Reward
from gpt_numpy.workshop.tune.rollouts import (
    ROWS,
    Answers,
    Prompts,
    RolloutSettings,
    draw_answers,
    known_words,
    rewards_of,
    sampled,
    share_of_words,
)

SHOWN = 4  # prompts whose answers are shown
ARROW = "  \N{RIGHTWARDS ARROW}  "  # from a prompt to its answer
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class GRPOSettings(RolloutSettings):
    group: Annotated[int, "answers to each prompt, which are compared with each other", at_least(2)] = 16
    kl: Annotated[float, "weight of the distance to the model that the run begins with; 0: none"] = 0.1
    normalize: Annotated[bool, "divide advantages by the standard deviation of their group"] = True
    updates: Annotated[int, "steps on each set of answers", at_least(1)] = 1
    clip: Annotated[float, "range of the ratio of a token's probability to that when it was drawn", above(0)] = 0.2


class GRPO(Task):
    def __init__(
        self, settings: GRPOSettings, reward: Reward, prompts: Prompts, data: Dataset, tokenizer: Tokenizer,
        recipe: Recipe, reference: Engine,
    ) -> None:  # fmt: skip
        super().__init__(recipe, tokenizer)
        check_counts(settings, recipe)
        self.settings, self.reward, self.prompts, self.data = settings, reward, prompts, data
        self.reference, self.updates = reference, settings.updates
        self.characters_per_token = data.characters_per_token
        self.tokens_per_step = recipe.batch_size * settings.answer_length
        self.words = known_words(data, tokenizer)
        self.drawn_at, self.measured = -1, dict[str, float]()
        self.rollouts: Rollouts | None = None

    # -- steps --

    def batch(self, step: int, engine: Engine) -> Rollouts:
        first = step - step % self.updates
        if self.rollouts is None or first != self.drawn_at:
            self.drawn_at, self.rollouts = first, self._rollouts(first, engine)
        return self.rollouts

    def figures(self) -> Mapping[str, float]:
        return self.measured

    def _rollouts(self, step: int, engine: Engine) -> Rollouts:
        group, seed = self.settings.group, self.recipe.seed
        random = np.random.default_rng((seed, step, ROLLOUTS))
        chosen = random.integers(0, len(self.prompts.training), self.recipe.batch_size // group)
        prompts = [self.prompts.training[place] for place in chosen for _ in range(group)]
        answers = self._draw(engine, prompts, (seed, step, 1, ROLLOUTS))
        rewards = rewards_of(answers, self.reward).reshape(-1, group)
        log_r = log_softmax(self.reference.logits(answers.ids)).astype(np.float32)
        per_token = (answers.answer_mask / answers.answer_mask.sum()).astype(np.float32)  # m / N
        weights = advantages(rewards, self.settings.normalize).reshape(-1, 1) * per_token
        live = float((rewards != rewards[:, :1]).any(1).mean())
        self.measured = {
            "reward": float(rewards.mean()), "spread": float(rewards.std()), "live": live,
            **self._figures([(answers, log_r)]),
        }  # fmt: skip
        rest = (log_r, self.settings.kl * per_token) if self.settings.kl else ()
        return Rollouts(answers.ids, answers.targets, weights, answers.log_p, self.settings.clip, *rest)

    def _draw(self, engine: Engine, prompts: Sequence[Tokens], seed: Any) -> Answers:
        return draw_answers(engine, prompts, self.tokenizer, self.settings.end, self.settings.answer_length, seed)

    def _figures(self, drawn: Sequence[tuple[Answers, Floats]]) -> dict[str, float]:
        """KL and entropy are means over the tokens of answers; the KL is estimated from those that were drawn."""
        distances, entropies = list[Floats](), list[Floats]()
        for answers, log_r in drawn:
            of_targets = np.take_along_axis(log_r, answers.targets[..., None], -1)[..., 0]
            distances.append((answers.log_p - of_targets)[answers.answer_mask])
            entropies.append(answers.entropy[answers.answer_mask])
        words = share_of_words([text for answers, _ in drawn for text in answers.texts], self.words)
        return {
            "KL": float(np.concatenate(distances).mean()), "entropy": float(np.concatenate(entropies).mean()),
            "length": float(np.concatenate([answers.lengths for answers, _ in drawn]).mean()),
            **({"words": words} if words is not None else {}),
        }  # fmt: skip

    # -- evaluations --

    def evaluate(self, engine: Engine) -> Iterator[EvalProgress]:
        """The reward on validation prompts, and the loss on the validation part of the text; less reward is worse."""
        for progress in evaluate(engine, self.data.validation):
            yield EvalProgress(0.5 * progress.done, progress.loss)
        text = float(progress.loss)
        prompts = sampled(self.prompts.validation, self.settings, self.recipe.seed)
        rewards, drawn = list[float](), list[tuple[Answers, Floats]]()
        for first in range(0, len(prompts), ROWS):
            answers = self._draw(engine, prompts[first : first + ROWS], (self.recipe.seed, first, EVALUATIONS))
            rewards += rewards_of(answers, self.reward).tolist()
            drawn.append((answers, log_softmax(self.reference.logits(answers.ids))))
            mean, done = float(np.mean(rewards)), len(rewards) / len(prompts)
            figures = {"reward": mean, **self._figures(drawn), "text": text}
            yield EvalProgress(0.5 + 0.5 * done, -mean, figures)

    def sample(self, engine: Engine, step: int) -> str:
        """Answers to a few validation prompts, and their rewards; the same prompts and random numbers each time. A line
        each, with the last line of the prompt."""
        prompts = [self.prompts.validation[place] for place in range(min(SHOWN, len(self.prompts.validation)))]
        answers = self._draw(engine, prompts, (self.recipe.seed, 0, 2, EVALUATIONS))
        drawn = zip(answers.prompts, answers.texts, rewards_of(answers, self.reward), strict=True)
        lines = (((prompt.splitlines() or [""])[-1], " ".join(text.splitlines()), r) for prompt, text, r in drawn)
        return "\n".join(f"{prompt}{ARROW}{text}   ({r:g})" for prompt, text, r in lines)

    def beside_first(self, sample: str, first: str) -> str:
        pairs = zip(sample.splitlines(), first.splitlines(), strict=False)  # metrics.jsonl may have been edited
        return "\n".join(f"{now}\n    at first:{ARROW}{then.rpartition(ARROW)[2]}" for now, then in pairs)

    def line(self, training: float, validation: EvalProgress, at_start: bool) -> str:
        return "   ".join(f"{name} {value:z.3f}" for name, value in validation.figures.items())

    def best(self, loss: float, step: int) -> str:
        return f"best reward {-loss:.3f} at step {step}"

    def diagnoses(self, metrics: Metrics) -> list[str]:
        return diagnose(metrics)


def check_counts(settings: GRPOSettings, recipe: Recipe) -> None:
    if recipe.batch_size % settings.group:
        raise UsageError(f"--batch-size {recipe.batch_size} is not a multiple of --group {settings.group}")
    for name in ("steps", "eval_every", "checkpoint_every"):
        if (value := getattr(recipe, name)) % settings.updates:
            raise UsageError(f"--{name.replace('_', '-')} {value} is not a multiple of --updates {settings.updates}")


def advantages(rewards: Floats, normalize: bool) -> Floats:
    """From rewards (groups, answers): how much better each answer is than its group."""
    found = rewards - rewards.mean(1, keepdims=True)
    if normalize:
        found = found / (rewards.std(1, keepdims=True, ddof=1) + 1e-4)
    return np.asarray(found, np.float32)


# ---- what may be wrong ------------------------------------------------------------------------------------------


def diagnose(metrics: Metrics) -> list[str]:
    """Warnings about the latest ten steps, compared with the first."""
    steps = _figures_of(metrics, "step", ("reward", "spread", "live", "KL", "entropy", "length"))
    evaluations = _figures_of(metrics, "evaluation", ("reward", "text"))
    if not (steps and evaluations):
        return []
    first, latest = steps[0], {name: float(np.mean([one[name] for one in steps[-10:]])) for name in steps[0]}
    found = []
    if latest["live"] < 0.1 and latest["reward"] < evaluations[0]["reward"] + 0.5 * latest["spread"] + 0.02:
        found.append(
            f"only {latest['live']:.0%} of the groups are live: the reward is almost the same for all answers; "
            "fine-tune first, or give a softer reward"
        )
    if latest["entropy"] < 0.2 * first["entropy"]:
        found.append(f"collapse: entropy {latest['entropy']:.2f}, at first {first['entropy']:.2f}; try a larger --kl")
    if latest["length"] > 1.5 * first["length"]:
        now, before = latest["length"], first["length"]
        found.append(f"answers have {now:.0f} tokens, at first {before:.0f}: does the reward favour length?")
    before, now = evaluations[0]["text"], evaluations[-1]["text"]
    if now > 1.1 * before:
        found.append(
            f"it is forgetting its text: the loss there is {now:.2f}, at first {before:.2f} (KL {latest['KL']:.2f} per "
            "token); try a larger --kl"
        )
    return found


def _figures_of(metrics: Metrics, kind: str, names: Sequence[str]) -> list[dict[str, float]]:
    """Those of each record that has all of them: metrics.jsonl may have been edited."""
    found = (record.get("figures", {}) for record in metrics.records if record["kind"] == kind)
    return [{name: figures[name] for name in names} for figures in found if figures.keys() >= set(names)]
