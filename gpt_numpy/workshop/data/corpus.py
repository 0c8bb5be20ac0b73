"""The source of the text: files or a folder given by --data; or data/input.txt; or tiny Shakespeare, downloaded once;
or synthetic plays."""

import codecs
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from gpt_numpy.workshop.console import BYTES, Bar, Console
from gpt_numpy.workshop.data.synthetic import write_play
from gpt_numpy.workshop.errors import RunFailed, UsageError
from gpt_numpy.workshop.io import sha256

CHUNK = 1 << 20  # bytes read at once

ADDRESS = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SIZE = 1_115_394
TIMEOUT = 10.0  # seconds without a byte
DEADLINE = 120.0  # seconds for the whole download


class Corpus:
    """A text that is read in chunks, so that it may be larger than memory."""

    name: str  # shown on the screen
    data: str  # the value of --data that finds it again; several paths a line each
    size: int  # bytes

    def chunks(self, bar: Bar | None = None) -> Iterator[str]:
        raise NotImplementedError

    def floor(self, begin: int) -> float | None:
        """The exact entropy from this character to the end, in nats per character, if it is known."""
        return None


class TextFile(Corpus):
    """A UTF-8 file."""

    def __init__(self, path: Path, name: str | None = None, data: str | None = None) -> None:
        try:
            self.path, self.name, self.data = path, name or str(path), data or str(path.resolve())
            self.size = path.stat().st_size
            self.data.encode("utf-8")  # as a run's files have to hold it
            if not path.is_file():
                raise UsageError(f"{path} is not a regular file; a pipe cannot be read more than once")
            with path.open("rb"):
                pass
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from None
        except ValueError as error:  # not a valid file name, or not in UTF-8
            raise UsageError(f"{str(path)!r} cannot be read: {error}") from None
        if not self.size:
            raise UsageError(f"{path} is empty")

    def open(self) -> BinaryIO:
        return self.path.open("rb")

    def chunks(self, bar: Bar | None = None) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        done = 0
        try:
            with self.open() as file:
                while data := file.read(CHUNK):
                    if b"\0" in data:
                        raise UsageError(f"{self.path} is not text: it has a zero byte at {done + data.index(0):,}")
                    yield decoder.decode(data)
                    done += len(data)
                    if bar is not None:
                        bar.at(done)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{self.path} is not UTF-8: {error.reason} near byte {done + error.start:,}; save it as UTF-8"
            ) from None
        except OSError as error:
            raise UsageError(f"{self.path} cannot be read: {error.strerror}") from None


class TextFiles(Corpus):
    """Several files, one after the other; each begins on a new line."""

    def __init__(self, files: Sequence[TextFile], name: str, data: str) -> None:
        self.files, self.name, self.data = files, name, data
        self.size = sum(file.size for file in files)

    def chunks(self, bar: Bar | None = None) -> Iterator[str]:
        done, last = 0, "\n"
        for file in self.files:
            if last != "\n":
                yield "\n"
            for chunk in file.chunks():
                last = chunk[-1:] or last
                yield chunk
                done += len(chunk)
                if bar is not None:
                    bar.at(done)  # in characters, which are fewer than bytes


class InMemory(TextFile):
    """A download that could not be written to the cache."""

    def __init__(self, content: bytes, name: str, data: str) -> None:
        self.path, self.name, self.data, self.size = Path(name), name, data, len(content)
        self.content = content

    def open(self) -> BinaryIO:
        return BytesIO(self.content)


class Synthetic(Corpus):
    """Generated plays, the same each time; no network needed."""

    name, data = "synthetic plays", "synthetic"

    def __init__(self) -> None:
        self.play = write_play()
        self.size = len(self.play.text)

    def chunks(self, bar: Bar | None = None) -> Iterator[str]:
        yield self.play.text

    def floor(self, begin: int) -> float | None:
        return float(self.play.surprisal[begin:].mean())


def find_corpus(data: str | None, console: Console) -> Corpus:
    if data == Synthetic.data:
        return Synthetic()
    if data is not None and data != "shakespeare":
        return text_files([Path(path) for path in data.split("\n")])
    if data is None and Path("data/input.txt").exists():
        return TextFile(Path("data/input.txt"), "data/input.txt (found in this folder)")
    try:
        return tiny_shakespeare(console)
    except NotFetched as reason:
        if data is not None:
            raise UsageError(f"{reason}; give a text by --data, or --data {Synthetic.data}") from None
        console.say(f"{reason}. Using {Synthetic.name} instead; --data gives a text of your own.", "yellow")
        return Synthetic()


def text_files(paths: Sequence[Path]) -> Corpus:
    """Files, and the .txt files of folders."""
    try:
        found = [file for path in paths for file in (_texts_in(path) if path.is_dir() else [path])]
    except (OSError, ValueError):  # TextFile says why
        found = list(paths)
    if len(found) == 1:
        return TextFile(found[0])
    name = f"{len(found)} files of {paths[0]}" if len(paths) == 1 else f"{len(found)} files"
    return TextFiles([TextFile(file) for file in found], name, "\n".join(str(path.resolve()) for path in paths))


def _texts_in(folder: Path) -> list[Path]:
    texts = sorted(path for path in folder.glob("*.txt") if path.is_file() and path.stat().st_size)
    if not texts:
        raise UsageError(f"{folder} has no text in it: no .txt file that is not empty")
    return texts


# ---- tiny Shakespeare -------------------------------------------------------------------------------------------


class NotFetched(Exception):
    """Why the download failed, in one line."""


def cache_folder() -> Path:
    try:
        from platformdirs import user_cache_path  # some machines lack it, and --data FILE does not need it
    except ModuleNotFoundError:
        raise RunFailed(
            "platformdirs, which finds the user's cache folder, is not installed here; give --data FILE"
        ) from None
    return user_cache_path("minitensor", appauthor=False)


def tiny_shakespeare(console: Console) -> TextFile:
    """From the user's cache, or downloaded, checked and put there."""
    name, data = "tiny Shakespeare", "shakespeare"
    path = cache_folder() / "tinyshakespeare.txt"
    with suppress(OSError):
        if path.exists() and sha256(path.read_bytes()) == SHA256:
            return TextFile(path, name, data)
    content = _download(console)
    if sha256(content) != SHA256:
        raise NotFetched(f"{ADDRESS} sent {len(content):,} bytes that are not tiny Shakespeare (SHA-256 differs)")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{uuid4().hex}")  # several processes may download at once
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        console.say(f"{path} cannot be written: {error.strerror}; next time it is downloaded again", "yellow")
        return InMemory(content, name, data)
    return TextFile(path, name, data)


def _download(console: Console) -> bytes:
    data, start = bytearray(), time.monotonic()
    try:
        with urllib.request.urlopen(ADDRESS, timeout=TIMEOUT) as answer, console.bar(
            "downloading tiny Shakespeare", SIZE, *BYTES
        ) as bar:  # fmt: skip
            while len(data) <= SIZE and (chunk := answer.read1(1 << 14)):
                data += chunk
                bar.at(len(data))
                if time.monotonic() - start > DEADLINE:
                    raise TimeoutError(f"only {len(data):,} bytes in {DEADLINE:.0f} seconds")
    except (OSError, ValueError, http.client.HTTPException) as error:  # no network, an error page, a broken connection
        reason = " ".join(str(getattr(error, "reason", None) or error).split())
        raise NotFetched(f"{ADDRESS} could not be read: {reason}") from None
    return bytes(data)
