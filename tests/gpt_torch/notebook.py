"""Runs the code of a notebook, cell by cell, as IPython and Colab do.

    python -m tests.gpt_torch.notebook FILE NAME=VALUE ...

In cells, NAME = something becomes NAME = VALUE. The first failing cell or command ends the run.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell


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


def main() -> int:
    path, *settings = sys.argv[1:]
    shell: Any = InteractiveShell.instance(colors="nocolor")
    for cell in with_values(sources(Path(path)), dict(setting.split("=", 1) for setting in settings)):
        result = shell.run_cell(cell)
        if not result.success or shell.user_ns.get("_exit_code", 0):
            print(f"this cell failed:\n{cell}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
