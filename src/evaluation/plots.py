"""Small pictures for the report page, as inline SVG."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

COLORS = ("#2563eb", "#ea7a0b", "#0f9d58", "#b5179e")
GREY, RED = "#bbb", "#c62828"


def loss_curve(rows: Sequence[Mapping[str, str]], width: int = 900, height: int = 260) -> str:
    """Return an SVG of `train/loss` (grey, with a running mean in blue) and `val/loss` (orange) over steps."""
    train = [(int(row["step"]), float(row["train/loss"])) for row in rows if row.get("train/loss")]
    val = [(int(row["step"]), float(row["val/loss"])) for row in rows if row.get("val/loss")]
    if not train:
        return "<p>no loss was logged</p>"
    smooth, mean = [], 0.0
    for count, (step, loss) in enumerate(train, 1):
        mean += (loss - mean) / min(count, 10)
        smooth.append((step, mean))
    last = max(step for step, _ in train + val) or 1
    highest = max(loss for _, loss in smooth + val) * 1.05

    def line(points: list[tuple[int, float]], color: str, stroke: float) -> str:
        path = " ".join(
            f"{50 + step / last * (width - 70):.1f},{height - 30 - min(loss / highest, 1) * (height - 50):.1f}"
            for step, loss in points
        )
        return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{stroke}"/>'

    ticks = "".join(
        f'<text x="4" y="{height - 26 - share * (height - 50):.0f}">{share * highest:.2f}</text>'
        f'<text x="{50 + share * (width - 70):.0f}" y="{height - 8}" text-anchor="middle">{share * last:.0f}</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    )
    caption = "train/loss grey, its running mean blue, val/loss orange"
    legend = f'<text x="{width - 20}" y="16" text-anchor="end">{caption}</text>'
    lines = line(train, GREY, 0.8) + line(smooth, COLORS[0], 1.8) + (line(val, COLORS[1], 2) if val else "")
    frame = f'viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="loss over steps"'
    return f"<svg {frame}>{lines}{ticks}{legend}</svg>"


def frame_curve(
    lines: Sequence[Sequence[float | None]], threshold: float | None = None, width: int = 220, height: int = 44
) -> str:
    """Return an SVG of a value in [-1, 1] in each analysed frame, a line a reference; red marks frames without one.

    The dashed line is `threshold`.
    """
    values = [value for line in lines for value in line if value is not None]
    low, high = min([0.0, *values]), max([1.0, *values])
    label = f"similarity in each frame, {low:.1f} to {high:.1f}"

    def place(index: int, value: float, count: int) -> tuple[float, float]:
        x = 4 + index / max(count - 1, 1) * (width - 8)
        return round(x, 1), round(height - 6 - (value - low) / (high - low) * (height - 12), 1)

    parts = [f'<rect width="{width}" height="{height}" fill="#f7f7f8"/>']
    if threshold is not None:
        y = place(0, threshold, 1)[1]
        parts.append(f'<path d="M0 {y}H{width}" stroke="#999" stroke-dasharray="3 3" stroke-width="1"/>')
    for color, line in zip(COLORS * len(lines), lines, strict=False):
        for start, stop in _stretches(line):
            points = [place(index, float(line[index] or 0), len(line)) for index in range(start, stop)]
            if len(points) == 1:
                parts.append(f'<circle cx="{points[0][0]}" cy="{points[0][1]}" r="1.8" fill="{color}"/>')
            path = " ".join(f"{x},{y}" for x, y in points)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6"/>')
        missing = [place(index, low, len(line))[0] for index, value in enumerate(line) if value is None]
        parts += [f'<rect x="{x - 1.5}" y="{height - 6}" width="3" height="5" fill="{RED}"/>' for x in missing]
    return _svg("".join(parts), width, height, label)


def histogram(
    values: Sequence[float | None], name: str, mean: float, interval: Mapping[str, Any], width: int = 260
) -> str:
    """Return an SVG of how `values` are distributed, with their `mean` (not all may count alike) and its interval."""
    known, height, bottom = np.array([value for value in values if value is not None]), 110, 84
    if not len(known):
        return ""
    low, high = float(known.min()), float(known.max())
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    counts, _ = np.histogram(known, bins=20, range=(low, high))
    step = (width - 16) / len(counts)

    def place(value: float) -> float:
        return round(8 + (min(max(value, low), high) - low) / (high - low) * (width - 16), 1)

    parts = []
    if interval.get("low") is not None and interval.get("high") is not None:
        left, right = place(interval["low"]), place(interval["high"])
        parts.append(
            f'<rect x="{left}" y="20" width="{max(right - left, 1):.1f}" height="{bottom - 20}" fill="#fde8cf"/>'
        )
    for index, count in enumerate(counts):
        tall = count / counts.max() * (bottom - 26)
        parts.append(
            f'<rect x="{8.5 + index * step:.1f}" y="{bottom - tall:.1f}" width="{step - 1:.1f}" '
            f'height="{tall:.1f}" fill="{COLORS[0]}" fill-opacity="0.75"><title>{count} clips</title></rect>'
        )
    parts.append(f'<path d="M{place(mean)} 18V{bottom}" stroke="{COLORS[1]}" stroke-width="2"/>')
    parts.append(f'<text x="8" y="12" class="name">{html.escape(name)}</text>')
    parts.append(f'<path d="M8 {bottom}H{width - 8}" stroke="#999"/>')
    parts.append(f'<text x="8" y="{height - 10}">{_short(low)}</text>')
    parts.append(f'<text x="{width - 8}" y="{height - 10}" text-anchor="end">{_short(high)}</text>')
    middle = f"mean {_short(mean)}, {len(known)} of {len(values)}"
    parts.append(f'<text x="{width / 2}" y="{height - 10}" text-anchor="middle">{middle}</text>')
    return _svg("".join(parts), width, height, f"distribution of {name}")


def _stretches(line: Sequence[float | None]) -> list[tuple[int, int]]:
    """Return (start, stop) of the stretches of `line` without a gap."""
    found: list[tuple[int, int]] = []
    start = None
    for index, value in enumerate([*line, None]):
        if value is not None and start is None:
            start = index
        elif value is None and start is not None:
            found.append((start, index))
            start = None
    return found


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _svg(content: str, width: int, height: int, label: str) -> str:
    frame = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"'
    return f'<svg {frame} aria-label="{html.escape(label)}">{content}</svg>'
