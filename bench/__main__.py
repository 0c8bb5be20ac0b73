"""The command line: python -m bench."""

import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

try:
    from rich.console import Console as Rich

    from bench import generate, gpu, kernels, memory, ops, overhead, page, peers, scaling, step, where
    from bench.card import card
    from bench.result import Result, in_words, write_json, write_plot
    from bench.settings import Settings
    from gpt_numpy.workshop.cli.flags import Parser, add_fields, build, pick
    from gpt_numpy.workshop.console import Console
    from gpt_numpy.workshop.errors import RunFailed, UsageError
    from gpt_torch.device import find_device
except ModuleNotFoundError as error:  # on a rented machine, for example
    missing = (error.name or "").partition(".")[0]
    sys.exit(f"bench: {missing} is not installed; in a checkout, uv run python -m bench installs what it needs")


class Benchmark(NamedTuple):
    measure: Callable[[Settings], Iterator[Result]]
    meaning: str
    flags: str  # names of its settings


MODEL, TURNS = "preset batch_size threads ", "repeat turn "
BENCHMARKS: Mapping[str, Benchmark] = {
    "step": Benchmark(
        step.measure,
        "a training step of gpt_numpy, gpt_torch, and gpt_torch compiled",
        MODEL + TURNS + "device compile",
    ),
    "ops": Benchmark(ops.measure, "each operation forward and backward against torch's", TURNS),
    "overhead": Benchmark(overhead.measure, "what the tape adds to NumPy's calls", ""),
    "generate": Benchmark(
        generate.measure,
        "characters per second: one text, eight at once, and one without the KV cache",
        "preset threads device " + TURNS,
    ),
    "memory": Benchmark(memory.measure, "peak memory by batch size and context", MODEL),
    "scaling": Benchmark(scaling.measure, "step time by batch size, context, width, layers, threads", MODEL + TURNS),
    "where": Benchmark(where.measure, "the time of one gpt_numpy step by operation", MODEL + "repeat"),
    "page": Benchmark(page.measure, "how fast the page of explain opens and computes, in a browser", "repeat"),
    "kernels": Benchmark(
        kernels.measure,
        "the cost of a training step on a GPU that need not be present",
        "training weights card batch_size compile " + TURNS,
    ),
    "gpu": Benchmark(gpu.measure, "all key figures of a GPU, in ten minutes", "minutes data trial"),
    "peers": Benchmark(
        peers.measure, "the same training step in autograd, MyGrad and JAX, if installed", MODEL + TURNS
    ),
}
ON_DEMAND = ("page", "gpu", "kernels")  # for a browser and for GPUs


def short(settings: Settings) -> list[tuple[str, Settings]]:
    """The default benchmarks: all but those for GPUs and for a browser, in about three minutes."""
    quick = replace(settings, repeat=min(settings.repeat, 3))
    on_cpu = replace(quick, device="cpu")
    workshop = replace(quick, preset="workshop", batch_size=settings.batch_size or 16, compile=False)
    return [
        ("step", settings), ("step", workshop), ("ops", on_cpu), ("overhead", on_cpu), ("generate", quick),
        *[("memory", on_cpu)] * (sys.platform != "win32"), ("scaling", on_cpu), ("where", on_cpu), ("peers", on_cpu),
    ]  # fmt: skip


def run(arguments: Sequence[str]) -> None:
    if arguments and arguments[0] in ("-h", "--help"):
        print(help_text())
        return
    selected = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if selected and selected not in BENCHMARKS:
        raise UsageError(f"{selected!r} is not one of {', '.join(BENCHMARKS)}; see python -m bench --help")
    flags = parser(selected or "").flags(arguments[1:] if selected else arguments)
    settings = build(Settings, pick(Settings, flags))
    if selected == "gpu":
        settings = replace(settings, device=find_device("auto").type)  # type: ignore[arg-type]
    console = Console()
    screen = Rich(highlight=False, width=None if console.is_terminal else 140)
    machine = card(find_device(settings.device), settings.cores)
    console.say(in_words(machine), "dim")
    results: list[Result] = []
    for name, own_settings in [(selected, settings)] if selected else short(settings):
        with console.bar(f"{name}: {BENCHMARKS[name].meaning}", total=1.0) as bar:
            for result in BENCHMARKS[name].measure(own_settings):
                bar.at(result.done)
                if "json" in flags:  # after each partial result, so that an interruption loses nothing
                    write_json(flags["json"], machine, [*results, result])
        results.append(result)
        screen.print()
        screen.print(result.table())
        for line in result.lines:
            console.say(line)
        if "plot" in flags:
            write_plot(flags["plot"], machine, results)


def parser(name: str) -> Parser:
    result = Parser(f"python -m bench {name}".strip(), f"Measures {BENCHMARKS[name].meaning}." if name else "")
    flags = [b.flags for other, b in BENCHMARKS.items() if other == name or (not name and other not in ON_DEMAND)]
    add_fields(result, "the measurement", Settings, only=" ".join(flags).split())
    files = result.add_argument_group("output files")
    files.add_argument("--json", metavar="FILE", type=writable_path, help="write the results as JSON")
    files.add_argument("--plot", metavar="FILE", type=plot_path, help="write a plot: .png, .svg or .pdf")
    return result


def writable_path(text: str) -> Path:
    """Checked before any measurement."""
    try:
        with open(text, "a", encoding="utf-8"):
            return Path(text)
    except OSError as error:
        raise ArgumentTypeError(f"{text} cannot be written: {error.strerror}") from None


def plot_path(text: str) -> Path:
    if Path(text).suffix not in (".png", ".svg", ".pdf"):
        raise ArgumentTypeError(f"a plot is a .png, .svg or .pdf file, not {text}")
    return writable_path(text)


def help_text() -> str:
    width = max(map(len, BENCHMARKS))
    listed = "\n".join(f"  {name:{width}}  {meaning}" for name, (_, meaning, _) in BENCHMARKS.items())
    _, _, flags = parser("").format_help().split("\n\n", 2)
    return f"usage: python -m bench [benchmark] [flags]\n\n{ABOUT}\n\n{listed}\n\n{flags.strip()}"


ABOUT = """gpt_numpy and gpt_torch side by side: first a check that they compute the same numbers, then timing in turns.
Without a name, all of these but page, gpu and kernels run, in about three minutes:"""


def main() -> int:
    try:
        run(sys.argv[1:])
    except UsageError as error:
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
