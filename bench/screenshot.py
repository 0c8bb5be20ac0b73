"""The picture of the page of explain in README.md, light and dark: python -m bench.screenshot RUN."""

import sys
import tempfile
from pathlib import Path

from bench.browser import launched
from gpt_numpy.cli import CLI
from gpt_numpy.workshop.cli.main import run
from gpt_numpy.workshop.errors import UsageError

ROOT = Path(__file__).parent.parent
TEXT, STATE = "To be, or not to be", "#dK[4,2]"
WIDTH, HEIGHT = 1440, 900


def main(folder: str) -> int:
    with tempfile.TemporaryDirectory() as temporary, launched() as browser:
        path = Path(temporary) / "attention.html"
        flags = ["--run", folder, "--layer", "2", "--head", "1", "--differences", "0", "--out", str(path)]
        if run(CLI, ["explain", TEXT, *flags]):
            return 1
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
            page.goto(path.as_uri() + STATE)
            page.wait_for_selector("#own[data-largest]", state="attached")
            page.wait_for_selector("[data-way=difference][data-value]")
            picture = ROOT / "gpt_numpy" / "explain" / f"attention-{scheme}.png"
            page.screenshot(path=str(picture))
            print(f"{picture.relative_to(ROOT)}: {picture.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except (TypeError, UsageError) as error:
        sys.exit(f"bench.screenshot: {error}; give a run's folder, or latest")
