"""Files: written whole or not at all, and read only as far as they can be what they should be."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def write_whole(path: Path, data: bytes) -> None:
    """Whoever reads it, also after a crash, sees what was there before or all of this."""
    beside = path.with_name(half_written(path.name))
    write_synced(beside, data)
    beside.replace(path)


def half_written(name: str) -> str:
    """What a file is called until it is whole."""
    return f".{name}.new"


def write_synced(path: Path, data: bytes) -> None:
    """Return when the disk has it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the disk knows what is in the folder."""
    if os.name == "nt":
        return  # Windows has no such call
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_limited(path: Path, limit: int | None) -> bytes:
    """All of a file; ValueError for what is no file, as a pipe or a device, and for one that is far too large."""
    if path.exists() and not path.is_file():
        raise ValueError("it is not a file")
    with path.open("rb") as file:
        data = file.read(-1 if limit is None else limit + 1)
    if limit is not None and len(data) > limit:
        raise ValueError(f"it is larger than {limit / 1e6:.0f} MB")
    return data


def table_from(data: bytes) -> dict[str, Any]:
    """A table of names and values in JSON; ValueError for anything else."""
    try:
        content = json.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(content, dict):
        raise ValueError("it is not a table of names and values")
    return content


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
