"""The command line: python -m bench."""

import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

try:
    from rich.console import Console as Rich

    from bench import generate, gpu, kernels, memory, ops, overhead, peers, scaling, step, where
    from bench.card import card
    from bench.result import Result, in_words, write_json, write_plot
    from bench.settings import Settings
    from gpt_numpy.workshop.cli.flags import Parser, add_fields, build, pick
    from gpt_numpy.workshop.console import Console
    from gpt_numpy.workshop.errors import RunFailed, WrongUse
    from gpt_torch.device import find_device
except ModuleNotFoundError as error:  # on a machine that is lent for ten minutes, say
    missing = (error.name or "").partition(".")[0]
    sys.exit(f"bench: {missing} is not installed here; from a checkout, uv run python -m bench has all it needs")


class Benchmark(NamedTuple):
    measure: Callable[[Settings], Iterator[Result]]
    meaning: str
    flags: str  # the settings that it takes


MODEL, TURNS = "preset batch_size threads ", "repeat turn "
BENCHMARKS: Mapping[str, Benchmark] = {
    "step": Benchmark(
        step.measure,
        "a training step of gpt_numpy, gpt_torch, and gpt_torch compiled",
        MODEL + TURNS + "device compile",
    ),
    "ops": Benchmark(ops.measure, "each operation forward and backward against torch's", TURNS),
    "overhead": Benchmark(
        overhead.measure, "what recording an operation and walking back over it add to NumPy's calls", ""
    ),
    "generate": Benchmark(
        generate.measure, "characters per second, with the cache and without", "preset threads device " + TURNS
    ),
    "memory": Benchmark(memory.measure, "peak memory against batch and context", MODEL),
    "scaling": Benchmark(scaling.measure, "time against batch, context, width, layers, threads", MODEL + TURNS),
    "where": Benchmark(where.measure, "where the time of one step of gpt_numpy goes", MODEL + "repeat"),
    "kernels": Benchmark(
        kernels.measure,
        "what a training step costs on a card that is not here",
        "training card batch_size compile " + TURNS,
    ),
    "gpu": Benchmark(gpu.measure, "all that a GPU is worth knowing for, in ten minutes", "minutes data trial"),
    "peers": Benchmark(
        peers.measure, "the same training step in autograd, MyGrad and JAX, where installed", MODEL + TURNS
    ),
}
ABOUT_GPUS = ("gpu", "kernels")


def short(settings: Settings) -> list[tuple[str, Settings]]:
    """What runs when nothing is named: everything but what is about a GPU, in about three minutes."""
    few = replace(settings, repeat=min(settings.repeat, 3))
    here = replace(few, device="cpu")
    of_workshop = replace(few, preset="workshop", batch_size=settings.batch_size or 16, compile=False)
    return [
        ("step", settings), ("step", of_workshop), ("ops", here), ("overhead", here), ("generate", few),
        *[("memory", here)] * (sys.platform != "win32"), ("scaling", here), ("where", here), ("peers", here),
    ]  # fmt: skip


def run(arguments: Sequence[str]) -> None:
    if arguments and arguments[0] in ("-h", "--help"):
        print(help_text())
        return
    named = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if named and named not in BENCHMARKS:
        raise WrongUse(f"{named!r} is not one of {', '.join(BENCHMARKS)}; see python -m bench --help")
    given = parser(named or "").flags(arguments[1:] if named else arguments)
    settings = build(Settings, pick(Settings, given))
    if named == "gpu":
        settings = replace(settings, device=find_device("auto").type)  # type: ignore[arg-type]
    console = Console()
    screen = Rich(highlight=False, width=None if console.is_terminal else 140)
    machine = card(find_device(settings.device), settings.cores)
    console.say(in_words(machine), "dim")
    results: list[Result] = []
    for name, how in [(named, settings)] if named else short(settings):
        with console.bar(f"{name}: {BENCHMARKS[name].meaning}", total=1.0) as bar:
            for result in BENCHMARKS[name].measure(how):
                bar.at(result.done)
                if "json" in given:  # as it comes, so that nothing is lost
                    write_json(given["json"], machine, [*results, result])
        results.append(result)
        screen.print()
        screen.print(result.table())
        for line in result.lines:
            console.say(line)
        if "plot" in given:
            write_plot(given["plot"], machine, results)


def parser(named: str) -> Parser:
    found = Parser(f"python -m bench {named}".strip(), f"Measures {BENCHMARKS[named].meaning}." if named else "")
    flags = [one.flags for name, one in BENCHMARKS.items() if name == named or (not named and name not in ABOUT_GPUS)]
    add_fields(found, "what is measured", Settings, only=" ".join(flags).split())
    files = found.add_argument_group("where the figures go, beside the screen")
    files.add_argument("--json", metavar="FILE", type=to_be_written, help="the figures, for a program")
    files.add_argument("--plot", metavar="FILE", type=to_be_drawn, help="a picture: .png, .svg or .pdf")
    return found


def to_be_written(text: str) -> Path:
    """Known before anything is measured."""
    try:
        with open(text, "a", encoding="utf-8"):
            return Path(text)
    except OSError as error:
        raise ArgumentTypeError(f"{text} cannot be written: {error.strerror}") from None


def to_be_drawn(text: str) -> Path:
    if Path(text).suffix not in (".png", ".svg", ".pdf"):
        raise ArgumentTypeError(f"a picture is a .png, .svg or .pdf file, not {text}")
    return to_be_written(text)


def help_text() -> str:
    width = max(map(len, BENCHMARKS))
    listed = "\n".join(f"  {name:{width}}  {meaning}" for name, (_, meaning, _) in BENCHMARKS.items())
    _, _, flags = parser("").format_help().split("\n\n", 2)
    return f"usage: python -m bench [what] [flags]\n\n{ABOUT}\n\n{listed}\n\n{flags.strip()}"


ABOUT = """gpt_numpy and gpt_torch side by side. What is compared first computes the same numbers, then takes turns.
Without a name all of these but gpu and kernels are run, in about three minutes:"""


def main() -> int:
    try:
        run(sys.argv[1:])
    except WrongUse as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except (RunFailed, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
