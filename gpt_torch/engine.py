"""The GPT in PyTorch at work: training steps, losses and reading, on one device."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.engine import Arrays, Ids, Trained
from gpt_numpy.workshop.recipes import Recipe
from gpt_torch.device import describe, find_device
from gpt_torch.model import GPT, Cache


@dataclass(frozen=True)
class Options:
    """What the machine is asked for."""

    device: Annotated[Literal["auto", "cuda", "mps", "cpu"], "where the model runs"] = "auto"
    threads: Annotated[int, "threads of the CPU to work with; 0: as many as PyTorch takes"] = 0

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ValueError(f"threads is at least 0, not {self.threads}")
        find_device(self.device)


class Engine:
    """A GPT, its optimizer, and the device that does the work."""

    def __init__(self, config: GPTConfig, seed: int = 0, options: Options | None = None) -> None:
        options = options or Options()
        if options.threads:
            torch.set_num_threads(options.threads)
        self.config = config
        self.device = find_device(options.device)
        self.model = GPT(config, seed).to(self.device)
        self.parameters = dict(self.model.named_parameters())
        # Decay pulls matrices towards 0. Biases, and the scales of layer norms, which start at 1, are left alone.
        matrices = [p for p in self.parameters.values() if p.ndim >= 2]
        others = [p for p in self.parameters.values() if p.ndim < 2]
        self.optimizer = AdamW([{"params": matrices}, {"params": others}], fused=True)

    # -- training and judging --

    def train_step(self, ids: Ids, targets: Ids, recipe: Recipe, step: int) -> Trained:
        self.model.train()
        if self.config.dropout:
            torch.manual_seed(int(np.random.SeedSequence((recipe.seed, step)).generate_state(1)[0]))
        total = torch.zeros((), device=self.device)
        for piece in pieces(len(ids), recipe.micro_batch):
            _, loss = self.model(self._there(ids[piece]), self._there(targets[piece]))
            loss = loss * (ids[piece].size / ids.size)
            loss.backward()
            total += loss.detach()
        grad_norm = clip_grad_norm_(self.parameters.values(), recipe.grad_clip or math.inf)
        for group, decay in zip(self.optimizer.param_groups, (recipe.weight_decay, 0.0), strict=True):
            group.update(lr=recipe.lr_at(step), betas=(recipe.beta1, recipe.beta2), weight_decay=decay)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return Trained(total, grad_norm)

    @torch.no_grad()
    def loss(self, ids: Ids, targets: Ids) -> float:
        self.model.eval()
        _, loss = self.model(self._there(ids), self._there(targets))
        return float(loss)

    def _there(self, ids: Ids) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(ids)).to(self.device)

    # -- reading --

    def reader(self) -> "Reader":
        return Reader(self.model, self.device)

    # -- its state --

    def weights(self) -> Arrays:
        return {name: here(weight) for name, weight in self.model.state_dict().items()}

    def optimizer_state(self) -> Arrays:
        kept = {name: self.optimizer.state.get(p, {}) for name, p in self.parameters.items()}
        return {f"{moment}.{name}": here(state[moment]) for moment in MOMENTS for name, state in kept.items() if state}

    def load(self, weights: Arrays, optimizer_state: Arrays, step: int) -> None:
        self.model.load_state_dict({name: torch.tensor(weight) for name, weight in weights.items()})
        whole = self.optimizer.state_dict()
        names = {p: name for name, p in self.parameters.items()}
        ordered = [names[p] for group in self.optimizer.param_groups for p in group["params"]]
        whole["state"] = {
            i: {"step": torch.tensor(float(step))}
            | {moment: torch.tensor(optimizer_state[f"{moment}.{name}"]) for moment in MOMENTS}
            for i, name in enumerate(ordered)
            if optimizer_state
        }
        self.optimizer.load_state_dict(whole)  # brings them to the device

    def describe(self) -> str:
        return f"PyTorch {torch.__version__}, float32, {describe(self.device)}"


MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's memory


class Reader:
    """Reads a text piece by piece, keeping the keys and values of what it has read."""

    def __init__(self, model: GPT, device: torch.device) -> None:
        self.model, self.device = model, device
        self.cache: Cache = {}

    @torch.no_grad()
    def read(self, ids: Sequence[int]) -> NDArray[Any]:
        self.model.eval()
        logits, _ = self.model(torch.tensor([ids], device=self.device), cache=self.cache)
        return here(logits[0, -1])


def pieces(rows: int, at_once: int) -> Iterator[slice]:
    """A batch in parts of at most so many rows; 0: whole."""
    at_once = at_once or rows
    return (slice(start, start + at_once) for start in range(0, rows, at_once))


def here(tensor: Tensor) -> NDArray[Any]:
    """A copy of its numbers, for NumPy."""
    return tensor.detach().to("cpu", copy=True).numpy()
