"""Where the records of a run go beside metrics.jsonl: train --log NAME.

Another logger, say for wandb or trackio, is a function like tensorboard and an entry in LOGGERS. What it returns gets
each record: of a step, an evaluation or the end; FIELDS in runs/run_dir.py lists what they hold.
"""

from collections.abc import Callable
from pathlib import Path

from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.runs.run_dir import Record


def tensorboard(folder: Path) -> Callable[[Record], None]:
    """Curves in the run's folder: tensorboard --logdir runs."""
    try:
        from tensorboard.summary import Writer
    except ImportError:
        raise UsageError(
            "--log tensorboard needs the library: pip install tensorboard, or uv run --extra tensorboard ..."
        ) from None
    writer = Writer(str(folder / "tensorboard"))

    def log(record: Record) -> None:
        for name in ("loss", "grad_norm", "lr", "characters_per_second", "train_loss", "val_loss"):
            if name in record:
                writer.add_scalar(name, record[name], record["step"])
        for name, value in record.get("figures", {}).items():
            writer.add_scalar(f"{'' if record['kind'] == 'step' else 'val_'}{name}", value, record["step"])
        if record["kind"] != "step":
            writer.flush()

    return log


LOGGERS = {"tensorboard": tensorboard}
