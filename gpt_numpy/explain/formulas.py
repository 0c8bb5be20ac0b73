"""The formula of every quantity: of each matrix of attention, and of all that comes after it.

A formula is text, `c Σ_j dS[i,j] K[j,d]`: terms joined by + or -, each a product of entries and constants, optionally
summed over an index. The terminal and the page show the formula and its terms. Nothing is computed here: the entries'
values come from the operations that train, and tests check that they satisfy the formulas.

    i, j, k   positions: of the query, of the key, and one that a sum runs over
    d         the D channels of a head     m   the C channels of the stream      u   the hidden units of an MLP
    v         tokens of the vocabulary     a   another channel, or another token, that a sum runs over
    T         the number of positions      c   1/sqrt(D)                         g   the answers of a group

The blocks form a residual stream R, to which each sublayer adds its output. The gradient flows back along the stream
unchanged, and each sublayer adds the gradient from its input: that is dY's formula. So dR here is only the part of the
gradient that comes through the sublayer which reads that R; the rest bypasses it.
"""

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from gpt_numpy.config import GPTConfig
from gpt_numpy.explain.objective import NEXT_TOKEN, Objective

MASKED = ("S", "P", "dS", "dP")  # defined where a position may attend: j <= i
Kind = Literal["sum", "share", "function", "given"]


@dataclass(frozen=True)
class Entry:
    """An entry as a formula names it, dS[i,j], or a constant, which has no indices."""

    name: str
    indices: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}[{','.join(self.indices)}]" if self.indices else self.name


@dataclass(frozen=True)
class Term:
    sign: int
    over: str  # the index of its sum; empty for a single product
    factors: tuple[Entry, ...]


@dataclass(frozen=True)
class Quantity:
    """A named matrix, vector or number.

    sum        the terms of its formula add up to it
    share      e^x over the sum of e^x of its row: a softmax
    function   another function of the entries in the formula
    given      a parameter, or an input of the explanation
    """

    name: str
    indices: tuple[str, ...]
    meaning: str
    formula: str = ""  # in its most readable form
    kind: Kind = "sum"
    terms: tuple[Term, ...] = ()

    @property
    def is_gradient(self) -> bool:
        return self.name.startswith("d")

    def __str__(self) -> str:
        return str(Entry(self.name, self.indices))


ENTRY = re.compile(r"([A-Za-z]\w*)\[([^\]]*)\]")


def entries(formula: str) -> list[Entry]:
    return [Entry(name, tuple(indices.split(","))) for name, indices in ENTRY.findall(formula)]


def parsed(formula: str) -> tuple[Term, ...]:
    """The terms of a formula: c Σ_j dS[i,j] K[j,d] is one, summed over j, with the factors c, dS[i,j] and K[j,d]."""
    terms = []
    sign, over = 1, ""
    factors: list[Entry] = []
    for word in [*formula.split(), "+"]:
        if word in "+-":
            if factors:
                terms.append(Term(sign, over, tuple(factors)))
            sign, over, factors = 1 if word == "+" else -1, "", []
        elif word.startswith("Σ_"):
            over = word[2:]
        else:
            factors.append((entries(word) or [Entry(word)])[0])
    return tuple(terms)


class _Table:
    def __init__(self) -> None:
        self.quantities: dict[str, Quantity] = {}

    def add(self, entry: str, formula: str, meaning: str, *, kind: Kind = "sum", shown: str = "") -> None:
        """`shown` is the most readable form of the formula, if that is not the sum of its terms."""
        found = (entries(entry) or [Entry(entry)])[0]
        terms = parsed(formula) if kind == "sum" else ()
        self.quantities[found.name] = Quantity(found.name, found.indices, meaning, shown or formula, kind, terms)


def quantities(config: GPTConfig, layer: int, objective: Objective = NEXT_TOKEN) -> dict[str, Quantity]:
    """Every quantity that can be explained, for a head of this layer, each after those that its formula needs."""
    table = _Table()
    _add_forward(table, config, layer)
    _add_rest(table, config, layer)
    _add_loss(table, objective)
    _add_rest_backward(table, config, layer)
    _add_backward(table, config, layer)
    return table.quantities


def sublayers(config: GPTConfig) -> list["Sublayer"]:
    """In the order in which the stream passes them."""
    return [Sublayer(kind, n) for n in range(config.n_layer) for kind in ("attn", "mlp")]


