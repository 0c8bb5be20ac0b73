"""Slow tests, and tests that run alone on the machine.

    @pytest.mark.slow("why")   runs with --all, or where its file or the test itself is named
    @pytest.mark.alone         measures memory or time closely, sends signals, mounts a disk or starts torchrun: such
                               tests come last, in one worker, and while one runs no other worker runs a test
    @pytest.mark.together("x") stays in one worker with all others that say x, which takes seconds to load

The workers take one test at a time, the longest first: groups, then tests with many examples. The tests of a file with
module-scoped fixtures stay together, too, so that only one worker sets those up.
"""

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import is_hypothesis_test
from xdist.scheduler import LoadScopeScheduling

try:
    import fcntl
except ImportError:  # Windows: tests that run alone come last, but others may still be running
    fcntl = None  # type: ignore[assignment]

LEFT_OUT = pytest.StashKey[int]()
SHARED = pytest.StashKey[Path]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="the slow tests, too; tests/README.md says which and why")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        atexit.register(os._exit, 0)  # the first handler is the last to run: freeing all of PyTorch takes seconds


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    named = {Path(argument.partition("::")[0]).resolve() for argument in config.args if ".py" in argument}
    slow = [item for item in items if item.get_closest_marker("slow") and item.path not in named]
    if slow and not config.getoption("--all"):
        items[:] = [item for item in items if item not in set(slow)]
        config.hook.pytest_deselected(items=slow)
        config.stash[LEFT_OUT] = len(slow)
    items.sort(key=is_alone)
    if shared := shared_folder(config):
        items.sort(key=lambda item: (is_alone(item), group_of(item) == item.nodeid, not has_many_examples(item)))
        write_groups(shared, {item.nodeid: group_of(item) for item in items})


def is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


def group_of(item: pytest.Item) -> str:
    if is_alone(item):
        return "alone"
    if marker := item.get_closest_marker("together"):
        return str(marker.args[0])
    return str(item.path) if has_module_fixtures(item.path) else item.nodeid


def has_many_examples(item: pytest.Item) -> bool:
    return is_hypothesis_test(getattr(item, "obj", None))


@cache
def has_module_fixtures(path: Path) -> bool:
    return 'scope="module"' in path.read_text(encoding="utf-8")


# ---- scheduling -------------------------------------------------------------------------------------------------


class Scheduler(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Hands out the groups in order; the tests that run alone are the last group."""

    groups: dict[str, str] | None = None

    def _split_scope(self, nodeid: str) -> str:
        if self.groups is None:
            self.groups = read_groups(self.config.stash[SHARED])
        return self.groups[nodeid]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduler:
    config.option.loadscopereorder = False
    return Scheduler(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """The main process passes the shared folder to each new worker."""
    if SHARED not in node.config.stash:
        node.config.stash[SHARED] = Path(tempfile.mkdtemp(prefix="minitensor-tests-"))
    node.workerinput["shared"] = str(node.config.stash[SHARED])


def shared_folder(config: pytest.Config) -> Path | None:
    """In a worker; elsewhere None."""
    shared = getattr(config, "workerinput", {}).get("shared")
    return Path(shared) if shared else None


def write_groups(shared: Path, groups: dict[str, str]) -> None:
    """Each worker writes the same file atomically; the main process, which has not collected the tests, reads it."""
    own = shared / f"groups-{os.getpid()}"
    own.write_text(json.dumps(groups), encoding="utf-8")
    own.replace(shared / "groups")


def read_groups(shared: Path) -> dict[str, str]:
    groups: dict[str, str] = json.loads((shared / "groups").read_text(encoding="utf-8"))
    return groups


def pytest_unconfigure(config: pytest.Config) -> None:
    if shared := config.stash.get(SHARED, None):
        shutil.rmtree(shared)


# ---- one at a time ----------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    with locked(shared_folder(item.config), exclusive=is_alone(item)):
        return (yield)


@contextmanager
def locked(shared: Path | None, exclusive: bool) -> Iterator[None]:
    """A shared lock for most tests, an exclusive one for those that run alone; none without workers."""
    if shared is None or fcntl is None:
        yield
        return
    with (shared / "lock").open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield


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
