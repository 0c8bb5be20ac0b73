"""The choice of the text, errors for invalid files, the download, and texts larger than memory."""

import errno
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import characters, text

from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.data import corpus, dataset
from gpt_numpy.workshop.data.corpus import Synthetic, TextFile, find_corpus
from gpt_numpy.workshop.data.dataset import encode_corpus, read_stats, train_tokenizer
from gpt_numpy.workshop.data.tokenizer import CharTokenizer
from gpt_numpy.workshop.errors import UsageError
from tests.support import ROOT
from tests.support.runs import Train

PLAY = "ROMEO:\nIt is the east, and naïve Juliet is the sun 🌞.\n\n" * 40


@pytest.fixture
def console() -> Console:
    return Console(StringIO())


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without data/, an empty cache, and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")
    monkeypatch.setattr(corpus, "ADDRESS", "http://127.0.0.1:9/unreachable")


def shown(console: Console) -> str:
    assert isinstance(console.stream, StringIO)
    return console.stream.getvalue()


def written(path: Path, content: str | bytes = PLAY) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# ---- which text -------------------------------------------------------------------------------------------------


def test_named_file_comes_first(tmp_path: Path, console: Console) -> None:
    written(tmp_path / "data" / "input.txt", "other")
    found = find_corpus(str(written(tmp_path / "mine.txt")), console)
    assert "".join(found.chunks()) == PLAY


def test_data_input_txt_is_the_default(tmp_path: Path, console: Console) -> None:
    written(tmp_path / "data" / "input.txt")
    found = find_corpus(None, console)
    assert "".join(found.chunks()) == PLAY
    assert found.name == "data/input.txt (found in this folder)"  # which train prints


def test_cached_tiny_shakespeare_is_the_next_default(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "SHA256", hashlib.sha256(PLAY.encode()).hexdigest())
    written(tmp_path / "cache" / "tinyshakespeare.txt")
    found = find_corpus(None, console)
    assert found.name == "tiny Shakespeare"
    assert "".join(found.chunks()) == PLAY


def test_synthetic_plays_replace_a_failed_download_with_one_warning(console: Console) -> None:
    found = find_corpus(None, console)
    assert found.name == "synthetic plays"
    assert shown(console).count("\n") == 1
    assert "could not be read" in shown(console)
    assert "synthetic" in shown(console)


def test_synthetic_by_name_comes_before_data_input_txt(tmp_path: Path, console: Console) -> None:
    written(tmp_path / "data" / "input.txt")
    assert find_corpus("synthetic", console).name == "synthetic plays"


def test_synthetic_by_name_needs_no_network_and_prints_nothing(console: Console) -> None:
    assert find_corpus("synthetic", console).name == "synthetic plays"
    assert shown(console) == ""


def test_failed_download_of_named_shakespeare_is_an_error(console: Console) -> None:
    with pytest.raises(UsageError, match=r"could not be read.*--data"):
        find_corpus("shakespeare", console)


# ---- invalid files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"text\0text", "is not text: it has a zero byte at 4"),
        (b"caf\xe9 au lait", "is not UTF-8: .* near byte 3; save it as UTF-8"),
        (b"cut off \xc3", "is not UTF-8"),
        ("Grüße".encode("utf-16"), "is not"),
    ],
)
def test_invalid_file_is_a_one_line_error(content: bytes, message: str, tmp_path: Path, console: Console) -> None:
    path = written(tmp_path / "bad.txt", content)
    with pytest.raises(UsageError, match=f"bad.txt {message}") as raised:
        read_stats(TextFile(path), console)
    assert "\n" not in str(raised.value)


def test_missing_file_and_folder_without_text_are_refused(tmp_path: Path, console: Console) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "other.md").write_text("text", encoding="utf-8")
    for name, message in (
        ("gone.txt", "gone.txt cannot be read: No such file"),
        ("", "has no text in it: no .txt file"),
    ):
        with pytest.raises(UsageError, match=message):
            find_corpus(str(tmp_path / name), console)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name themselves")
