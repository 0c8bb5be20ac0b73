"""The browser of bench, for tests that are skipped where there is none."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bench import browser
from bench.browser import BROWSER

__all__ = ["BROWSER", "launched"]


@contextmanager
def launched() -> Iterator[Any]:
    """A browser for Playwright's pages."""
    pytest.importorskip("playwright.sync_api")
    if BROWSER is None:
        pytest.skip("no Chromium on this machine")
    with browser.launched() as found:
        yield found
