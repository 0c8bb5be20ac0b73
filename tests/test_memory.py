"""What a step frees is there for the next one, without new pages from the system."""

import platform
import subprocess
import sys

import pytest

PAGES = """
import resource
import numpy as np
from gpt_numpy.workshop.memory import keep_freed_memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 24)  # 128 MiB: 32,768 pages of the usual size, 64 large ones
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pages()
print(pages())
keep_freed_memory()
pages()
print(pages())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_memory_that_was_freed_is_kept() -> None:
    done = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, encoding="utf-8", check=True)
    usual, kept = map(int, done.stdout.split())
    assert usual >= 64
    assert kept < 16
