"""Two speeds, and tests that have the machine to themselves.

@pytest.mark.slow("why")   runs with --all, or where its file or the test itself is named
@pytest.mark.alone         measures time or memory, is sent signals, mounts a disk, or starts many processes: such
                           tests come last, and while one of them runs no worker runs another
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

try:
    import fcntl
except ImportError:  # Windows: those tests come last, but not one at a time
    fcntl = None  # type: ignore[assignment]

LEFT_OUT = pytest.StashKey[int]()
LOCK = pytest.StashKey[Path]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="the slow tests, too; tests/README.md says which and why")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    named = {Path(argument.partition("::")[0]).resolve() for argument in config.args if ".py" in argument}
    slow = [item for item in items if item.get_closest_marker("slow") and item.path not in named]
    if slow and not config.getoption("--all"):
        items[:] = [item for item in items if item not in set(slow)]
        config.hook.pytest_deselected(items=slow)
        config.stash[LEFT_OUT] = len(slow)
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)


# ---- one at a time ----------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    worker = getattr(item.config, "workerinput", {})
    with locked(worker.get("lock"), exclusive=item.get_closest_marker("alone") is not None):
        return (yield)


@contextmanager
def locked(path: str | None, exclusive: bool) -> Iterator[None]:
    """Shared by all workers, or held by one of them; without workers there is nothing to do."""
    if path is None or fcntl is None:
        yield
        return
    with Path(path).open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """The main process tells a new worker where the lock is."""
    if LOCK not in node.config.stash:
        handle, path = tempfile.mkstemp(prefix="minitensor-tests-")
        os.close(handle)
        node.config.stash[LOCK] = Path(path)
    node.workerinput["lock"] = str(node.config.stash[LOCK])


def pytest_unconfigure(config: pytest.Config) -> None:
    if path := config.stash.get(LOCK, None):
        path.unlink()


# ---- what was left out ------------------------------------------------------------------------------------------


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash.get(LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", 0)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if count := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line("")
        terminalreporter.write_line(f"{count} slow tests were left out; with them: uv run pytest --all")
