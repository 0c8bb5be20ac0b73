"""The gpt-numpy command: its help, its output, and one line for each usage error."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import fields
from functools import cache
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console as Rich
from rich.progress import Progress

from gpt_numpy import GPTConfig
from gpt_numpy.cli import CLI
from gpt_numpy.engine import Engine
from gpt_numpy.workshop.cli.main import run
from gpt_numpy.workshop.data import corpus
from gpt_numpy.workshop.data.synthetic import write_play
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.runs.run_dir import RunDir, find_run_dir
from gpt_numpy.workshop.train import task
from gpt_numpy.workshop.train.trainer import COLUMNS
from gpt_torch.options import Options
from tests.support import ROOT
from tests.support.engines import batch_of

PLAY = "".join(f"SCENE {i}.\nEnter ROMEO, who says {i * i}: farewell!\n" for i in range(60))
TINY = [
    *("--data", "play.txt", "--n-layer", "1", "--n-head", "2", "--n-embd", "8", "--block-size", "8"),
    *("--batch-size", "4", "--steps", "6", "--eval-every", "3", "--threads", "1"),
]
MAIN = "import sys; from gpt_numpy.cli import main; sys.exit(main())"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and a trained run."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "play.txt").write_text(PLAY, encoding="utf-8")
    done = command(folder, "train", *TINY)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(corpus, "ADDRESS", "http://127.0.0.1:9/unreachable")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: folder / "cache")
    monkeypatch.setattr(task, "SAMPLE", 5)
    return folder


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command in a new process, its output in pipes."""
    return subprocess.run(
        [sys.executable, "-c", MAIN, *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, capture_output=True, text=True,
        encoding="utf-8",
    )  # fmt: skip


# ---- normal use -------------------------------------------------------------------------------------------------


def test_train_output(folder: Path) -> None:
    done = command(folder, "train", *TINY)
    assert done.returncode == 0
    assert done.stderr == ""
    for line in (
        f"text: play.txt, {len(PLAY):,} characters, {len(set(PLAY))} different",
        "model: 1,",
        "run: runs",
        "step     0   train",
        "step     6   train",
        "best validation loss",
        "next: gpt-numpy generate --run runs",
    ):
        assert re.search(f"^{re.escape(line)}", done.stdout, re.MULTILINE), line


@pytest.mark.slow("three new processes")
def test_piped_output_has_no_control_characters_even_with_forced_colour(folder: Path) -> None:
    for arguments in (["train", *TINY], ["generate", "--length", "20"], ["train", "--help"]):
        done = command(folder, *arguments, FORCE_COLOR="1", TTY_COMPATIBLE="1")
        assert done.returncode == 0
        assert not CONTROL.search(done.stdout + done.stderr), arguments


def test_generate_is_reproducible_for_a_seed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for seed in ("7", "7", "8"):
        assert run(CLI, ["generate", "--prompt", "ROMEO", "--seed", seed, "--length", "50"]) == 0
        out, err = capsys.readouterr()
        assert out.startswith("ROMEO")
        assert len(out) == len("ROMEO") + 50 + 1
        assert f"step 6, seed {seed}" in err
        texts.append(out)
    assert texts[0] == texts[1] != texts[2]


def test_temperature_0_needs_no_seed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = set()
    for _ in range(2):
        run(CLI, ["generate", "--temperature", "0", "--length", "30"])
        texts.add(capsys.readouterr().out)
    assert len(texts) == 1


def test_several_samples_differ_and_the_first_is_that_of_the_seed(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["generate", "--prompt", "ROMEO", "--seed", "7", "--length", "50"]
    run(CLI, flags)
    alone = capsys.readouterr().out
    assert run(CLI, [*flags, "--num-samples", "3"]) == 0
    samples = capsys.readouterr().out.split("---------------\n")
    assert samples[0] == alone
    assert all(sample.startswith("ROMEO") and len(sample) == len(alone) for sample in samples)
    assert len(set(samples)) == 3


def test_generation_ends_before_the_stop_text(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["generate", "--seed", "7", "--length", "50"]
    run(CLI, flags)
    text = capsys.readouterr().out
    for stop, given in ((text[20:23], text[20:23]), ("\n", "\\n")):
        assert run(CLI, [*flags, "--stop", given]) == 0
        assert capsys.readouterr().out == text[: text.index(stop)] + "\n"


def test_eval_prints_the_loss_that_training_recorded(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(CLI, ["train", *TINY])
    best = re.search(r"best validation loss (\S+) at step (\d+): (\S+) bits", capsys.readouterr().out)
    assert best is not None
    assert run(CLI, ["eval"]) == 0
    out = capsys.readouterr().out
    loss, step, bits = best.groups()
    assert f"step {step}, on" in out
    assert re.search(rf"^validation loss +{loss} ", out, re.MULTILINE)
    assert re.search(rf"^bits per character +{bits}", out, re.MULTILINE)
    perplexity = re.search(r"^perplexity +(\S+)$", out, re.MULTILINE)
    assert perplexity is not None
    assert float(perplexity[1]) == pytest.approx(math.exp(float(loss)), rel=1e-3)


def test_eval_on_another_text(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "other.txt").write_text(PLAY[::-1], encoding="utf-8")
    assert run(CLI, ["eval", "--data", "other.txt"]) == 0
    assert "tokens of other.txt" in capsys.readouterr().out


def test_bpe_losses_are_printed_per_token_and_per_character(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(CLI, ["train", *TINY, "--tokenizer", "bpe", "--vocab-size", "300", "--out", "bpe"]) == 0
    out = capsys.readouterr().out
    per_token = json.loads((here / "bpe" / "config.json").read_text(encoding="utf-8"))["characters_per_token"]
    loss = RunDir(here / "bpe").checkpoint("best").state.best_loss
    assert loss is not None
    assert per_token > 1.2
    assert "tokens, 300 different" in out
    assert f"({loss / per_token:.3f} per character)" in out
    assert f"{loss / per_token / math.log(2):.3f} bits per character" in out
    assert run(CLI, ["eval", "--run", "bpe"]) == 0
    out = capsys.readouterr().out
    assert f"bits per character    {loss / per_token / math.log(2):.3f}\n" in out
    assert f"perplexity            {math.exp(loss):.3f}\n" in out
    assert run(CLI, ["generate", "--run", "bpe", "--prompt", "naïve ☃ ", "--length", "10"]) == 0
    assert capsys.readouterr().out.startswith("naïve ☃ ")


def test_eval_uses_best_checkpoint_unless_latest_is_given(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(CLI, ["train", *TINY, "--lr", "5", "--warmup", "0", "--grad-clip", "0", "--out", "worse"])
    assert RunDir(here / "worse").checkpoint("latest").state.best_step == 0
    for flags, step in (([], 0), (["--checkpoint", "latest"], 6)):
        capsys.readouterr()
        assert run(CLI, ["eval", "--run", "worse", *flags]) == 0
        assert f", step {step}, on" in capsys.readouterr().out


def test_eval_refuses_a_changed_text(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "mine.txt").write_text(PLAY, encoding="utf-8")
    assert run(CLI, ["train", *TINY[2:], "--data", "mine.txt", "--out", "mine"]) == 0
    (here / "mine.txt").write_text(PLAY + "Enter", encoding="utf-8")
    assert run(CLI, ["eval", "--run", "mine"]) == 2
    assert "is not the text that" in capsys.readouterr().err


@pytest.mark.parametrize(("size", "status"), [("17", 0), ("18", 2)])
def test_text_needs_at_least_one_window(here: Path, size: str, status: int) -> None:
    (here / "short.txt").write_text("ab" * 10, encoding="utf-8")  # 18 for training
    flags = ["--block-size", size, "--steps", "1", "--out", f"short-{size}"]
    assert run(CLI, ["train", *TINY[2:], "--data", "short.txt", *flags]) == status


def test_explain_prints_gradients_of_a_trained_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--run", "latest", "--layer", "0", "--head", "1"]
    assert run(CLI, ["explain", "farewell!", *chosen, "--entry", "dS[3,1]"]) == 0
    out = capsys.readouterr().out
    assert "i = 3 'e', j = 1 'a'" in out
    assert "they agree" in out
    assert "--checkpoint best --layer 0 --head 1 --entry" in out  # hints lead to the same model
    checkpoint = find_run_dir("latest").checkpoint("best")
    engine = Engine(checkpoint.state.config, checkpoint.state.recipe)
    engine.load(checkpoint.weights, {}, 0)
    ids = checkpoint.tokenizer.encode("farewell!")
    assert run(CLI, ["explain", "farewell!", *chosen, "--entry", "L"]) == 0
    loss = float(capsys.readouterr().out.split()[2])
    assert loss == pytest.approx(engine.loss(batch_of(ids[None])), rel=1e-5)


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("fare ☃", [], "the character '☃' (U+2603 SNOWMAN) is not among the"),
        ("farewell! farewell!", [], "is 19 tokens of"),
        ("farewell!", ["--layer", "1"], "--layer 1: the model has 1 layer, counted from 0 to 0"),
        ("farewell!", ["--seed", "1"], "--seed is for a fresh model"),
    ],
)
def test_invalid_explain_of_a_run_is_a_one_line_error(
    text: str, flags: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(CLI, ["explain", text, "--run", "latest", "--entry", "dS[1,0]", *flags]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


@pytest.mark.parametrize(
    "flags", [["--temperature", "9"], ["--top-k", "1"], ["--top-p", "0.01"], ["--temperature", "0"]], ids=str
)
def test_each_sampling_flag_has_an_effect(here: Path, capsys: pytest.CaptureFixture[str], flags: list[str]) -> None:
    said = []
    for more in ([], flags):
        run(CLI, ["generate", "--seed", "1", "--length", "100", *more])
        said.append(capsys.readouterr().out)
    assert said[0] != said[1]


def test_number_of_threads(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(CLI, ["train", *TINY, "--threads", "3", "--out", "three"])
    assert "float32, 3 threads" in capsys.readouterr().out
    assert json.loads((here / "three" / "config.json").read_text(encoding="utf-8"))["threads"] == 3


@pytest.mark.slow("a megabyte of text")
def test_entropy_of_synthetic_plays_is_printed_beside_the_loss(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt_numpy.workshop.data.corpus.write_play", cache(write_play))
    long = ["--block-size", "64", "--steps", "1"]
    run(CLI, ["train", *TINY[2:], "--data", "synthetic", *long, "--out", "synthetic"])
    assert re.search(r"^step +1 +train .* val .* \(floor 0\.58\d\) ", capsys.readouterr().out, re.MULTILINE)
    flags = ["--data", "synthetic", "--tokenizer", "bpe", "--vocab-size", "300", "--out", "by-bpe"]
    run(CLI, ["train", *TINY[2:], *flags, *long])
    assert re.search(r"^step +1 .* \(\d\.\d+ per character, floor 0\.58\d\) ", capsys.readouterr().out, re.MULTILINE)
    run(CLI, ["eval", "--run", "by-bpe"])
    assert re.search(r"^least possible +0\.58\d\d per character$", capsys.readouterr().out, re.MULTILINE)


def test_generated_text_is_streamed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []

    class Out(StringIO):
        def flush(self) -> None:
            flushed.append(self.getvalue())

    monkeypatch.setattr(sys, "stdout", Out())
    assert run(CLI, ["generate", "--prompt", "R", "--length", "20"]) == 0
    assert [len(text) for text in flushed[:20]] == list(range(2, 22))


@pytest.mark.skipif(sys.platform == "win32", reason="no pty there")
def test_terminal_shows_progress_bar_and_no_control_characters_from_text(here: Path) -> None:
    (here / "steering.txt").write_text(PLAY.replace("!", "\x1b[2J!"), encoding="utf-8")
    flags = ["--data", "steering.txt", "--steps", "8", "--eval-every", "4", "--out", "terminal"]
    shown, status = on_a_terminal(here, "train", *TINY, *flags)
    assert status == 0
    frames = re.findall(r"━ (\d/8) evaluating 100% +[\d-]+:[\d-]+", re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown))
    assert list(dict.fromkeys(frames)) == ["0/8", "4/8", "8/8"]
    assert "\x1b[2J" not in shown
    shown, status = on_a_terminal(here, "generate", "--run", "terminal", "--prompt", "\x1b[2J", "--temperature", "9")
    assert status == 0
    assert "\ufffd[2J" in shown
    assert "\x1b[2J" not in shown


def on_a_terminal(folder: Path, *arguments: str) -> tuple[str, int]:
    import pty

    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"},
        stdin=follower, stdout=follower, stderr=follower,
    )  # fmt: skip
    os.close(follower)
    shown = b""
    try:
        while piece := os.read(leader, 1 << 16):
            shown += piece
    except OSError:  # end of file of a pseudo-terminal
        pass
    os.close(leader)
    return shown.decode("utf-8", "replace"), process.wait(timeout=60)


@pytest.mark.skipif(sys.platform == "win32", reason="no head there")
def test_training_continues_if_its_output_is_closed(here: Path) -> None:
    line = f'"{sys.executable}" -c "{MAIN}" train {" ".join(TINY)} --out unread | head -n 1; exit ${{PIPESTATUS[0]}}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", line], cwd=here, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert RunDir(here / "unread").checkpoint("latest").state.step == 6


@pytest.mark.skipif(sys.platform == "win32", reason="no bash there")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_tolerated(here: Path, closed: str) -> None:
    line = f'"{sys.executable}" -c "{MAIN}" generate --prompt ROMEO --length 5 --seed 1 {closed}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", line], cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("ROMEO") == (not closed.startswith(">"))
    assert "Traceback" not in done.stderr


def test_ctrl_c_saves_and_ends_with_status_130(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "train", *TINY, "--steps", "100000", "--out", "stopped"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True, encoding="utf-8",
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step     6"):
            break
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r"^stopped and saved at step \d+; continue with --resume", out, re.MULTILINE)
    assert (folder / "stopped" / "checkpoints" / "latest" / "state.json").exists()


def test_generate_tolerates_a_broken_pipe(folder: Path) -> None:
    line = f'"{sys.executable}" -c "{MAIN}" generate --length 3000 | head -c 10; exit ${{PIPESTATUS[0]}}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr


def test_every_field_has_a_flag_with_help(folder: Path) -> None:
    page = command(folder, "train", "--help").stdout
    for kind in (GPTConfig, Recipe, CLI.options):
        for field in fields(kind):
            assert re.search(rf"^  --{field.name.replace('_', '-')}\b.*\n? +\S", page, re.MULTILINE), field.name


def test_flags_of_gpt_torch_only() -> None:
    ours, theirs = ({field.name for field in fields(options)} for options in (CLI.options, Options))
    assert CLI.flags_of_other_cli == {"--" + name.replace("_", "-"): "gpt-torch" for name in theirs - ours}


# ---- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dance"], "'dance' is not one of train, tune, generate, eval, claims, explain; see gpt-numpy --help"),
        (["train", "--stps", "3"], "--stps is not known; did you mean --steps? see gpt-numpy train --help"),
        (["train", "--dtype", "bfloat16"], "--dtype is a flag of gpt-torch; see gpt-numpy train --help"),
        (["generate", "--no-self-test"], "--no-self-test is a flag of gpt-torch"),
        (["train", "--steps", "many"], "--steps: 'many' is not a whole number"),
        (["train", "--steps"], "--steps: expected one argument"),
        (["train", "--steps", "0"], "--steps is a whole number of at least 1, not 0"),
        (["train", "--warmup", "1" + "0" * 400], "--warmup is below 2^63, not 1000"),
        (["train", "--lr", "nan"], "--lr is a number of at least 0, not nan"),
        (["train", "--n-embd", "10"], "--n-embd 10 cannot be shared among n_head 4 heads"),
        (["train", "--preset", "huge"], "--preset: invalid choice: 'huge'"),
        (["train", "--threads", "-1"], "--threads is a whole number of at least 0 and at most 1024, not -1"),
        (["train", "--data", "gone.txt"], "gone.txt cannot be read: No such file"),
        (["train", "--data", "play.txt", "--block-size", "9999"], "play.txt is too short: 2"),
        (["train", "--data", "play.txt", "--vocab-size", "9"], "--vocab-size 9: the text has"),
        (["train", "--data", "play.txt", "--out", "play.txt/run"], "play.txt/run cannot be written: Not a directory"),
        (["train", "--resume", "--out", "gone"], "gone is not the folder of a run"),
        (["generate", "--run", "gone"], "gone is not the folder of a run; `latest` stands for the newest"),
        (["generate", "--prompt", "é"], "the character 'é' (U+00E9 LATIN SMALL LETTER E WITH ACUTE) is not among"),
        (["generate", "--temperature", "-1"], "--temperature is a number of at least 0, not -1.0"),
        (["generate", "--num-samples", "0"], "--num-samples is at least 1, not 0"),
        (["generate", "--stop", ""], "--stop is a text of at least one character"),
        (["train", "--config", "gone.toml"], "gone.toml cannot be read: No such file"),
        (["train", "--config", "play.txt"], "play.txt: Expected"),
        (["train", "--data", "runs"], "runs has no text in it"),
        (["train", "--log", "paper"], "--log: invalid choice: 'paper'"),
        (["train", "--max-minutes", "-1"], "--max-minutes is a number of at least 0, not -1.0"),
        (["generate", "--length", "-3"], "--length is at least 0, not -3"),
        (["generate", "--seed", "-3"], "--seed is at least 0, not -3"),
        (["eval", "--checkpoint", "worst"], "--checkpoint: invalid choice: 'worst'"),
        (["eval", "--run", "cache"], "cache is not the folder of a run"),
    ],
)
def test_usage_error_is_one_line_and_status_2(
    arguments: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = sorted(here.glob("runs/*"))
    assert run(CLI, arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"gpt-numpy: {message}"), err
    assert err.count("\n") == 1
    assert sorted(here.glob("runs/*")) == runs


def test_generate_without_a_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(CLI, ["generate"]) == 2
    assert "no run in runs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "out of memory; a smaller "),
        (OSError(28, "No space left on device", "runs/x"), "runs/x: No space left on device"),
    ],
)
def test_machine_failure_is_one_line_and_status_1(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("gpt_numpy.engine.Engine.loss", fail)
    assert run(CLI, ["eval"]) == 1
    assert capsys.readouterr().err.startswith(f"gpt-numpy: {message}")


def test_nonempty_folder_is_refused_and_unchanged(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "occupied").mkdir()
    (here / "occupied" / "config.json").write_text("occupied", encoding="utf-8")
    assert run(CLI, ["train", *TINY, "--out", "occupied"]) == 2
    assert "occupied is not empty; give another folder" in capsys.readouterr().err
    assert (here / "occupied" / "config.json").read_text(encoding="utf-8") == "occupied"


# ---- flags that would quietly mean something else ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data", "", "--out", "a"], "--data names no file, it is empty"),
        (["train", "--data", "play.txt", "--out", ""], "--out names no folder, it is empty"),
        (["generate", "--run", ""], "--run names no folder, it is empty"),
        (["tune", "sft", "--data", ""], "--data names no file, it is empty"),
        (
            ["tune", "sft", "--resume", "--run", "other"],
            "--run is for a run that begins; --out names the one to resume",
        ),
        (["train", "--out", "latest", "--data", "play.txt"], "--out latest: that name stands for the newest run"),
        (["eval", "--run", "a", "--ensemble", "b", "c"], "--ensemble names all of its runs; leave out --run"),
        (["generate", "--length", "x"], "--length: 'x' is not a whole number"),
        (["explain", "ab", "--beta", "x"], "--beta: 'x' is not a number"),
    ],
)
def test_flag_is_refused(arguments: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(CLI, arguments) == 2
    assert message in capsys.readouterr().err


def test_flags_given_twice_name_several(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(CLI, ["train", *TINY, "--data", "play.txt", "--out", "twice"]) == 0
    assert "text: 2 files, " in capsys.readouterr().out
    run_dir = str(find_run_dir("latest").folder)
    assert run(CLI, ["eval", "--ensemble", run_dir, "--ensemble", run_dir]) == 0
    assert capsys.readouterr().out.count("/checkpoints/best, step ") == 2


def test_resumed_run_of_a_short_text_accepts_the_tokens_it_was_asked_for(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*TINY, "--tokenizer", "bpe", "--vocab-size", "1000", "--out", "pairs"]
    assert run(CLI, ["train", *flags]) == 0
    vocab_size = find_run_dir("pairs").checkpoint("best").state.config.vocab_size
    assert vocab_size < 1000
    assert run(CLI, ["train", *flags, "--resume", "--steps", "7"]) == 0
    assert run(CLI, ["train", *flags, "--resume", "--steps", "8", "--vocab-size", str(vocab_size - 1)]) == 2
    assert f"is a model with vocab_size {vocab_size}, which cannot change" in capsys.readouterr().err
    assert run(CLI, ["train", *flags, "--resume", "--steps", "3"]) == 2
    assert "has done its 7 steps; to train further, --steps 14" in capsys.readouterr().err


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_step_and_time_left_stay_on_narrow_terminals(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out = StringIO()
    progress = Progress(
        *COLUMNS, console=Rich(file=out, width=width, force_terminal=True), expand=True, auto_refresh=False
    )
    progress.add_task(
        "", total=15_000, completed=510, figures="reward 7.30  spread 1.85  live 0.28  KL 0.00  words 9.1"
    )
    progress.start()
    progress.stop()
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", out.getvalue()).splitlines()
    assert any("  510/15000 " in line and re.search(r"--:--|\d+:\d\d", line) for line in shown), shown
    assert max(map(len, shown)) <= width


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.slow("three new processes")
def test_full_disk_is_an_error_where_the_output_is_the_result(folder: Path) -> None:
    for arguments in (["eval"], ["claims"], ["--help"]):
        with open("/dev/full", "w", encoding="utf-8") as full:
            done = subprocess.run(
                [sys.executable, "-c", MAIN, *arguments], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            )  # fmt: skip
        assert done.returncode == 1, arguments
        assert done.stderr.count("\n") == 1
        assert "No space left on device" in done.stderr
