"""A lock on a file, which the system releases when its process ends, however it ends."""

import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

FAR = 1 << 30  # the byte that is locked: on Windows nobody can read a locked byte, so it lies beyond the content


class Held(Exception):
    """Another process has the lock; the message says which."""


class Lock:
    """Held until `release`. On a file system without locks, everybody gets it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("a+b", buffering=0)
        try:
            _lock(self.file)
        except (BlockingIOError, PermissionError):
            self.file.seek(0)
            holder = self.file.read(200).decode("utf-8", "replace")
            self.file.close()
            raise Held(holder or "another process") from None
        except OSError:
            return
        with suppress(OSError):  # a full disk; only messages need it
            self.file.truncate(0)
            self.file.write(f"process {os.getpid()} on {platform.node()}".encode())

    @property
    def in_place(self) -> bool:
        """Whether its file is still at its path, where other processes find it."""
        try:
            return not self.file.closed and os.path.samestat(os.fstat(self.file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False
        except OSError:  # unknown
            return True

    def release(self) -> None:
        self.file.close()


def _lock(file: BinaryIO) -> None:
    if sys.platform == "win32":
        file.seek(FAR)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
