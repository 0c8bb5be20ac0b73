"""Random and malicious input is either used or refused with a one-line error."""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from gpt_numpy.cli import CLI as BY_HAND
from gpt_numpy.explain.command import _entry
from gpt_numpy.explain.subject import subject_of
from gpt_numpy.explain.trace import Trace
from gpt_numpy.workshop.cli.engine_cli import EngineCLI
from gpt_numpy.workshop.cli.generate import load_engine
from gpt_numpy.workshop.cli.main import run
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.data.corpus import TextFile
from gpt_numpy.workshop.data.dataset import encode_corpus, read_stats
from gpt_numpy.workshop.data.tokenizer import BPETokenizer, CharTokenizer, Tokenizer, tokenizer_from
from gpt_numpy.workshop.errors import RunFailed, UsageError
from gpt_numpy.workshop.generate import Sampling, generate
from gpt_numpy.workshop.report.report import write_report
from gpt_numpy.workshop.runs.checkpoint import Checkpoint, load_checkpoint
from gpt_numpy.workshop.runs.run_dir import RunDir
from gpt_torch.cli import CLI as IN_TORCH
from tests.support.report import REPORT
from tests.support.runs import FILES, PLAY, TINY, rewrite_state

ANY_TEXT = st.text(st.characters(exclude_characters="\0"), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)

MORE_EXAMPLES = settings.get_profile("many")  # for tests that take milliseconds


@contextmanager
def used_or_refused(kind: str) -> Iterator[None]:
    """The body succeeds or raises one of our one-line errors."""
    try:
        yield
    except (UsageError, RunFailed):
        REPORT.add_input(kind, refused=True)
    else:
        REPORT.add_input(kind, refused=False)


def test_error_message_is_always_one_line() -> None:
    assert str(UsageError("a\nb\r\nc\x85d\u2028e\x1cf")) == "a b c d e f"
    assert len(str(RunFailed("x" * 100_000))) < 1010


# ---- the command line -------------------------------------------------------------------------------------------

