"""Runs the code of a notebook, cell by cell, as IPython and Colab do.

    python -m tests.gpt_torch.notebook FILE NAME=VALUE ...

In cells, NAME = something becomes NAME = VALUE. The first failing cell or command ends the run. The project's own
commands run in forks of this process, which has loaded PyTorch; a new process would load it for seconds.
"""

import json
import os
import re
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

import gpt_numpy.cli
import gpt_torch.cli

COMMANDS = {"gpt-numpy": gpt_numpy.cli.main, "gpt-torch": gpt_torch.cli.main}


def sources(path: Path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def with_values(cells: list[str], values: dict[str, str]) -> list[str]:
    for name, value in values.items():
        pattern = re.compile(rf"^{name} = .*?(?=  # @param|$)", re.MULTILINE)
        if sum(len(pattern.findall(cell)) for cell in cells) != 1:
            sys.exit(f"{name} is not set once")
        cells = [pattern.sub(lambda _, line=f"{name} = {value}": line, cell) for cell in cells]  # type: ignore[misc]
    return cells


def forked(shell: Any, line: str) -> None:
    """`!gpt-torch ...`, as shell.system runs it: the output as it comes, the status in _exit_code."""
    command, *arguments = shlex.split(shell.var_expand(line, depth=1))
    sys.stdout.flush()
    if not (child := os.fork()):
        sys.argv = [command, *arguments]
        status = 1
        try:
            status = COMMANDS[command]()
        finally:
            sys.stdout.flush()
            os._exit(status)
    shell.user_ns["_exit_code"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> int:
    path, *settings = sys.argv[1:]
    shell: Any = InteractiveShell.instance(colors="nocolor")
    shell.system = partial(forked, shell)
    for cell in with_values(sources(Path(path)), dict(setting.split("=", 1) for setting in settings)):
        result = shell.run_cell(cell)
        if not result.success or shell.user_ns.get("_exit_code", 0):
            print(f"this cell failed:\n{cell}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
