"""Real failures: kills, signals, full disks, removed folders, two trainers at once."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_numpy.cli import CLI
from gpt_numpy.engine import Engine
from gpt_numpy.workshop.cli.main import run
from gpt_numpy.workshop.engine import Batch, StepResult
from gpt_numpy.workshop.runs.checkpoint import Checkpoint
from gpt_numpy.workshop.runs.run_dir import LOCK, RunDir
from gpt_numpy.workshop.train import task, trainer
from gpt_numpy.workshop.train.evaluate import EvalProgress
from gpt_torch.cli import CLI as IN_TORCH
from tests.support import ROOT
from tests.support.runs import TINY, Train, assert_same_run, latest, records, wait_for_checkpoints
from tests.workshop.killing import TrainerProcess, kill_repeatedly

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the harm is done as it is on Unix")


# ---- kills ------------------------------------------------------------------------------------------------------


@pytest.mark.alone
@pytest.mark.slow("trainers killed at random moments")
@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_repeatedly_killed_run_equals_uninterrupted_run(engine: str, tmp_path: Path) -> None:
    """A short version of `python -m tests.workshop.killing`."""
    trainer = TrainerProcess(engine, tmp_path)
    kills, _ = kill_repeatedly(trainer, kills=5, steps=150, longest=0.5, seed=0)
    trainer.end()
    assert kills.total() == 5


# ---- signals ----------------------------------------------------------------------------------------------------

LONG_STEPS = """
import sys, time
from gpt_numpy import cli
from gpt_numpy.engine import Engine

def work():
    time.sleep(0.5)  # until the main thread waits: a signal that comes just before that is not noted until the next one
    print("in a step", flush=True)
    time.sleep(60)

def endless(self, *batch):
    self.pool.submit(work).result()