NUMBERS = st.sampled_from(["-1", "0", "1", "2", "3", "8", "1000000000000", "9" * 40, "9" * 5000, "1.5", "1e3"])
REALS = st.sampled_from(["-1", "0", "0.5", "1", "2", "1e-320", "1e30", "1e308", "1e999", "nan", "-inf", "0x1p3"])
NAMES = st.sampled_from(
    ["new", "play.txt", "play.txt/new", "deep/er", "", ".", "a b", "é☃", "a\nb", "x" * 300, "run", "binary"]
)
COUNTS = [
    *(
        "--seeds",
        "--batch-size",
        "--micro-batch",
        "--warmup",
        "--eval-every",
        "--checkpoint-every",
        "--patience",
        "--seed",
    ),
    *("--n-layer", "--n-head", "--n-embd", "--block-size", "--vocab-size", "--length", "--top-k", "--layer", "--head"),
]
SHARES = [
    *("--lr", "--final-lr", "--beta1", "--beta2", "--weight-decay", "--grad-clip", "--muon-lr", "--momentum"),
    *("--dropout", "--top-p", "--temperature"),
]
CHOICES = [
    *("--checkpoint", "--preset", "--order", "--gelu", "--dtype", "--device", "--tokenizer", "--optimizer"),
    *("--schedule", "--decay-schedule"),
]
CHOSEN = ["best", "latest", "laptop", "random", "tanh", "float64", "cpu", "mps", "bpe", "char", "muon", "linear", ""]
ALONE = ["--resume", "--tie-weights", "--no-bias", "--profile", "--help", "--prompt", "--entry", "--show"]
FLAG = st.one_of(
    st.tuples(st.sampled_from(COUNTS), NUMBERS | ANY_TEXT),
    st.tuples(st.sampled_from(SHARES), REALS | ANY_TEXT),
    st.tuples(st.sampled_from(["--data", "--out", "--run"]), NAMES),
    st.tuples(st.sampled_from(["--threads", "--steps"]), st.sampled_from(["-1", "0", "1", "2", "9" * 20, "two", ""])),
    st.tuples(st.sampled_from(CHOICES), st.sampled_from(CHOSEN)),
    st.tuples(st.sampled_from(ALONE)),
    st.tuples(st.sampled_from(["--prompt", "--entry", "--show"]), ANY_TEXT),
    st.tuples(ANY_TEXT),
)
COMMAND = st.sampled_from(["train", "train", "generate", "eval", "explain", "export", "import", "claims"]) | ANY_TEXT


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, a binary file, and a run."""
    home = tmp_path_factory.mktemp("home")
    (home / "play.txt").write_text(PLAY, encoding="utf-8")
    (home / "binary").write_bytes(bytes(range(256)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert run(BY_HAND, ["train", "--data", "play.txt", "--out", "run", *TINY, "--steps", "2"]) == 0
    return home


@given(st.sampled_from([BY_HAND, IN_TORCH]), COMMAND, st.lists(FLAG, max_size=4))
def test_random_command_lines(
    home: Path, tmp_path_factory: pytest.TempPathFactory, cli: EngineCLI, command: str, flags: list[tuple[str, ...]]
) -> None:
    folder = shutil.copytree(home, tmp_path_factory.mktemp("any"), dirs_exist_ok=True)
    usual = {
        "train": ["--data", "play.txt", *TINY, "--steps", "2", "--preset", "laptop"],
        "generate": ["--run", "run", "--length", "3"],
        "eval": ["--run", "run"],
        "explain": ["to be", "--show", "P"],
        "claims": ["--run", "run"],
    }
    arguments = [command, *usual.get(command, []), *(word for flag in flags for word in flag)]
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        try:
            status = run(cli, arguments)
        except SystemExit as ended:  # from argparse, after --help
            status = ended.code if isinstance(ended.code, int) else 1
    shutil.rmtree(folder)
    said = f"{arguments}: {status}\n{out.getvalue()}{err.getvalue()}"
    assert status in (0, 1, 2), said
    assert "Traceback" not in said
    if status:
        assert err.getvalue().startswith(f"{cli.name}: "), said
        assert err.getvalue().count("\n") == 1, said
    REPORT.add_input("command lines", refused=status != 0)


# ---- the --entry parser -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trace() -> Trace:
    return Trace(subject_of(BY_HAND, {"text": "To be, or not"}).problem)


@MORE_EXAMPLES
@given(
    ANY_TEXT
    | st.text("dSQKVPLxW_qo[],0123456789- ", max_size=12)
    | st.builds(
        "{}[{}]".format, st.sampled_from(["dS", "P", "dW_q", "L", "x", "dQ"]),
        st.lists(st.integers().map(str) | ANY_TEXT, max_size=3).map(",".join),
    )
)  # fmt: skip
def test_random_entries(trace: Trace, text: str) -> None:
    with used_or_refused("--entry"):
        name, index = _entry(trace, text)
        assert trace.numbers[name][index].shape == ()


# ---- tokenizers -------------------------------------------------------------------------------------------------

BPE = BPETokenizer.train(iter([PLAY]), 300)
TOKENIZERS = [json.loads(CharTokenizer(PLAY).to_json()), json.loads(BPE.to_json())]


@st.composite
def modified(draw: st.DrawFn, original: SearchStrategy[Any]) -> Any:
    """A JSON object with one value, at any depth, replaced or deleted."""
    content = json.loads(json.dumps(draw(original)))
    inside, name = None, None
    at: Any = content
    while isinstance(at, dict | list) and at and (inside is None or draw(st.booleans())):
        inside, name = at, draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(min(len(at), 50))))
        at = at[name]
    if inside is not None and name is not None:
        if draw(st.booleans()):
            del inside[name]
        else:
            inside[name] = draw(JSON | st.sampled_from([10**12, -1, 10**400, "", [], {}, "x" * 1000]))
    return content


def encodes(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert all(0 <= i < tokenizer.vocab_size for i in ids.tolist())
    tokenizer.decode(ids.tolist())


@MORE_EXAMPLES
@given(
    st.binary(max_size=100)
    | (modified(st.sampled_from(TOKENIZERS)) | JSON).map(lambda table: json.dumps(table).encode())
)
def test_random_tokenizer_files(data: bytes) -> None:
    with used_or_refused("tokenizer.json"):
        try:
            tokenizer = tokenizer_from(data)
        except ValueError as error:
            raise UsageError(str(error)) from None
        encodes(tokenizer, "to be")


@MORE_EXAMPLES
@given(ANY_TEXT, st.sampled_from([CharTokenizer(PLAY), BPE]))
def test_random_texts_are_encoded(text: str, tokenizer: Tokenizer) -> None:
    with used_or_refused("texts to encode"):
        assert tokenizer.decode(tokenizer.encode(text).tolist()).decode() == text


# ---- the corpus -------------------------------------------------------------------------------------------------


@MORE_EXAMPLES
@given(st.binary(max_size=60) | ANY_TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_random_text_files(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(data)
    with used_or_refused("text files"):
        file, console = TextFile(path), Console(io.StringIO())
        stats = read_stats(file, console)
        tokenizer = CharTokenizer(stats.alphabet)
        found = encode_corpus(file, stats, tokenizer, console)
        whole = tokenizer.decode([*found.train.tolist(), *found.validation.tolist()])
        assert whole == data.removeprefix(b"\xef\xbb\xbf")


# ---- checkpoints ------------------------------------------------------------------------------------------------


def cut(data: bytes, at: int, _: bytes) -> bytes:
    return data[:at]


def insert(data: bytes, at: int, more: bytes) -> bytes:
    return data[:at] + more + data[at:]


def overwrite(data: bytes, at: int, more: bytes) -> bytes:
    return data[:at] + more + data[at + len(more) :]


@MORE_EXAMPLES
@given(
    st.sampled_from(FILES), st.sampled_from([cut, insert, overwrite]), st.integers(0, 3000), st.binary(max_size=8),
    st.booleans(),
)  # fmt: skip
def test_random_damage_to_a_checkpoint(
    home: Path, tmp_path_factory: pytest.TempPathFactory, name: str, damage: Callable[[bytes, int, bytes], bytes],
    at: int, more: bytes, with_valid_checksums: bool,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("any") / "latest"
    shutil.copytree(home / "run" / "checkpoints" / "latest", folder)
    data = (folder / name).read_bytes()
    damaged = damage(data, at % (len(data) + 1), more)
    (folder / name).write_bytes(damaged)
    if with_valid_checksums and name != "state.json":
        rewrite_state(folder)
    with used_or_refused("damaged checkpoints"):
        checkpoint = load_checkpoint(folder, with_optimizer=True)
        assert len(tokens_of(checkpoint)) == 3
        assert with_valid_checksums or damaged == data or json.loads(damaged) == json.loads(data)  # up to white space


@MORE_EXAMPLES
@given(st.data())
def test_random_states(home: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("any") / "latest"
    shutil.copytree(home / "run" / "checkpoints" / "latest", folder)
    kept = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    rewrite_state(folder, **data.draw(modified(st.just({name: kept[name] for name in kept if name != "files"}))))
    with used_or_refused("state.json"):
        checkpoint = load_checkpoint(folder, with_optimizer=True)
        assert len(tokens_of(checkpoint)) == 3


# ---- records ----------------------------------------------------------------------------------------------------


@MORE_EXAMPLES
@given(st.data())
def test_random_records(home: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("any")
    lines = (home / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    kept = [json.loads(line) for line in lines]
    records = data.draw(st.lists(modified(st.sampled_from(kept)) | st.sampled_from(kept) | JSON, max_size=8))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    shutil.copy(home / "run" / "config.json", folder)
    with used_or_refused("metrics.jsonl"):
        known = [*RunDir(folder).records()]
        assert len(known) <= len(records)
        write_report(folder, json.loads((folder / "config.json").read_text(encoding="utf-8")), known)
    os.remove(folder / "report.html")


def tokens_of(checkpoint: Checkpoint) -> list[int]:
    """Three that its model writes."""
    engine = load_engine(BY_HAND, checkpoint, BY_HAND.parse_options({"threads": 1}))
    return list(generate(engine, [0], 3, Sampling(), 0))
