"""gpt-numpy as a user meets it: its pages of help, its output, and one line for each wrong use."""

import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from gpt_numpy import GPTConfig
from gpt_numpy.cli import PROGRAM
from gpt_numpy.workshop import download
from gpt_numpy.workshop.commands import run
from gpt_numpy.workshop.recipes import Recipe

ROOT = Path(__file__).parent.parent
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
    monkeypatch.setattr(download, "ADDRESS", "http://127.0.0.1:9/nobody-listens")
    monkeypatch.setattr(download, "user_cache_path", lambda *_, **__: folder / "cache")
    return folder


def command(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own, its output in pipes."""
    return subprocess.run(
        [sys.executable, "-c", MAIN, *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, capture_output=True, text=True,
        encoding="utf-8",
    )  # fmt: skip


# ---- as it should be --------------------------------------------------------------------------------------------


def test_train_says_what_it_does(folder: Path) -> None:
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


def test_piped_output_has_no_control_characters_even_where_colour_is_forced(folder: Path) -> None:
    for arguments in (["train", *TINY], ["eval"], ["generate", "--length", "20"], ["--help"], ["train", "--help"]):
        done = command(folder, *arguments, FORCE_COLOR="1", TTY_COMPATIBLE="1")
        assert done.returncode == 0
        assert not CONTROL.search(done.stdout + done.stderr), arguments


def test_generate_repeats_itself_for_a_seed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for seed in ("7", "7", "8"):
        assert run(PROGRAM, ["generate", "--prompt", "ROMEO", "--seed", seed, "--length", "50"]) == 0
        out, err = capsys.readouterr()
        assert out.startswith("ROMEO")
        assert len(out) == len("ROMEO") + 50 + 1
        assert f"step 6, seed {seed}" in err
        texts.append(out)
    assert texts[0] == texts[1] != texts[2]


def test_greedy_needs_no_seed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = set()
    for _ in range(2):
        run(PROGRAM, ["generate", "--greedy", "--length", "30"])
        texts.add(capsys.readouterr().out)
    assert len(texts) == 1


def test_eval_gives_the_loss_that_training_recorded(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(PROGRAM, ["train", *TINY])
    best = re.search(r"best validation loss (\S+) at step (\d+): (\S+) bits", capsys.readouterr().out)
    assert best is not None
    assert run(PROGRAM, ["eval"]) == 0
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
    assert run(PROGRAM, ["eval", "--data", "other.txt"]) == 0
    assert "tokens of other.txt" in capsys.readouterr().out


def test_bpe(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(PROGRAM, ["train", *TINY, "--tokenizer", "bpe", "--vocab-size", "300", "--out", "bpe"]) == 0
    assert "tokens, 300 different" in capsys.readouterr().out
    assert run(PROGRAM, ["generate", "--run", "bpe", "--prompt", "naïve ☃ ", "--length", "10"]) == 0
    assert capsys.readouterr().out.startswith("naïve ☃ ")
    assert run(PROGRAM, ["eval", "--run", "bpe"]) == 0


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
    assert re.search(r"^stopped and saved at step \d+; go on with --resume", out, re.MULTILINE)
    assert (folder / "stopped" / "checkpoints" / "latest" / "state.json").exists()


def test_a_reader_that_leaves_early_is_no_error(folder: Path) -> None:
    line = f'"{sys.executable}" -c "{MAIN}" generate --length 3000 | head -c 10'
    done = subprocess.run(
        line, shell=True, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr


def test_every_field_has_a_flag_with_its_meaning(folder: Path) -> None:
    page = command(folder, "train", "--help").stdout
    for kind in (GPTConfig, Recipe, PROGRAM.options):
        for field in fields(kind):
            assert re.search(rf"^  --{field.name.replace('_', '-')}\b.*\n? +\S", page, re.MULTILINE), field.name


# ---- wrong use --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dance"], "'dance' is not one of train, generate, eval; see gpt-numpy --help"),
        (["train", "--stps", "3"], "--stps is not known, perhaps --steps; see gpt-numpy train --help"),
        (["train", "--steps", "many"], "--steps: 'many' is not a whole number"),
        (["train", "--steps"], "--steps: expected one argument"),
        (["train", "--steps", "0"], "--steps is a whole number of at least 1, not 0"),
        (["train", "--lr", "nan"], "--lr is a number of at least 0, not nan"),
        (["train", "--n-embd", "10"], "--n-embd 10 cannot be shared among n_head 4 heads"),
        (["train", "--preset", "huge"], "--preset: invalid choice: 'huge'"),
        (["train", "--threads", "-1"], "--threads is at least 0, not -1"),
        (["train", "--data", "gone.txt"], "gone.txt cannot be read: No such file"),
        (["train", "--data", "play.txt", "--block-size", "9999"], "play.txt is too short: 2"),
        (["train", "--data", "play.txt", "--vocab-size", "9"], "--vocab-size 9: the text has"),
        (["train", "--data", "play.txt", "--out", "play.txt/run"], "play.txt/run cannot be written: Not a directory"),
        (["train", "--resume", "--out", "gone"], "gone is not the folder of a run"),
        (["generate", "--run", "gone"], "gone is not the folder of a run; the newest is found by: latest"),
        (["generate", "--prompt", "é"], "the character 'é' (U+00E9 LATIN SMALL LETTER E WITH ACUTE) is not among"),
        (["generate", "--temperature", "0"], "--temperature is above 0, not 0.0; for the likeliest, greedy"),
        (["generate", "--length", "-3"], "--length is at least 0, not -3"),
        (["generate", "--seed", "-3"], "--seed is at least 0, not -3"),
        (["eval", "--checkpoint", "worst"], "--checkpoint: invalid choice: 'worst'"),
        (["eval", "--run", "cache"], "cache is not the folder of a run"),
    ],
)
def test_a_wrong_use_is_one_line_and_status_2(
    arguments: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = sorted(here.glob("runs/*"))
    assert run(PROGRAM, arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"gpt-numpy: {message}"), err
    assert err.count("\n") == 1
    assert sorted(here.glob("runs/*")) == runs


def test_without_a_run_there_is_nothing_to_write_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(PROGRAM, ["generate"]) == 2
    assert "no run in runs" in capsys.readouterr().err
