"""A process that loads PyTorch once, which takes seconds, and forks children with PyTorch loaded in milliseconds.

server = ForkServer("import torch")
child = server.start("print(torch.ones(3))", output=path)
assert child.wait() == 0
"""

import atexit
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import ROOT


class ForkServer:
    def __init__(self, prepare: str) -> None:
        """The children start after the code `prepare` has run."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fork_server", prepare],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8",
        )  # fmt: skip

    def ask(self, **question: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(question), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def start(
        self, code: str, *arguments: str, output: Path, cwd: Path = ROOT, env: dict[str, str] | None = None,
        frees_all: bool = False,
    ) -> "Child":  # fmt: skip
        """A child that runs the code with these arguments in sys.argv, and appends its output to a file. When the code
        has ended, only with `frees_all` does Python free all modules and objects: those of PyTorch take seconds."""
        question = {"code": code, "arguments": arguments, "output": str(output), "cwd": str(cwd), "env": env or {}}
        return Child(self, self.ask(**question, frees_all=frees_all))

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@dataclass
class Child:
    server: ForkServer
    pid: int
    status: int | None = None  # negative: the signal that ended it

    def poll(self) -> int | None:
        if self.status is None:
            self.status = self.server.ask(pid=self.pid)
        return self.status

    def wait(self, timeout: float = 120.0, late: signal.Signals = signal.SIGKILL) -> int:
        """Its status; after the timeout it gets the signal `late`."""
        end = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                self.send(late)
                raise TimeoutError(f"process {self.pid} has not ended after {timeout:.0f} s")
            time.sleep(0.01)
        return status

    def send(self, number: int) -> None:
        if self.poll() is None:  # not reaped yet, so no other process can have its id
            os.kill(self.pid, number)


def main() -> None:
    scope: dict[str, Any] = {"__name__": "__main__"}
    gc.disable()
    exec(sys.argv[1], scope)
    gc.enable()
    gc.freeze()  # or a collection in a child would visit all that is loaded, and so copy its memory: seconds
    for line in sys.stdin:
        question = json.loads(line)
        if "pid" in question:
            pid, status = os.waitpid(question["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                run(scope, **question)
        print(json.dumps(answer), flush=True)
    end(0)


def run(
    scope: dict[str, Any], code: str, arguments: list[str], output: str, cwd: str, env: dict[str, str], frees_all: bool
) -> None:
    """Runs in a child."""
    with open(os.devnull, "rb") as nothing, open(output, "ab") as file:
        os.dup2(nothing.fileno(), 0)
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.chdir(cwd)
    os.environ.update(env)
    sys.argv = ["-c", *arguments]
    status: Any = 0
    try:
        exec(code, scope)
    except SystemExit as ended:
        status = ended.code or 0
    if frees_all or not isinstance(status, int):
        sys.exit(status)
    end(status)


def end(status: int) -> None:
    """Does all that Python does at its end, but for freeing every module and object."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 0xFF)


if __name__ == "__main__":
    main()
