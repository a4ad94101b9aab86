"""The results as a picture: throughput beside bare Envoy."""

from __future__ import annotations

from html import escape

from .report import Cells, size

LEFT, BAR, GAP, WIDTH, GROUP = 250, 11, 2, 430, 12
COLOURS = {"module": "#1f6feb", "other": "#8b949e"}


def svg(cells: Cells, titles: dict[str, str], connections: int, about: str) -> str:
    """Horizontal bars, one group for each row, one bar for each size."""
    sizes = cells.keys("bytes")
    rows = [row for row in titles if row not in ("bare", "provider", "optimizer")]
    height = len(sizes) * (BAR + GAP) + GROUP
    top = 54
    shades = [1.0, 0.7, 0.45][: len(sizes)]
    parts = [
        _text(12, 20, f"Throughput beside bare Envoy, {connections} connections", 15, "600"),
        _text(12, 38, f"requests of {', '.join(size(of) for of in sizes)} (dark to light); {about}", 11),
    ]
    for tick in (0.25, 0.5, 0.75, 1.0):
        x = LEFT + tick * WIDTH
        parts.append(f'<line x1="{x}" y1="{top}" x2="{x}" y2="{top + len(rows) * height}" stroke="#8b949e" stroke-opacity="0.3"/>')
        parts.append(_text(x, top + len(rows) * height + 14, f"{tick:g}", 11, anchor="middle"))
    for index, row in enumerate(rows):
        y = top + index * height + GROUP / 2
        middle = y + (height - GROUP) / 2 + 4
        parts.append(_text(LEFT - 10, middle, titles[row], 12, anchor="end"))
        colour = COLOURS["module" if titles[row].startswith(("module", "component")) else "other"]
        for of, shade in zip(sizes, shades):
            value = cells.beside(row, of, connections, "per_second") or 0.0
            parts.append(
                f'<rect x="{LEFT}" y="{y:g}" width="{value * WIDTH:.1f}" height="{BAR}" fill="{colour}" fill-opacity="{shade}"/>'
            )
            parts.append(_text(LEFT + value * WIDTH + 5, y + BAR - 1.5, f"{value:.2f}", 10))
            y += BAR + GAP
    whole = top + len(rows) * height + 26
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 70} {whole}" '
        f'font-family="system-ui, sans-serif" fill="#57606a">\n'
        + "\n".join(parts) + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, points: int, weight: str = "400", anchor: str = "start") -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{points}" font-weight="{weight}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )
