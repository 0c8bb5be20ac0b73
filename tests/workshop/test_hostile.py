"""Untrusted files: no code in them runs, and oversized files are not read."""

import json
import os
import pickle
import resource
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from gpt_numpy.cli import CLI as BY_HAND
from gpt_numpy.workshop.cli.main import run
from gpt_numpy.workshop.data.tokenizer import BPETokenizer, tokenizer_from
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.runs.checkpoint import Damaged, load_checkpoint
from gpt_numpy.workshop.runs.run_dir import RunDir
from gpt_torch.cli import CLI as IN_TORCH
from tests.support.browser import launched
from tests.support.runs import PLAY, Train, rewrite_state

pytestmark = pytest.mark.slow("files of an attacker")

LATEST = Path("a/checkpoints/latest")
DEEP = '{"a":' * 10_000 + "1" + "}" * 10_000


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The error message, which is a single line."""
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    return err


# ---- forged headers ---------------------------------------------------------------------------------------------


def with_header(header: Any, data: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


FORGED = {
    "larger than the file": with_header({"a": tensor([1 << 40], 0, 1 << 42)}),
    "a shape larger than its bytes": with_header({"a": tensor([1 << 40], 0, 8)}),
    "a shape that overflows": with_header({"a": tensor([1 << 62, 1 << 62], 0, 8)}),
    "an empty shape with a huge dimension": with_header({"a": tensor([0, 1 << 62], 0, 0)}, b""),
    "a negative dimension": with_header({"a": tensor([-1], 0, 8)}),
    "overlapping tensors": with_header({"a": tensor([2], 0, 8), "b": tensor([2], 0, 8)}),
    "a gap": with_header({"a": tensor([1], 4, 8)}),
    "end before begin": with_header({"a": tensor([2], 8, 0)}),
    "a header of 2^63 bytes": struct.pack("<Q", 1 << 63) + b"{}",
    "a truncated header": struct.pack("<Q", 100) + b"{}",
    "a deeply nested header": with_header(DEEP.encode()),
    "a dtype that NumPy lacks": with_header({"a": tensor([4], 0, 8, "BF16")}),
    "an unknown dtype": with_header({"a": tensor([2], 0, 8, "F99")}),
    "no header": b"",
    "a pickle": pickle.dumps({"a": 1}),
}


@pytest.mark.parametrize("header", FORGED)
def test_forged_safetensors_header_is_refused(
    header: str, train: Train, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    train("a", "--steps", "1")
    for name in ("model.safetensors", "optimizer.safetensors"):
        shutil.copytree(LATEST, tmp_path / name)
        (tmp_path / name / name).write_bytes(FORGED[header])
        rewrite_state(tmp_path / name)
        with pytest.raises(Damaged) as raised:
            load_checkpoint(tmp_path / name, with_optimizer=True)
        assert "\n" not in str(raised.value)
    (Path("there")).mkdir()
    Path("there/config.json").write_text(json.dumps({"n_layer": 1, "n_head": 1, "n_embd": 4}), encoding="utf-8")
    shutil.copy(LATEST / "tokenizer.json", "there/tokenizer.json")
    Path("there/model.safetensors").write_bytes(FORGED[header])
    capsys.readouterr()
    assert run(IN_TORCH, ["import", "there", "--out", "b"]) == 2
    assert error_line(capsys).startswith("gpt-torch: there")
    assert not Path("b").exists()


# ---- oversized and deeply nested files --------------------------------------------------------------------------


def huge(path: Path) -> None:
    """A sparse file, as large as the memory that is left (little_memory)."""
    with path.open("wb") as file:
        file.truncate(1 << 29)


def deep(path: Path) -> None:
    path.write_text(DEEP, encoding="utf-8")


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Limits memory to half a gigabyte more than is in use, on Linux."""
    if sys.platform != "linux":
        yield
        return
    with Path("/proc/self/statm").open(encoding="utf-8") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 29), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as on Linux")