def later(config: GPTConfig, layer: int) -> list["Sublayer"]:
    """The sublayers after the attention that is explained."""
    return sublayers(config)[2 * layer + 1 :]


class Sublayer(NamedTuple):
    kind: str  # attn or mlp
    layer: int

    def __str__(self) -> str:
        return f"{self.kind}{self.layer}"

    @property
    def described(self) -> str:
        return f"{'attention' if self.kind == 'attn' else 'the MLP'} of layer {self.layer}"


def _sum(*parts: str) -> str:
    return " + ".join(part for part in parts if part)


def _add_forward(table: _Table, config: GPTConfig, layer: int) -> None:
    add, bias = table.add, config.bias
    add("tok[i,m]", "", "the embedding of the token at that position", kind="given")
    add("pos[i,m]", "", "the embedding of that position", kind="given")
    for sub in sublayers(config)[: 2 * layer]:
        meaning = f"what {sub.described} adds to the stream (see --layer {sub.layer})"
        add(f"Y_{sub}[i,m]", "", meaning, kind="given")
    before = [f"Y_{sub}[i,m]" for sub in sublayers(config)[: 2 * layer]]
    add("R[i,m]", _sum("tok[i,m]", "pos[i,m]", *before), "the stream that this attention reads")
    _add_norm(table, "", "R", "X", bias, "the input of attention")
    for letter, i, what in (("q", "i", "the query: what a position looks for"), ("k", "j", "the key: what it offers"),
                          ("v", "j", "the value: what it passes on")):  # fmt: skip
        add(f"W_{letter}[d,m]", "", f"this head's rows of c_attn that make {letter.upper()}", kind="given")
        if bias:
            add(f"b_{letter}[d]", "", f"the bias of {letter.upper()}", kind="given")
        formula = _sum(f"Σ_m X[{i},m] W_{letter}[d,m]", f"b_{letter}[d]" if bias else "")
        add(f"{letter.upper()}[{i},d]", formula, what)
    add("S[i,j]", "c Σ_d Q[i,d] K[j,d]", "the score: how well the key at j matches the query at i")
    add("P[i,j]", "e^S[i,j] / Σ_k e^S[i,k]", "the weight: the share of the value at j in the output at i", kind="share")
    add("O[i,d]", "Σ_j P[i,j] V[j,d]", "the output of this head: a weighted mean of values")
    add("W_o[m,d]", "", "this head's columns of c_proj", kind="given")
    if bias:
        add("b_o[m]", "", "the bias of c_proj", kind="given")
    others = "Y_others[i,m]" if config.n_head > 1 else ""
    if others:
        add(others, "", "what the other heads add to Y (--head opens each)", kind="given")
    formula = _sum("Σ_d O[i,d] W_o[m,d]", others, "b_o[m]" if bias else "")
    add("Y[i,m]", formula, "the output of attention, of all heads, added to the stream")


def _add_norm(table: _Table, mark: str, stream: str, out: str, bias: bool, what: str) -> None:
    """A layer norm: from a stream to the normalised n, scaled and shifted."""
    mean, var, r, n, w, b = (f"{name}{mark}" for name in ("mean", "var", "r", "n", "w", "b"))
    add = table.add
    add(f"{mean}[i]", f"Σ_m 1/C {stream}[i,m]", "the mean of a row of the stream")
    add(
        f"{var}[i]", f"Σ_m 1/C {stream}[i,m] {stream}[i,m] - {mean}[i] {mean}[i]", "the variance of a row of the stream"
    )
    add(f"{r}[i]", f"1 / √({var}[i] + 0.00001)", "one over the standard deviation of a row", kind="function")
    add(f"{n}[i,m]", f"{stream}[i,m] {r}[i] - {mean}[i] {r}[i]", "the row with mean 0 and variance 1",
        shown=f"({stream}[i,m] - {mean}[i]) {r}[i]")  # fmt: skip
    add(f"{w}[m]", "", f"the scale of the layer norm that makes {out}", kind="given")
    if bias:
        add(f"{b}[m]", "", f"the shift of the layer norm that makes {out}", kind="given")
    meaning = (
        f"{what}: the stream with mean 0 and variance 1, then scaled by {w}{f' and shifted by {b}' if bias else ''}"
    )
    add(f"{out}[i,m]", _sum(f"{n}[i,m] {w}[m]", f"{b}[m]" if bias else ""), meaning)