def test_name_that_is_not_utf8_is_refused(tmp_path: Path, console: Console) -> None:
    folder = tmp_path / os.fsdecode(b"sur\xff")
    folder.mkdir()
    (folder / "a.txt").write_text("text", encoding="utf-8")
    with pytest.raises(UsageError, match=r"cannot be read: 'utf-8' codec can't encode"):
        find_corpus(str(folder), console)


@pytest.mark.parametrize("data", ["texts", "texts/a.txt\ntexts/b.txt\ntexts/c.txt"])
def test_several_files_are_one_text_each_on_a_new_line(
    data: str, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    for name, content in {"b.txt": "two\n", "a.txt": "\ufeffone", "c.txt": "drei €", "d.md": "no", "e.txt": ""}.items():
        Path("texts", name).write_text(content, encoding="utf-8")
    corpus = find_corpus(data, console)
    assert "".join(corpus.chunks()) == "one\ntwo\ndrei €"
    assert corpus.name.startswith("3 files")
    stats = read_stats(corpus, console)
    assert len(encode_corpus(corpus, stats, CharTokenizer(stats.alphabet), console).validation) == 1
    monkeypatch.chdir("/")
    assert read_stats(find_corpus(corpus.data, console), console) == stats


def test_invalid_byte_is_reported_with_its_offset_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "CHUNK", 5)
    with pytest.raises(UsageError, match="zero byte at 9"):
        list(TextFile(written(tmp_path / "a", b"text text\0text")).chunks())
    with pytest.raises(UsageError, match="near byte 11"):
        list(TextFile(written(tmp_path / "b", b"caf caf caf\xe9 au")).chunks())


def test_byte_order_mark_alone_is_empty(tmp_path: Path, console: Console) -> None:
    with pytest.raises(UsageError, match="is empty"):
        read_stats(TextFile(written(tmp_path / "bom.txt", b"\xef\xbb\xbf")), console)


# ---- the download -----------------------------------------------------------------------------------------------


class Server:
    """Sends the same response to every request, 100 bytes at a time, and counts the requests."""

    def __init__(self, status: int, body: bytes, pause: float, **headers: str) -> None:
        server = self
        self.requests = 0

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests += 1
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(OSError):  # the client has disconnected
                    for i in range(0, len(body), 100):
                        self.wfile.write(body[i : i + 100])
                        time.sleep(pause)

            def log_message(self, *_: object) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}/input.txt"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


Serve = Callable[..., Server]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    servers = []

    def start(status: int = 200, body: bytes = PLAY.encode(), pause: float = 0.0, **headers: str) -> Server:
        servers.append(Server(status, body, pause, **headers))
        monkeypatch.setattr(corpus, "ADDRESS", servers[-1].address)
        monkeypatch.setattr(corpus, "SHA256", hashlib.sha256(PLAY.encode()).hexdigest())
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


def test_download_is_cached(serve: Serve, console: Console, tmp_path: Path) -> None:
    server = serve()
    for _ in range(3):
        assert "".join(find_corpus(None, console).chunks()) == PLAY
    assert server.requests == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["tinyshakespeare.txt"]


def test_damaged_cache_is_downloaded_again(serve: Serve, console: Console, tmp_path: Path) -> None:
    server = serve()
    written(tmp_path / "cache" / "tinyshakespeare.txt", PLAY[:-1])
    assert "".join(find_corpus(None, console).chunks()) == PLAY
    assert server.requests == 1


@pytest.mark.parametrize(("status", "body"), [(200, b"<html>Please log in</html>"), (404, b""), (200, b"")])
def test_other_content_is_not_used(status: int, body: bytes, serve: Serve, console: Console, tmp_path: Path) -> None:
    serve(status, body)
    assert find_corpus(None, console).name == "synthetic plays"
    assert shown(console).count("\n") == 1
    assert not list(tmp_path.glob("cache/*"))


