"""A run as one HTML page that needs nothing else: a sequence diagram, a slider over its steps, and each step's details.

The page loads nothing and sends nothing; all text of the run is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import msgspec

from .draw import NAMES_NONE, Row, cast_of, rows, shown
from .history import History, Step

TIME_X, FIRST_X = 8, 96  # pixels from the left: of times, and of the first lifeline
ROW_Y, HEAD_Y = 24, 30
PITCH = (110, 240)  # between lifelines, least and most
CHARACTER_X = 6.7  # of the diagram's type
NOTE_MOST, TEXT_LEAST, TEXT_MOST = 48, 24, 70  # characters beside a lifeline, and on an arrow
BYTES_MOST = 64  # of a value in a step's details

_STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf7; --ink: #1d1d1b; --soft: #77746b; --line: #cfcbc0; --card: #fff;
  --mark: #b3261e; --act: #0b57d0; --say: #1b6e3c; --now: #fff2c2; }
@media (prefers-color-scheme: dark) { :root { --paper: #17181a; --ink: #e8e6e1; --soft: #9a968c; --line: #44464a;
  --card: #202225; --mark: #ff8a80; --act: #8ab4f8; --say: #81c995; --now: #3a3520; } }
* { box-sizing: border-box; }
body { margin: 0; height: 100vh; display: flex; flex-direction: column;
  background: var(--paper); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
header { padding: 12px 20px; background: var(--card); border-bottom: 1px solid var(--line); }
h1 { margin: 0; font-size: 17px; } h1 b { color: var(--mark); } p { margin: 2px 0 8px; color: var(--soft); }
.bar { display: flex; gap: 10px; align-items: center; } .bar input { flex: 1; accent-color: var(--act); }
button { font: inherit; color: inherit; background: var(--paper); border: 1px solid var(--line); border-radius: 6px;
  padding: 1px 10px; cursor: pointer; }
output { min-width: 8em; text-align: right; font-variant-numeric: tabular-nums; }
main { flex: 1; min-height: 0; display: grid; grid-template-columns: minmax(0, 1fr) 340px; gap: 16px; padding: 0 20px; }
.diagram { overflow: auto; } .heads { position: sticky; top: 0; background: var(--paper); }
svg { display: block; font: 12px ui-monospace, monospace; }
svg text { fill: var(--ink); paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
svg .who { font-weight: 600; } svg .at { fill: var(--soft); }
svg .life { stroke: var(--line); stroke-width: 1.5; } svg .life.down { stroke-dasharray: 2 5; }
g.row { cursor: pointer; } g.row rect { fill: transparent; } g.row:hover rect { fill: var(--line); opacity: .4; }
g.row.later { opacity: .22; } g.row.now rect { fill: var(--now); opacity: 1; } g.row.now text { stroke: var(--now); }
g.row circle { fill: var(--ink); }
g.row line { stroke: var(--ink); stroke-width: 1.4; } g.row path { fill: var(--ink); stroke: none; }
g.lost line { stroke-dasharray: 5 4; stroke: var(--mark); }
g.lost text.cross, g.row.bad text.note { fill: var(--mark); } g.lost text.cross { font-size: 15px; }
g.row.act text.note { fill: var(--act); } g.row.announce text.note { fill: var(--say); }
aside { margin: 12px 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px;
  align-self: start; max-height: calc(100% - 24px); overflow: auto; }
aside h2 { margin: 0 0 8px; font-size: 15px; } dl { margin: 0; display: grid; grid-template-columns: auto 1fr;
  gap: 3px 12px; } dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; white-space: pre-wrap;
  font-family: ui-monospace, monospace; font-size: 13px; } aside hr { border: 0; border-top: 1px solid var(--line); }
@media (max-width: 800px) { main { grid-template: 3fr 2fr / 1fr; gap: 0; } }
"""

