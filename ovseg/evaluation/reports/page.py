"""Pages of one file: style, tables that sort, and pictures inside the text. Nothing is fetched from anywhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

from PIL import Image

STYLE = """
:root { color-scheme: light; --ink: #1d2129; --faint: #667085; --line: #e4e7ec; --blue: #0072b2; --soft: #f6f8fb; }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: var(--ink); margin: 0; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 24px 80px }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere }
h2 { font-size: 19px; margin: 44px 0 10px; padding-top: 14px; border-top: 1px solid var(--line) }
h3 { font-size: 15px; margin: 22px 0 6px }
p, .note { max-width: 860px } .note, .sub { color: var(--faint) } .note { font-size: 13px; margin: 4px 0 12px }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0 }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: 10px 16px; min-width: 122px }
.tile b { display: block; font-size: 25px; font-weight: 600; line-height: 1.25 }
.tile span { color: var(--faint); font-size: 12.5px }
.warn { background: #fff8e6; border: 1px solid #f3dfa4; border-radius: 8px; padding: 10px 16px; margin: 12px 0 }
.warn ul { margin: 4px 0; padding-left: 20px } .warn li { margin: 3px 0 }
.fail { background: #fdeeee; border-color: #f0c4c4 }
.scroll { overflow: auto; max-height: 560px; border: 1px solid var(--line); border-radius: 8px }
table { border-collapse: collapse; font-size: 13.5px; width: 100% }
th, td { padding: 5px 10px; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top }
th { background: var(--soft); position: sticky; top: 0; font-weight: 600; white-space: nowrap }
table.sortable th { cursor: pointer } table.sortable th:after { content: " \\2195"; color: #b5bcc9 }
th[data-way="1"]:after { content: " \\2191" !important; color: var(--blue) !important }
th[data-way="-1"]:after { content: " \\2193" !important; color: var(--blue) !important }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td .bar { display: inline-block; width: 64px; height: 8px; background: #edf0f4; border-radius: 4px; margin-left: 8px }
td .bar i { display: block; height: 8px; background: var(--blue); border-radius: 4px }
.row { display: flex; flex-wrap: wrap; gap: 36px; align-items: flex-start }
figure { margin: 0 0 22px } figcaption { font-size: 13px; margin-bottom: 4px; overflow-wrap: anywhere }
.shots { display: flex; flex-wrap: wrap; gap: 8px }
.shots div { font-size: 12px; color: var(--faint) } .shots img { display: block; border-radius: 4px; max-width: 100% }
.key { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin: 0 4px 0 10px }
svg { display: block; max-width: 100%; height: auto } svg text { font: 12px system-ui, "DejaVu Sans", sans-serif }
input.find { font: inherit; padding: 5px 10px; border: 1px solid #cbd2dc; border-radius: 6px; margin: 0 0 8px }
details { margin: 8px 0 } summary { cursor: pointer; color: var(--blue) }
td:nth-child(3) { white-space: nowrap }
code, pre { font: 12.5px/1.45 ui-monospace, "DejaVu Sans Mono", monospace } pre { white-space: pre-wrap; margin: 6px 0 }
@media print { .scroll { max-height: none } input.find { display: none } }
"""

SCRIPT = """
document.querySelectorAll("table.sortable").forEach(table => {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const way = head.dataset.way === "-1" ? 1 : -1;
    heads.forEach(other => delete other.dataset.way);
    head.dataset.way = way;
    const key = row => row.cells[column].dataset.v ?? row.cells[column].textContent;
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const gap = x - y;
      return way * (Number.isNaN(gap) ? x.localeCompare(y) : gap);
    });
    table.tBodies[0].append(...rows);
  }));
});
document.querySelectorAll("input.find").forEach(input => input.addEventListener("input", () => {
  const word = input.value.toLowerCase();
  for (const row of document.getElementById(input.dataset.table).tBodies[0].rows)
    row.hidden = !row.textContent.toLowerCase().includes(word);
}));
"""


def page(title: str, body: str) -> str:
    """Return a whole HTML page, with style and script inside."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n{body}\n</main>"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def section(title: str, content: str, note: str = "") -> str:
    """Return a section; nothing where there is no content."""
    below = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<h2>{escape(title)}</h2>\n{below}{content}\n" if content else ""


def tiles(values: Sequence[tuple[str, str]]) -> str:
    """Return big numbers with what they are."""
    cells = [f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in values]
    return f'<div class="tiles">{"".join(cells)}</div>'


def box(heading: str, lines: Sequence[str], kind: str = "warn") -> str:
    """Return lines in a coloured box; nothing where there are none."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="{kind}"><b>{escape(heading)}</b><ul>{items}</ul></div>' if lines else ""


def table(
    heads: Sequence[str], rows: Sequence[Sequence[Any]], name: str = "", bars: Sequence[int] = (), sortable: bool = True
) -> str:
    """Return a table.

    Args:
        heads: Of the columns; a column of numbers is one whose first value is a number.
        rows: Text, integers, floats (shares of 1, shown in percent) or None.
        name: Gives the table a field to search it.
        bars: Columns whose shares are drawn too.
        sortable: A click on a head sorts.
    """
    numeric = [
        any(isinstance(row[i], int | float) for row in rows) and not any(isinstance(row[i], str) for row in rows)
        for i in range(len(heads))
    ]
    top = "".join(
        f'<th class="n">{escape(h)}</th>' if n else f"<th>{escape(h)}</th>" for h, n in zip(heads, numeric, strict=True)
    )
    lines = []
    for row in rows:
        cells = enumerate(zip(row, numeric, strict=True))
        lines.append("<tr>" + "".join(_cell(value, number, i in bars) for i, (value, number) in cells))
    kind = ' class="sortable"' if sortable else ""
    find = f'<input class="find" data-table="{name}" placeholder="find a class" aria-label="find">' if name else ""
    mark = f' id="{name}"' if name else ""
    body = "\n".join(lines)
    return (
        f'{find}<div class="scroll"><table{kind}{mark}><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(value: Any, number: bool, bar: bool) -> str:
    if not number:
        return f"<td>{escape('' if value is None else str(value))}</td>"
    if value is None:
        return '<td class="n" data-v="">-</td>'
    shown = f"{100 * value:.1f}" if isinstance(value, float) else f"{value:,}"
    drawn = f'<span class="bar"><i style="width:{100 * min(max(value, 0), 1):.0f}%"></i></span>' if bar else ""
    return f'<td class="n" data-v="{value}">{shown}{drawn}</td>'


def inline(picture: Image.Image, text: str, width: int = 250) -> str:
    """Return a picture inside the page with a line below it, no wider than `width` pixels."""
    small = picture.convert("RGB")
    small.thumbnail((width, width * 2), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    small.quantize(192).save(data, format="PNG", optimize=True)
    code = base64.b64encode(data.getvalue()).decode("ascii")
    source = f"data:image/png;base64,{code}"
    return f'<div><img src="{source}" width="{small.width}" alt="{escape(text)}">{escape(text)}</div>'


def percent(value: float | None, digits: int = 1) -> str:
    """Write a share in percent with so many digits; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.{digits}f}"
