"""The loss curves of a run, loss.svg. The axis of steps is logarithmic, since most of the change is early."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from gpt_numpy.workshop.train.phases import Phase

WIDTH, HEIGHT = 960, 440
LEFT, RIGHT, TOP, BOTTOM = 48, 640, 48, 396  # of the curves; the phases are named beside them
Point = tuple[float, float]

STYLE = """
.loss text { font: 13px system-ui, sans-serif; fill: #5a606a } .loss .title { font-size: 15px; font-weight: 600 }
.loss path { fill: none; stroke-linejoin: round; stroke-width: 2 } .loss .rule { stroke: #8885; stroke-width: 1 }
.loss path.training { stroke: #1a6aae } .loss text.training { fill: #1a6aae }
.loss path.validation { stroke: #bf4506 } .loss text.validation, .loss circle { fill: #bf4506 }
@media (prefers-color-scheme: dark) {
  .loss text { fill: #a2a8b1 }
  .loss path.training { stroke: #69b0ee } .loss text.training { fill: #69b0ee }
  .loss path.validation { stroke: #ff9a5c } .loss text.validation, .loss circle { fill: #ff9a5c }
}
""".strip()


def loss_svg(shown: dict[str, Any]) -> str:
    """From the contents of report.py."""
    evaluations = [(one["step"], one["validation"]) for one in shown["evaluations"] if math.isfinite(one["validation"])]
    curves = shown["curves"]
    training = list(zip(curves["last"], curves["loss"]["smooth"], strict=True)) if curves else []
    training = [(int(step), float(loss)) for step, loss in training if math.isfinite(loss)]
    losses = [loss for _, loss in (*training, *evaluations)] or [1.0]
    last = max([2, *(step for step, _ in (*training, *evaluations))])
    most = math.inf if shown["measure"] == "reward" else 10.0
    lowest, highest = math.floor(5 * min(losses)) / 5, min(math.ceil(5 * max(losses)) / 5, most) + 0.1

    def place(step: float, loss: float) -> Point:
        x = LEFT + (RIGHT - LEFT) * math.log(max(step, 1)) / math.log(last)
        y = BOTTOM - (BOTTOM - TOP) * (min(loss, highest) - lowest) / (highest - lowest)
        return round(x, 1), round(y, 1)

    what = {"reward": "reward", "preferences": "loss of preferences", "loss": "loss in nats per character"}
    title = f"{shown['config'].get('name', '')}: {what[shown['measure']]}, by step"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="loss" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="24">{escape(title)}</text>',
    ]
    for step in _steps(last):
        x, _ = place(step, lowest)
        lines.append(f'<text x="{x}" y="{BOTTOM + 20}" text-anchor="middle">{step:,}</text>')
    above = highest
    # Where the losses are not those of learning a text, rules without a name.
    phases = [Phase(**one) for one in shown["phases"]] or [
        Phase(highest - (highest - lowest) * n / 5, "") for n in range(1, 6)
    ]
    for phase in phases:
        top, bottom = min(above, highest), max(phase.above, lowest)
        above = phase.above
        if top <= bottom:
            continue
        (_, y), (_, middle) = place(1, bottom), place(1, (top + bottom) / 2)
        lines.append(f'<path class="rule" d="M{LEFT} {y}H{WIDTH}"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{bottom:.1f}</text>')
        lines.append(f'<text x="{RIGHT + 16}" y="{middle + 4}">{escape(phase.meaning)}</text>')
    lines.append(_curve("training", [place(*point) for point in training]))
    lines.append(_curve("validation", [place(*point) for point in evaluations if point[0] > 0]))
    lines += [f'<circle cx="{x}" cy="{y}" r="3.5"/>' for x, y in (place(*point) for point in evaluations)]
    for name, points, y in (("training", training, BOTTOM - 32), ("validation", evaluations, BOTTOM - 14)):
        end = f", {points[-1][1]:.3f} after step {points[-1][0]:,}" if points else ""
        lines.append(f'<text class="{name}" x="{LEFT + 16}" y="{y}">{name}{end}</text>')
    return "\n".join([*lines, "</svg>", ""])


def _steps(last: int) -> list[int]:
    """Round numbers up to the last step."""
    return [first * 10**power for power in range(len(str(last))) for first in (1, 2, 5) if first * 10**power <= last]


def _curve(name: str, points: Sequence[Point]) -> str:
    return f'<path class="{name}" d="M{" L".join(f"{x} {y}" for x, y in points)}"/>' if points else ""
