"""Collects the numbers of all workers, and ends a run with its tables, in the terminal and as a page."""

import time
from typing import Any

import pytest

from tests.support.page import Run, write_page
from tests.support.report import REPORT, TABLES

RUN = Run()
STARTED = time.monotonic()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    RUN.add(report.nodeid, report.outcome, report.duration)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["numbers"] = list(REPORT.numbers.items())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    REPORT.add_all(getattr(node, "workeroutput", {}).get("numbers", ()))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for table in TABLES:
        if lines := REPORT.lines(table):
            terminalreporter.section(table.title)
            for line in lines:
                terminalreporter.write_line(line)
    if RUN.seconds:
        page = write_page(REPORT, RUN, time.monotonic() - STARTED)
        terminalreporter.write_line("")
        terminalreporter.write_line(f"The same as a page, with the time of each part: {page}")