_SCRIPT = """
const steps = JSON.parse(document.getElementById("steps").textContent);
const lines = [...document.querySelectorAll("g.row")], slider = document.querySelector("input");
const details = document.querySelector("aside"), number = document.querySelector("output");
function list(pairs) {
  const dl = document.createElement("dl");
  for (const [name, value] of pairs) {
    dl.append(Object.assign(document.createElement("dt"), {textContent: name}),
              Object.assign(document.createElement("dd"), {textContent: value}));
  }
  return dl;
}
function go(to, follow) {
  const now = Math.min(Math.max(to, 0), lines.length - 1);
  slider.value = now;
  number.textContent = lines.length ? `step ${now + 1} of ${lines.length}` : "nothing happened";
  lines.forEach((line, n) => { line.classList.toggle("later", n > now); line.classList.toggle("now", n === now); });
  if (!lines.length) return;
  const step = steps[now];
  details.replaceChildren(Object.assign(document.createElement("h2"), {textContent: step.title}), list(step.details));
  if (step.watch.length) details.append(document.createElement("hr"), list(step.watch));
  if (follow) lines[now].scrollIntoView({block: "nearest"});
}
slider.addEventListener("input", () => go(+slider.value, true));
lines.forEach((line, n) => line.addEventListener("click", () => go(n, false)));
document.getElementById("back").addEventListener("click", () => go(+slider.value - 1, true));
document.getElementById("on").addEventListener("click", () => go(+slider.value + 1, true));
document.addEventListener("keydown", event => {
  const now = +slider.value;
  const to = {ArrowRight: now + 1, ArrowDown: now + 1, ArrowLeft: now - 1, ArrowUp: now - 1, Home: 0, End: Infinity};
  if (event.key in to && !event.altKey && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    go(to[event.key], true);
  }
});
go(lines.length - 1, true);
"""


