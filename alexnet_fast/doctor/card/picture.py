"""The rows as a picture: an SVG, which needs no library.  Rates as bars, everything else by its verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from ...errors import escaped
from .row import Row

WIDTH, LINE, LEFT, BAR = 920, 24, 275, 460
COLORS = {"ok": "#1f6fb4", "warning": "#e08214", "fault": "#c0392b", "skipped": "#9a9a9a"}
INK = "#222222"
RATE = "img_per_s"
LONGEST = 92  # characters of a line


def svg(title: str, rows: Sequence[Row]) -> str:
    """The picture's text."""
    rates = [row for row in rows if row.figures.get(RATE)]
    others = [row for row in rows if not row.figures.get(RATE)]
    lines = list(_lines(title, rates, others))
    height = LINE * (len(lines) + 1)
    content = "\n".join(line.format(y=LINE * (k + 1), bar_y=LINE * k + 11) for k, line in enumerate(lines))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif" font-size="13" fill="{INK}">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>\n{content}\n</svg>\n'
    )


def _lines(title: str, rates: Sequence[Row], others: Sequence[Row]) -> Iterator[str]:
    yield _text(12, title, 'font-size="16"')
    if rates:
        yield _text(12, "images a second (orange: slower than expected, red: wrong)", 'font-weight="bold"')
    # What is more than twice as fast as any step is never the limit: how far it is above does not matter.
    steps = [row.figures[RATE] or 0.0 for row in rates if row.name.startswith(("step", "end"))]
    longest = max((row.figures[RATE] or 0.0 for row in rates), default=1.0)
    longest = min(longest, 2 * max(steps, default=longest))
    for row in rates:
        value = row.figures[RATE] or 0.0
        width = max(1.0, BAR * min(1.0, value / longest))
        yield (
            _text(LEFT - 10, row.name, 'text-anchor="end"')
            + f'<rect x="{LEFT}" y="{{bar_y}}" width="{width:.1f}" height="16" fill="{COLORS[row.status]}"/>'
            + _text(LEFT + width + 6, f"{value:,.0f}" if value <= longest else f"\u2192 {value:,.0f}")
        )
    if others:
        yield _text(12, "checks", 'font-weight="bold"')
    for row in others:
        yield (
            f'<circle cx="18" cy="{{bar_y}}" r="6" transform="translate(0,8)" fill="{COLORS[row.status]}"/>'
            + _text(32, row.name)
            + _text(LEFT, row.seen if row.status != "skipped" else f"skipped: {row.seen}")
        )


def _text(x: float, text: str, style: str = "") -> str:
    shown = escaped(text)
    shown = shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}\u2026"
    # Braces are doubled: the line is formatted with its place.
    return f'<text x="{x:.1f}" y="{{y}}" {style}>{escape(shown).replace("{", "{{").replace("}", "}}")}</text>'