def _add_rest(table: _Table, config: GPTConfig, layer: int) -> None:
    """From Y to the predictions."""
    add, bias = table.add, config.bias
    stream = ["R[i,m]", "Y[i,m]"]
    for sub in later(config, layer):
        add(f"R_{sub}[i,m]", _sum(*stream), f"the stream that {sub.described} reads")
        _add_norm(table, f"_{sub}", f"R_{sub}", f"N_{sub}", bias, f"the input of {sub.described}")
        if sub.kind == "mlp":
            for entry, what in ((f"W1_{sub}[u,m]", "the matrix"), (f"W2_{sub}[m,u]", "the second matrix")):
                add(entry, "", f"{what} of {sub.described}", kind="given")
            if bias:
                add(f"b1_{sub}[u]", "", f"the bias of {sub.described}", kind="given")
                add(f"b2_{sub}[m]", "", f"the second bias of {sub.described}", kind="given")
            up = _sum(f"Σ_m N_{sub}[i,m] W1_{sub}[u,m]", f"b1_{sub}[u]" if bias else "")
            add(f"U_{sub}[i,u]", up, "before GELU")
            add(f"G_{sub}[i,u]", f"gelu(U_{sub}[i,u])", "after GELU", kind="function")
            add(f"g_{sub}[i,u]", f"gelu'(U_{sub}[i,u])", "the slope of GELU there", kind="function")
            down = _sum(f"Σ_u G_{sub}[i,u] W2_{sub}[m,u]", f"b2_{sub}[m]" if bias else "")
            add(f"Y_{sub}[i,m]", down, f"what {sub.described} adds to the stream")
        else:
            meaning = f"what {sub.described} adds to the stream (see --layer {sub.layer})"
            add(f"Y_{sub}[i,m]", "", meaning, kind="given")
        stream.append(f"Y_{sub}[i,m]")
    add("R_f[i,m]", _sum(*stream), "the stream after the last block")
    _add_norm(table, "_f", "R_f", "N_f", bias, "the input of lm_head")
    add("W_lm[v,m]", "", "the matrix of lm_head", kind="given")
    add("Z[i,v]", "Σ_m N_f[i,m] W_lm[v,m]", "the logit of token v as the next token")
    add("p[i,v]", "e^Z[i,v] / Σ_a e^Z[i,a]", "the probability that the model gives to token v", kind="share")


def of_loss(objective: Objective) -> list[Quantity]:
    """What stands between the losses of positions and L, and L."""
    table = _Table()
    for entry, formula, kind, meaning in objective.formulas():
        table.add(entry, formula, meaning, kind=kind)  # type: ignore[arg-type]  # one of Kind
    return list(table.quantities.values())


def _add_loss(table: _Table, objective: Objective) -> None:
    """From the predictions to the loss, and back."""
    add, target = table.add, "next[i,v]" if objective.targets is None else "q[i,v]"
    if objective.targets is None:
        add(target, "", "1 for the actual next token, 0 for all others", kind="given")
        add("l[i]", "-log p[i,next]", "the loss at a position: -log p of the true next token", kind="function")
    else:
        add(target, "", "the probability that the teacher gives to token v", kind="given")
        meaning = "the loss at a position: the cross-entropy with the teacher's prediction"
        add("l[i]", "-Σ_v q[i,v] log p[i,v]", meaning, kind="function")
    table.quantities |= {quantity.name: quantity for quantity in of_loss(objective)}
    weight = objective.weight
    meaning = "the probability minus the target, times what the position counts: where every gradient begins"
    add("dZ[i,v]", f"{weight} p[i,v] - {weight} {target}", meaning, shown=f"{weight} (p[i,v] - {target})")


def _add_rest_backward(table: _Table, config: GPTConfig, layer: int) -> None:
    """From the logits back to dY."""
    add = table.add
    add("dN_f[i,m]", "Σ_v dZ[i,v] W_lm[v,m]", "back through lm_head")
    _add_norm_backward(table, "_f", "dN_f", "the gradient that enters the stream at its end")
    back = ["dR_f[i,m]"]
    for sub in reversed(later(config, layer)):
        add(f"dY_{sub}[i,m]", _sum(*back), f"the gradient at the output of {sub.described}")
        if sub.kind == "mlp":
            add(f"dG_{sub}[i,u]", f"Σ_m dY_{sub}[i,m] W2_{sub}[m,u]", f"back through the second matrix of {sub}")
            add(f"dU_{sub}[i,u]", f"dG_{sub}[i,u] g_{sub}[i,u]", "back through GELU: times its slope")
            add(f"dN_{sub}[i,m]", f"Σ_u dU_{sub}[i,u] W1_{sub}[u,m]", f"back through the first matrix of {sub}")
        else:
            add(
                f"dN_{sub}[i,m]",
                "",
                f"the gradient from its heads: dX of that layer (see --layer {sub.layer})",
                kind="given",
            )
        _add_norm_backward(
            table, f"_{sub}", f"dN_{sub}", f"the part of the stream's gradient that comes through {sub.described}"
        )
        back.append(f"dR_{sub}[i,m]")
    meaning = "the gradient at the output of attention: from the stream's end, and from each sublayer after it"
    add("dY[i,m]", _sum(*back), meaning)


