"""Recipes: everything that decides a training run, except for model, text and threads. Each field is a flag."""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from gpt_numpy.checked import Checked, at_least, below
from gpt_numpy.config import GPTConfig


@dataclass(frozen=True)
class Recipe(Checked):
    tokenizer: Annotated[Literal["char", "bpe"], "characters, or byte-level BPE trained on the text"] = "char"
    steps: Annotated[int, "training steps", at_least(1)] = 5000
    batch_size: Annotated[int, "sequences in a step", at_least(1)] = 64
    micro_batch: Annotated[int, "sequences computed at once; the step is the same. 0: as many as are fast"] = 0
    order: Annotated[Literal["epochs", "random"], "shuffled epochs, or independent random windows"] = "random"
    optimizer: Annotated[Literal["adamw", "muon"], "muon: for the matrices of the blocks, with AdamW for the rest"] = (
        "adamw"
    )
    lr: Annotated[float, "AdamW: learning rate after the warm-up"] = 3e-4
    muon_lr: Annotated[float, "Muon: learning rate after the warm-up"] = 0.02
    schedule: Annotated[Literal["cosine", "linear"], "how the learning rates fall after the warm-up"] = "cosine"
    final_lr: Annotated[float, "learning rate at the last step, as a fraction of the highest"] = 0.0
    warmup: Annotated[int, "steps in which learning rates rise"] = 100
    beta1: Annotated[float, "AdamW: decay rate of the mean of the gradient", at_least(0), below(1)] = 0.9
    beta2: Annotated[float, "AdamW: decay rate of the mean of its square", at_least(0), below(1)] = 0.999
    momentum: Annotated[float, "Muon: decay rate of the mean of the gradient", at_least(0), below(1)] = 0.95
    weight_decay: Annotated[float, "decay of all matrices towards 0"] = 0.01
    decay_schedule: Annotated[
        Literal["constant", "falling"],
        "weight decay: the same in all steps, or rising and falling with the learning rates",
    ] = "constant"
    grad_clip: Annotated[float, "largest norm of the gradient; 0: no clipping"] = 0.0
    eval_every: Annotated[int, "steps between evaluations on all that is held out", at_least(1)] = 200
    checkpoint_every: Annotated[int, "steps between checkpoints; each new best is saved too", at_least(1)] = 1000
    checkpoint_minutes: Annotated[float, "minutes between such checkpoints, at most; 0: the steps alone decide"] = 0.0
    patience: Annotated[int, "evaluations without a new best before the run ends; 0: never"] = 0
    target_loss: Annotated[float, "validation loss at which the run ends; 0: never"] = 0.0
    max_minutes: Annotated[float, "minutes after which a run is evaluated, saved and ended; 0: never"] = 0.0
    seed: Annotated[int, "decides all that is random: first weights, batches, dropout, answers"] = 1337

    def lr_at(self, step: int) -> float:
        """AdamW's learning rate in a step."""
        return self.lr * self.lr_scale(step)

    def lr_scale(self, step: int) -> float:
        """The factor of the learning rates in a step, counted from 0: linear warm-up, then the schedule."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        left = 0.5 * (1.0 + math.cos(math.pi * done)) if self.schedule == "cosine" else 1.0 - done
        return self.final_lr + (1.0 - self.final_lr) * left


@dataclass(frozen=True)
class Preset:
    meaning: str
    model: GPTConfig
    recipe: Recipe


LAPTOP = GPTConfig(block_size=64, n_layer=4, n_head=4, n_embd=128)
MUON = Recipe(order="epochs", optimizer="muon", lr=3e-3, schedule="linear", beta2=0.99, weight_decay=0.1, grad_clip=1.0)
PRESETS = {
    "laptop": Preset(
        "a small model that learns to write plays in minutes on a CPU",
        LAPTOP,
        Recipe(
            steps=2000, batch_size=12, order="epochs", lr=1e-3, final_lr=0.1, beta2=0.99, weight_decay=0.1,
            grad_clip=1.0, eval_every=250, checkpoint_every=250,
        ),
    ),
    "laptop-record": Preset(
        "the same model, batches and steps, to a lower loss by Muon",
        LAPTOP,
        replace(MUON, steps=2000, batch_size=12, eval_every=250, checkpoint_every=250),
    ),
    "workshop": Preset("the full model and schedule of the workshop; for a GPU", GPTConfig(), Recipe()),
    "sprint": Preset(
        "the full model in few steps",
        GPTConfig(dropout=0.1),
        replace(MUON, steps=600, warmup=60),
    ),
    "record": Preset(
        "the full model to a low validation loss",
        GPTConfig(dropout=0.2),
        replace(MUON, steps=2000),
    ),
}  # fmt: skip