def page(
    history: History,
    cast: Sequence[str] = (),
    *,
    title: str,
    broken: str = "",
    statement: str = "",
    names: Mapping[bytes, str] = NAMES_NONE,
    columns: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The page.

    Args:
        cast: labels in the order of the columns. broken: what the run breaks, if anything. statement: below the title.
        names: labels of keys that occur in messages. columns: watched values: a title, and a text for each step.
    """
    lines = rows(history, names)
    steps = [_details(history[row.nth], row, names, columns or {}) for row in lines]
    data = json.dumps(steps).replace("<", "\\u003c")  # no text of the run may end the script element
    verdict = f" <b>{escape(broken)}</b>" if broken else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(f"{title} {broken}".strip())}</title><style>{_STYLE}</style></head>
<body><header><h1>{escape(title)}{verdict}</h1><p>{escape(statement)}</p>
<div class="bar"><button id="back" aria-label="step back">&larr;</button>
<input type="range" min="0" max="{max(0, len(lines) - 1)}" value="0" aria-label="step">
<button id="on" aria-label="step on">&rarr;</button><output></output></div></header>
<main><div class="diagram">
{_svg(lines, history, cast_of(history, cast))}
</div><aside></aside></main>
<script type="application/json" id="steps">{data}</script>
<script>{_SCRIPT}</script></body></html>
"""


def _svg(lines: Sequence[Row], history: History, labels: Sequence[str]) -> str:
    notes = [len(row.text) + 4 for row in lines if row.shape == "note" and len(row.text) <= NOTE_MOST // 2]
    wanted = CHARACTER_X * max([*notes, *(len(label) + 2 for label in labels)], default=0)
    pitch = min(max(PITCH[0], wanted), PITCH[1])
    x_of = {label: FIRST_X + pitch * nth for nth, label in enumerate(labels)}
    beyond = max([pitch, *(x_of[row.who] - x_of[labels[-1]] + _wide(row) for row in lines)]) if labels else 0
    width, height = FIRST_X + pitch * max(0, len(labels) - 1) + beyond, ROW_Y * (len(lines) + 1)
    out = [f'<svg class="heads" width="{width:.0f}" height="{HEAD_Y}">']
    out += [
        f'<text class="who" x="{x:.0f}" y="20" text-anchor="middle">{escape(who)}</text>' for who, x in x_of.items()
    ]
    out += ["</svg>", f'<svg width="{width:.0f}" height="{height}">']
    out += _lives(lines, history, x_of)
    last = ""
    for nth, row in enumerate(lines):
        at = f"{row.at:.3f} s"
        out += _line(row, nth, x_of, width, "" if at == last else at)
        last = at
    return "\n".join([*out, "</svg>"])


def _wide(row: Row) -> float:
    """How far a row reaches right of its lifeline, where it may be the last."""
    return CHARACTER_X * (min(len(row.text), NOTE_MOST) + 5) if row.shape == "note" else 0.0


def _lives(lines: Sequence[Row], history: History, x_of: Mapping[str, float]) -> Iterator[str]:
    """Lifelines: dotted while down, none once dead or stopped."""
    state = dict.fromkeys(x_of, ("life", 0.0))
    end = ROW_Y * (len(lines) + 0.5)

    def until(label: str, y: float) -> str:
        kind, since = state[label]
        x = x_of[label]
        return f'<line class="{kind}" x1="{x:.0f}" x2="{x:.0f}" y1="{since:.0f}" y2="{y:.0f}"/>' if kind else ""

    for nth, row in enumerate(lines):
        step, y = history[row.nth], ROW_Y * (nth + 0.5)
        if step.kind in ("crash", "back", "stop"):
            yield until(step.who, y)
            dead = step.kind == "stop" or step.mark == "dead"
            state[step.who] = ("" if dead else "life" if step.kind == "back" else "life down", y)
    for label in x_of:
        yield until(label, end)


def _line(row: Row, nth: int, x_of: Mapping[str, float], width: float, at: str) -> Iterator[str]:
    top = ROW_Y * nth
    y = top + ROW_Y * 0.68
    kind = {"*": "act", "#": "announce", "!": "bad"}.get(row.symbol, "plain") if row.shape == "note" else row.shape
    yield f'<g class="row {kind}"><rect x="0" y="{top}" width="{width:.0f}" height="{ROW_Y}"/>'
    if at:
        yield f'<text class="at" x="{TIME_X}" y="{y:.1f}">{at}</text>'
    start = x_of[row.who]
    if row.shape == "note":
        text = escape(_cut(f"{row.symbol} {row.text}", NOTE_MOST))
        yield f'<circle cx="{start:.0f}" cy="{y - 4:.1f}" r="3"/>'
        yield f'<text class="note" x="{start + 9:.0f}" y="{y:.1f}">{text}</text></g>'
        return
    end, middle = x_of[row.peer], (start + x_of[row.peer]) / 2
    level = top + ROW_Y - 4
    if start == end:
        end = start + 30
    towards = 1 if end > start else -1
    yield f'<line x1="{start:.0f}" x2="{end - 5 * towards:.0f}" y1="{level}" y2="{level}"/>'
    if row.shape == "lost":
        yield f'<text class="cross" x="{middle:.0f}" y="{level + 4}" text-anchor="middle">&#10005;</text>'
    else:
        back = end - 8 * towards
        yield f'<path d="M{end:.0f} {level} L{back:.0f} {level - 4} L{back:.0f} {level + 4} Z"/>'
    text = escape(_cut(row.text, min(TEXT_MOST, max(TEXT_LEAST, int(abs(end - start) / CHARACTER_X)))))
    yield f'<text x="{middle:.0f}" y="{level - 5}" text-anchor="middle">{text}</text></g>'


def _details(step: Step, row: Row, names: Mapping[bytes, str], columns: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    what: list[tuple[str, str]] = [("what", step.kind), ("at", f"{step.at:.6f} s"), ("who", step.who)]
    if step.peer:
        what.append(("from" if step.kind in ("deliver", "lost") else "to", step.peer))
    body = step.message if step.message is not None else step.event
    if body is not None:
        what.append(("class", type(body).__name__))
        what += [(name, _whole(getattr(body, name), names)) for name in body.__struct_fields__]
    what += [(name, _whole(value, names)) for name, value in step.arguments.items()]
    what += [("bytes", f"{len(blob)}: {_hex(blob)}") for blob in step.blobs]
    what += [(name, str(getattr(step, name))) for name in ("name", "text", "mark") if getattr(step, name)]
    if step.number is not None:
        what.append(("error", f"E{step.number}"))
    if step.ordinal >= 0:
        what.append(("nth on its link", str(step.ordinal)))
    if step.data:
        what.append(("stored", f"{len(step.data)} bytes: {_hex(step.data)}"))
    watched = [(title, cells[row.nth]) for title, cells in columns.items()]
    return {"title": row.text, "details": what, "watch": watched}


def _whole(value: Any, names: Mapping[bytes, str]) -> str:
    """A value with all of its parts."""
    if isinstance(value, bytes):
        return names.get(value) or _hex(value)
    if isinstance(value, msgspec.Struct):
        parts = (f"{name}={_whole(getattr(value, name), names)}" for name in value.__struct_fields__)
        return f"{type(value).__name__}({', '.join(parts)})"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(_whole(part, names) for part in value) + ")"
    return shown(value, names)


def _hex(data: bytes) -> str:
    return data[:BYTES_MOST].hex() + ("…" if len(data) > BYTES_MOST else "")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