def test_download_stops_at_expected_size(serve: Serve, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(200, b"x" * 1_000_000)
    monkeypatch.setattr(corpus, "SIZE", 1000)
    with pytest.raises(corpus.NotFetched, match=r"sent [0-9]{1,2},[0-9]{3} bytes"):
        corpus.tiny_shakespeare(console)


def test_unwritable_cache_is_only_a_warning(serve: Serve, console: Console, tmp_path: Path) -> None:
    serve()
    written(tmp_path / "cache", "a file")
    found = find_corpus(None, console)
    assert (found.name, found.data, found.size) == ("tiny Shakespeare", "shakespeare", len(PLAY.encode()))
    assert "".join(found.chunks()) == PLAY
    warning = f"{tmp_path}/cache/tinyshakespeare.txt cannot be written: File exists; next time it is downloaded again\n"
    assert shown(console) == warning


def test_full_disk_leaves_no_partial_cache(
    serve: Serve, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve()
    write = Path.write_bytes

    def half(self: Path, data: bytes) -> None:
        write(self, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", half)
    assert "".join(find_corpus(None, console).chunks()) == PLAY
    assert "No space left on device; next time it is downloaded again" in shown(console)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirection_to_other_content_is_refused(
    status: int, serve: Serve, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = serve(200, b"<html>Please pay for this network</html>")
    redirecting = serve(status, b"", Location=page.address)
    assert find_corpus(None, console).name == "synthetic plays"
    assert (redirecting.requests, page.requests) == (1, 1)
    assert "sent 40 bytes that are not tiny Shakespeare (SHA-256 differs)" in shown(console)
    assert shown(console).count("\n") == 1


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1:9/x", "//", "gopher:x", "http://[", ""])
def test_redirection_to_other_schemes_is_refused(
    target: str, serve: Serve, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "TIMEOUT", 0.5)
    serve(302, b"", Location=target)
    assert find_corpus(None, console).name == "synthetic plays"
    assert shown(console).count("\n") == 1


def test_redirection_loop_ends(serve: Serve, console: Console) -> None:
    server = serve(302, b"", Location="/again")
    assert find_corpus(None, console).name == "synthetic plays"
    assert server.requests < 20
    assert shown(console).count("\n") == 1


def test_redirection_to_the_text_is_followed(serve: Serve, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    text = serve()
    serve(302, b"", Location=text.address)
    assert "".join(find_corpus(None, console).chunks()) == PLAY


def test_slow_download_times_out(serve: Serve, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece arrives before the socket's timeout, the whole would take too long."""
    monkeypatch.setattr(corpus, "DEADLINE", 0.5)
    serve(200, PLAY.encode(), pause=0.2)
    began = time.monotonic()
    assert find_corpus(None, console).name == "synthetic plays"
    assert time.monotonic() - began < 3
    assert "could not be read: only " in shown(console)
    assert shown(console).count("\n") == 1


def test_truncated_download_is_refused(serve: Serve, console: Console) -> None:
    serve(200, PLAY.encode()[:1000], **{"Content-Length": str(len(PLAY.encode()))})
    with pytest.raises(UsageError, match=r"could not be read|SHA-256 differs"):
        find_corpus("shakespeare", console)


@pytest.mark.parametrize("answer", [b"", b"what?\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nbroken off"])
def test_broken_server_times_out(answer: bytes, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(corpus, "ADDRESS", f"http://127.0.0.1:{server.getsockname()[1]}/")

        def respond() -> None:
            connection, _ = server.accept()
            connection.recv(1000)
            if answer:
                connection.sendall(answer)
                connection.close()

        threading.Thread(target=respond, daemon=True).start()
        began = time.monotonic()
        assert find_corpus(None, console).name == "synthetic plays"
        assert time.monotonic() - began < 5
    assert shown(console).count("\n") == 1


def test_address_checksum_and_size() -> None:
    code = "from gpt_numpy.workshop.data import corpus as d; print(d.ADDRESS, d.SHA256, d.SIZE)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    address, digest, size = done.stdout.split()
    assert address.endswith("karpathy/char-rnn/master/data/tinyshakespeare/input.txt")
    assert digest == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
    assert size == "1115394"


# ---- tokens -----------------------------------------------------------------------------------------------------


@given(text(characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), min_size=1))
def test_file_read_in_small_chunks_is_unchanged(tmp_path_factory: pytest.TempPathFactory, content: str) -> None:
    path = written(tmp_path_factory.getbasetemp() / "pieces.txt", content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "CHUNK", 5)  # splits characters
        assert "".join(TextFile(path).chunks()) == content


def test_byte_order_mark_is_removed(tmp_path: Path) -> None:
    assert "".join(TextFile(written(tmp_path / "bom.txt", b"\xef\xbb\xbfabc")).chunks()) == "abc"


def test_last_tenth_is_the_validation_split(tmp_path: Path, console: Console) -> None:
    file = TextFile(written(tmp_path / "play.txt"))
    stats = read_stats(file, console)
    tokenizer = train_tokenizer("char", 0, file, stats, console)
    data = encode_corpus(file, stats, tokenizer, console)
    split = round(0.9 * len(PLAY))
    assert tokenizer.decode(data.train.tolist()).decode() == PLAY[:split]
    assert tokenizer.decode(data.validation.tolist()).decode() == PLAY[split:]
    assert stats.characters == len(PLAY)
    assert stats.digest == hashlib.sha256(PLAY.encode()).hexdigest()
    assert (data.characters_per_token, data.floor) == (1.0, None)


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_large_text_is_encoded_once_into_a_memmap(
    kind: str, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "CHUNK", 100)
    file = TextFile(written(tmp_path / "play.txt"))
    stats = read_stats(file, console)
    tokenizer = train_tokenizer(kind, 300, file, stats, console)
    small = encode_corpus(file, stats, tokenizer, console)
    monkeypatch.setattr(dataset, "IN_MEMORY", 100)
    for _ in range(2):
        large = encode_corpus(file, stats, tokenizer, console)
        assert isinstance(large.train, np.memmap)
        assert np.array_equal(large.train, small.train)
        assert np.array_equal(large.validation, small.validation)
        assert large.characters_per_token == small.characters_per_token
        monkeypatch.setattr(tokenizer, "encode", None)  # the second time the cache is used
    if kind == "bpe":
        assert small.characters_per_token > 1.2
        whole = tokenizer.decode([*small.train.tolist(), *small.validation.tolist()])
        assert whole.decode() == PLAY


def test_token_cache_depends_on_text_and_tokenizer(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "IN_MEMORY", 0)
    for name, content in (("one", "ab" * 50), ("other", "ba" * 50)):
        file = TextFile(written(tmp_path / name, content))
        for known in ("ab", "abc\n"):
            tokenizer = CharTokenizer(known)
            data = encode_corpus(file, read_stats(file, console), tokenizer, console)
            assert tokenizer.decode(data.train.tolist()).decode() == content[:90]


def test_cached_tokens_with_a_flipped_bit_are_rebuilt(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "IN_MEMORY", 0)
    file, tokenizer = TextFile(written(tmp_path / "text", "ab" * 50)), CharTokenizer("ab")
    expected = encode_corpus(file, read_stats(file, console), tokenizer, console).train.tolist()
    (cached,) = (tmp_path / "cache").iterdir()
    data = bytearray(cached.read_bytes())
    data[7] ^= 64
    cached.write_bytes(data)
    assert encode_corpus(file, read_stats(file, console), tokenizer, console).train.tolist() == expected


def test_truncated_token_cache_is_rebuilt(tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "IN_MEMORY", 0)
    file, tokenizer = TextFile(written(tmp_path / "text", "ab" * 50)), CharTokenizer("ab")
    for size in (60, 0):
        encode_corpus(file, read_stats(file, console), tokenizer, console)
        (cached,) = (tmp_path / "cache").iterdir()
        cached.write_bytes(cached.read_bytes()[:size])
        assert len(encode_corpus(file, read_stats(file, console), tokenizer, console).train) == 90


def test_failed_encoding_leaves_no_cache(tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "IN_MEMORY", 0)
    file = TextFile(written(tmp_path / "text", "ab" * 50))
    with pytest.raises(UsageError, match="is not among the 1 characters"):
        encode_corpus(file, read_stats(file, console), CharTokenizer("a"), console)
    assert list((tmp_path / "cache").iterdir()) == []


def test_chunks_are_cut_at_bpe_boundaries(tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    file = TextFile(written(tmp_path / "play.txt"))
    stats = read_stats(file, console)
    tokenizer = train_tokenizer("bpe", 300, file, stats, console)
    for piece in (61, 101):
        monkeypatch.setattr(corpus, "CHUNK", piece)
        data = encode_corpus(file, stats, tokenizer, console)
        assert [*data.train.tolist(), *data.validation.tolist()] == tokenizer.encode(PLAY).tolist()


def test_endless_line_is_cut_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "MAX_UNCUT", 20)
    assert max(map(len, dataset._cut_at_seams(iter(["x" * 10] * 100)))) <= 30


def test_entropy_of_synthetic_plays_with_bpe(console: Console) -> None:
    play = Synthetic()
    stats = read_stats(play, console)
    by_char, by_bpe = (
        encode_corpus(play, stats, train_tokenizer(kind, 300, play, stats, console), console)
        for kind in ("char", "bpe")
    )
    assert by_bpe.floor == pytest.approx(by_char.floor, rel=0.02)
    assert by_bpe.floor != by_char.floor  # the first token differs, and is not predicted


def test_path_of_a_text_is_absolute(tmp_path: Path) -> None:
    written(tmp_path / "play.txt")
    assert TextFile(Path("play.txt")).data == str(tmp_path / "play.txt")


@pytest.mark.parametrize("piece", [100, 1 << 20])
def test_bpe_is_trained_on_the_training_split_only(
    piece: int, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "CHUNK", piece)
    rare = "qzqzqzqz"
    file = TextFile(written(tmp_path / "play.txt", "some words of a play\n" * 90 + f"{rare} {rare}\n" * 10))
    tokenizer = train_tokenizer("bpe", 400, file, read_stats(file, console), console)
    assert len(tokenizer.encode("some words of a play")) < 10
    assert len(tokenizer.encode(rare)) == len(rare)


def test_validation_split_has_at_most_a_million_tokens(tmp_path: Path, console: Console) -> None:
    file = TextFile(written(tmp_path / "long.txt", "0123456789\n" * 1_000_000))
    stats = read_stats(file, console)
    data = encode_corpus(file, stats, train_tokenizer("char", 0, file, stats, console), console)
    assert len(data.validation) == 1_000_000
    assert len(data.train) == 10_000_000


def test_entropy_of_synthetic_plays_is_of_the_validation_split(console: Console) -> None:
    play = Synthetic()
    stats = read_stats(play, console)
    data = encode_corpus(play, stats, train_tokenizer("char", 0, play, stats, console), console)
    predicted = len(data.validation) - 1  # all but the first
    assert data.floor == pytest.approx(play.play.surprisal[-predicted:].mean(), rel=1e-12)


MEMORY = """
import platformdirs, resource, sys
from pathlib import Path
from gpt_numpy.workshop.data import corpus, dataset
from gpt_numpy.workshop.console import Console
platformdirs.user_cache_path = lambda *_, **__: Path(sys.argv[2])
console = Console()
def read():
    file = corpus.TextFile(Path(sys.argv[1]))
    stats = dataset.read_stats(file, console)
    return dataset.encode_corpus(file, stats, dataset.train_tokenizer(sys.argv[3], 300, file, stats, console), console)
dataset.IN_MEMORY = 0
read()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow("memory, with texts of megabytes")
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is counted in other units elsewhere")
@pytest.mark.parametrize(("kind", "least", "most"), [("char", 2, 20), ("bpe", 2, 8)])
def test_memory_does_not_grow_with_the_text(kind: str, least: int, most: int, tmp_path: Path) -> None:
    peaks = []
    for megabytes in (least, most):
        path = tmp_path / f"{megabytes}.txt"
        with path.open("w", encoding="utf-8") as file:
            for i in range(megabytes):
                file.write((f"line {i} of a very long text\n" * 50_000)[: 1 << 20])
        command = [sys.executable, "-c", MEMORY, str(path), str(tmp_path / "cache"), kind]
        one_thread = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}  # each would have its own buffers
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=one_thread)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 4.5  # MB, for 18 or 6 MB more text


def test_own_text_needs_no_platformdirs(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    assert train("a") == 0  # with --data
    assert train("b", "--data", "shakespeare") == 1
    assert "is not installed here; give --data FILE" in capsys.readouterr().err.splitlines()[-1]
