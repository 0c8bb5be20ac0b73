"""The small changes to a source that mutation.py tries, each a slip that a person could make:

    an operator for its opposite, a term or a factor dropped, a matrix product turned round
    a sign, a `not`, a transpose, a copy, an argument left out; sum for mean, max for min
    one more or one less; True for False; < for <=; `and` for `or`
    `=` for `+=`; a line left out; a branch always or never taken; results in the wrong order

Only what is computed is changed: not types, not what errors say, not names.
"""

import ast
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

OPPOSITE: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
MISTAKEN = {
    "sum": "mean", "mean": "sum", "max": "min", "min": "max", "maximum": "minimum", "minimum": "maximum",
    "ones": "zeros", "zeros": "ones", "ones_like": "zeros_like", "zeros_like": "ones_like",
}  # fmt: skip
LEFT_OUT = {"swapaxes", "transpose", "copy", "view"}  # x.f(...): x alone
SKIPPED = {"annotation", "returns", "decorator_list", "bases", "type_comment"}  # parts that compute nothing


@dataclass(frozen=True)
class Change:
    path: Path
    line: int
    where: str  # the function
    before: str  # the statement, or its first line
    after: str
    source: str  # all of it, changed


def changes(path: Path) -> Iterator[Change]:
    """All changes of a source, in its order."""
    parts = [piece for part in ast.parse(path.read_text(encoding="utf-8")).body for piece in pieces(part)]
    sources = [source_of(*part) for part in parts]
    for i, (part, header) in enumerate(parts):
        seen = {sources[i]}
        for where, statement, place, node in list(computed(part)):
            before = first_line(statement.get())
            for replacement in replacements(node):
                place.put(replacement)
                changed, after = source_of(part, header), first_line(statement.get())
                if changed not in seen:
                    seen.add(changed)
                    source = "\n".join([*sources[:i], changed, *sources[i + 1 :]])
                    yield Change(path, node.lineno, where, before, after, source)
                place.put(node)


def pieces(part: ast.stmt) -> Iterator[tuple[ast.Module, str]]:
    """A class as one class for each of its members, since only the piece that is changed is written anew; all but the
    first with a header that only the tree needs."""
    if not isinstance(part, ast.ClassDef):
        yield ast.Module([part], []), ""
        return
    first, *others = part.body
    yield ast.Module([ast.ClassDef(part.name, part.bases, part.keywords, [first], part.decorator_list)], []), ""
    for member in others:
        yield ast.Module([ast.ClassDef(part.name, [], [], [member], [])], []), f"class {part.name}:\n"


def source_of(piece: ast.Module, header: str) -> str:
    return ast.unparse(piece).removeprefix(header)


# ---- where ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a node hangs in the tree."""

    parent: Any
    field: str
    index: int | None

    def get(self) -> Any:
        held = getattr(self.parent, self.field)
        return held if self.index is None else held[self.index]

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


def computed(node: ast.AST, where: str = "", statement: Place | None = None) -> Iterator[tuple[str, Place, Place, Any]]:
    """Each part that computes something: its function, its statement, its place, itself."""
    if isinstance(node, ast.Raise | ast.Assert | ast.Import | ast.ImportFrom | ast.JoinedStr) or is_type(node, where):
        return
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        where = f"{where}.{node.name}".lstrip(".")
    for field, held in ast.iter_fields(node):
        if field in SKIPPED:
            continue
        for index, child in enumerate(held) if isinstance(held, list) else [(None, held)]:
            if isinstance(child, ast.AST):
                place = Place(node, field, index)
                inside = place if isinstance(child, ast.stmt) else statement
                if inside is not None and hasattr(child, "lineno"):
                    yield where, inside, place, child
                yield from computed(child, where, inside)


