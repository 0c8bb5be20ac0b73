"""The command gpt-numpy."""

import sys


def main() -> int:
    """Say plainly that there is no command yet; status 2."""
    print(
        "gpt-numpy: train, generate, eval and explain are not written yet; see README.md for what is here",
        file=sys.stderr,
    )
    return 2
