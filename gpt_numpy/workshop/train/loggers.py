"""Where the records of a run go beside metrics.jsonl: train --log NAME.

Another logger, say for wandb or trackio, is a class like TensorBoard and an entry in LOGGERS.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from gpt_numpy.workshop.errors import WrongUse
from gpt_numpy.workshop.runs.run_dir import Record


class Logger(Protocol):
    def record(self, record: Record) -> None:
        """Of a step, an evaluation or the end; FIELDS in runs/run_dir.py lists what they hold."""


class TensorBoard:
    """Curves in the run's folder: tensorboard --logdir runs."""

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.summary import Writer
        except ImportError:
            raise WrongUse(
                "--log tensorboard needs the library: pip install tensorboard, or uv run --extra tensorboard ..."
            ) from None
        self._writer = Writer(str(folder / "tensorboard"))

    def record(self, record: Record) -> None:
        for name in ("loss", "grad_norm", "lr", "characters_per_second", "train_loss", "val_loss"):
            if name in record:
                self._writer.add_scalar(name, record[name], record["step"])
        for name, value in record.get("figures", {}).items():
            self._writer.add_scalar(f"{'' if record['kind'] == 'step' else 'val_'}{name}", value, record["step"])
        if record["kind"] != "step":
            self._writer.flush()


LOGGERS: dict[str, Callable[[Path], Logger]] = {"tensorboard": TensorBoard}
