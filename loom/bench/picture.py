"""A benchmark's rows as a picture: ours and the baseline side by side, each pair on a scale of its own."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from loom.bench.compare import Row, number

WIDTH, LEFT, BAR, ROW = 860, 400, 12, 44
OURS, BASELINE, INK, QUIET = "#2f6f4f", "#b9b4a6", "#24292f", "#6e7781"


def picture(title: str, rows: Sequence[Row]) -> str:
    """The rows that have a baseline, as SVG. Pure."""
    compared = [row for row in rows if row.baseline]
    height = ROW * len(compared) + 64
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
        f'<text x="20" y="28" font-size="15" font-weight="600" fill="{INK}">{escape(title)}</text>',
        f'<rect x="{LEFT}" y="18" width="10" height="10" fill="{OURS}"/><text x="{LEFT + 16}" y="28" fill="{INK}">ours</text>',
        f'<rect x="{LEFT + 70}" y="18" width="10" height="10" fill="{BASELINE}"/><text x="{LEFT + 86}" y="28" fill="{INK}">beside it</text>',
    ]
    for at, row in enumerate(compared):
        assert row.baseline is not None
        top, most = 48 + at * ROW, max(row.ours, row.baseline)
        parts.append(f'<text x="20" y="{top + 16}" fill="{INK}">{escape(row.what)}</text>')
        for below, value, colour in ((0, row.ours, OURS), (BAR + 2, row.baseline, BASELINE)):
            length = max(1.0, (WIDTH - LEFT - 130) * value / most)
            parts.append(f'<rect x="{LEFT}" y="{top + below}" width="{length:.1f}" height="{BAR}" rx="2" fill="{colour}"/>')
            parts.append(f'<text x="{LEFT + length + 6:.1f}" y="{top + below + 10}" font-size="11" fill="{QUIET}">{escape(number(value, row.unit))}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
