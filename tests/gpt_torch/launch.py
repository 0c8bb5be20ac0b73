"""Starts the processes of a distributed run: by torchrun, or in the same way but faster.

Each process of torchrun spends seconds loading PyTorch. `launch` forks them from a server that has loaded it, with the
environment that torchrun would set. As with torchrun, the store for the rendezvous outlives them,
and when one fails the others get SIGTERM.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from torch._C._distributed_c10d import TCPStore

from tests.support import ROOT
from tests.support.fork_server import ForkServer

LOADED = """
import torch._dynamo, torch._inductor.compile_fx, torch.distributed.device_mesh, torch.distributed.fsdp
import gpt_torch.cli
"""
TIMEOUT = 300.0
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]

Ended = tuple[int, str]  # 0 if all succeeded, else 1; and what they printed


def torchrun(processes: int, folder: Path, code: str, *arguments: str) -> Ended:
    process = subprocess.Popen(
        [*TORCHRUN, "--nproc-per-node", str(processes), "--no-python", sys.executable, "-c", code, *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, encoding="utf-8",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=TIMEOUT)
    finally:
        process.terminate()  # after a timeout; torchrun then ends its own processes
    return process.returncode, output


def launch(server: ForkServer, processes: int, folder: Path, code: str, *arguments: str) -> Ended:
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    together = {
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
        "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    output = folder / f"output-{store.port}"
    children = [
        server.start(code, *arguments, output=output, cwd=folder, env={**together, "RANK": rank, "LOCAL_RANK": rank})
        for rank in map(str, range(processes))
    ]
    began, asked = time.monotonic(), False
    try:
        while None in (found := [child.poll() for child in children]):
            if any(found) and not asked:
                asked = True
                for child in children:
                    child.send(signal.SIGTERM)
            assert time.monotonic() < began + TIMEOUT, output.read_text(encoding="utf-8")
            time.sleep(0.02)
    finally:
        for child in children:
            child.send(signal.SIGKILL)
    printed = output.read_text(encoding="utf-8")
    output.unlink()
    return int(any(found)), printed
