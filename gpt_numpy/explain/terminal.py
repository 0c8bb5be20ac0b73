"""The account of an entry, and a matrix as a heatmap, in the terminal."""

import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from rich.text import Text

from gpt_numpy.explain.account import Account, Factor, Part, is_hidden, placed, sums
from gpt_numpy.explain.checks import Way
from gpt_numpy.explain.formulas import ENTRY, Entry, Quantity, entries
from gpt_numpy.explain.traced import Traced
from gpt_numpy.workshop.console import Console

MOST_TERMS = 24  # shown one by one; if more than one remains, they share a line
MOST_BELOW = 100  # the line of a fraction
UNITS = {"": 1.0, "√2": math.sqrt(2), "ln 2": math.log(2), "√2 ln 2": math.sqrt(2) * math.log(2)}
BLUE, ORANGE = (33, 102, 172), (203, 84, 14)  # below 0 and above: distinct in all common forms of colour blindness

Labels = Callable[[str, int], str]  # the label of an index, such as "3 'b'" for position 3


# ---- one entry --------------------------------------------------------------------------------------------------


def show_account(console: Console, trace: Traced, account: Account, ways: Sequence[Way], label: Labels) -> None:
    quantity = account.quantity
    where = ", ".join(f"{index} = {label(index, n)}" for index, n in account.at.items())
    exact, rounded = _exact(account.value), f"{account.value:.6g}"
    console.say(f"{account.entry} = {rounded}{f' = {exact}' if exact not in ('', rounded) else ''}", "bold")
    console.say(quantity.meaning)
    if where:
        console.say(where, "dim")
    if quantity.formula:
        console.say()
        _show_formula(console, trace, account)
    if account.parts:
        console.say()
        _show_parts(console, account)
    if quantity.name == "dZ":
        console.say()
        console.say(
            f"  the gradient of L, in which these logits occur through l[{account.at['i']}]: log and softmax cancel"
        )
    console.say()
    _show_ways(console, ways)


def _show_formula(console: Console, trace: Traced, account: Account) -> None:
    """In symbols, with indices, with numbers."""
    quantity, at = account.quantity, account.at
    width = len(str(quantity))
    console.say(f"  {quantity} = {quantity.formula}")
    if at:
        console.say(f"  {account.entry!s:<{width}} = {_indexed(quantity.formula, at)}")
    console.say(f"  {'':<{width}} = {_numbered(trace, account)}")


def _indexed(formula: str, at: dict[str, int]) -> str:
    return ENTRY.sub(lambda found: str(placed(entries(found[0])[0], at)), formula)


def _numbered(trace: Traced, account: Account) -> str:
    if account.quantity.kind == "sum":
        few = [_product(part, first=not i) for i, part in enumerate(account.parts[:3])]
        return " ".join(few) + (" + ..." if len(account.parts) > 3 else "")
    if account.quantity.kind == "share":
        own = next(part for part in account.parts if part.factors[0].entry.indices == account.entry.indices)
        return f"{own.value:.6g} / {account.total:.6g}"

    at = dict(account.at)
    if "i" in at and "next" in trace.numbers:
        at["next"] = int(trace.numbers["next"][at["i"]].argmax())

    def number(found: re.Match[str]) -> str:
        entry = placed(entries(found[0])[0], at)
        known = all(index.isdigit() for index in entry.indices)
        return f"{trace.numbers[entry.name][tuple(map(int, entry.indices))]:.6g}" if known else str(entry)

    return f"{ENTRY.sub(number, account.quantity.formula)} = {account.value:.6g}"


def _product(part: Part, first: bool) -> str:
    sign = "-" if part.sign < 0 else "" if first else "+"
    return f"{sign} {' × '.join(_short(factor) for factor in part.factors)}".strip()


def _short(factor: Factor) -> str:
    text = _exact(factor.value) or f"{factor.value:.4g}"
    return f"({text})" if factor.value < 0 else text


def _exact(value: float) -> str:
    """As a fraction with a small denominator, or one times a root or a logarithm of 2, as 1/2 √2; else empty."""
    for name, unit in UNITS.items() if math.isfinite(value) else ():
        found = Fraction(value / unit).limit_denominator(MOST_BELOW)
        if abs(float(found) * unit - value) <= 1e-12 * abs(value):
            return {"1": name, "-1": f"-{name}"}.get(str(found), f"{found} {name}") if name else str(found)
    return ""


def _show_parts(console: Console, account: Account) -> None:
    is_share = account.quantity.kind == "share"
    most = MOST_TERMS if len(account.parts) > MOST_TERMS + 1 else len(account.parts)
    shown = account.parts[:most]
    names = [_names(part, is_share) for part in shown]
    numbers = [_product(part, first=True) if not is_share else f"e^{part.factors[0].value:.4g}" for part in shown]
    widths = max(len("terms"), *map(len, names)), max(map(len, numbers))
    heads = f"{'terms, the largest first' + (', over e^ of the largest' if is_share else ''):<{sum(widths) + 3}}"
    console.say(f"  {heads}   {'product':>13}   {'running total':>13}", "dim")
    running = 0.0
    for part, name, number in zip(shown, names, numbers, strict=True):
        running += part.value
        console.say(f"  {name:<{widths[0]}}   {number:<{widths[1]}}   {_aligned(part.value)}   {_aligned(running)}")
    if rest := account.parts[most:]:
        running = math.fsum(part.value for part in rest)
        line = f"and {len(rest)} smaller ones"
        console.say(f"  {line:<{sum(widths) + 3}}   {_aligned(running)}   {_aligned(account.total)}")
    console.say(f"  {'':<{sum(widths) + 3}}   {'sum':>13}   {_aligned(account.total)}", "bold")