def functions(node: ast.AST, where: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """All functions, with the names that `computed` gives them."""
    for child in ast.iter_child_nodes(node):
        inside = f"{where}.{child.name}".lstrip(".") if isinstance(child, ast.FunctionDef | ast.ClassDef) else where
        if isinstance(child, ast.FunctionDef):
            yield inside, child
        yield from functions(child, inside)


def is_type(node: ast.AST, where: str) -> bool:
    """Such as Axis = int | None or T = TypeVar("T"), at the top of a module."""
    assigned = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
    is_variable = isinstance(assigned, ast.Call) and ast.unparse(assigned.func) == "TypeVar"
    return not where and (is_variable or isinstance(assigned, ast.Subscript | ast.BinOp))


def first_line(statement: ast.AST) -> str:
    if isinstance(getattr(statement, "body", None), list):
        statement = copy(statement)
        statement.body = [ast.Pass()]  # type: ignore[attr-defined]
    lines = ast.unparse(statement).splitlines()
    return next(line for line in lines if not line.startswith("@"))


# ---- what -------------------------------------------------------------------------------------------------------


def replacements(node: ast.AST) -> Iterator[ast.AST]:
    """What a person could have written instead."""
    match node:
        case ast.BinOp(left, op, right):
            if isinstance(op, ast.MatMult):
                yield ast.BinOp(right, op, left)
            else:
                yield ast.BinOp(left, OPPOSITE[type(op)](), right)  # type: ignore[arg-type]
            yield left
            yield right
        case ast.UnaryOp(ast.USub() | ast.Not() | ast.Invert(), operand):
            yield operand
        case ast.AugAssign(target, op, value):
            yield ast.Assign([target], value, lineno=0)
            yield ast.AugAssign(target, OPPOSITE[type(op)](), value)  # type: ignore[arg-type]
            yield ast.Pass()
        case ast.Compare(left, [op], right):
            yield ast.Compare(left, [OPPOSITE[type(op)]()], right)  # type: ignore[list-item]
        case ast.BoolOp(op, values):
            yield ast.BoolOp(OPPOSITE[type(op)](), values)  # type: ignore[arg-type]
            for i in range(len(values)):
                rest = values[:i] + values[i + 1 :]
                yield rest[0] if len(rest) == 1 else ast.BoolOp(op, rest)
        case ast.IfExp(_, body, orelse):
            yield body
            yield orelse
        case ast.If(_, body, orelse):
            yield ast.If(ast.Constant(True), body, orelse)
            yield ast.If(ast.Constant(False), body, orelse)
        case ast.Expr(ast.Call()):
            yield ast.Pass()
        case ast.Return(ast.Tuple(elements)):
            for i, (one, two) in enumerate(pairwise(elements)):
                yield ast.Return(ast.Tuple([*elements[:i], two, one, *elements[i + 2 :]], ast.Load()))
        case ast.Slice(lower, upper, step):
            for kept in ((None, upper, step), (lower, None, step), (lower, upper, None)):
                yield ast.Slice(*kept)
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)):
            yield ast.Constant(value + 1)
            if value:
                yield ast.Constant(value - 1)
        case ast.Constant(float(value)):
            yield ast.Constant(2.0 * value if value else 1.0)
        case ast.Call():
            yield from other_calls(node)


def other_calls(call: ast.Call) -> Iterator[ast.AST]:
    called, arguments, keywords = call.func, call.args, call.keywords
    if isinstance(called, ast.Attribute):
        if called.attr in LEFT_OUT:
            yield called.value
        if called.attr in MISTAKEN:
            yield ast.Call(ast.Attribute(called.value, MISTAKEN[called.attr], ast.Load()), arguments, keywords)
        if called.attr in ("where", "abs"):  # one of the two, or the number with its sign
            yield from arguments[-2:]
    for i, keyword in enumerate(keywords):
        if isinstance(keyword.value, ast.Constant) and keyword.value.value is True:
            continue  # False is tried too
        yield ast.Call(called, arguments, keywords[:i] + keywords[i + 1 :])
