"""Several processes train like one process with the whole batch: real processes, with torchrun, on the CPU."""

import json
import math
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from gpt_numpy.cli import CLI as numpy_program
from gpt_numpy.workshop.cli.main import run
from gpt_numpy.workshop.engine import Batch, StepResult
from gpt_numpy.workshop.errors import PeerLost
from gpt_numpy.workshop.runs.checkpoint import Checkpoint
from gpt_numpy.workshop.runs.run_dir import RunDir
from gpt_numpy.workshop.train import signals, trainer
from gpt_numpy.workshop.train.distributed import Processes
from gpt_torch import distributed
from gpt_torch.cli import CLI, TorchCLI
from gpt_torch.device import find_device
from gpt_torch.distributed import split_rows
from gpt_torch.engine import Engine
from gpt_torch.optim import Optimizer
from tests.gpt_torch.cards import cards
from tests.gpt_torch.launch import LOADED, launch, torchrun
from tests.gpt_torch.together import CASES, CPU, Case, cases, computed
from tests.support.engines import CONFIG, RECIPES, Everything, assert_close, trained
from tests.support.fork_server import ForkServer
from tests.support.runs import rewrite_state


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    server = ForkServer(LOADED)
    yield server
    server.end()


def processes_of(size: int, rank: int = 0) -> Processes:
    processes = Processes()
    processes.size, processes.rank = size, rank
    return processes


# ---- split of a batch -------------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(0, 9), st.integers(1, 9))
def test_processes_split_a_batch(rows: int, at_once: int, size: int) -> None:
    taken, counts = [], set()
    for rank in range(size):
        pieces = split_rows(rows, at_once, processes_of(size, rank))
        counts.add(len(pieces))
        taken += [row for piece in pieces for row in range(rows)[piece]]
        assert all(len(range(rows)[piece]) <= (at_once or rows) for piece in pieces)
    assert taken == list(range(rows))
    assert len(counts) == 1  # or one process would wait for gradients of a micro-batch that the others lack


# ---- equal results ----------------------------------------------------------------------------------------------


TOGETHER = "from pathlib import Path; from tests.gpt_torch.together import main; main(Path())"


@pytest.fixture(scope="module")
def together(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], tuple[Path, str]]:
    """The folder with the results of `size` processes, and their output if they failed."""

    @cache
    def launched(size: int) -> tuple[Path, str]:
        folder = tmp_path_factory.mktemp("together")
        status, output = launch(server, size, folder, TOGETHER)
        return folder, output if status else ""

    return launched


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Everything]:
    """What this process computes, without a compiler."""
    folder = tmp_path_factory.mktemp("alone")
    found = cache(partial(computed, processes=Processes(), folder=folder))
    return lambda case: found(replace(case, options=replace(case.options, compile="off")))


