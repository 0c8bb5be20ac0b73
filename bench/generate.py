"""Writing on: characters per second with the cache, in both engines, and with the whole context read for each token.

The text is already as long as the context, so that the window moves, a quarter of the context at a time: what is read
for a character without the cache is the whole context at first, and 3/4 of it after each move. All draw from the same
seed, and must write the same. gpt_numpy reads with one thread, since one text is one sequence.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from numpy.typing import NDArray

from bench.result import BLUE, Result, Row, bars, percent, times, whole
from bench.settings import EAGER, NUMPY, Settings, batch
from bench.timing import turns
from gpt_numpy.workshop.engine import Engine
from gpt_numpy.workshop.errors import RunFailed
from gpt_numpy.workshop.generate import Sampling, generate

CACHED, ANEW = "with the cache", "reading all again"
HOPS = 2  # moves of the window while writing with the cache


class Forgetful:
    """An engine that reads the whole window again for each token."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.config = engine, engine.config

    def reader(self) -> "Forgetful":
        self.text: list[int] = []
        return self

    def read(self, ids: Sequence[int]) -> NDArray[Any]:
        self.text += ids
        return self.engine.reader().read(self.text)


def measure(settings: Settings) -> Iterator[Result]:
    config = settings.config
    engines: dict[str, Engine] = {NUMPY: settings.numpy_engine(), EAGER: settings.torch_engine()}
    prompt = batch(config, 1).windows()[0, :-1].tolist()
    many = HOPS * max(1, config.block_size // 4)

    def writing(engine: Any, length: int) -> Callable[[], list[int]]:
        return lambda: list(generate(engine, prompt, length, Sampling(), seed=0))

    lengths = {CACHED: many, ANEW: many // HOPS}  # a whole move, in which what is read grows from 3/4 to all
    subjects = {
        (name, way): writing(engine if way == CACHED else Forgetful(engine), length)
        for way, length in lengths.items()
        for name, engine in engines.items()
    }
    texts = [work() for work in subjects.values()]
    if any(text[: lengths[ANEW]] != texts[0][: lengths[ANEW]] for text in texts) or texts[0] != texts[1]:
        raise RunFailed("the engines, with and without the cache, did not write the same text")
    named = {f"{name}, {way}": work for (name, way), work in subjects.items()}
    for count, found in enumerate(turns(named, settings.repeat, settings.turn), 1):
        rows: list[Row] = []
        for (name, way), taken in zip(subjects, found.values(), strict=True):
            other = found[f"{EAGER}, {way}"]
            rows.append({
                "subject": name, "way": way, "characters/s": lengths[way] / taken.median, "spread": taken.spread,
                "of torch's speed": other.over(taken), "label": f"{name}\n{way}", "seconds": taken.seconds,
            })  # fmt: skip
        speeds = {(row["subject"], row["way"]): row["characters/s"] for row in rows}
        yield Result(
            "generate",
            f"writing on: the {settings.preset} model, context {config.block_size}, {settings.cores} threads",
            rows,
            {"subject": str, "way": str, "characters/s": whole, "spread": percent, "of torch's speed": times},
            [f"gpt_numpy writes {speeds[NUMPY, CACHED] / speeds[NUMPY, ANEW]:.1f} times as fast with the cache."],
            bars("label", {"characters/s": BLUE}, "characters per second"),
            done=count / settings.repeat,
        )
