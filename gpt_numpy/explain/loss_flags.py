"""The objective that the flags ask for: the next tokens of a text, or the loss of a method of tuning."""

import shlex
from collections.abc import Callable
from typing import Any

import numpy as np

from gpt_numpy.explain.objective import NEXT_TOKEN, Objective, Preferred, Rewarded
from gpt_numpy.workshop.data.tokenizer import Tokenizer
from gpt_numpy.workshop.engine import Engine
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.probabilities import log_softmax
from gpt_numpy.workshop.tune.rewards import KNOWN, find_reward
from gpt_numpy.workshop.tune.rollouts import draw_answers, rewards_of
from minitensor.arrays import Array

LOSSES = {  # and the flags that only they have
    "grpo": {"reward", "group", "answer_length"},
    "dpo": {"chosen", "rejected", "other", "beta"},
    "distill": {"other"},
}
GROUP, ANSWER, BETA = 8, 12, 0.1
Other = Callable[[], Engine]  # a reference, or a teacher


def add_loss_flags(group: Any) -> None:
    group.add_argument("--loss", choices=LOSSES, help="that of a method of tuning (default that of training on a text)")
    group.add_argument("--reward", metavar="NAME", help=f"grpo: of answers that the model draws to TEXT: {KNOWN}")
    group.add_argument("--group", metavar="N", type=int, help=f"grpo: number of answers (default {GROUP})")
    group.add_argument(
        "--answer-length", metavar="N", type=int, help=f"grpo: tokens of each, at most (default {ANSWER})"
    )
    group.add_argument("--chosen", metavar="TEXT", help="dpo: the better answer to TEXT, which is explained")
    group.add_argument("--rejected", metavar="TEXT", help="dpo: the other answer")
    group.add_argument("--beta", metavar="X", type=float, help=f"dpo: see tune dpo (default {BETA})")
    group.add_argument(
        "--other", metavar="FOLDER",
        help="dpo: the run of the reference; distill: of the teacher (default another fresh model)",
    )  # fmt: skip


def check_loss_flags(flags: dict[str, Any]) -> None:
    loss = flags.get("loss", "")
    for other in LOSSES:
        for name in LOSSES[other] - LOSSES.get(loss, set()):
            if name in flags:
                of = " or ".join(each for each in LOSSES if name in LOSSES[each])
                raise UsageError(f"--{name.replace('_', '-')} is for --loss {of}")
    needed = {"grpo": ["reward"], "dpo": ["chosen", "rejected"]}.get(loss, [])
    needed += ["other"] if loss in ("dpo", "distill") and "run" in flags else []
    for name in needed:
        if not flags.get(name):
            raise UsageError(f"--loss {loss} needs --{name}")
    for name, least in (("group", 2), ("answer_length", 1)):
        if flags.get(name, least) < least:
            raise UsageError(f"--{name.replace('_', '-')} is at least {least}, not {flags[name]}")


def loss_flags(flags: dict[str, Any]) -> list[str]:
    """To repeat the explanation."""
    names = ["loss", *sorted({name for of_one in LOSSES.values() for name in of_one})]
    return [word for name in names if name in flags for word in (f"--{name.replace('_', '-')}", str(flags[name]))]


def objective_of(
    flags: dict[str, Any], engine: Engine, other: Other, tokenizer: Tokenizer, text: str
) -> tuple[Array, Objective, str]:
    """The tokens to read and predict, their loss, and its description."""
    loss, prompt = flags.get("loss"), tokenizer.encode(text).astype(np.int64)
    if loss == "grpo":
        return _rewarded(flags, engine, tokenizer, prompt)
    if loss == "dpo":
        return _preferred(flags, engine, other(), tokenizer, prompt)
    if loss == "distill":
        _check_length(len(prompt), engine)
        q = np.exp(log_softmax(other().logits(prompt[None, :-1]).astype(np.float64)))[0]
        return prompt, Objective(targets=q), "it learns the predictions of a teacher"
    return prompt, NEXT_TOKEN, ""


def _rewarded(
    flags: dict[str, Any], engine: Engine, tokenizer: Tokenizer, prompt: Array
) -> tuple[Array, Objective, str]:
    group, length, reward = flags.get("group", GROUP), flags.get("answer_length", ANSWER), find_reward(flags["reward"])
    _check_length(len(prompt) + length, engine)
    has_newline = any(b"\n" in tokenizer.decode([token]) for token in range(tokenizer.vocab_size))
    answers = draw_answers(engine, [prompt.tolist()] * group, tokenizer, "\n" if has_newline else "", length, seed=0)
    rewards = rewards_of(answers, reward).astype(np.float64)
    if np.ptp(rewards) == 0:
        raise UsageError(
            f"all {group} answers have the reward {rewards[0]:g}: none is better than the others, and there is no "
            "gradient; another --reward, a longer TEXT or a larger --group may help"
        )
    own = int(np.abs(rewards - rewards.mean()).argmax())
    count = int(answers.lengths[own])
    ids = np.append(answers.ids[own, : len(prompt) + count - 1], answers.targets[own, len(prompt) + count - 2])
    mask = answers.answer_mask[own, : len(ids) - 1].astype(np.float64)
    shown = ", ".join(f"{one:g}" for one in rewards)
    about = f"answer {own + 1} of {group} to {shlex.quote(answers.prompts[own])}, whose rewards are {shown}"
    return ids, Rewarded.of(rewards, own, mask), about


def _preferred(
    flags: dict[str, Any], engine: Engine, reference: Engine, tokenizer: Tokenizer, prompt: Array
) -> tuple[Array, Objective, str]:
    beta = flags.get("beta", BETA)
    if not 0 < beta < float("inf"):
        raise UsageError(f"--beta is a number above 0, not {beta}")
    texts = [np.append(prompt, tokenizer.encode(flags[name]).astype(np.int64)) for name in ("chosen", "rejected")]
    for ids in texts:
        _check_length(len(ids), engine)
    log_p, log_r = ([_log_probability(one, ids, len(prompt)) for ids in texts] for one in (engine, reference))
    if abs(margin := beta * (log_p[0] - log_r[0] - log_p[1] + log_r[1])) > 500:
        raise UsageError(
            f"the margin is {margin:.0f}, and the probability to prefer the answer 0 or 1; give a smaller --beta"
        )
    mask = (np.arange(1, len(texts[0])) >= len(prompt)).astype(np.float64)
    about = f"the answer that is preferred to {shlex.quote(flags['rejected'])}"
    return texts[0], Preferred.of(log_r[0], log_p[1] - log_r[1], beta, mask), about


def _log_probability(engine: Engine, ids: Array, prompt: int) -> float:
    """Of the tokens after the prompt."""
    log_p = log_softmax(engine.logits(ids[None, :-1]).astype(np.float64))[0]
    return float(np.take_along_axis(log_p, ids[1:, None], -1)[prompt - 1 :].sum())


def _check_length(length: int, engine: Engine) -> None:
    if length > engine.config.block_size + 1:
        raise UsageError(f"prompt and answer have {length} tokens; the model takes {engine.config.block_size + 1}")
