"""Tiny runs, their comparison, and checkpoints with forged content."""

import hashlib
import json
import threading
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from gpt_numpy.workshop.runs.checkpoint import Checkpoint, save_checkpoint
from gpt_numpy.workshop.runs.run_dir import RunDir

PLAY = "".join(f"SCENE {i}. {'to be or not to be ' * (i % 3)}that is question {i * i}\n" for i in range(80))
MODEL = ["--n-layer", "1", "--n-head", "2", "--n-embd", "8", "--block-size", "8", "--batch-size", "4"]
TINY = [
    *(*MODEL, "--threads", "1"),
    *("--steps", "20", "--eval-every", "5", "--checkpoint-every", "10", "--warmup", "2", "--lr", "0.01"),
]
BEST_FILES = ("model.safetensors", "tokenizer.json", "state.json")
FILES = ("model.safetensors", "optimizer.safetensors", "tokenizer.json", "state.json")

Train = Callable[..., int]  # trains in the named folder, with more flags
Trained = Callable[..., None]  # copies such a run into it


def records(folder: str | Path, kind: str) -> list[dict[str, Any]]:
    """What a run recorded, without its timings."""
    lines = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found = [record for record in map(json.loads, lines) if record["kind"] == kind]
    times = ("characters_per_second", "seconds", "seconds_in_steps", "budget")
    return [{name: value for name, value in record.items() if name not in times} for record in found]


def assert_same_run(a: str | Path, b: str | Path) -> None:
    """Bit for bit: every loss, every sample, every weight, the optimizer state, and the end."""
    for kind in ("step", "evaluation", "end"):
        assert records(a, kind) == records(b, kind)
    for which in ("latest", "best"):
        for name in FILES if which == "latest" else BEST_FILES:
            one, other = ((Path(run) / "checkpoints" / which / name).read_bytes() for run in (a, b))
            assert one == other, f"{which}/{name}"


def wait_for_checkpoints() -> None:
    """Until all that the trainers of this process have asked for are written."""
    for thread in threading.enumerate():
        if thread.name == "checkpoints":
            thread.join()


def latest(folder: str | Path) -> int:
    """The step of a run's newest checkpoint."""
    return RunDir(Path(folder)).checkpoint("latest").state.step


def rewrite_state(folder: Path, **changed: Any) -> None:
    """Changes state.json of a checkpoint and recomputes all checksums, as an attacker could."""
    path = folder / "state.json"
    content = json.loads(path.read_text(encoding="utf-8")) | changed
    content.pop("sha256", None)
    content["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in content["files"]}
    content["sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(content), encoding="utf-8")


def save_in_turns(folder: Path, one: Checkpoint, other: Checkpoint, begun: Event) -> None:
    """Until its process is killed. It stands here since that process need not import PyTorch."""
    begun.set()
    while True:
        save_checkpoint(folder, one)
        save_checkpoint(folder, other)
