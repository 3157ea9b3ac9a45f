"""The report page: one self-contained HTML file with numbers, loss curve and the clips beside their references."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .datamodules.shards import write_atomically
from .loggers import read_metrics

if TYPE_CHECKING:
    from .evaluate import EvaluatedClip

MAX_CLIPS = 64  # of each end of the ranking; a page with thousands of videos opens nowhere

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1180px; color: #222; }
table { border-collapse: collapse; } td, th { padding: .25em .9em; text-align: left; border-bottom: 1px solid #ddd; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 14px; }
figure { margin: 0; border: 1px solid #ddd; border-radius: 6px; padding: 8px; }
figure img, figure video { height: 112px; image-rendering: pixelated; vertical-align: top; }
figcaption { font-size: 12px; color: #555; } .note { color: #8a4b00; } svg text { font-size: 12px; fill: #555; }
"""


def write_report(
    path: Path, result: dict[str, Any], clips: Sequence[EvaluatedClip], *, title: str, training: Path | None = None
) -> None:
    """Write the page. `result`: what `metrics.json` holds; `training`: folder of the run whose loss curve is shown."""
    parts = [f"<h1>{html.escape(title)}</h1>", _numbers(result)]
    if training is not None:
        parts.append(f"<h2>Training</h2>{loss_curve(read_metrics(training / 'metrics.csv'))}")
    parts.append("<h2>Reference | clip, the most similar first</h2>" + _clips(clips))
    head = f"<meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>"
    page = f"<!doctype html><html lang=en>{head}<body>{''.join(parts)}</body></html>"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page.encode())


def loss_curve(rows: Sequence[dict[str, str]], width: int = 900, height: int = 260) -> str:
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
    lines = line(train, "#bbb", 0.8) + line(smooth, "#2563eb", 1.8) + (line(val, "#ea7a0b", 2) if val else "")
    frame = f'viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="loss over steps"'
    return f"<svg {frame}>{lines}{ticks}{legend}</svg>"


def _numbers(result: dict[str, Any]) -> str:
    meaning = result["descriptions"]
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td class=number>{'undefined' if value is None else f'{value:.4f}'}</td>"
        f"<td>{html.escape(meaning.get(name, ''))}</td></tr>"
        for name, value in result["metrics"].items()
    )
    features = ", ".join(f"{name}: {feature}" for name, feature in result["features"].items())
    notes = "".join(f"<p class=note>{html.escape(note)}</p>" for note in result["notes"])
    return f"<p>{result['num_clips']} clips. Features: {html.escape(features)}.</p><table>{rows}</table>{notes}"


def _clips(clips: Sequence[EvaluatedClip]) -> str:
    """Return the clips, the best first; of many, the best and the worst."""
    ranked = sorted(clips, key=lambda clip: -(clip.values.get("similarity") or -1))
    shown = ranked if len(ranked) <= 2 * MAX_CLIPS else ranked[:MAX_CLIPS] + ranked[-MAX_CLIPS:]
    hidden = (
        ""
        if len(shown) == len(ranked)
        else f"<p>The best and the worst {MAX_CLIPS} of {len(ranked)}; all are in metrics.json.</p>"
    )
    return hidden + f"<div class=clips>{''.join(map(_figure, shown))}</div>"


def _figure(clip: EvaluatedClip) -> str:
    values = clip.values
    similarity = (
        "no face"
        if values.get("similarity") is None
        else f"similarity {values['similarity']:.3f}, rank {values['rank']:.0f}"
    )
    pictures = " ".join(f"<img src='{_embed(path)}' alt='reference'>" for path in clip.references)
    return (
        f"<figure>{pictures} <video src='{_embed(clip.video)}' autoplay "
        "loop muted playsinline></video>"
        f"<figcaption>{similarity}, faces in {values.get('num_found', 0):.0f} of {values.get('num_analysed', 0):.0f} "
        "frames<br>"
        f"{html.escape(clip.prompt[:160])}</figcaption></figure>"
    )


def _embed(path: Path) -> str:
    kind = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}.get(
        path.suffix.lower(), "video/mp4"
    )
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