def _aligned(value: float) -> str:
    return f"{_exact(value) or f'{value:.6g}':>13}"


def _names(part: Part, is_share: bool) -> str:
    if is_share:
        return f"e^{part.factors[0].entry}"
    return ("- " if part.sign < 0 else "") + " ".join(str(factor.entry) for factor in part.factors)


def _show_ways(console: Console, ways: Sequence[Way]) -> None:
    for way in ways:
        value = "" if way.value is None else f"{way.value:.15g}"
        off = "" if way.value is None or way is ways[0] else f"off by {way.relative:.0e}"
        line = f"  {way.label:<20}   {value:<24}   {'WRONG: ' if way.is_wrong else ''}{off}"
        console.say(f"{line.rstrip()}{f'   ({way.note})' if way.note else ''}", "bold red" if way.is_wrong else None)
    if sum(way.value is not None for way in ways) < 2:
        return
    largest = max(way.relative for way in ways if way.value is not None)
    if any(way.is_wrong for way in ways):
        console.say("  they do NOT agree: something above is wrong", "bold red")
    else:
        console.say(f"  they agree: off by {largest:.0e} at most, relative to the sizes of the terms", "green")


# ---- a matrix ---------------------------------------------------------------------------------------------------


def show_matrix(console: Console, trace: Traced, quantity: Quantity, label: Labels, width: int) -> None:
    """Every entry with its sign and colour: as a number where there is room, else in tenths of the largest."""
    numbers = np.atleast_2d(trace.numbers[quantity.name])
    rows, columns = ("", "", *quantity.indices)[-2:]
    largest = float(np.abs(numbers[np.isfinite(numbers)]).max(initial=0.0))
    is_rounding = largest < 1e-12 * sums(trace, quantity)[1].max()
    if is_rounding:
        numbers, largest = np.zeros_like(numbers), 0.0
    names = [label(rows, i) if rows else "" for i in range(len(numbers))]
    left = max(map(len, names)) + 2
    in_full = left + 9 * numbers.shape[1] <= width
    cell = 9 if in_full else 4
    console.say(f"{quantity}   {' × '.join(map(str, trace.numbers[quantity.name].shape)) or 'a number'}", "bold")
    console.say(quantity.meaning)
    if quantity.formula:
        console.say(f"{quantity} = {quantity.formula}")
    if is_rounding:
        console.say("0 but for rounding: the terms cancel", "dim")
    else:
        console.say(f"largest {largest:.4g}" + ("" if in_full else "; below in tenths of it"), "dim")
    at_once = max(1, (width - left) // cell)
    for start in range(0, numbers.shape[1], at_once):
        console.say()
        across = range(start, min(start + at_once, numbers.shape[1]))
        heads = [label(columns, j) if columns else "" for j in across]
        for line in _headlines(heads, cell):
            console.say(" " * left + line, "dim")
        for i, name in enumerate(names):
            row = Text(f"{name:<{left}}", "dim")
            for j in across:
                hidden = is_hidden(Entry(quantity.name, (str(i), str(j))))
                row.append(*_cell(numbers[i, j], largest, cell, hidden))
            console.show(row)


def _headlines(heads: Sequence[str], cell: int) -> list[str]:
    """The labels of columns: the index, and the character, if there is one, below it."""
    split = [head.partition(" ") for head in heads]
    lines = ["".join(f"{index:>{cell}}" for index, _, _ in split)]
    if any(what for _, _, what in split):
        lines.append("".join(f"{what.strip(chr(39)):>{cell}}" for _, _, what in split))
    return lines


def _cell(value: float, largest: float, width: int, hidden: bool) -> tuple[str, str]:
    """A number and its colours."""
    if hidden:
        return f"{'·':>{width}}", "dim"
    if not math.isfinite(value):
        return f"{value:>{width}}", "bold red"
    share = value / largest if largest else 0.0
    if value == 0:
        text = "0"
    elif width > 4:
        exact = _exact(value)
        text = f"{value:.4f}" if largest >= 0.1 else f"{value:.1e}"
        text = exact if 0 < len(exact) < width else text
    else:
        text = f"{10 * share:+.0f}" if abs(share) >= 0.05 else "0"  # no sign near 0
    red, green, blue = (round(255 + (end - 255) * abs(share)) for end in (ORANGE if share > 0 else BLUE))
    ink = "white" if abs(share) > 0.55 else "black"
    return f"{text:>{width}}", f"{ink} on rgb({red},{green},{blue})"


def labels_of(reads: Sequence[str], vocabulary: Sequence[str]) -> Labels:
    """Positions with their character, tokens with their text, all other indices as numbers alone."""

    def label(index: str, number: int) -> str:
        if index in "ij":
            return f"{number} '{reads[number]}'"
        return f"{number} '{vocabulary[number]}'" if index == "v" and vocabulary[number] else str(number)

    return label