@pytest.mark.slow("several processes")
@pytest.mark.parametrize(("size", "how", "name"), [(size, *case) for size in (2, 3) for case in cases(size)])
def test_several_processes_compute_the_same_as_one(
    size: int, how: str, name: str, together: Callable[[int], tuple[Path, str]], alone: Callable[[Case], Everything]
) -> None:
    folder, failure = together(size)
    assert not failure, failure
    case = CASES[name]
    if case.config.dropout:  # rows of one micro-batch share a draw of random numbers
        case = replace(case, recipe=replace(case.recipe, micro_batch=-(-case.rows // size)))
    several, one = dict(np.load(folder / f"{how} {name}.npz")), alone(case)
    if case.low:
        several, one = ({key: some[key] for key in ("reported", "losses")} for some in (several, one))
    assert_close(several, one, 0.02 if case.low else 1e-3)


def test_muon_gathers_each_shape_once_and_keeps_own_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.tensor import DTensor

    gathered: list[int] = []  # calls in each step
    gather, step = DTensor.full_tensor, Optimizer.step

    def counting_gather(tensor: Any, **settings: Any) -> Any:
        gathered[-1:] = [number + 1 for number in gathered[-1:]]
        return gather(tensor, **settings)

    def counting_step(optimizer: Optimizer) -> Any:
        with monkeypatch.context() as patch:
            gathered.append(0)
            patch.setattr(DTensor, "full_tensor", counting_gather)
            patch.delattr("torch.distributed.tensor.distribute_tensor")  # which would send whole matrices
            return step(optimizer)

    alone = trained(Engine(CONFIG, RECIPES["muon"], CPU))
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        monkeypatch.setattr(Optimizer, "step", counting_step)
        engine = Engine(CONFIG, RECIPES["muon"], replace(CPU, parallel="fsdp"))
        assert_close(trained(engine), alone)
    finally:
        dist.destroy_process_group()
    assert gathered == [4] * 3  # c_attn, c_proj and the two of the MLP


# ---- the command ------------------------------------------------------------------------------------------------

PLAY = "".join(f"SCENE {i}. Enter ROMEO, who says {i * i}: farewell!\n" for i in range(60))
MACHINE = ["--device", "cpu", "--no-self-test", "--threads", "1"]
TRAIN = [
    *("train", "--data", "play.txt", "--out", "a", *MACHINE),
    *("--n-layer", "1", "--n-head", "2", "--n-embd", "8", "--block-size", "8", "--batch-size", "5"),
    *("--steps", "10", "--eval-every", "4", "--warmup", "2", "--lr", "0.01", "--preset", "workshop"),
]
# The command, but in one process a method of the engine runs other code after some steps.
MAIN = """
import os, signal, sys
import torch
from gpt_torch import cli, engine
from gpt_numpy.workshop.train import task

rank = int(os.environ["RANK"])
task.SAMPLE = 10
train_step, method, steps = engine.Engine.train_step, engine.Engine.{where}, 0

def counted(self, *batch):
    global steps
    steps += 1
    return train_step(self, *batch)

def disturbed(self, *batch):
    if steps == {after} and rank == {rank}:
        {happens}
    return method(self, *batch)

engine.Engine.train_step = counted
method = counted if method is train_step else method
engine.Engine.{where} = disturbed
sys.exit(cli.main())
"""
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
ASKED = "os.kill(os.getpid(), signal.SIGTERM)"
LOST = "another process of this run was lost"
FULL = """
        def fail(gradient):
            raise torch.OutOfMemoryError
        def full(ids, targets):
            loss = self.eager_loss(ids, targets)
            loss.register_hook(fail)
            return loss
        self.model_loss = full
"""


def program(happens: str = "pass", rank: int = 0, where: str = "train_step", after: int = 5) -> str:
    """The command's code, with `happens` run in one of the processes."""
    return MAIN.format(rank=rank, happens=happens, where=where, after=after)


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "a" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


@pytest.mark.slow("several processes")
def test_run_resumed_with_other_processes_equals_run_of_one(
    server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several, one = tmp_path / "several", tmp_path / "one"
    for folder in (several, one):
        folder.mkdir()
        (folder / "play.txt").write_text(PLAY, encoding="utf-8")
    status, output = launch(server, 2, several, program(ASKED, rank=1), *TRAIN)
    assert status == 1  # of torchrun
    assert output.count("stopped and saved at step 6; continue with --resume") == 1, output
    assert "gpt-torch: " not in output
    assert [record["reason"] for record in records(several, "end")] == ["it was stopped"]
    assert "in each of 2 processes (ddp)" in output
    resume = ["train", "--resume", "--out", "a", *MACHINE, "--parallel", "fsdp"]
    status, output = launch(server, 3, several, program(), *resume, frees_all=True)
    assert status == 0, output  # an exit that aborts would show
    assert output.count("resuming after step 6 of 10") == 1, output
    assert "in each of 3 processes (fsdp)" in output
    monkeypatch.chdir(one)
    assert run(CLI, TRAIN) == 0
    for kind, figures in (("step", ("loss", "grad_norm", "lr")), ("evaluation", ("train_loss", "val_loss"))):
        assert [[record[name] for name in ("step", *figures)] for record in records(several, kind)] == [
            pytest.approx([record[name] for name in ("step", *figures)], rel=1e-4) for record in records(one, kind)
        ]
    assert {path.relative_to(several) for path in several.rglob("*")} == {
        path.relative_to(one) for path in one.rglob("*")
    }
    assert output.count("best validation loss") == 1  # only one process prints


@pytest.mark.slow("several processes")
@pytest.mark.parametrize(
    ("happens", "rank", "where", "after", "how", "message", "saved"),
    [
        (KILLED, 0, "train_step", 5, "fsdp", f"{LOST} after step 5; --resume continues from the newest checkpoint", 0),
        (KILLED, 1, "loss", 4, "fsdp", f"{LOST} after step 4; --resume continues from the newest checkpoint", 0),
        (KILLED, 1, "reader", 8, "ddp", "saved at step 8; continue with --resume", 8),
        (FULL, 1, "train_step", 5, "ddp", "out of memory on CPU, 1 thread; --micro-batch 1 fits", 5),
    ],
    ids=["first process, fsdp", "evaluating, fsdp", "sampling", "out of memory"],
)
def test_lost_process_ends_the_run_with_a_checkpoint(
    happens: str, rank: int, where: str, after: int, how: str, message: str, saved: int,
    server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "play.txt").write_text(PLAY, encoding="utf-8")
    code = program(happens, rank, where, after)
    status, output = launch(server, 2, tmp_path, code, *TRAIN, "--parallel", how)
    assert status == 1, output  # of torchrun
    assert output.count(message) == 1, output
    messages = re.findall(r"gpt-torch: .*", output)
    assert len(messages) == len(set(messages)) <= 1 + (happens == FULL), output  # its reason, and that it was lost
    monkeypatch.chdir(tmp_path)
    assert RunDir(Path("a")).checkpoint("latest").state.step == saved
    assert [record["reason"] for record in records(tmp_path, "end")] == ["another process was lost"] * (rank != 0)
    assert not list(Path("a/checkpoints").glob(".*"))  # no partial checkpoint
    assert run(numpy_program, ["train", "--resume", "--out", "a"]) == 0  # in one process, with the other engine
    assert [record["step"] for record in records(tmp_path, "step")] == list(range(1, 11))


@pytest.mark.alone
@pytest.mark.slow("several processes")
@pytest.mark.parametrize(
    ("killed", "size"), [(0, 2), (2, 3)], ids=["the first of two, with torchrun", "the last of three"]
)
def test_other_processes_end_within_a_minute_of_a_kill(
    killed: int, size: int, server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.time()
    (tmp_path / "play.txt").write_text(PLAY, encoding="utf-8")
    start = torchrun if killed == 0 else launch
    status, output = start(server, size, tmp_path, program(f"open('killed', 'w').close(); {KILLED}", killed), *TRAIN)
    ended, at = time.time(), (tmp_path / "killed").stat().st_mtime
    assert began < at < ended < at + 60
    assert status == 1, output  # of torchrun
    assert output.count(f"gpt-torch: {LOST} after step 5; --resume continues from the newest checkpoint") == 1, output
    monkeypatch.chdir(tmp_path)
    assert RunDir(Path("a")).checkpoint("latest").state.step == (0 if killed == 0 else 5)  # only rank 0 writes
    status, output = launch(server, size, tmp_path, program(), "train", "--resume", "--out", "a", *MACHINE)
    assert status == 0, output
    assert [record["step"] for record in records(tmp_path, "step")] == list(range(1, 11))


@pytest.mark.parametrize(("failure", "last"), [("hangs", 3), ("wrong", 2)])
def test_save_after_a_lost_process_is_skipped_if_it_hangs_or_is_nonfinite(
    failure: str, last: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    step, save, done = Engine.train_step, RunDir.save_latest, threading.Event()

    def lost(self: Engine, batch: Batch, number: int) -> StepResult:
        if number == 3:
            raise PeerLost(LOST)
        trained = step(self, batch, number)
        return StepResult(math.nan, math.nan) if failure == "wrong" and number == 2 else trained

    def hanging(self: RunDir, checkpoint: Checkpoint) -> None:
        if failure == "hangs" and checkpoint.state.step == 3:
            done.wait()  # like a device that waits for the lost process
            raise PeerLost(LOST)
        save(self, checkpoint)

    monkeypatch.setattr(Engine, "train_step", lost)
    monkeypatch.setattr(RunDir, "save_latest", hanging)
    monkeypatch.setattr(trainer, "SAVE_TIMEOUT", 1.0)
    monkeypatch.chdir(tmp_path)
    Path("play.txt").write_text(PLAY, encoding="utf-8")
    assert run(CLI, TRAIN) == 1
    output, errors = capsys.readouterr()
    assert errors == f"gpt-torch: {LOST} after step {last}; --resume continues from the newest checkpoint\n"
    assert ("step 3: the loss is nan" in output) == (failure == "wrong")
    assert "saved at" not in output
    assert [record["reason"] for record in records(tmp_path, "end")] == ["another process was lost"]
    assert RunDir(Path("a")).checkpoint("latest").state.step == 0
    done.set()


class Pair(Processes):
    """This process and a second one that sends what an earlier pair has sent, or by default the same as this one."""

    def __init__(self, other: "Pair | None" = None) -> None:
        self.sent: list[tuple[int, ...]] = []
        self.answers = iter(other.sent if other else [])

    def all_reduce_max(self, *numbers: int) -> tuple[int, ...]:
        self.sent.append(numbers)
        return tuple(map(max, numbers, next(self.answers, numbers)))


def test_differing_flags_of_processes_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = None
    monkeypatch.chdir(tmp_path)
    Path("play.txt").write_text(PLAY, encoding="utf-8")
    monkeypatch.setattr(trainer.Trainer, "train", lambda self: signals.Stop(self.processes))
    for status, out, flags, differing in (
        (0, "a", (), None),
        (0, "b", (), None),
        (2, "c", ("--seed", "2"), "flags, files or the run's folder: each machine needs the same"),
        (2, "d", ("--dtype", "float16"), "--device, --dtype or --parallel, or in their defaults"),
    ):
        pair = Pair(first)
        assert run(TorchCLI(pair), [*TRAIN, "--out", out, *flags]) == status
        assert capsys.readouterr().err.startswith(f"gpt-torch: the processes differ in {differing}") == (status == 2)
        assert Path(out).exists() == (status == 0)
        first = first or pair


@pytest.mark.parametrize("command", [["train", "--resume", "--out"], ["eval", "--run"]], ids=["resume", "eval"])
def test_differing_weights_of_processes_are_reported(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("play.txt").write_text(PLAY, encoding="utf-8")
    assert run(CLI, TRAIN) == 0
    for copy in ("b", "c"):
        shutil.copytree("a", copy)
    for which in ("best", "latest"):
        path = Path("c/checkpoints") / which / "model.safetensors"
        save_file({name: weight + 0.1 for name, weight in load_file(path).items()}, path)
        rewrite_state(path.parent)
    monkeypatch.setattr(trainer.Trainer, "train", lambda self: signals.Stop(self.processes))
    more = ["--steps", "20"] * (command[0] == "train")
    one = Pair()
    assert run(TorchCLI(one), [*command, "a", *more]) == 0
    assert run(TorchCLI(Pair(one)), [*command, "b", *more]) == 0
    assert run(TorchCLI(Pair(one)), [*command, "c", *more]) == 2
    assert "the processes differ in flags, files or the run's folder: each machine" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["generate", "export", "import"])
def test_commands_for_one_process_refuse_several(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(TorchCLI(processes_of(2)), [name]) == 2
    assert capsys.readouterr().err == f"gpt-torch: {name} is for one process; start it without torchrun\n"


def test_requirements_of_fsdp(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(CLI, ["train", "--parallel", "fsdp"]) == 2
    message = "gpt-torch: --parallel fsdp needs several processes; start them with torchrun\n"
    assert capsys.readouterr().err == message
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    assert run(CLI, ["train", "--parallel", "fsdp", "--dtype", "float16"]) == 2
    assert "--parallel fsdp does not support float16; use --dtype float32" in capsys.readouterr().err


def test_failed_rendezvous_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no address for eth7\nand much more")

    monkeypatch.setattr(dist, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    monkeypatch.setattr(distributed, "rendezvous", fail)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as ended, distributed.init_processes():
        raise AssertionError
    assert ended.value.code == "gpt-torch: the processes cannot connect to each other: no address for eth7"


def test_each_process_needs_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch, "NVIDIA H200", "NVIDIA H200")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(dist, "is_torchelastic_launched", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", "6")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert find_device("auto").type == "cuda"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="each of 3 processes and this machine has 2; use --nproc-per-node 2"):
        find_device("auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto").type == "cpu"
    with pytest.raises(ValueError, match="device mps is for one process; --device cpu works for several"):
        find_device("mps")
    monkeypatch.setattr(
        dist, "is_torchelastic_launched", lambda: False
    )  # a cluster may set WORLD_SIZE without torchrun
    assert find_device("auto").type == "mps"
