"""The command explain: its flags, and its output in the terminal or on a page."""

import difflib
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from gpt_numpy.explain import terminal
from gpt_numpy.explain.account import account
from gpt_numpy.explain.checks import BEND, Verdict, check_all, checkable, four_ways, verdict, visible_entries
from gpt_numpy.explain.example import EXAMPLES, Example, example_subject
from gpt_numpy.explain.fixed import fixed_contents
from gpt_numpy.explain.formulas import MASKED, Quantity
from gpt_numpy.explain.living import can_live, living_contents
from gpt_numpy.explain.loss_flags import add_loss_flags
from gpt_numpy.explain.page import may_replace, write_page
from gpt_numpy.explain.problem import Problem
from gpt_numpy.explain.subject import MAX_SIZE, Subject, plain, subject_of
from gpt_numpy.explain.trace import Trace
from gpt_numpy.explain.traced import Traced
from gpt_numpy.workshop.cli.engine_cli import Command, EngineCLI
from gpt_numpy.workshop.cli.flags import Flags, Parser
from gpt_numpy.workshop.console import Console
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.params import parameter_count

WORK = 4e10  # multiplications to spend on differences: some ten seconds on two cores
FUNCTIONS = 60_000  # cost of the rest of a small model for each token, in multiplications


def explain(cli: EngineCLI, arguments: Sequence[str]) -> int:
    parser = Parser(
        f"{cli.name} explain",
        "Explain the gradients of attention on a text: every number as a sum of terms, down to the loss, checked four "
        "ways. Writes a page that works offline: it holds the model, so that you can type another text there, choose "
        "a layer and a head, break the code, and take a step. --entry and --show print to the terminal. "
        "Layers, heads, positions and all other indices count from 0.",
    )
    parser.usage = f"{parser.prog} TEXT [flags]\n       {parser.prog} --example {EXAMPLES[0]} [flags]"
    text = parser.add_argument(
        "text", metavar="TEXT",
        help=f'2 to {MAX_SIZE} characters, such as "To be, or not"; put one that begins with - last, after --',
    )  # fmt: skip
    text.required = False  # and not nargs="?", which would take nothing where a flag comes first
    parser.add_argument(
        "--example", choices=EXAMPLES,
        help="in place of TEXT and a model: the worked example of explain's README, T = 3 and D = 2, with Q, K, V and "
        "dO given, to follow on paper",
    )  # fmt: skip
    group = parser.add_argument_group("the model")
    group.add_argument(
        "--run",
        metavar="FOLDER",
        help="a run's folder, or latest (default a small fresh model, whose vocabulary is the characters of TEXT)",
    )
    group.add_argument("--checkpoint", choices=("best", "latest"), help="which checkpoint of the run (default best)")
    group.add_argument("--layer", metavar="N", type=int, help="the layer to begin with (default 0, the first)")
    group.add_argument("--head", metavar="N", type=int, help="the head to begin with (default 0)")
    group.add_argument("--seed", metavar="N", type=int, help="of the fresh model (default 0)")
    add_loss_flags(parser.add_argument_group("the loss"))
    group = parser.add_argument_group("the explanation")
    group.add_argument("--entry", metavar="ENTRY", help='print the account of one number: "dS[3,1]", "dW_q[0,5]", "L"')
    group.add_argument("--show", metavar="NAME", help="print a matrix as a heatmap: dS, P, dW_q, ...; list: all names")
    group.add_argument("--out", metavar="FILE", help="the page (default attention.html)")
    group.add_argument(
        "--differences", metavar="N",
        help="how many gradients to check by a difference of the loss, too, or all (default as many as take some ten "
        "seconds)",
    )  # fmt: skip
    flags = parser.flags(arguments)

    on_a_page = "out" in flags or not ("entry" in flags or "show" in flags)
    if "differences" in flags and not on_a_page:
        raise UsageError("--differences is for a page; --entry always takes one, and --out writes a page too")
    limit = _limit(flags)
    console = Console()
    if "text" not in flags and "example" not in flags:
        parser.error("give --example or a TEXT")
    subject, trace = _example(cli, flags) if "example" in flags else _text(cli, flags)
    if "entry" in flags or "show" in flags:
        _in_terminal(console, trace, subject, flags)
    if on_a_page:
        total = sum(len(visible_entries(trace, name)) for name in checkable(trace))
        affordable = _affordable(trace.problem) if isinstance(trace, Trace) else total
        most = min(total, affordable if limit is None else limit)
        _on_a_page(console, trace, subject, Path(flags.get("out", "attention.html")), most, total)
    return 0


def _text(cli: EngineCLI, flags: Flags) -> tuple[Subject, Traced]:
    subject = subject_of(cli, flags)
    return subject, Trace(subject.problem)


def _example(cli: EngineCLI, flags: Flags) -> tuple[Subject, Traced]:
    return example_subject(cli.name, flags), Example()


def _limit(flags: Flags) -> int | None:
    """The value of --differences; None without the flag."""
    value: str = flags.get("differences", "")
    if value == "all":
        return sys.maxsize
    if value and not re.fullmatch("[0-9]{1,18}", value):
        raise UsageError(f"--differences {value}: give a whole number, or all")
    return int(value) if value else None


# ---- in the terminal --------------------------------------------------------------------------------------------


