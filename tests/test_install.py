"""The wheel in an environment of its own, without PyTorch: what a user of the NumPy half installs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.support import ROOT
from tests.support.runs import MODEL, PLAY

UV = shutil.which("uv")
MAX_SIZE = 150e6  # bytes
OFFLINE = ("error sending request", "dns error", "Could not connect", "network connectivity is disabled")  # uv's words


def called(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**os.environ, **environment}, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what it is made of. The first thing to need the index."""
    if UV is None:
        pytest.skip("uv is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("minitensor", "gpt_numpy", "gpt_torch"):
        shutil.copytree(ROOT / name, folder / "source" / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    command = [UV, "build", "--wheel", "--out-dir", str(folder), str(folder / "source")]
    built = subprocess.run(command, capture_output=True, encoding="utf-8")
    if built.returncode and any(sign in built.stderr for sign in OFFLINE):
        pytest.skip("the package index cannot be reached")
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow("packages are installed")
@pytest.mark.index
def test_wheel_contains_the_packages_their_pages_and_the_license(wheel: Path) -> None:
    assert wheel.name.startswith("gpt_twice-")
    names = set(ZipFile(wheel).namelist())
    for name in (
        "minitensor/py.typed", "gpt_numpy/workshop/report/report.html", "gpt_numpy/explain/page/page.html",
        "gpt_torch/cli.py",
    ):  # fmt: skip
        assert name in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests", "bench")) for name in names)


@pytest.mark.slow("packages are installed")
@pytest.mark.index
def test_numpy_half_works_without_pytorch(wheel: Path, tmp_path: Path) -> None:
    assert UV is not None
    environment = tmp_path / "environment"
    called(UV, "venv", "--python", sys.executable, environment, cwd=tmp_path)
    called(UV, "pip", "install", "--python", environment, wheel, cwd=tmp_path)
    size = sum(path.stat().st_size for path in environment.rglob("*") if path.is_file() and not path.is_symlink())
    print(f"the environment has {size / 1e6:.0f} MB")
    assert size < MAX_SIZE
    scripts = environment / ("Scripts" if sys.platform == "win32" else "bin")
    assert not list(environment.rglob("torch/__init__.py"))

    (tmp_path / "play.txt").write_text(PLAY, encoding="utf-8")
    numpy, utf8 = scripts / "gpt-numpy", {"PYTHONPATH": "", "PYTHONIOENCODING": "utf-8"}
    called(numpy, "train", "--data", "play.txt", *MODEL, "--steps", "5", "--out", "a", cwd=tmp_path, **utf8)
    assert (tmp_path / "a" / "report.html").exists()
    assert called(numpy, "generate", "--run", "a", "--prompt", "that", cwd=tmp_path, **utf8).startswith("that")
    assert "validation loss" in called(numpy, "eval", "--run", "a", cwd=tmp_path, **utf8)
    assert "dS[1,0] =" in called(numpy, "explain", "To be", "--entry", "dS[1,0]", cwd=tmp_path, **utf8)
    called(numpy, "explain", "To be", cwd=tmp_path, **utf8)
    assert (tmp_path / "attention.html").exists()
    torch = subprocess.run([scripts / "gpt-torch", "train"], capture_output=True, encoding="utf-8", cwd=tmp_path)
    assert torch.returncode == 2
    assert torch.stderr.count("\n") == 1
    assert torch.stderr.startswith("gpt-torch: PyTorch is not installed: ")
