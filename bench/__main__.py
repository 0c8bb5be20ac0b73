"""uv run python -m bench: what is measured so far is the engine's overhead for each operation."""

import sys

from bench import overhead

if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["overhead"]):
        print("bench: the one benchmark is `overhead`: uv run python -m bench overhead", file=sys.stderr)
        sys.exit(2)
    sys.exit(overhead.main())
