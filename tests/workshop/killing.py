"""Trainers are killed with SIGKILL at random moments and resumed: does the result equal an uninterrupted run exactly?

    uv run python -m tests.workshop.killing                    50 kills of gpt-numpy and 50 of gpt-torch
    uv run python -m tests.workshop.killing --kills 500 numpy

Each trainer is forked from a server that has loaded the program. It records its current work in a memory-mapped file
that survives it.
"""

import argparse
import mmap
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt_numpy.workshop.cli import run as run_command
from gpt_numpy.workshop.runs import checkpoint, run_dir
from gpt_numpy.workshop.runs.run_dir import RunDir
from gpt_numpy.workshop.train import task
from gpt_numpy.workshop.train.trainer import Trainer
from tests.support.fork_server import ForkServer
from tests.support.runs import MODEL, PLAY, assert_same_run

RECIPE = ["--eval-every", "20", "--checkpoint-every", "5", "--warmup", "2", "--lr", "0.01", "--dropout", "0.1"]
WORK = ("starting", "a step", "evaluating", "writing a checkpoint", "writing the page")


class Page:
    """The trainer's current work, and the step of the last checkpoint that it completed."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 16)

    @property
    def work(self) -> str:
        return WORK[self.memory[0]]

    @property
    def saved(self) -> int:
        return int.from_bytes(self.memory[8:], "little")

    def marking(self, work: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def marked(*given: Any, **settings: Any) -> Any:
            before, self.memory[0] = self.memory[0], WORK.index(work)
            try:
                return function(*given, **settings)
            finally:
                self.memory[0] = before

        return marked

    def recording_the_step(self, save: Callable[..., Any]) -> Callable[..., Any]:
        def recording(folder: Path, checkpoint: Any, with_optimizer: bool = True) -> None:
            save(folder, checkpoint, with_optimizer)
            if folder.name == "latest":
                self.memory[8:] = checkpoint.state.step.to_bytes(8, "little")

        return recording


def mark_work(folder: Path) -> None:
    """Called in the fork server: trainers record their current work from now on. Samples are short, or most kills
    would happen while the first one is generated."""
    task.SAMPLE = 5
    page = Page(folder / "page")
    Trainer._step = page.marking("a step", Trainer._step)  # type: ignore[method-assign]
    Trainer._evaluate = page.marking("evaluating", Trainer._evaluate)  # type: ignore[method-assign]
    save = page.marking("writing a checkpoint", page.recording_the_step(checkpoint.save_checkpoint))
    run_dir.save_checkpoint = save  # type: ignore[attr-defined]
    run_command.write_report = page.marking("writing the page", run_command.write_report)  # type: ignore[attr-defined]


LOADED = """
import pathlib, sys
from gpt_{engine}.cli import CLI
from gpt_numpy.workshop.cli.main import run
from tests.workshop.killing import mark_work
mark_work(pathlib.Path({folder!r}))
"""
LAZY = """
from torch import nn, optim
optim.AdamW([nn.Parameter()]).step()  # PyTorch loads its optimizers when the first one is used
"""


class TrainerProcess:
    def __init__(self, engine: str, folder: Path) -> None:
        self.engine, self.folder = engine, folder
        (folder / "play.txt").write_text(PLAY, encoding="utf-8")
        (folder / "page").write_bytes(bytes(16))
        self.page = Page(folder / "page")
        loaded = LOADED.format(engine=engine, folder=str(folder))
        self.server = ForkServer(loaded + LAZY if engine == "torch" else loaded)

    def train(self, *arguments: str, killed_after: float | None = None) -> int:
        """Returns the exit status; negative: the signal that ended it."""
        self.page.memory[0] = 0
        (self.folder / "output").unlink(missing_ok=True)
        code = "sys.exit(run(CLI, sys.argv[1:]))"
        child = self.server.start(code, "train", *arguments, output=self.folder / "output", cwd=self.folder)
        if killed_after is not None:
            time.sleep(killed_after)
            child.send(signal.SIGKILL)
        return child.wait()

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text(encoding="utf-8")

    def end(self) -> None:
        self.server.end()


def kill_repeatedly(
    process: TrainerProcess, kills: int, steps: int, longest: float, seed: int
) -> tuple[Counter[str], int]:
    """Trains one run after another, killing each process after at most `longest` seconds, until `kills` were killed.
    Returns the work that was interrupted, and the number of runs; each run is compared with an uninterrupted one."""
    draw = random.Random(seed)
    # PyTorch's second thread would spin while it waits: on a busy machine a short run then takes minutes.
    torch = ["--threads", "1", "--device", "cpu", "--no-self-test"]
    machine = torch if process.engine == "torch" else ["--threads", "2"]
    begin = ["--data", "play.txt", *MODEL, *RECIPE, "--steps", str(steps), *machine]
    assert process.train("--out", "uninterrupted", *begin) == 0, process.output
    reference, found, number = process.folder / "uninterrupted", Counter[str](), 0
    while found.total() < kills:
        out, number = f"broken-{number}", number + 1
        status, safe = -signal.SIGKILL, 0
        while status == -signal.SIGKILL:
            more = ["--resume", *machine] if RunDir(process.folder / out).has_checkpoint else begin
            after = draw.uniform(0, longest) if found.total() < kills else None
            process.page.memory[8:] = safe.to_bytes(8, "little")
            status = process.train("--out", out, *more, killed_after=after)
            if status == -signal.SIGKILL:
                found[process.page.work] += 1
                safe = process.page.saved
                assert not safe or RunDir(process.folder / out).checkpoint("latest").state.step >= safe
        # a run killed after its last write has nothing left to do
        assert status == 0 or f"{out} has done its {steps} steps" in process.output, process.output
        assert_same_run(reference, process.folder / out)
    return found, number


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.workshop.killing", description=__doc__.split("\n", 1)[0])
    parser.add_argument("engines", nargs="*", default=["numpy", "torch"], metavar="numpy|torch")
    parser.add_argument("--kills", type=int, default=50, help="of each (default 50)")
    parser.add_argument("--steps", type=int, default=1000, help="of each run (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default 0)")
    given = parser.parse_args()
    for engine in given.engines:
        with tempfile.TemporaryDirectory() as folder:
            process = TrainerProcess(engine, Path(folder))
            found, number = kill_repeatedly(process, given.kills, given.steps, 1.0, given.seed)
            process.end()
        moments = ", ".join(f"{found[work]} {work}" for work in WORK)
        print(f"gpt-{engine}: killed {found.total()} times ({moments}); {number} runs, equal to the uninterrupted one")


if __name__ == "__main__":
    main()