def _in_terminal(console: Console, trace: Traced, subject: Subject, flags: Flags) -> None:
    label = terminal.labels_of(subject.reads, subject.vocabulary)
    if flags.get("show") == "list":
        for quantity in trace.quantities.values():
            console.say(f"{quantity!s:<16}  {quantity.meaning}")
    elif "show" in flags:
        quantity = trace.quantities[_known(trace, "show", flags["show"])]
        terminal.show_matrix(console, trace, quantity, label, shutil.get_terminal_size().columns)
    if "entry" not in flags:
        return
    name, index = _entry(trace, flags["entry"])
    found = account(trace, name, index)
    ways = four_ways(trace, trace.by_torch(), found)
    terminal.show_account(console, trace, found, ways, label)
    if found.parts:
        leads = (factor.entry for part in found.parts for factor in part.factors if factor.entry.indices)
        lead = next(iter(sorted(leads, key=lambda entry: not entry.name.startswith("d"))), None)
        if lead:
            console.say()
            console.say(f"each factor has an account, too: {subject.again('--entry', str(lead))}", "dim")


def _entry(trace: Traced, text: str) -> tuple[str, tuple[int, ...]]:
    """The quantity and the index of an entry such as dS[3,1]."""
    found = re.fullmatch(r"\s*(\w+)\s*(?:\[([^\[\]]*)\])?\s*", text)
    if not found:
        raise UsageError(f'--entry {text!r} is not an entry; write it as "dS[3,1]"')
    quantity = trace.quantities[_known(trace, "entry", found[1])]
    shape = trace.numbers[quantity.name].shape
    numbers = [part.strip() for part in found[2].split(",")] if found[2] else []
    if len(numbers) != len(shape) or not all(re.fullmatch(r"-?\d{1,9}", number) for number in numbers):
        raise UsageError(f"--entry {text}: {quantity} takes {len(shape)} whole number{'s' * (len(shape) != 1)}"
                       f"{f', as in {_such(quantity)}' if shape else ''}")  # fmt: skip
    index = tuple(map(int, numbers))
    for letter, number, size in zip(quantity.indices, index, shape, strict=True):
        if not 0 <= number < size:
            raise UsageError(f"--entry {text}: {letter} goes from 0 to {size - 1} in {quantity}")
    if quantity.name in MASKED and index[1] > index[0]:
        raise UsageError(f"--entry {text} lies above the mask: position {index[0]} does not look ahead to {index[1]}")
    return quantity.name, index


def _such(quantity: Quantity) -> str:
    return f"{quantity.name}[{','.join('0' * len(quantity.indices))}]"


def _known(trace: Traced, flag: str, name: str) -> str:
    if name in trace.quantities:
        return name
    if name.partition("[")[0] in trace.quantities:
        raise UsageError(f"--{flag} {name}: a whole matrix is shown; for one number, --entry {name!r}")
    near = [known for known in trace.quantities if known.lower() == name.lower()]
    near = near or difflib.get_close_matches(name, trace.quantities, 3)
    meant = f", perhaps {' or '.join(near)}" if near else ""
    raise UsageError(f"--{flag} {name}: there is no such matrix{meant}; --show list")


# ---- on a page --------------------------------------------------------------------------------------------------


def _on_a_page(console: Console, trace: Traced, subject: Subject, out: Path, most: int, total: int) -> None:
    if not out.name or out.is_dir() or not out.parent.is_dir():
        raise UsageError(f"{out} cannot be written; give a file in a folder that exists by --out")
    if not may_replace(out):
        raise UsageError(f"{out} exists, and is not a page of explain; give another file by --out")
    torch, done = trace.by_torch(), 0

    with console.bar("differences of the loss", most) as bar:

        def progress(count: int) -> None:
            nonlocal done
            done += count
            bar.at(done)

        checked = check_all(trace, torch, most, progress)
    about = {
        "text": plain(subject.text), "vocabulary": subject.vocabulary, "characters": subject.characters,
        "described": subject.model, "command": subject.command, "program": subject.program,
        "flags": subject.model_flags, "torch": bool(torch), "learns": subject.loss,
    }  # fmt: skip
    if isinstance(trace, Trace) and can_live(trace.problem, subject.characters):
        found, holds = living_contents(trace, about), ", with the model, for any text, layer and head"
    else:
        found, holds = fixed_contents(trace, torch, checked, about), ""
    try:
        write_page(out, found)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}; give another file by --out") from None
    for line in subject.said:
        console.say(line)
    _show_verdict(console, verdict(trace, checked), total)
    console.say(f"page: {out} ({out.stat().st_size / 1e6:.1f} MB, needs no network){holds}; open it in a browser")
    index = visible_entries(trace, "dS")[-1]
    console.say(f"one number in the terminal: {subject.again('--entry', 'dS[' + ','.join(map(str, index)) + ']')}")


def _affordable(problem: Problem) -> int:
    """How many differences WORK allows: each costs FUNCTIONS and a multiplication per parameter, for every token."""
    cost_per_token = parameter_count(problem.config) + FUNCTIONS
    return int(WORK / (len(problem.ids) * cost_per_token))


def _show_verdict(console: Console, found: Verdict, total: int) -> None:
    torch = "formula, tape and torch" if found.has_torch else "formula and tape (torch is not installed)"
    some = "" if found.differences == total else f" for {found.differences:,} of them"
    slopes = f"differences of the loss{some} within {found.slopes:.0e} ({BEND:.0e} is allowed)"
    slopes = slopes if found.differences else "no differences were taken"
    console.say(
        f"checked: {found.entries:,} gradients; {torch} agree within {found.exact:.0e} of their terms, {slopes}",
        "bold red" if found.wrong else None,
    )
    if found.wrong:
        console.say(f"WRONG: {found.wrong:,} of them do not agree; the page shows which", "bold red")


EXPLAIN = Command(explain, {
    'explain "To be, or not"': "explain the gradients of attention, on a page",
    'explain "To be, or not" --entry "dS[3,1]"': "one of them, in the terminal",
})  # fmt: skip
