"""The system's Chromium, run by Playwright. Debian's chromium-headless-shell, which has no user interface, is the
fastest.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gpt_numpy.workshop.errors import UsageError

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for path in map(shutil.which, NAMES) if path), None)


@contextmanager
def launched() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise UsageError("this needs playwright: uv run --group dev python -m bench page") from None
    if BROWSER is None:
        raise UsageError(f"this needs one of {', '.join(NAMES)}; none is on the PATH")
    with sync_playwright() as library:
        browser = library.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()
