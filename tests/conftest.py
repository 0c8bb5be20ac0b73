"""Settings of hypothesis and torch, and a trainer of tiny models. What else is special about a run of the tests:
support/speeds.py (slow tests, and those that run alone) and support/tables.py (what it ends with)."""

import gc
import os
import shutil
import signal
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from gpt_numpy.cli import CLI
from gpt_numpy.workshop.cli.main import run
from gpt_numpy.workshop.train import task
from tests.support.runs import PLAY, TINY, Train, Trained

pytest_plugins = ["tests.support.speeds", "tests.support.tables"]

# PyTorch's threads would spin while they wait for each other. With several tests at once a step of a tiny model in a
# new process then takes a second instead of a hundredth.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The default repeats the same examples in every run, so that a failure is never a surprise on somebody else's
# machine; `HYPOTHESIS_PROFILE=thorough uv run pytest` looks at 20 times as many, new ones each time.
settings.register_profile(
    "default",
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile(
    "thorough", settings.get_profile("default"), max_examples=1000, derandomize=False, print_blob=True
)
settings.register_profile(
    "mutation",  # one failing example is enough, and need not be small
    settings.get_profile("default"),
    phases=[Phase.explicit, Phase.generate],
    report_multiple_bugs=False,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--calls", type=int, metavar="N", help="how many calls of minitensor are compared with torch's")


def pytest_collection_finish() -> None:
    """All that is loaded stays: garbage collections need not visit it, and may come after more new objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or a library would complain that its objects are never freed


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # in a shell's background job, and so in its children
        signal.signal(signal.SIGINT, signal.default_int_handler)
    usual = settings()
    times = 4 if config.getoption("--all") else 1
    settings.register_profile("many", usual, max_examples=times * usual.max_examples)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Of PyTorch, if it is loaded, and whatever the last test has set: arrays are tiny, and threads that wait keep a
    core busy, which the other workers need."""
    if (torch := sys.modules.get("torch")) and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here can cut the power; test_checkpoint.py looks at when a file is said to be on the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the text of all tiny runs, and of those that `trained` copies: each run names the text's path."""
    home = tmp_path_factory.mktemp("home")
    (home / "play.txt").write_text(PLAY, encoding="utf-8")
    return home


@pytest.fixture
def train(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Trains a tiny model in the folder that is named; more flags may follow."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "play.txt").write_text(PLAY, encoding="utf-8")
    monkeypatch.setattr(task, "SAMPLE", 2)

    def start(out: str, *flags: str) -> int:
        data = [] if "--data" in flags else ["--data", str(home / "play.txt")]
        begin = [] if "--resume" in flags else [*data, *TINY]
        return run(CLI, ["train", "--out", out, *begin, *flags])

    return start


@pytest.fixture
def trained(train: Train, home: Path) -> Trained:
    """A finished run to start from or to compare with: the first test that needs one with such flags trains it, the
    others copy that. Only before a test changes what trains."""

    def copied(out: str, *flags: str) -> None:
        kept = home / "".join(("run", *flags))
        if not kept.exists():
            with redirect_stdout(StringIO()):
                assert train(str(kept), *flags) == 0
        shutil.copytree(kept, out)

    return copied