Engine.train_step = endless
sys.exit(cli.main())
"""
UNCHANGED = "import sys; from gpt_numpy import cli; sys.exit(cli.main())"


def started(
    folder: Path, code: str, *arguments: str, setup: Callable[[], object] = lambda: None, **settings: Any
) -> subprocess.Popen[str]:
    """`setup` runs in the new process."""

    def prepare() -> None:
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)  # the process that started the tests may have ignored them
        setup()

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=folder, env=environment, text=True, encoding="utf-8",
        preexec_fn=prepare, **settings,
    )  # fmt: skip


def wait_for_line(process: subprocess.Popen[str], beginning: str) -> None:
    """Wait until the process prints a line that begins like this."""
    assert process.stdout is not None
    assert any(line.startswith(beginning) for line in process.stdout), beginning


@pytest.mark.alone
@pytest.mark.slow("trainers as processes of their own")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_second_signal_ends_without_waiting_for_the_step(
    number: signal.Signals, status: int, train: Train, tmp_path: Path
) -> None:
    arguments = ["train", "--out", "a", "--data", "play.txt", *TINY]
    process = started(tmp_path, LONG_STEPS, *arguments, stdout=subprocess.PIPE)
    wait_for_line(process, "in a step")
    process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=1)  # it waits for the step
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=30) == status
    assert time.monotonic() - began < 5


@pytest.mark.alone
def test_closing_the_terminal_saves_and_ends_the_run(train: Train, tmp_path: Path) -> None:
    import pty

    leader, follower = pty.openpty()
    arguments = ["train", "--out", "a", "--data", "play.txt", *TINY, "--steps", "1000000"]
    process = started(
        tmp_path, UNCHANGED, *arguments, stdin=follower, stdout=follower, stderr=follower,
        setup=lambda: os.login_tty(0),
    )  # fmt: skip
    os.close(follower)
    shown = b""
    while b"step    10" not in shown:
        shown += os.read(leader, 1 << 16)
    os.close(leader)
    try:
        assert process.wait(timeout=60) == 128 + signal.SIGHUP
    finally:
        process.kill()  # or it would train for a million steps
    assert latest(tmp_path / "a") >= 10
    assert records(tmp_path / "a", "end")[-1]["reason"] == "it was stopped"


@pytest.mark.alone
@pytest.mark.slow("trainers as processes of their own")
def test_closing_the_terminal_is_ignored_under_nohup(train: Train, tmp_path: Path) -> None:
    process = started(
        tmp_path, UNCHANGED, "train", "--out", "a", "--data", "play.txt", *TINY, stdout=subprocess.PIPE,
        setup=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    wait_for_line(process, "step     0")
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert latest(tmp_path / "a") == 20


# ---- full and read-only disks -----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 400 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True).returncode
    ):
        pytest.skip("no right to mount a disk here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def fill(disk: Path) -> None:
    with (disk / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1024))


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a function before a given step, when the checkpoints of earlier steps are written."""
    actions: dict[int, Callable[[], object]] = {}
    step = Engine.train_step

    def disturbed(self: Engine, batch: Batch, number: int) -> StepResult:
        if action := actions.pop(number, None):
            wait_for_checkpoints()
            action()
        return step(self, batch, number)

    monkeypatch.setattr(Engine, "train_step", disturbed)
    return actions.__setitem__


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.alone
def test_training_continues_on_a_full_disk_and_saves_once_space_is_free(
    small_disk: Path, train: Train, at_step: Callable[..., None], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(trainer, "REPORT_SECONDS", 0.0)
    flags = ["--steps", "60", "--checkpoint-every", "4"]
    train("uninterrupted", *flags)
    snapshots = []

    def full() -> None:
        snapshots.append(files_of(small_disk / "a" / "checkpoints"))
        fill(small_disk)

    def room() -> None:
        snapshots.append(files_of(small_disk / "a" / "checkpoints"))
        (small_disk / "ballast").unlink()

    at_step(6, full)
    at_step(53, room)
    capsys.readouterr()
    assert train(str(small_disk / "a"), *flags) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert snapshots[0] == snapshots[1]  # the last good checkpoints are unchanged
    for name in ("metrics.jsonl", "checkpoints/latest", "checkpoints/best", "report.html"):
        warning = (
            rf"{small_disk}/a/{name} cannot be written: No space left on device; the newest checkpoint is of step 4"
        )
        assert out.count(warning) == 1, name
    assert_same_run("uninterrupted", small_disk / "a")


@pytest.mark.alone
def test_run_ending_on_a_full_disk_is_saved_in_temporary_folder(
    small_disk: Path, train: Train, at_step: Callable[..., None], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    train("uninterrupted")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    at_step(12, lambda: fill(small_disk))
    capsys.readouterr()
    assert train(str(small_disk / "a")) == 1
    err = capsys.readouterr().err
    (other,) = tmp_path.glob("minitensor-*")
    assert err == (
        f"gpt-numpy: {small_disk}/a cannot be written (No space left on device), so step 20 is saved in {other}; "
        f"continue from there with --resume --out {other}\n"
    )
    assert latest(small_disk / "a") == 10
    assert train(str(other), "--resume", "--steps", "30") == 0
    assert train("uninterrupted", "--resume", "--steps", "30") == 0
    assert records(other, "step") == records("uninterrupted", "step")[20:]


@pytest.mark.alone
def test_lost_step_is_reported_if_temporary_folder_is_full_too(
    small_disk: Path, train: Train, at_step: Callable[..., None], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    at_step(12, lambda: fill(small_disk))
    assert train(str(small_disk / "a")) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"gpt-numpy: step 20 is lost: neither {small_disk}/a (No space left on device) nor ")
    assert err.endswith("the newest checkpoint is of step 10\n")
    assert latest(small_disk / "a") == 10


@pytest.mark.alone
def test_run_does_not_start_on_a_full_disk(small_disk: Path, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    fill(small_disk)
    assert train(str(small_disk / "a")) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "No space left on device" in err


@pytest.mark.alone
def test_lost_step_is_reported_if_temporary_folder_is_missing(
    small_disk: Path, train: Train, at_step: Callable[..., None], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk / "none-such"))
    at_step(12, lambda: fill(small_disk))
    assert train(str(small_disk / "a")) == 1
    err = capsys.readouterr().err
    assert err.startswith(
        f"gpt-numpy: step 20 is lost: neither {small_disk}/a (No space left on device) nor a temporary "
    )
    assert err.endswith("(No such file or directory) can be written; the newest checkpoint is of step 10\n")


def test_first_checkpoint_that_cannot_be_written_is_a_one_line_error(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RunDir, "save_latest", full)
    assert train("a") == 1
    err = capsys.readouterr().err
    assert err.startswith("gpt-numpy: step 0 is lost: neither a (No space left on device) nor a temporary folder ")
    assert err.endswith("can be written; there is no checkpoint\n")


def test_failed_save_of_best_checkpoint_is_retried(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([5.0, 4.0, 6.0, 6.0, 6.0])
    monkeypatch.setattr(task, "evaluate", lambda *_: iter([EvalProgress(1.0, next(losses))]))
    save, failed = RunDir.save_best, list[Checkpoint]()

    def failing(self: RunDir, checkpoint: Checkpoint) -> None:
        if checkpoint.state.step == 5 and not failed:
            failed.append(checkpoint)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(self, checkpoint)

    monkeypatch.setattr(RunDir, "save_best", failing)
    assert train("a") == 0
    assert failed
    assert RunDir(Path("a")).checkpoint("best").state.step == 5
    weights = RunDir(Path("a")).checkpoint("best").weights
    assert all(np.array_equal(array, failed[0].weights[name]) for name, array in weights.items())


@pytest.mark.alone
def test_failed_export_leaves_nothing_behind(
    small_disk: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    train("a")
    fill(small_disk)
    capsys.readouterr()
    assert run(IN_TORCH, ["export", "--run", "a", str(small_disk / "there")]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "No space left on device" in err
    assert not (small_disk / "there").exists()
    (small_disk / "ballast").unlink()
    assert run(IN_TORCH, ["export", "--run", "a", str(small_disk / "there")]) == 0


@pytest.fixture
def forbid(tmp_path: Path) -> Iterator[Callable[[bool], None]]:
    """Takes write permission from this process: root becomes the user nobody for a while."""
    if os.geteuid() != 0:
        pytest.skip("only root can become nobody and come back")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    yield lambda yes: os.seteuid(65534 if yes else 0)
    os.seteuid(0)


def test_training_continues_in_read_only_folder_with_one_warning(
    train: Train, at_step: Callable[..., None], forbid: Callable[[bool], None], capsys: pytest.CaptureFixture[str]
) -> None:
    train("uninterrupted")
    at_step(7, lambda: forbid(True))
    at_step(13, lambda: forbid(False))
    capsys.readouterr()
    assert train("a") == 0
    out = capsys.readouterr().out
    warning = "a/checkpoints/latest cannot be written: Permission denied; the newest checkpoint is of step 0"
    assert out.count(warning) == 1
    assert "removed" not in out
    assert_same_run("uninterrupted", "a")


def test_read_only_folder_is_a_one_line_error(
    train: Train, forbid: Callable[[bool], None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    train("a")
    forbid(True)
    for out, flags in (("a", ("--resume", "--steps", "25")), ("b", ())):
        capsys.readouterr()
        assert train(out, *flags) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "Permission denied" in err


# ---- removed folders --------------------------------------------------------------------------------------------


def test_removed_run_folder_is_a_one_line_error(
    train: Train, at_step: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    at_step(6, lambda: shutil.rmtree("a"))
    assert train("a") == 1
    assert not Path("a").exists()
    err = capsys.readouterr().err
    assert err.startswith("gpt-numpy: a was removed while it was trained; the run ends at step ")
    assert err.count("\n") == 1


def test_folder_taken_over_by_another_run_is_left_alone(
    train: Train, at_step: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    other = RunDir(Path("a"))

    def taken() -> None:
        shutil.rmtree("a")
        other.create()

    at_step(6, taken)
    assert train("a") == 1
    assert [path.name for path in Path("a").iterdir()] == [LOCK]
    other.close()
    assert "a was removed while it was trained" in capsys.readouterr().err


def test_overwritten_config_does_not_affect_a_running_training(train: Train, at_step: Callable[..., None]) -> None:
    at_step(7, lambda: Path("a/config.json").write_text("[]", encoding="utf-8"))
    assert train("a") == 0
    assert "all steps are done" in Path("a/report.html").read_text(encoding="utf-8")


# ---- two trainers -----------------------------------------------------------------------------------------------


@pytest.mark.alone
@pytest.mark.slow("trainers as processes of their own")
def test_second_trainer_is_refused_while_first_is_running(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--out", "a", "--data", "play.txt", *TINY, "--steps", "1000000"]
    process = started(tmp_path, UNCHANGED, *arguments, stdout=subprocess.PIPE)
    try:
        wait_for_line(process, "step     5")
        for flags in (("--resume",), ()):
            capsys.readouterr()
            assert train("a", *flags) == 2
            err = capsys.readouterr().err
            by = rf"gpt-numpy: a is being trained, by process {process.pid} on "
            assert err.startswith(by)
            assert err.count("\n") == 1
        assert run(CLI, ["generate", "--run", "a", "--length", "5"]) == 0  # reading is allowed
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / "a" / LOCK).read_text(encoding="utf-8").startswith(f"process {process.pid} ")
    assert train("a", "--resume", "--steps", str(latest("a") + 1)) == 0


def test_run_killed_before_first_checkpoint_can_be_restarted(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed_here(*_: Any) -> None:
        raise SystemExit  # leaving what was written so far

    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "save_latest", killed_here)
        with pytest.raises(SystemExit):
            train("a")
    assert {path.name for path in Path("a").iterdir()} == {LOCK, "config.json", "metrics.jsonl", "recipe.toml"}
    (Path("a") / ".config.json.new").write_text("{", encoding="utf-8")  # a write may be cut off anywhere
    assert train("a", "--resume") == 2
    assert "a is not the folder of a run: it holds no checkpoint" in (capsys.readouterr().err)
    assert train("a") == 0
    assert len(records("a", "step")) == 20


def test_refused_command_changes_no_files(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (LOCK, "metrics.jsonl", "config.json"):
        (Path("began") / name).parent.mkdir(exist_ok=True)
        (Path("began") / name).write_text("{}", encoding="utf-8")
    shutil.copytree("began", "project")
    Path("project/thesis.txt").write_text("years", encoding="utf-8")
    before = files_of(Path("."))
    assert train("began", "--data", "missing.txt") == 2
    assert train("project") == 2
    assert "project is not empty; give another folder" in capsys.readouterr().err
    (Path("began") / LOCK).write_text("{}", encoding="utf-8")  # which records the last holder
    assert files_of(Path(".")) == before


def test_run_created_before_lock_is_taken_is_not_overwritten(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = RunDir.lock

    def late(self: RunDir) -> None:
        monkeypatch.setattr(RunDir, "lock", lock)
        assert train("a") == 0
        lock(self)

    monkeypatch.setattr(RunDir, "lock", late)
    assert train("a", "--seed", "7") == 2
    assert "a holds a run already" in capsys.readouterr().err
    assert len(records("a", "step")) == 20


def test_training_works_without_file_locks(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unknown)
    assert train("a") == 0


@pytest.mark.parametrize("command", [["train"], ["tune", "sft"]])
def test_resuming_in_a_folder_that_is_no_run_writes_nothing(
    command: list[str], train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or the next command could take what is there for the remains of a run, and overwrite it."""
    mine = {"config.json": "{}", "report.html": "x", "checkpoints/model.pt": "weights"}
    for name, text in mine.items():
        path = Path("mine", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert run(CLI, [*command, "--resume", "--out", "mine"]) == 2
    assert "mine is not the folder of a run: it holds no checkpoint" in capsys.readouterr().err
    assert train("mine") == 2
    assert "mine is not empty; give another folder" in capsys.readouterr().err
    found = {
        str(path.relative_to("mine")): path.read_text("utf-8") for path in Path("mine").rglob("*") if path.is_file()
    }
    assert found == mine
