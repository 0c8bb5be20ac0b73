"""The loss whose gradients are explained: what each position should predict, and how much it counts.

A position's loss l is the cross-entropy of what it should predict; L is made of these. weight[i] is the gradient of L
with respect to l[i], so that dZ = weight (p - target) whatever the loss is. How weight comes about is the difference
between training on a text, on rewards, on preferences and on a teacher's predictions.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from minitensor.arrays import Array


@dataclass(frozen=True)
class Objective:
    """The mean over the positions: of -log p of the next token, or of the cross-entropy with a teacher's prediction."""

    weight: ClassVar[str] = "1/T"  # d L / d l[i], as a factor of dZ
    about: ClassVar[str] = (
        "The loss is the mean of {surprise}. Its gradient through log and softmax is simple: the probability minus the "
        "target, divided by the number of positions T because the loss is a mean."
    )
    targets: Array | None = None  # (T, V), of a teacher; None: the next tokens
    numbers: Mapping[str, Array] = field(default_factory=dict)  # quantities that are given
    constants: Mapping[str, float] = field(default_factory=dict)

    @property
    def surprise(self) -> str:
        """What the loss is at a position, in words."""
        return "-log p of the true next token" if self.targets is None else "the cross-entropy with the teacher"

    def total(self, losses: Any, library: Any, given: Any = np.asarray) -> Any:
        """L for each row of losses (B, T): arrays of NumPy, or tensors of the library, made by `given`."""
        return losses.mean(-1)

    def formulas(self) -> list[tuple[str, str, str, str]]:
        """Entry, formula, kind and meaning of what stands between l and L, and of L."""
        return [("L", "Σ_i 1/T l[i]", "sum", f"the loss: the mean of {self.surprise}")]

    def inner(self, losses: Array) -> dict[str, Array]:
        """The numbers of these formulas."""
        return {}


@dataclass(frozen=True)
class Rewarded(Objective):
    """GRPO's: an answer becomes likelier by how much better it is than its group."""

    weight = "weight[i]"
    about = (
        "The answer was drawn, rewarded, and compared with its group: A says how much better it is. A is a number that "
        "no gradient goes through. The prompt is masked out, and each of the answer's tokens gets A times the "
        "probability minus the target, divided by their number N. With a negative A the same step makes it less likely."
    )

    @classmethod
    def of(cls, rewards: Array, own: int, mask: Array) -> "Rewarded":
        """`own` is the answer that is explained; mask (T,) is 1 where it has a token to predict."""
        scale = 1.0 / (rewards.std(ddof=1) + 1e-4)
        numbers = {"reward": rewards, "own": rewards[own], "mask": mask}
        constants = {"1/G": 1.0 / len(rewards), "1/N": 1.0 / mask.sum(), "1/s": float(scale)}
        return cls(None, numbers, constants)

    def total(self, losses: Any, library: Any, given: Any = np.asarray) -> Any:
        return (losses * given(self.numbers["mask"] * self._advantage * self.constants["1/N"])).sum(-1)

    @property
    def _advantage(self) -> float:
        return float((self.numbers["own"] - self.numbers["reward"].mean()) * self.constants["1/s"])

    def formulas(self) -> list[tuple[str, str, str, str]]:
        return [
            ("reward[g]", "", "given", "the rewards of all answers of the group"),
            ("own", "", "given", "the reward of this answer, one of the group"),
            ("mask[i]", "", "given", "1 where the next token is of the answer, 0 in the prompt, which is not learned"),
            ("mean_reward", "Σ_g 1/G reward[g]", "sum", "the mean reward of the group"),
            ("A", "1/s own - 1/s mean_reward", "sum",
             "the advantage: how much better this answer is than its group, in standard deviations s"),
            ("weight[i]", "1/N A mask[i]", "sum", "how much likelier a token of the answer, one of N, should become"),
            ("L", "Σ_i weight[i] l[i]", "sum", "the loss of this answer: its surprise, weighted by the advantage"),
        ]  # fmt: skip

    def inner(self, losses: Array) -> dict[str, Array]:
        A = self._advantage
        return {
            "mean_reward": np.asarray(self.numbers["reward"].mean()), "A": np.asarray(A),
            "weight": A * self.constants["1/N"] * self.numbers["mask"],
        }  # fmt: skip


@dataclass(frozen=True)
class Preferred(Objective):
    """DPO's: an answer becomes likelier than a rejected one, compared with a reference."""

    weight = "weight[i]"
    about = (
        "The margin compares the probability of this answer, relative to what the reference gives it, with that of the "
        "rejected one. Where the margin is large the pull is small: the model already ranks the two clearly. Each of "
        "the answer's tokens gets the pull times the probability minus the target; those of the rejected one its "
        "negative."
    )

    @classmethod
    def of(cls, log_r: float, rejected: float, beta: float, mask: Array) -> "Preferred":
        """log_r: what the reference gives to the chosen answer; rejected: log p/r of the other."""
        numbers = {"log_r": np.asarray(log_r), "rejected": np.asarray(rejected), "mask": mask}
        return cls(None, numbers, {"beta": beta})

    def total(self, losses: Any, library: Any, given: Any = np.asarray) -> Any:
        numbers, beta = self.numbers, self.constants["beta"]
        log_p = -(losses * given(numbers["mask"])).sum(-1)
        margin = (log_p - float(numbers["log_r"] + numbers["rejected"])) * beta
        return library.log(library.exp(-margin) + 1.0)

    def formulas(self) -> list[tuple[str, str, str, str]]:
        return [
            ("mask[i]", "", "given", "1 where the next token is of the answer, 0 in the prompt, which is not learned"),
            ("log_r", "", "given", "the log of the probability that the reference gives to this answer"),
            ("rejected", "", "given", "log p/r of the rejected answer, which has gradients of its own"),
            ("log_p", "- Σ_i mask[i] l[i]", "sum", "the log of the probability of this answer"),
            ("margin", "beta log_p - beta log_r - beta rejected", "sum",
             "beta times how much more log p/r has risen for this answer than for the rejected one"),
            ("L", "log(e^margin + 1) - margin", "function", "the loss: -log of the probability to prefer this answer"),
            ("pull", "beta / (1 + e^margin)", "function",
             "near beta while the model ranks the pair wrongly, near 0 once it ranks it clearly right"),
            ("weight[i]", "pull mask[i]", "sum", "the pull, at the tokens of the answer"),
        ]  # fmt: skip

    def inner(self, losses: Array) -> dict[str, Array]:
        numbers, beta = self.numbers, self.constants["beta"]
        log_p = -(losses * numbers["mask"]).sum()
        margin = beta * (log_p - numbers["log_r"] - numbers["rejected"])
        pull = beta / (1.0 + math.exp(margin))
        found = {"log_p": log_p, "margin": margin, "pull": pull, "weight": pull * numbers["mask"]}
        return {name: np.asarray(value) for name, value in found.items()}


NEXT_TOKEN = Objective()