@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("make", [huge, deep])
@pytest.mark.parametrize("name", ["state.json", "tokenizer.json"])
def test_oversized_or_deeply_nested_checkpoint_file_is_refused(
    make: Callable[[Path], None], name: str, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    train("a", "--steps", "1")
    make(LATEST / name)
    if name != "state.json":
        kept = json.loads((LATEST / "state.json").read_text(encoding="utf-8"))
        rewrite_state(LATEST, files={file: 0 for file in kept["files"] if file != name})  # without its checksum
    shutil.rmtree("a/checkpoints/best")
    capsys.readouterr()
    began = time.monotonic()
    assert run(BY_HAND, ["generate", "--run", "a"]) == 2
    assert time.monotonic() - began < 5
    assert f"{LATEST / name} cannot be understood: it is " in error_line(capsys)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as on Linux")
@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("make", [huge, deep])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors.index.json", "vocab.json"])
def test_import_refuses_oversized_or_deeply_nested_file(
    make: Callable[[Path], None], name: str, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "vocab.json":
        (there / "tokenizer.json").unlink()
        (there / "merges.txt").write_text("", encoding="utf-8")
    make(there / name)
    assert run(IN_TORCH, ["import", "there", "--out", "b"]) == 2
    assert str(Path("there") / name) in error_line(capsys)


FILLED = [("config.json", huge), ("config.json", deep), ("metrics.jsonl", huge), ("metrics.jsonl", deep)]


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(("name", "make"), FILLED)
def test_oversized_or_deeply_nested_run_files_are_ignored_on_resume(
    name: str, make: Callable[[Path], None], train: Train
) -> None:
    train("a")
    make(Path("a") / name)
    assert train("a", "--resume", "--steps", "21") == 0


# ---- import from Hugging Face's format --------------------------------------------------------------------------


@pytest.fixture
def there(train: Train, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder that can be imported."""
    train("a", "--steps", "1")
    assert run(IN_TORCH, ["export", "--run", "a", "there"]) == 0
    assert run(IN_TORCH, ["import", "there", "--out", "valid"]) == 0
    capsys.readouterr()
    return Path("there")


class Bomb:
    """Creates a folder when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("save", [torch.save, lambda bomb, path: path.write_bytes(pickle.dumps(bomb))])
def test_import_opens_no_pickle_and_no_code(
    save: Callable[[Bomb, Path], object], there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """GPT-2's own folder has pickles of its weights beside the safetensors."""
    for name in ("pytorch_model.bin", "optimizer.pt", "training_args.bin", "scheduler", "rust_model.ot"):
        save(Bomb(), there / name)
    (there / "modeling_gpt.py").write_text("import os; os.mkdir('exploded')", encoding="utf-8")
    assert run(IN_TORCH, ["import", "there", "--out", "b"]) == 0
    expected, found = (RunDir(Path(name)).checkpoint("latest").weights for name in ("a", "b"))
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    assert not Path("exploded").exists()


def test_import_refuses_nonfinite_weights(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = load_file(there / "model.safetensors")
    arrays["transformer.ln_f.weight"][0] = np.nan
    save_file(arrays, there / "model.safetensors")
    assert run(IN_TORCH, ["import", "there", "--out", "b"]) == 2
    assert error_line(capsys) == "gpt-torch: there: ln_f.weight contains NaN or infinity\n"


def test_pickled_weights_are_not_loaded(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(Bomb(), there / "model.safetensors")
    assert run(IN_TORCH, ["import", "there", "--out", "b"]) == 2
    assert "there/model.safetensors cannot be read" in error_line(capsys)
    assert not Path("exploded").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_import_refuses_auto_map(name: str, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = json.loads((there / name).read_text(encoding="utf-8"))
    (there / name).write_text(json.dumps({**kept, "auto_map": {"AutoModel": "x--y.Z"}}), encoding="utf-8")
    assert run(IN_TORCH, ["import", "there", "--out", "b"]) == 2
    assert f"there/{name} requires custom code (auto_map)" in error_line(capsys)


@pytest.mark.parametrize(
    "name", ["../a/checkpoints/latest/model.safetensors", "/etc/passwd", "..", "", "sub/x.safetensors", "\0"]
)
def test_import_refuses_path_traversal(name: str, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = {"weight_map": {"lm_head.weight": name}}
    (there / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert run(IN_TORCH, ["import", "there", "--out", "b"]) == 2
    assert "there/model.safetensors.index.json does not list safetensors files of this folder" in error_line(capsys)


@pytest.mark.parametrize(
    "change",
    [{"n_layer": 10**12}, {"n_embd": 10**12, "n_head": 1}, {"vocab_size": 10**12}, {"n_positions": 10**12},
     {"n_embd": None}, {"n_embd": {}}, {"n_layer": "2"}, {"activation_function": []}, {"n_inner": []},
     {"resid_pdrop": "much"}],
    ids=str,
)  # fmt: skip
def test_import_refuses_false_sizes(change: dict[str, Any], there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = json.loads((there / "config.json").read_text(encoding="utf-8"))
    (there / "config.json").write_text(json.dumps(kept | change), encoding="utf-8")
    assert run(IN_TORCH, ["import", "there", "--out", "b"]) == 2
    assert error_line(capsys).startswith("gpt-torch: there")


# ---- malicious runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [*((data, f"{data} is not a regular file") for data in ("/dev/zero", "/dev/stdin", "pipe")),
     ("/", "/ has no text in it"), ("\0", r"'\x00' cannot be read: embedded null"),
     ("x" * 5000, "xxx cannot be read: File name too long")],
)  # fmt: skip
def test_text_that_is_not_a_regular_file_is_refused_at_once(
    data: str, message: str, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    train("a")
    os.mkfifo("pipe")
    for which in ("latest", "best"):
        rewrite_state(Path("a/checkpoints") / which, data=data)
    capsys.readouterr()
    assert run(BY_HAND, ["eval", "--run", "a"]) == 2
    assert message in error_line(capsys)
    assert train("a", "--resume", "--steps", "21") == 2
    assert message in error_line(capsys)


@pytest.mark.parametrize("recipe", [{"batch_size": 10**12}, {"batch_size": 10**12, "order": "random"}], ids=str)
def test_absurd_batch_size_is_refused(recipe: dict[str, Any], train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    train("a", "--steps", "1")
    kept = json.loads((LATEST / "state.json").read_text(encoding="utf-8"))
    rewrite_state(LATEST, recipe=kept["recipe"] | recipe)
    capsys.readouterr()
    assert train("a", "--resume", "--steps", "21") == 2
    assert "a batch of 1,000,000,000,000 sequences takes" in error_line(capsys)


@pytest.mark.parametrize("name", ["state.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "zeros"])
def test_pipe_or_device_in_checkpoint_is_not_read(
    make: Callable[[Path], None], name: str, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    train("a")
    for which in ("latest", "best"):
        (Path("a/checkpoints") / which / name).unlink()
        make(Path("a/checkpoints") / which / name)
    capsys.readouterr()
    assert run(BY_HAND, ["generate", "--run", "a"]) == 2
    assert f"best/{name} cannot be understood: it is not a file" in error_line(capsys)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_import_refuses_pipe(name: str, there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (there / name).unlink()
    os.mkfifo(there / name)
    assert run(IN_TORCH, ["import", "there", "--out", "b"]) == 2
    assert f"there/{name} cannot be read: it is not a file" in error_line(capsys)


@pytest.mark.parametrize(
    "kept",
    [{"truncation": {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}},
     {"padding": {"strategy": {"Fixed": 500}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                  "pad_type_id": 0, "pad_token": "x"}}],
    ids=["cut", "padded"],
)  # fmt: skip
def test_truncation_and_padding_of_tokenizer_are_ignored(kept: dict[str, Any]) -> None:
    expected = BPETokenizer.train(iter([PLAY]), 300)
    found = tokenizer_from(json.dumps({**json.loads(expected.to_json()), **kept}).encode())
    assert found.encode(PLAY).tolist() == expected.encode(PLAY).tolist()


def test_tokenizer_failure_is_an_error_message() -> None:
    model = {"type": "BPE", "vocab": {"a": 0}, "merges": [], "unk_token": "nope"}
    tokenizer = tokenizer_from(json.dumps({"version": "1.0", "added_tokens": [], "model": model}).encode())
    with pytest.raises(UsageError, match="the tokenizer says"):
        tokenizer.encode("b")


def test_surrogate_in_tokenizer_is_refused() -> None:
    with pytest.raises(UsageError, match=r"U\+D800\) is half of a surrogate pair"):
        tokenizer_from(b'{"kind": "char", "characters": "a\\ud800"}')


def test_other_files_beside_a_checkpoint_are_not_loaded(train: Train) -> None:
    train("a")
    for place in (Path("a"), Path("a/checkpoints"), LATEST, Path("a/checkpoints/best")):
        for name in ("optimizer.pt", "model.pkl", "sitecustomize.py", "config.py"):
            (place / name).write_bytes(pickle.dumps(Bomb()))
    assert train("a", "--resume", "--steps", "21") == 0
    assert run(IN_TORCH, ["generate", "--run", "a", "--length", "3", "--device", "cpu"]) == 0
    assert not Path("exploded").exists()


# ---- pages ------------------------------------------------------------------------------------------------------

MARKUP = (
    "<script>window.ran=1</script><img src=x onerror=window.ran=1><svg/onload=window.ran=1>"
    "</script><!--<script>window.ran=1//--><a href=javascript:window.ran=1>&lt;script&gt;{{data}}`${window.ran=1}`\n"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


def opened(browser: Any, path: Path) -> Any:
    page = browser.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("dialog", lambda dialog: page.problems.append(dialog.message))
    page.goto(path.resolve().as_uri())
    page.wait_for_timeout(500)
    return page


def test_scripts_in_text_and_names_do_not_run_on_pages(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "<script>window.ran=1<"  # file names cannot contain a slash
    Path(name).write_text(MARKUP * 60, encoding="utf-8")
    sampled = ["--n-layer", "1", "--n-head", "2", "--n-embd", "32", "--block-size", "32", "--batch-size", "8"]
    flags = ["--steps", "300", "--eval-every", "300", "--lr", "0.02", "--warmup", "5", "--threads", "2"]
    assert run(BY_HAND, ["train", "--data", name, "--out", "<img src=x onerror=window.ran=1>", *sampled, *flags]) == 0
    samples = "".join(
        record["sample"] for record in RunDir(Path("<img src=x onerror=window.ran=1>")).records() if "sample" in record
    )
    assert "<script>" in samples  # the model has learned to generate them
    shown = opened(browser, Path("<img src=x onerror=window.ran=1>/report.html"))
    assert "window.ran=1" in shown.inner_text("body")
    explained = ["explain", MARKUP[:30], "--run", "<img src=x onerror=window.ran=1>", "--out", "page.html"]
    assert run(BY_HAND, [*explained, "--differences", "0"]) == 0
    for page, scripts in ((shown, 2), (opened(browser, Path("page.html")), 3)):  # with the data of each
        assert page.evaluate("window.ran") is None
        assert page.problems == []
        assert len(page.query_selector_all("script")) == scripts
        assert not page.query_selector("img")
