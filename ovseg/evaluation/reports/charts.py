"""Charts as SVG inside a page: bars, curves and heat maps; every mark says its number when pointed at."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

BLUE, ORANGE, GREY, INK = "#0072b2", "#e69f00", "#98a2b3", "#1d2129"
"""Safe for colour-blind readers (Okabe and Ito)."""


def bars(rows: Sequence[tuple[str, float, str]], error: Sequence[tuple[float, float]] = (), width: int = 560) -> str:
    """Draw horizontal bars of shares.

    Args:
        rows: Name, value in 0..1 and what to write behind it.
        error: For each row the ends of an interval.
        width: In pixels.
    """
    left = min(260, 20 + 7 * max((len(name) for name, _, _ in rows), default=0))
    room, step = width - left - 150, 26
    top = max([value for _, value, _ in rows] + [high for _, high in error] + [0.01])
    marks = []
    for i, (name, value, text) in enumerate(rows):
        y, long = i * step, room * max(value, 0) / top
        marks.append(f'<text x="{left - 8}" y="{y + 17}" text-anchor="end">{escape(_short(name, 34))}</text>')
        marks.append(
            f'<rect x="{left}" y="{y + 4}" width="{long:.1f}" height="18" rx="2" fill="{BLUE}">'
            f"<title>{escape(f'{name}: {100 * value:.2f}')}</title></rect>"
        )
        end = long
        if error:
            low, high = (room * bound / top for bound in error[i])
            end = max(long, high)
            marks.append(f'<path d="M{left + low:.1f} {y + 13}H{left + high:.1f}" stroke="{INK}" stroke-width="1.5"/>')
        marks.append(f'<text x="{left + end + 8:.1f}" y="{y + 17}">{escape(text)}</text>')
    return _svg(width, step * len(rows) + 4, marks)


def curve(points: Sequence[tuple[float, float, int]], size: int = 330) -> str:
    """Draw a calibration curve: share of right pixels over mean score, the area of a dot by its pixels."""
    if not points:
        return ""
    left, room = 44, size - 44 - 16
    most = max(count for _, _, count in points)

    def place(x: float, y: float) -> tuple[float, float]:
        return left + room * x, 10 + room * (1 - y)

    marks = [f'<rect x="{left}" y="10" width="{room}" height="{room}" fill="none" stroke="#d0d5dd"/>']
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x, y = place(tick, tick)
        marks.append(f'<path d="M{left} {y:.1f}h{room}M{x:.1f} 10v{room}" stroke="#eef0f3"/>')
        marks.append(f'<text x="{x:.1f}" y="{room + 27}" text-anchor="middle">{100 * tick:.0f}</text>')
        marks.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * tick:.0f}</text>')
    (x0, y0), (x1, y1) = place(0, 0), place(1, 1)
    marks.append(f'<path d="M{x0} {y0}L{x1} {y1}" stroke="{GREY}" stroke-dasharray="5 4"/>')
    path = "L".join("{:.1f} {:.1f}".format(*place(x, y)) for x, y, _ in points)
    marks.append(f'<path d="M{path}" fill="none" stroke="{BLUE}" stroke-width="2"/>')
    for x, y, count in points:
        cx, cy = place(x, y)
        text = f"score {100 * x:.1f} %: {100 * y:.1f} % of {count:,} pixels are right"
        radius = 2.5 + 6 * (count / most) ** 0.5
        marks.append(
            f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="{radius:.1f}" fill="{BLUE}" fill-opacity=".75">'
            f"<title>{text}</title></circle>"
        )
    marks.append(f'<text x="{left + room / 2}" y="{room + 46}" text-anchor="middle">mean score, %</text>')
    middle = 10 + room / 2
    marks.append(
        f'<text transform="rotate(-90 12 {middle})" x="12" y="{middle}" text-anchor="middle">right pixels, %</text>'
    )
    return _svg(size, room + 54, marks)


def heat(shares: np.ndarray, rows: Sequence[str], columns: Sequence[str], cell: int = 21) -> str:
    """Draw a heat map of confusions.

    Args:
        shares: (N, M) of each row's pixels, 0..1.
        rows: Names (N) of the ground truth.
        columns: Names (M) of the predictions.
        cell: Side of a field in pixels.
    """
    left = 20 + 7 * min(24, max(len(name) for name in rows))
    top = 16 + round(5.2 * min(24, max(len(name) for name in columns)))
    slant = 90  # the last slanted name leans over the edge
    marks = []
    for j, name in enumerate(columns):
        x = left + j * cell + cell / 2
        text = escape(_short(name, 24))
        marks.append(f'<text transform="translate({x:.1f} {top - 6}) rotate(-50)">{text}</text>')
    for i, name in enumerate(rows):
        y = top + i * cell
        marks.append(f'<text x="{left - 6}" y="{y + 15}" text-anchor="end">{escape(_short(name, 24))}</text>')
        for j, other in enumerate(columns):
            share = float(shares[i, j])
            title = f"{name} taken for {other}" if name != other else f"{name} found"
            marks.append(
                f'<rect x="{left + j * cell}" y="{y}" width="{cell - 1}" height="{cell - 1}" '
                f'fill="{_shade(share, name == other)}"><title>{escape(title)}: {100 * share:.1f} %</title></rect>'
            )
    return _svg(left + cell * len(columns) + slant, top + cell * len(rows) + 4, marks)


def _shade(share: float, right: bool) -> str:
    """Return the colour of a share: blue for what is right, orange for what is wrong, pale for little."""
    depth = max(0.0, min(1.0, share)) ** 0.5
    full = (0, 114, 178) if right else (213, 94, 0)
    return "#" + "".join(f"{round(247 + (channel - 247) * depth):02x}" for channel in full)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _svg(width: float, height: float, marks: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" role="img" '
        f'fill="{INK}">{"".join(marks)}</svg>'
    )
