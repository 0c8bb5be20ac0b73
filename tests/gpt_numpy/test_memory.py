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
import numpy as np
from gpt_numpy import GPTConfig
from gpt_numpy.workshop.engine import Batch
from gpt_numpy.workshop.generate import Sampling, generate
from gpt_numpy.workshop.recipes import Recipe

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

def written(count):
    for _ in generate(engine, [1, 2, 3], count, Sampling(), 0):
        pass

def keeping(count):
    for step in range(count):
        engine.train_step(batch, step)
        kept.extend([{kept}])

config = GPTConfig(vocab_size=11, block_size=8, n_layer=1, n_head=2, n_embd=8)
recipe = Recipe(steps=10, batch_size=7, lr=1e-2, warmup=2)
batch = Batch(np.arange(63) % 11, np.arange(7) * 9, 8)
{engine}
engine.train_step(batch, 0)
gc.collect()
gc.disable()
for size in range(1, 21):  # Python keeps up to 2,000 freed tuples of each size; without these, more with each step
    tuples = [tuple(range(size)) for _ in range(2000)]
    del tuples
kept = []
for work, before, long in ((steps, 100, 300), (keeping, 0, 300), (written, 200, 1000)):
    work(before)  # PyTorch fills its caches
    start = in_use()
    work(long)
    print(*(now - then for now, then in zip(in_use(), start)))
"""
LISTS = "[step + 0.5], [step + 0.5]"  # six objects; those that PyTorch has in use vary by hundreds
IN_NUMPY = """
from gpt_numpy.engine import Engine
engine = Engine(config, recipe, threads=2)
"""
IN_TORCH = """
from gpt_torch.engine import Engine, Options
engine = Engine(config, recipe, Options(device="cpu"))
"""


def grown(engine: str, kept: str) -> list[list[int]]:
    """The growth of each workload after its warm-up: Python objects, and bytes of all arrays and tensors."""
    done = subprocess.run(
        [sys.executable, "-c", LONG.replace("{engine}", engine).replace("{kept}", kept)],
        capture_output=True, encoding="utf-8", cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if "mallinfo2" in done.stderr:
        pytest.skip("malloc has no statistics here")
    assert done.returncode == 0, done.stderr
    return [[int(number) for number in line.split()] for line in done.stdout.splitlines()]


@pytest.mark.slow("memory, over many steps")
@pytest.mark.parametrize(
    ("engine", "kept", "is_tensor"),
    [(IN_NUMPY, LISTS, False), (IN_TORCH, f"{LISTS}, engine.model.lm_head.weight.grad.clone()", True)],
    ids=["numpy", "torch"],
)
def test_memory_grows_only_by_what_is_kept(engine: str, kept: str, is_tensor: bool) -> None:
    """Without garbage collection. Lists that each step leaves are noticed, and in PyTorch the head's gradient."""
    steps, keeping, written = grown(engine, kept)
    some, much = 300 / 2, 1 << 15  # the head's gradients of 300 steps are three times as much
    assert steps[0] < some <= keeping[0]
    assert steps[1] < much
    assert keeping[1] >= much or not is_tensor
    assert written[0] < 1000 / 2
    assert written[1] < much