def _add_norm_backward(table: _Table, mark: str, dn: str, meaning: str) -> None:
    """Back through a layer norm: directly, through the mean, and through the standard deviation."""
    n, r, w = f"n{mark}", f"r{mark}", f"w{mark}"
    own, others = f"{r}[i] {dn}[i,m] {w}[m]", f"1/C Σ_a {r}[i] {dn}[i,a] {w}[a]"
    table.add(
        f"dR{mark}[i,m]",
        f"{own} - {others} - {others} {n}[i,a] {n}[i,m]",
        meaning,
        shown=f"{r}[i] ({dn}[i,m] {w}[m] - 1/C Σ_a {dn}[i,a] {w}[a] - 1/C {n}[i,m] Σ_a {dn}[i,a] {w}[a] {n}[i,a])",
    )


def _add_backward(table: _Table, config: GPTConfig, layer: int) -> None:
    add = table.add
    add("dO[i,d]", "Σ_m dY[i,m] W_o[m,d]", "back through c_proj, to this head's output")
    add(
        "dP[i,j]",
        "Σ_d dO[i,d] V[j,d]",
        "how much the loss grows with the weight of j: the dot product of dO and the value at j",
    )
    add("dV[j,d]", "Σ_i P[i,j] dO[i,d]", "the dO of each position that attends to j, times its weight")
    add("dS[i,j]", "P[i,j] dP[i,j] - Σ_k P[i,j] P[i,k] dP[i,k]",
        "back through softmax: does more weight on j raise the loss more than i's weight does on average?",
        shown="P[i,j] (dP[i,j] - Σ_k P[i,k] dP[i,k])")  # fmt: skip
    add(
        "dQ[i,d]",
        "c Σ_j dS[i,j] K[j,d]",
        "add up the keys that query i sees, each weighted by its dS and c. "
        "A training step moves the query the opposite way",
    )
    add(
        "dK[j,d]",
        "c Σ_i dS[i,j] Q[i,d]",
        "add up the queries that see key j, each weighted by its dS and c. "
        "A training step moves the key the opposite way",
    )
    others = "dX_others[i,m]" if config.n_head > 1 else ""
    if others:
        add(others, "", "the gradient from the other heads (--head opens each)", kind="given")
    formula = _sum(*(f"Σ_d d{name.upper()}[i,d] W_{name}[d,m]" for name in "qkv"), others)
    add("dX[i,m]", formula, "X is used three times in each head: the gradients of all uses are added")
    for name, i in (("q", "i"), ("k", "j"), ("v", "j")):
        of = f"d{name.upper()}"
        add(f"dW_{name}[d,m]", f"Σ_{i} {of}[{i},d] X[{i},m]", "the same weights serve all positions: a sum over them")
        if config.bias:
            add(f"db_{name}[d]", f"Σ_{i} {of}[{i},d]", "a bias is added at every position: a sum over them")
    add("dW_o[m,d]", "Σ_i dY[i,m] O[i,d]", "the same weights serve all positions: a sum over them")
    if config.bias:
        add("db_o[m]", "Σ_i dY[i,m]", "a bias is added at every position: a sum over them")
    _add_norm_backward(
        table,
        "",
        "dX",
        "the part of the stream's gradient that comes through this attention, without the rest, dY",
    )
    before = "tok" if layer == 0 else f"Y_mlp{layer - 1}"
    what = "the embedding of the token" if layer == 0 else f"the output of the MLP of layer {layer - 1}"
    meaning = f"the gradient at {what}: what bypasses this attention, and what comes through it"
    add(f"d{before}[i,m]", "dY[i,m] + dR[i,m]", meaning)
