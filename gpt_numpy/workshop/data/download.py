"""Tiny Shakespeare: fetched once, checked, and kept in the user's cache."""

import hashlib
import http.client
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from gpt_numpy.workshop.console import BYTES, Console
from gpt_numpy.workshop.errors import RunFailed

ADDRESS = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SIZE = 1_115_394
TIMEOUT = 10.0  # seconds without a byte
DEADLINE = 120.0  # seconds for all of it


class NotFetched(Exception):
    """Why the text could not be had, in a line."""


def cache_folder() -> Path:
    try:
        from platformdirs import user_cache_path  # not there on every machine that is lent; nor needed with --data
    except ModuleNotFoundError:
        raise RunFailed(
            "platformdirs is not installed here, which says where files are kept; give --data FILE"
        ) from None
    return user_cache_path("minitensor", appauthor=False)


def tiny_shakespeare(console: Console) -> Path | bytes:
    """The checked file in the cache, or where it could not be kept what would be in it; NotFetched if it cannot be
    had."""
    path = cache_folder() / "tinyshakespeare.txt"
    with suppress(OSError):
        if path.exists() and _digest(path.read_bytes()) == SHA256:
            return path
    data = _fetch(console)
    if _digest(data) != SHA256:
        raise NotFetched(f"{ADDRESS} sent {len(data):,} bytes that are not tiny Shakespeare (SHA-256 differs)")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{uuid4().hex}")
        try:
            beside.write_bytes(data)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        console.say(f"{path} cannot be written: {error.strerror}; next time it is downloaded again", "yellow")
        return data
    return path


def _fetch(console: Console) -> bytes:
    data, began = bytearray(), time.monotonic()
    try:
        with urllib.request.urlopen(ADDRESS, timeout=TIMEOUT) as answer, console.bar(
            "downloading tiny Shakespeare", SIZE, *BYTES
        ) as bar:  # fmt: skip
            while len(data) <= SIZE and (piece := answer.read1(1 << 14)):
                data += piece
                bar.at(len(data))
                if time.monotonic() - began > DEADLINE:
                    raise TimeoutError(f"only {len(data):,} bytes in {DEADLINE:.0f} seconds")
    except (OSError, ValueError, http.client.HTTPException) as error:  # no network, an error page, a line that broke
        reason = " ".join(str(getattr(error, "reason", None) or error).split())
        raise NotFetched(f"{ADDRESS} could not be read: {reason}") from None
    return bytes(data)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
