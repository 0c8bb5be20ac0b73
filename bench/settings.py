"""The settings of every benchmark, which are its flags, and the two engines that they configure."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch

from gpt_numpy.checked import Checked, above, at_least, at_most, below
from gpt_numpy.config import GPTConfig
from gpt_numpy.engine import Engine as NumpyEngine
from gpt_numpy.workshop.cores import available_cores
from gpt_numpy.workshop.data.tokenizer import smallest_dtype
from gpt_numpy.workshop.engine import Batch, Engine
from gpt_numpy.workshop.recipes import PRESETS, Recipe
from gpt_torch.engine import Engine as TorchEngine
from gpt_torch.options import Options
from gpt_torch.transfer import wait_for

NUMPY, EAGER, COMPILED = "gpt_numpy", "gpt_torch", "gpt_torch compiled"


@dataclass(frozen=True)
class Settings(Checked):
    preset: Annotated[Literal["laptop", "workshop"], "the model and its batch size"] = "laptop"
    batch_size: Annotated[int, "sequences in a step; 0: the preset's"] = 0
    repeat: Annotated[int, "turns of each subject", at_least(1)] = 7
    turn: Annotated[float, "minimum seconds of a turn; a single call may take longer", above(0), below(600)] = 0.3
    threads: Annotated[int, "CPU threads of each engine; 0: one for each core"] = 0
    device: Annotated[Literal["cpu", "cuda", "mps"], "of gpt_torch; gpt_numpy runs on the CPU"] = "cpu"
    compile: Annotated[bool, "also measure torch.compile, which takes some 20 seconds to compile"] = True
    training: Annotated[Literal["sprint", "workshop", "record"], "the preset whose training step is counted"] = "sprint"
    weights: Annotated[Literal["float32", "bfloat16"], "of the model whose step is counted"] = "float32"
    card: Annotated[Literal["H200", "H100", "A100", "RTX4090"], "the GPU to count it for"] = "H200"
    minutes: Annotated[float, "time limit; stages that no longer fit are skipped", above(0), at_most(600)] = 9.0
    data: Annotated[str, "the text to train on, as for gpt-torch train"] = ""
    trial: Annotated[bool, "try the command with small sizes, on any device"] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data and self.data not in ("shakespeare", "synthetic") and not Path(self.data).is_file():
            raise ValueError(f"data is a text, shakespeare or synthetic; {self.data} cannot be found")
        Options(device=self.device)  # ValueError if it is not available

    @property
    def config(self) -> GPTConfig:
        return PRESETS[self.preset].model

    @property
    def recipe(self) -> Recipe:
        rows = self.batch_size or PRESETS[self.preset].recipe.batch_size
        return Recipe(batch_size=rows, grad_clip=1.0, warmup=0, seed=0)

    @property
    def cores(self) -> int:
        return self.threads or available_cores()

    def numpy_engine(self, config: GPTConfig | None = None, **recipe: Any) -> NumpyEngine:
        return NumpyEngine(config or self.config, replace(self.recipe, **recipe), self.cores)

    def torch_engine(self, config: GPTConfig | None = None, compiled: bool = False, **recipe: Any) -> TorchEngine:
        options = Options(device=self.device, dtype="float32", compile="on" if compiled else "off", threads=self.cores)
        return TorchEngine(config or self.config, replace(self.recipe, **recipe), options)


def batch(config: GPTConfig, rows: int, seed: int = 0) -> Batch:
    tokens = np.random.default_rng(seed).integers(0, config.vocab_size, rows * (config.block_size + 1))
    dtype = smallest_dtype(config.vocab_size)
    return Batch(tokens.astype(dtype), np.arange(rows) * (config.block_size + 1), config.block_size)


class Stepping:
    """Repeats training steps of an engine, on the same batches as any other engine with the same recipe."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.recipe, self.step = engine, engine.recipe, 0
        rows = self.recipe.batch_size
        all_rows = batch(engine.config, 4 * rows)
        self.batches = [replace(all_rows, starts=all_rows.starts[i * rows : (i + 1) * rows]) for i in range(4)]

    def __call__(self) -> tuple[float, float]:
        """Run one step to completion: the loss and the gradient norm."""
        loss, grad_norm = self.engine.train_step(self.next_batch(), self.step % self.recipe.steps)
        self.step += 1
        result = float(loss), float(grad_norm)
        wait_for(getattr(self.engine, "device", CPU))  # where AdamW may still be running
        return result

    def next_batch(self) -> Batch:
        return self.batches[self.step % len(self.batches)]


CPU = torch.device("cpu")
