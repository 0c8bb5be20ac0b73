"""Files written atomically, and read with a limit on their size."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Pieces = Iterable[bytes | memoryview]  # of a file


def write_atomic(path: Path, data: bytes) -> None:
    """A reader sees the old content or the new one, also after a crash."""
    temporary = path.with_name(temporary_name(path.name))
    write_fsynced(temporary, [data])
    temporary.replace(path)


def temporary_name(name: str) -> str:
    return f".{name}.new"


def write_fsynced(path: Path, pieces: Pieces) -> str:
    """Returns when the pieces are on the disk, one after the other; their SHA-256. Other threads run meanwhile."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def fsync_folder(folder: Path) -> None:
    """Returns when the names in the folder are on the disk."""
    if os.name == "nt":
        return  # Windows has no such call
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_limited(path: Path, limit: int | None) -> bytes:
    """The content of a file; ValueError for anything else, such as a pipe, and for one larger than the limit."""
    if path.exists() and not path.is_file():
        raise ValueError("it is not a file")
    with path.open("rb") as file:
        data = file.read(-1 if limit is None else limit + 1)
    if limit is not None and len(data) > limit:
        raise ValueError(f"it is larger than {limit / 1e6:.3g} MB")
    return data


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object; ValueError for anything else."""
    try:
        content = json.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    return content


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
