"""Flags from dataclasses: one for each field, explained by its annotation. A wrong one is an error in one line."""

import argparse
import difflib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from gpt_numpy.workshop.errors import UsageError

T = TypeVar("T")
Flags = dict[str, Any]  # those on the command line


class Parser(argparse.ArgumentParser):
    """argparse with errors in one line, which suggest the flag that was probably meant."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog,
            usage=f"{prog} [flags]",
            description=description,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
        )
        for kind in (int, float):
            self.register("type", kind, _number(kind))  # with a plain message
        self.flags_of_other_cli: Mapping[str, str] = {}  # and the name of that one
        self.color = False  # from Python 3.14 on, help would be in colour even in a pipe

    def error(self, message: str) -> NoReturn:
        separator = "" if message.endswith("?") else ";"
        raise UsageError(f"{message.removeprefix('argument ')}{separator} see {self.prog} --help")

    def flags(self, arguments: Sequence[str]) -> Flags:
        """Those on the command line; no defaults of dataclasses."""
        found, unknown = self.parse_known_args(arguments)
        if unknown:
            flag = unknown[0].split("=")[0]
            if other := self.flags_of_other_cli.get(flag.replace("--no-", "--")):
                self.error(f"{flag} is a flag of {other}")
            known = [flag for action in self._actions for flag in action.option_strings]
            meant = difflib.get_close_matches(flag, known, 1)
            self.error(f"{unknown[0]} is not known" + (f"; did you mean {meant[0]}?" if meant else ""))
        for action in self._actions:
            given = getattr(found, action.dest, [])
            if action.metavar in ("FILE", "FOLDER") and "" in (given if isinstance(given, list) else [given]):
                self.error(f"{action.option_strings[0]} names no {str(action.metavar).lower()}, it is empty")
        return vars(found)


def add_data_flag(group: Any, help: str) -> None:
    """Several paths become one text with a line for each."""

    class Lines(argparse.Action):
        def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
            if "" in values:
                parser.error("--data names no file, it is empty")
            before = getattr(namespace, self.dest, None)
            setattr(namespace, self.dest, "\n".join(([before] if before else []) + values))

    group.add_argument("--data", metavar="FILE", nargs="+", action=Lines, help=help)


def add_fields(
    parser: Parser,
    title: str,
    kind: type,
    defaults: Mapping[str, Any] | None = None,
    only: Collection[str] | None = None,
) -> Any:
    """A group with a flag for each field of a dataclass, or only for some; `defaults` by preset."""
    group = parser.add_argument_group(title)
    hints = get_type_hints(kind, include_extras=True)
    for field in (field for field in fields(kind) if only is None or field.name in only):
        base, meaning, *_ = get_args(hints[field.name])
        flag = "--" + field.name.replace("_", "-")
        values = {name: getattr(preset, field.name) for name, preset in (defaults or {"": kind()}).items()}
        default = f" ({_default_text(values)})" if set(values.values()) != {""} else ""
        help = f"{meaning}{default}".replace("%", "%%")
        if base is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, help=help)
        elif get_origin(base) is Literal:
            group.add_argument(flag, choices=get_args(base), help=help)
        else:
            group.add_argument(flag, type=_number(base), metavar={int: "N", float: "X"}.get(base, "TEXT"), help=help)
    return group


def _default_text(values: Mapping[str, Any]) -> str:
    """The default; if presets differ, the exceptions and then the others' default."""
    shown = {name: _short(value) for name, value in values.items()}
    usual = Counter(shown.values()).most_common(1)[0][0]
    others = [f"{name} {value}" for name, value in shown.items() if value != usual]
    return ", ".join([*others, f"others {usual}"]) if others else f"default {usual}"


def _short(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else f"{value}"


def _number(kind: Any) -> Any:
    def number(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            what = {int: "a whole number", float: "a number"}.get(kind, "a value")
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None

    return number


def pick(kind: type, flags: Flags) -> Flags:
    """Those that are fields of this dataclass."""
    return {field.name: flags[field.name] for field in fields(kind) if field.name in flags}


def build(kind: Callable[..., T], values: Flags) -> T:
    """A dataclass; UsageError for values that it refuses."""
    try:
        return kind(**values)
    except ValueError as error:  # whose message begins with the name of the field
        name, _, rest = str(error).partition(" ")
        raise UsageError(f"--{name.replace('_', '-')} {rest}") from None


def override(original: T, values: Flags) -> T:
    return build(type(original), {**asdict(original), **values})  # type: ignore[call-overload]
