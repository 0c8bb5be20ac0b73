"""The types in the comments of the page's scripts, checked where TypeScript's compiler is installed."""

import shutil
import subprocess

import pytest

from gpt_numpy.explain.page import ENGINE, FOLDER, SCRIPTS

OPTIONS = "--allowJs --checkJs --noEmit --noImplicitAny --target es2022 --lib es2022,dom,dom.iterable"


@pytest.mark.skipif(not shutil.which("tsc"), reason="needs tsc: npm install --global typescript")
def test_types_of_the_page() -> None:
    """All of them at once, as they share one scope; null is a value of every type."""
    files = [str(FOLDER / name) for name in (*ENGINE, *SCRIPTS)]
    done = subprocess.run(["tsc", *OPTIONS.split(), *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
