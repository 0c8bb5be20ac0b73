"""Memory freed by a step is reused without new pages from the system, and the memory in use does not grow over many
steps."""

import os
import platform
import subprocess
import sys

import pytest

from tests.support import ROOT

PAGES = """
import resource
import numpy as np
from gpt_numpy.engine import keep_freed_memory

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


@pytest.mark.alone
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_freed_memory_is_reused() -> None:
    done = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, encoding="utf-8", check=True)
    usual, kept = map(int, done.stdout.split())
    assert usual >= 64
    assert kept < 16


LONG = """
import ctypes, gc, sys
from gpt_numpy.workshop.generate import Sampling, generate
from tests.support.engines import CONFIG, ENGINES, RECIPE, batch

class Mallinfo2(ctypes.Structure):  # statistics of glibc's malloc
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Mallinfo2

def in_use():
    found = mallinfo2()
    return sys.getallocatedblocks(), found.uordblks + found.hblkhd

def steps(count):
    for step in range(count):
        engine.train_step(batch, step)
{leak}

def written(count):
    for _ in generate(engine, [1, 2, 3], count, Sampling(), 0):
        pass

engine, batch = ENGINES[sys.argv[1]](CONFIG), batch()
engine.train_step(batch, 0)
gc.collect()
gc.disable()
for size in range(1, 21):  # Python keeps up to 2,000 freed tuples of each size; without these, more with each step
    tuples = [tuple(range(size)) for _ in range(2000)]
    del tuples
kept = []
for work, before, long in {works}:
    work(before)  # PyTorch fills its caches
    start = in_use()
    work(long)
    print(*(now - then for now, then in zip(in_use(), start)))
"""


def started(engine: str, works: str, leak: str = "") -> subprocess.Popen[str]:
    code = LONG.replace("{works}", works).replace("{leak}", leak)
    return subprocess.Popen(
        [sys.executable, "-c", code, engine], stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def grown(process: subprocess.Popen[str]) -> list[list[int]]:
    """The growth of each workload after its warm-up: Python objects, and bytes of all arrays and tensors."""
    output, failed = process.communicate()
    if "mallinfo2" in failed:
        pytest.skip("malloc has no statistics here")
    assert process.returncode == 0, failed
    return [[int(number) for number in line.split()] for line in output.splitlines()]


@pytest.mark.slow("memory, over many steps")
def test_memory_does_not_grow_without_garbage_collection() -> None:
    works = "((steps, 100, 300), (written, 200, 1000))"
    for process in [started(engine, works) for engine in ("numpy", "torch")]:  # side by side
        for (objects, memory), repeats in zip(grown(process), (300, 1000), strict=True):
            assert objects < repeats / 2
            assert memory < 1 << 15  # the head's gradients of 300 steps would be three times as much


@pytest.mark.slow("memory, over many steps")
def test_leak_is_detected() -> None:
    works = "((steps, 100, 200),)"
    gradient = "kept.append(engine.model.lm_head.weight.grad.clone())"
    in_numpy = started("numpy", works, leak="        kept.append(float(step))")
    in_torch = started("torch", works, leak=f"        {gradient}")
    ((objects, _),) = grown(in_numpy)
    assert objects >= 200
    ((objects, memory),) = grown(in_torch)
    assert objects >= 200
    assert memory >= 200 * 4 * 88
