"""Runs the commands of README.md's table and writes how long each took: python -m bench.readme_times.

They run one after the other in a temporary folder, in which `--run latest` finds the model that was trained before.
Everything must be installed: a download would be measured, too.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"^(\| [^|]+ \| `uv run ([^`]+)` \|)[^|]*\|$", re.M)


def main() -> int:
    readme = ROOT / "README.md"
    with tempfile.TemporaryDirectory() as folder:

        def timed(row: re.Match[str]) -> str:
            taken = seconds(row[2], Path(folder))
            print(f"{taken:6.1f} s  {row[2]}", flush=True)
            return f"{row[1]} {in_words(taken)} |"

        filled = ROW.sub(timed, readme.read_text(encoding="utf-8"))
    readme.write_text(filled, encoding="utf-8")
    return 0


def seconds(command: str, folder: Path) -> float:
    """Programs of this environment are found first. The tests run in the checkout, all else in the folder."""
    program, *arguments = shlex.split(command)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    start = time.perf_counter()
    subprocess.run(
        [program, *arguments], check=True, cwd=ROOT if program in ("pytest", "python") else folder,
        stdout=subprocess.DEVNULL, env={**os.environ, "PATH": path},
    )  # fmt: skip
    return time.perf_counter() - start


def in_words(taken: float) -> str:
    """13 s, or 2:05 min."""
    whole = round(taken)
    return f"{whole} s" if whole < 60 else f"{whole // 60}:{whole % 60:02d} min"


if __name__ == "__main__":
    sys.exit(main())
