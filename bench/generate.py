"""Generation speed: characters per second of both engines, for one text with the KV cache and without, and for eight.

One text: the prompt fills the context, so the window slides, by a quarter of the context at a time. Without the cache
each token therefore processes the whole context at first, and 3/4 of it after each slide. Eight texts at once: the
prompts fill half of the context, the answers the other half, as when answers are drawn for tuning. gpt_numpy has one
thread, as these are few texts, and its BLAS all cores. All must generate the same texts with the same seeds.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from numpy.typing import NDArray

from bench import roofline
from bench.result import BLUE, Result, Row, bars, gflops, percent, times, whole
from bench.settings import EAGER, NUMPY, Settings, batch
from bench.timing import turns
from gpt_numpy.workshop.data.tokenizer import CharTokenizer
from gpt_numpy.workshop.engine import Engine
from gpt_numpy.workshop.errors import RunFailed
from gpt_numpy.workshop.generate import Sampling, generate
from gpt_numpy.workshop.tune.rollouts import draw_answers

CACHED, EIGHT, ANEW = "with the cache", "eight texts at once", "without the cache"
TEXTS = 8
COLUMNS: dict[str, Callable[[Any], str]] = {
    "subject": str, "way": str, "characters/s": whole, "spread": percent, "of torch's speed": times, "its BLAS": gflops,
}  # fmt: skip
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
    prompt, half = batch(config, 1).windows()[0, :-1].tolist(), max(1, config.block_size // 2)
    prompts = batch(config, TEXTS).windows()[:, :half].tolist()
    tokenizer = CharTokenizer(map(chr, range(config.vocab_size)))
    cached_length = HOPS * max(1, config.block_size // 4)
    anew = cached_length // HOPS  # one full slide, from 3/4 of the context to all
    lengths = {CACHED: cached_length, EIGHT: half, ANEW: anew}

    def generation(engine: Engine, way: str) -> Callable[[], list[int]]:
        if way == EIGHT:
            return lambda: draw_answers(engine, prompts, tokenizer, "", half, seed=0).targets.ravel().tolist()
        reading: Any = engine if way == CACHED else Uncached(engine)
        return lambda: list(generate(reading, prompt, lengths[way], Sampling(), seed=0))

    subjects = {(name, way): generation(engine, way) for way in lengths for name, engine in engines.items()}
    texts = {subject: work() for subject, work in subjects.items()}
    same = all(texts[NUMPY, way] == texts[EAGER, way] for way in lengths)
    if not same or texts[NUMPY, CACHED][: lengths[ANEW]] != texts[NUMPY, ANEW]:
        raise RunFailed("the engines, with and without the cache, did not generate the same text")
    by_name = {f"{name}, {way}": work for (name, way), work in subjects.items()}
    works = {**by_name, **roofline.products(settings)}
    for count, timings in enumerate(turns(works, settings.repeat, settings.turn), 1):
        rows: list[Row] = []
        for name, way in subjects:
            timing, other = timings[f"{name}, {way}"], timings[f"{EAGER}, {way}"]
            rows.append({
                "subject": name, "way": way, "spread": timing.spread,
                "characters/s": lengths[way] * (TEXTS if way == EIGHT else 1) / timing.median,
                "of torch's speed": other.over(timing), "its BLAS": roofline.speed(settings, timings, name),
                "label": f"{name}\n{way}", "seconds": timing.seconds,
            })  # fmt: skip
        speeds = {(row["subject"], row["way"]): row["characters/s"] for row in rows}
        yield Result(
            "generate",
            f"generation: the {settings.preset} model, context {config.block_size}, {settings.cores} threads",
            rows,
            COLUMNS,
            [
                f"gpt_numpy generates {speeds[NUMPY, CACHED] / speeds[NUMPY, ANEW]:.1f} times as fast with the cache.",
                *([roofline.faster_blas(settings, timings)] if settings.device == "cpu" else []),
            ],
            bars("label", {"characters/s": BLUE}, "characters per second"),
            done=count / settings.repeat,
        )
