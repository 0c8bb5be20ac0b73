"""The command gpt-torch."""

import sys


def main() -> int:
    """Say plainly that there is no command yet; status 2."""
    print(
        "gpt-torch: train, generate, eval, export and import are not written yet; see README.md for what is here",
        file=sys.stderr,
    )
    return 2
