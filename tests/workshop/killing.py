"""Trainers killed with SIGKILL at random moments, and resumed: is what they leave the unbroken run, bit for bit?

    uv run python -m tests.workshop.killing                    50 kills of gpt-numpy and 50 of gpt-torch
    uv run python -m tests.workshop.killing --kills 500 numpy

A nursery has the program loaded, and a trainer is its child; what a trainer is doing it marks in a page of memory that
outlives it.
"""

import argparse
import json
import mmap
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpt_numpy.workshop import checkpoint, keeping, report, runs
from gpt_numpy.workshop.commands import run
from gpt_numpy.workshop.loop import Training
from gpt_numpy.workshop.runs import Run
from tests.support.runs import MODEL, PLAY, assert_same_run

ROOT = Path(__file__).parents[2]
RECIPE = ["--eval-every", "20", "--checkpoint-every", "5", "--warmup", "2", "--lr", "0.01", "--dropout", "0.1"]
WORK = ("starting", "a step", "judging", "writing a checkpoint", "writing the page")


class Page:
    """What the trainer is doing, and the step of the last checkpoint that it has finished."""

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

    def noting_the_step(self, save: Callable[..., Any]) -> Callable[..., Any]:
        def noted(folder: Path, checkpoint: Any) -> None:
            save(folder, checkpoint)
            self.memory[8:] = checkpoint.state.step.to_bytes(8, "little")

        return noted


def nursery(engine: str, folder: Path) -> None:
    """For each line of arguments a trainer: its process id, and once it is asked for how it ended."""
    if engine == "torch":
        from torch import nn, optim

        from gpt_torch.cli import PROGRAM as program

        optim.AdamW([nn.Parameter()]).step()  # PyTorch loads its optimizers when the first one is used
    else:
        from gpt_numpy.cli import PROGRAM as program
    page = Page(folder / "page")
    Training._step = page.marking("a step", Training._step)  # type: ignore[method-assign]
    Training._judge = page.marking("judging", Training._judge)  # type: ignore[method-assign]
    save = page.marking("writing a checkpoint", page.noting_the_step(checkpoint.save_checkpoint))
    runs.save_checkpoint = save  # type: ignore[attr-defined]
    keeping.write_report = page.marking("writing the page", report.write_report)  # type: ignore[attr-defined]
    for line in sys.stdin:
        page.memory[0] = 0
        child = os.fork()
        if not child:
            sys.stdout = sys.stderr = (folder / "said").open("w", encoding="utf-8")
            status = run(program, json.loads(line))
            sys.stdout.flush()
            os._exit(status)
        print(child, flush=True)
        sys.stdin.readline()  # until then nobody else can have its id
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


class Trainer:
    def __init__(self, engine: str, folder: Path) -> None:
        self.engine, self.folder = engine, folder
        (folder / "play.txt").write_text(PLAY, encoding="utf-8")
        (folder / "page").write_bytes(bytes(16))
        self.page = Page(folder / "page")
        self.nursery = subprocess.Popen(
            [sys.executable, "-m", "tests.workshop.killing", "--nursery", str(folder), engine],
            cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, encoding="utf-8",
        )  # fmt: skip

    def train(self, *arguments: str, killed_after: float | None = None) -> int:
        """Its exit status; below 0 the signal that ended it."""
        assert self.nursery.stdin is not None
        assert self.nursery.stdout is not None
        print(json.dumps(["train", *arguments]), file=self.nursery.stdin, flush=True)
        child = int(self.nursery.stdout.readline())
        if killed_after is not None:
            time.sleep(killed_after)
            os.kill(child, signal.SIGKILL)
        print("how?", file=self.nursery.stdin, flush=True)
        return int(self.nursery.stdout.readline())

    @property
    def said(self) -> str:
        return (self.folder / "said").read_text(encoding="utf-8")

    def end(self) -> None:
        assert self.nursery.stdin is not None
        self.nursery.stdin.close()
        self.nursery.wait()


def killed(trainer: Trainer, kills: int, steps: int, longest: float, seed: int) -> tuple[Counter[str], int]:
    """One run after the other, killed after at most `longest` seconds each time, until there were so many kills: what
    was going on, and how many runs that took. Each is compared with one that was not disturbed."""
    draw = random.Random(seed)
    machine = ["--threads", "2"] + (["--device", "cpu", "--no-self-test"] if trainer.engine == "torch" else [])
    begin = ["--data", "play.txt", *MODEL, *RECIPE, "--steps", str(steps), *machine]
    assert trainer.train("--out", "whole", *begin) == 0, trainer.said
    whole, found, number = trainer.folder / "whole", Counter[str](), 0
    while found.total() < kills:
        out, number = f"broken-{number}", number + 1
        status, safe = -signal.SIGKILL, 0
        while status == -signal.SIGKILL:
            more = ["--resume", *machine] if (trainer.folder / out / "checkpoints" / "latest").exists() else begin
            after = draw.uniform(0, longest) if found.total() < kills else None
            trainer.page.memory[8:] = safe.to_bytes(8, "little")
            status = trainer.train("--out", out, *more, killed_after=after)
            if status == -signal.SIGKILL:
                found[trainer.page.work] += 1
                safe = trainer.page.saved
                assert not safe or Run(trainer.folder / out).checkpoint("latest").state.step >= safe
        # one that was killed in its last moment, when all was written, has nothing left to do
        assert status == 0 or f"{out} has done its {steps} steps" in trainer.said, trainer.said
        assert_same_run(whole, trainer.folder / out)
    return found, number


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.workshop.killing", description=__doc__.split("\n", 1)[0])
    parser.add_argument("engines", nargs="*", default=["numpy", "torch"], metavar="numpy|torch")
    parser.add_argument("--kills", type=int, default=50, help="of each (default 50)")
    parser.add_argument("--steps", type=int, default=1000, help="of each run (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments, as far as a clock allows (default 0)")
    parser.add_argument("--nursery", metavar="FOLDER", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.nursery:
        nursery(given.engines[0], Path(given.nursery))
        return
    for engine in given.engines:
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(engine, Path(folder))
            found, number = killed(trainer, given.kills, given.steps, 1.0, given.seed)
            trainer.end()
        moments = ", ".join(f"{found[work]} {work}" for work in WORK)
        print(f"gpt-{engine}: killed {found.total()} times ({moments}); {number} runs, each as if undisturbed")


if __name__ == "__main__":
    main()
