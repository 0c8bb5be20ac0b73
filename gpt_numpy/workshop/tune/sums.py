"""Sums of three digits, a task with a right answer: 123+456=9750, the sum in four digits, the last one first.

    uv run python -m gpt_numpy.workshop.tune.sums FOLDER

writes into the folder what a model needs to learn them: pairs.jsonl (2,000 of them, to fine-tune on), prompts.jsonl
(others, to answer for a reward), test.jsonl (1,000 that are in neither), and text.txt, the pairs as a text. Written
this way round, each digit of the sum depends on two digits of the prompt and a carry from the digit before it.
"""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from gpt_numpy.workshop.errors import UsageError

DIGITS = 3
PAIRS, PROMPTS, TEST = 2000, 20_000, 1000


def written(a: int, b: int) -> tuple[str, str]:
    """Prompt and answer."""
    return f"{a:0{DIGITS}}+{b:0{DIGITS}}=", f"{a + b:0{DIGITS + 1}}"[::-1]


def right_sum(prompt: str, text: str) -> float:
    """Whether the text is the answer to the prompt."""
    found = re.search(r"(\d+)\+(\d+)=$", prompt)
    return float(found is not None and text == written(int(found[1]), int(found[2]))[1])


def write_sums(folder: Path, seed: int = 0) -> None:
    numbers = 10**DIGITS
    drawn = np.random.default_rng(seed).permutation(numbers**2)[: PAIRS + PROMPTS + TEST]
    test, pairs, prompts = np.split(drawn, [TEST, TEST + PAIRS])
    names = "pairs.jsonl", "prompts.jsonl", "test.jsonl", "text.txt"
    if found := [name for name in names if (folder / name).exists()]:
        raise UsageError(f"{folder / found[0]} exists already; give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name, some in (("pairs", pairs), ("prompts", prompts), ("test", test)):
        lines = [dict(zip(("prompt", "answer"), one, strict=True)) for one in _sums(some)]
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    text = "".join(f"{prompt}{answer}\n" for prompt, answer in _sums(pairs))
    (folder / "text.txt").write_text(text, encoding="utf-8")


def _sums(drawn: Iterable[int]) -> list[tuple[str, str]]:
    return [written(*divmod(int(number), 10**DIGITS)) for number in drawn]


def main(arguments: Sequence[str]) -> int:
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    try:
        if len(arguments) != 1 or arguments[0].startswith("-"):
            raise UsageError("usage: python -m gpt_numpy.workshop.tune.sums FOLDER")
        write_sums(Path(arguments[0]))
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{arguments[0]} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
