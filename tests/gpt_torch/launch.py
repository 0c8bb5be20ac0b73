"""Starts the processes of a distributed run: by torchrun, or in the same way but faster.

Each process of torchrun spends seconds loading PyTorch. `launch` forks them from a server that has loaded it, with the
environment that torchrun would set. As with torchrun, the store for the rendezvous outlives them,
and when one fails the others get SIGTERM.
"""

import signal
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
TORCHRUN = "from torch.distributed.run import main; main()"
RENDEZVOUS = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]

Ended = tuple[int, str]  # 0 if all succeeded, else 1; and what they printed


def torchrun(server: ForkServer, processes: int, folder: Path, code: str, *arguments: str) -> Ended:
    """torchrun itself is a fork; the processes that it starts are new ones."""
    output = folder / "output-torchrun"
    command = ["--nproc-per-node", str(processes), "--no-python", sys.executable, "-c", code, *arguments]
    child = server.start(TORCHRUN, *RENDEZVOUS, *command, output=output, cwd=folder, env={"PYTHONPATH": str(ROOT)})
    return child.wait(TIMEOUT, signal.SIGTERM), output.read_text(encoding="utf-8")  # torchrun then ends its processes


def launch(
    server: ForkServer, processes: int, folder: Path, code: str, *arguments: str, frees_all: bool = False
) -> Ended:
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    together = {
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
        "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    output = folder / f"output-{store.port}"
    children = [
        server.start(
            code, *arguments, output=output, cwd=folder, env={**together, "RANK": rank, "LOCAL_RANK": rank},
            frees_all=frees_all,
        )
        for rank in map(str, range(processes))
    ]  # fmt: skip
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
