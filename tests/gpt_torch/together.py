"""The computation of several processes, started by torchrun; test_distributed.py compares it with one process."""

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from gpt_numpy import GPTConfig
from gpt_numpy.workshop.params import parameter_count
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.train.distributed import Processes
from gpt_torch.distributed import init_processes
from gpt_torch.engine import Engine
from gpt_torch.options import Options
from tests.support.engines import COMPILER, CONFIG, RECIPE, RECIPES, Everything, batch

CPU = Options(device="cpu")


@dataclass(frozen=True)
class Case:
    options: Options = CPU
    config: GPTConfig = CONFIG
    recipe: Recipe = RECIPE
    rows: int = 7  # not divisible by 2 or 3 processes
    low: bool = False  # precision: AdamW's first steps have the same size for any gradient, which amplifies rounding


CASES = {
    "plain": Case(),
    "one sequence at a time": Case(recipe=replace(RECIPE, micro_batch=1)),
    "fewer sequences than processes": Case(rows=1),
    "muon": Case(recipe=RECIPES["muon"]),
    "tied": Case(config=replace(CONFIG, tie_weights=True)),
    "dropout": Case(config=replace(CONFIG, dropout=0.3)),
    "recompute": Case(options=replace(CPU, recompute=True)),
    "bfloat16": Case(options=replace(CPU, dtype="bfloat16"), low=True),
    "float16": Case(options=replace(CPU, dtype="float16"), low=True),
    "compiled, one sequence at a time": Case(options=replace(CPU, compile="on"), recipe=replace(RECIPE, micro_batch=1)),
}


IN_THREE = {"one sequence at a time", "fewer sequences than processes", "dropout"}  # they depend on the number of rows


def cases(size: int) -> list[tuple[Literal["ddp", "fsdp"], str]]:
    """Pairs of ddp or fsdp and the name of a case, for 2 or 3 processes: each case once, and the plain one for both.
    Three processes have what depends on their number, since it divides neither the rows nor the matrices."""
    ddp = {"plain"} | (set(CASES) - IN_THREE if size == 2 else IN_THREE)
    fsdp = ddp - {"float16"}  # which fsdp refuses
    if size == 2:
        fsdp.remove("muon")
    else:
        fsdp.add("muon")  # it gathers rows of its matrices
    return [*(("ddp", name) for name in sorted(ddp)), *(("fsdp", name) for name in sorted(fsdp))]


def computed(case: Case, processes: Processes, folder: Path) -> Everything:
    """The results of four steps, with a save and a load after two, and the losses of some batches."""
    engine = Engine(case.config, case.recipe, case.options, processes)
    reported = [engine.train_step(batch(case.rows, seed=step), step) for step in (0, 1)]
    weights, memory = folder / "weights.npz", folder / "memory.npz"
    for file, arrays in ((weights, engine.weights()), (memory, engine.optimizer_state())):
        if processes.first:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's annotation takes no arrays by name
    processes.all_reduce_max(0)  # now the files are written
    engine = Engine(case.config, case.recipe, case.options, processes)
    engine.load(dict(np.load(weights)), dict(np.load(memory)), step=2)
    reported += [engine.train_step(batch(case.rows, seed=step), step) for step in (2, 3)]
    assert engine.compiled == (case.options.compile == "on" and COMPILER)
    from torch.distributed.tensor import DTensor  # takes a second, which importing CASES need not

    mine = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in engine.parameters.values())
    share = mine / parameter_count(case.config)
    sharded = case.options.parallel == "fsdp"
    assert share < 0.6 if sharded else share == 1
    computed_in = set()  # dtypes of a block's matrices during the forward pass
    matrix = engine.model.get_submodule("blocks.0.mlp.c_fc")
    matrix.register_forward_hook(lambda *_: computed_in.add(matrix.weight.dtype))
    losses = [engine.loss(batch(rows, seed=rows)) for rows in (1, 2, 8)]
    assert computed_in == {engine.dtype if sharded else torch.float32}  # with fsdp, autocast would keep copies
    reader = engine.reader()
    everything = {
        "reported": np.array([[float(number) for number in step] for step in reported]),
        "losses": np.array(losses),
        "read": np.stack([reader.read([ids])[0] for ids in ([1, 2], [3], [4])]),
    }
    return {**everything, **engine.weights(), **engine.optimizer_state()}


def check_local_first(processes: Processes, folder: Path) -> None:
    with processes.local_first():
        if processes.first:
            time.sleep(0.5)  # the other processes must wait
            (folder / "found").touch()
        assert (folder / "found").exists()


def main(folder: Path) -> None:
    with init_processes() as processes:
        check_local_first(processes, folder)
        for how, name in cases(processes.size):
            case = CASES[name]
            everything = computed(replace(case, options=replace(case.options, parallel=how)), processes, folder)
            numbers = [everything[key].tolist() for key in ("reported", "losses", "read")]
            processes.check_agreement(f"{how} {name}", str(numbers))
            assert ("ln_f.weight" in everything) == processes.first  # only rank 0 gathers the whole model
            if processes.first:
                np.savez(folder / f"{how} {name}.npz", **everything)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
