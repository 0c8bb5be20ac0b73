"""Generation speed: characters per second of both engines, with the KV cache and without it.

The prompt fills the context, so the window slides, by a quarter of the context at a time. Without the cache each token
therefore processes the whole context at first, and 3/4 of it after each slide. All sample with the same seed and must
generate the same text. gpt_numpy uses one thread, as it splits a batch by sequences and there is only one.
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

CACHED, ANEW = "with the cache", "without the cache"
HOPS = 2  # slides of the window during generation with the cache


class Uncached:
    """An engine that processes the whole window for each token."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.config = engine, engine.config

    def reader(self) -> "Uncached":
        self.text: list[int] = []
        return self

    def read(self, ids: Sequence[Sequence[int]]) -> NDArray[Any]:
        self.text += ids[0]
        return self.engine.reader().read([self.text])


def measure(settings: Settings) -> Iterator[Result]:
    config = settings.config
    engines: dict[str, Engine] = {NUMPY: settings.numpy_engine(), EAGER: settings.torch_engine()}
    prompt = batch(config, 1).windows()[0, :-1].tolist()
    cached_length = HOPS * max(1, config.block_size // 4)

    def generation(engine: Any, length: int) -> Callable[[], list[int]]:
        return lambda: list(generate(engine, prompt, length, Sampling(), seed=0))

    lengths = {CACHED: cached_length, ANEW: cached_length // HOPS}  # one full slide, from 3/4 of the context to all
    subjects = {
        (name, way): generation(engine if way == CACHED else Uncached(engine), length)
        for way, length in lengths.items()
        for name, engine in engines.items()
    }
    texts = [work() for work in subjects.values()]
    if any(text[: lengths[ANEW]] != texts[0][: lengths[ANEW]] for text in texts) or texts[0] != texts[1]:
        raise RunFailed("the engines, with and without the cache, did not generate the same text")
    by_name = {f"{name}, {way}": work for (name, way), work in subjects.items()}
    for count, timings in enumerate(turns(by_name, settings.repeat, settings.turn), 1):
        rows: list[Row] = []
        for (name, way), timing in zip(subjects, timings.values(), strict=True):
            other = timings[f"{EAGER}, {way}"]
            rows.append({
                "subject": name, "way": way, "characters/s": lengths[way] / timing.median, "spread": timing.spread,
                "of torch's speed": other.over(timing), "label": f"{name}\n{way}", "seconds": timing.seconds,
            })  # fmt: skip
        speeds = {(row["subject"], row["way"]): row["characters/s"] for row in rows}
        yield Result(
            "generate",
            f"generation: the {settings.preset} model, context {config.block_size}, {settings.cores} threads",
            rows,
            {"subject": str, "way": str, "characters/s": whole, "spread": percent, "of torch's speed": times},
            [f"gpt_numpy generates {speeds[NUMPY, CACHED] / speeds[NUMPY, ANEW]:.1f} times as fast with the cache."],
            bars("label", {"characters/s": BLUE}, "characters per second"),
            done=count / settings.repeat,
        )
