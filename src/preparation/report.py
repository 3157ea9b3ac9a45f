"""The closing page of a preparation: one self-contained HTML file with what was kept and dropped, how long, large and
sharp it is, and examples to look at.
"""

from __future__ import annotations

import base64
import html
import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..datamodules.images import decode_image
from ..datamodules.samples import Sample
from ..datamodules.shards import write_atomically
from ..datamodules.video import get_reader
from .pipeline import Prepared
from .sources.shards import ShardFolder, StoredSample
from .work import ROW

NUM_EXAMPLES = 24
NUM_FRAMES = 4  # of each example
EXAMPLE_HEIGHT, MAX_EXAMPLE_WIDTH = 120, 1200  # pixels
MAX_CATEGORIES = 12

STYLE = """
:root { --ink: #1f2933; --soft: #61707f; --line: #e3e8ee; --bar: #3b73d1; --bad: #c2562b; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); margin: 0 auto;
  padding: 2.2em 1.6em 4em; max-width: 1180px; }
h1 { font-size: 1.6em; margin: 0 0 .1em; } h2 { font-size: 1.15em; margin: 2.4em 0 .7em; }
p { margin: .3em 0; } .soft { color: var(--soft); } code { font-size: .9em; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 1.4em 0; }
.tile { border: 1px solid var(--line); border-radius: 8px; padding: .6em 1.1em; min-width: 120px; }
.tile b { display: block; font-size: 1.5em; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; }
td, th { padding: .35em .8em .35em 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); } th { color: var(--soft); font-weight: 500; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.detail { color: var(--soft); font-size: .87em; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(350px, 1fr)); gap: 18px; }
.chart { border: 1px solid var(--line); border-radius: 8px; padding: .8em 1em .6em; }
.chart h3 { font-size: .95em; margin: 0; } .chart p { font-size: .82em; }
svg { width: 100%; height: auto; display: block; margin-top: .4em; }
svg text { font: 11px system-ui, sans-serif; fill: #61707f; } svg rect { fill: var(--bar); }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(530px, 1fr)); gap: 16px; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; padding: 10px; overflow: hidden; }
figure div { display: flex; flex-wrap: wrap; gap: 4px; } figure img { height: 96px; border-radius: 3px; }
figure div.frames { flex-wrap: nowrap; }
figure div.frames img { height: auto; max-height: 96px; flex: 0 1 auto; min-width: 0; }
figure img.face { height: 72px; } table.short { width: auto; min-width: 480px; } figure div + div { margin-top: 4px; }
figcaption { font-size: 12.5px; margin-top: .5em; overflow-wrap: anywhere; }
"""


def write_report(path: Path, folder: Path, prepared: Prepared, *, title: str, reader: str) -> None:
    """Write the page on the set in `folder`."""
    rows = [dict(zip(ROW, row, strict=True)) for row in prepared.rows]
    parts = [
        f"<h1>{html.escape(title)}</h1><p class=soft>{html.escape(str(folder))}</p>",
        _tiles(rows, prepared),
        _stages(prepared),
        _dropped(prepared),
        _charts(rows),
        _examples(folder, len(rows), reader),
    ]
    head = "<meta charset=utf-8><meta name=viewport content='width=device-width'>"
    head += f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
    page = f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>"
    write_atomically(path, page.encode(errors="backslashreplace"))  # names may hold half a character


def _tiles(rows: Sequence[dict[str, Any]], prepared: Prepared) -> str:
    seconds = sum(row["num_frames"] / row["fps"] for row in rows if row["num_frames"] and row["fps"])
    values = {
        "clips kept": f"{len(rows):,}",
        "dropped": f"{len(prepared.dropped):,}",
        "of video": _duration(seconds),
        "frames": f"{sum(row['num_frames'] or 0 for row in rows):,}",
        "reference pictures": f"{sum(row['pictures'] for row in rows):,}",
    }
    tiles = "".join(f"<div class=tile><b>{value}</b>{name}</div>" for name, value in values.items())
    return f"<div class=tiles>{tiles}</div>"


def _stages(prepared: Prepared) -> str:
    """Return how many samples each stage took and gave; a stage may give more than it took (shots)."""
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td class=number>{taken:,}</td><td class=number>{given:,}</td>"
        f"<td class=number>{f'{given - taken:+,}' if given != taken else ''}</td></tr>"
        for name, (taken, given) in prepared.counts.items()
    )
    if not rows:
        return ""
    head = "<tr><th>stage<th class=number>samples in<th class=number>out<th class=number>difference</tr>"
    note = "<p class=soft>Of what was made for this state of the set; what came from earlier runs is not counted.</p>"
    return f"<h2>Stages</h2>{note}<table class=short>{head}{rows}</table>"


def _dropped(prepared: Prepared) -> str:
    by_reason: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in prepared.dropped:
        by_reason[line["reason"]].append(line)
    if not by_reason:
        return "<h2>Dropped</h2><p>nothing</p>"
    rows = "".join(
        f"<tr><td>{html.escape(reason)}</td><td class=number>{len(lines):,}</td>"
        f"<td class=detail>{'<br>'.join(html.escape(str(line['detail'])[:300]) for line in lines[:3])}</td></tr>"
        for reason, lines in sorted(by_reason.items(), key=lambda item: -len(item[1]))
    )
    head = "<tr><th>reason<th class=number>clips<th>examples</tr>"
    return f"<h2>Dropped</h2><p class=soft>All of them: dropped.jsonl</p><table>{head}{rows}</table>"


def _charts(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    lengths = [row["num_frames"] for row in rows if row["num_frames"]]
    seconds = [row["num_frames"] / row["fps"] for row in rows if row["num_frames"] and row["fps"]]
    shapes = [(row["width"], row["height"]) for row in rows if row["width"] and row["height"]]
    charts = [
        _histogram("Length", "frames", lengths),
        _histogram("Duration", "seconds", seconds),
        _categories("Frame rate", [f"{row['fps']:.6g} fps" for row in rows if row["fps"]]),
        _categories("Size", [f"{width} x {height}" for width, height in shapes]),
        _histogram("Aspect", "width / height", [width / height for width, height in shapes]),
        _categories("People in a clip", [str(row["identities"]) for row in rows]),
        _histogram(
            "Face size", "pixels, longer side of the box", [row["face_size"] for row in rows if row["face_size"]]
        ),
        _histogram("Caption", "characters", [row["caption_length"] for row in rows]),
    ]
    return f"<h2>What there is</h2><div class=charts>{''.join(charts)}</div>"


def _histogram(title: str, unit: str, values: Sequence[float], width: int = 360, height: int = 130) -> str:
    """Return a chart of how often values fall into equal bins; of whole numbers, no bin is narrower than one."""
    if not values:
        return _chart(title, "no values", "")
    low, high = float(min(values)), float(max(values))
    note = f"{unit}; median {np.median(values):.4g}, {low:.4g} to {high:.4g}"
    if low == high:
        return _chart(title, f"{unit}; all {low:.4g}", "")
    is_whole = all(float(value).is_integer() for value in values)
    num_bins = int(min(24, high - low + 1)) if is_whole else 24
    counts, edges = np.histogram(values, num_bins)
    step, most = (width - 8) / num_bins, counts.max()
    bars = "".join(
        f"<rect x='{4 + index * step + 0.75:.1f}' y='{height - 20 - count / most * (height - 34):.1f}' "
        f"width='{max(step - 1.5, 1):.1f}' height='{count / most * (height - 34):.1f}'>"
        f"<title>{edges[index]:.4g} to {edges[index + 1]:.4g}: {count}</title></rect>"
        for index, count in enumerate(counts)
        if count
    )
    labels = "".join(
        f"<text x='{4 + share * (width - 8):.0f}' y='{height - 5}' text-anchor='{anchor}'>"
        f"{low + share * (high - low):.4g}</text>"
        for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end"))
    )
    axis = f"<line x1=4 x2={width - 4} y1={height - 19.5} y2={height - 19.5} stroke='#cbd3dc'/>"
    top = f"<text x={width - 4} y=10 text-anchor=end>highest bar: {most:,}</text>"
    return _chart(title, note, f"<svg viewBox='0 0 {width} {height}'>{bars}{axis}{labels}{top}</svg>")


def _categories(title: str, values: Sequence[str], width: int = 360) -> str:
    """Return a chart of the most frequent values."""
    counts = Counter(values).most_common()
    shown, rest = counts[:MAX_CATEGORIES], sum(count for _, count in counts[MAX_CATEGORIES:])
    if rest:
        shown.append((f"{len(counts) - MAX_CATEGORIES} others", rest))
    if not shown:
        return _chart(title, "no values", "")
    most = max(count for _, count in shown)
    lines = "".join(
        f"<text x=100 y={18 * index + 13} text-anchor=end>{html.escape(name)}</text>"
        f"<rect x=108 y={18 * index + 3} width='{max(1, count / most * (width - 170)):.1f}' height=12></rect>"
        f"<text x='{114 + count / most * (width - 170):.1f}' y={18 * index + 13}>{count:,}</text>"
        for index, (name, count) in enumerate(shown)
    )
    return _chart(
        title,
        f"{len(counts)} different" if len(counts) > 1 else "all alike",
        f"<svg viewBox='0 0 {width} {18 * len(shown) + 4}'>{lines}</svg>",
    )


def _chart(title: str, note: str, drawing: str) -> str:
    return f"<div class=chart><h3>{html.escape(title)}</h3><p class=soft>{html.escape(note)}</p>{drawing}</div>"


def _examples(folder: Path, count: int, reader: str) -> str:
    if not count:
        return ""
    stored = list(ShardFolder(folder=str(folder)))
    chosen = np.linspace(0, len(stored) - 1, min(NUM_EXAMPLES, len(stored))).round().astype(int)
    figures = "".join(_figure(stored[index], reader) for index in chosen)
    note = f"<p class=soft>{len(chosen)} of {count:,}, evenly spaced; boxes where faces were found in these frames</p>"
    return f"<h2>Examples</h2>{note}<div class=examples>{figures}</div>"


def _figure(stored: StoredSample, reader: str) -> str:
    try:
        return _drawn(stored, reader)
    except Exception as problem:  # one picture less, not the page
        return f"<figure>{html.escape(stored.key)}: {html.escape(str(problem))}</figure>"


def _drawn(stored: StoredSample, reader: str) -> str:
    sample = stored.load()
    frames = _frames(sample, reader)
    info = sample.info
    faces = [
        _picture(decode_image(sample.members[suffix], suffix), "face")
        for identity in info.get("identities") or []
        for suffix in (identity.get("face") or [])[:3]
        if suffix in sample.members
    ]
    size = (
        f"{info.get('width')} x {info.get('height')}, {info.get('num_frames')} frames at {info.get('fps', 0):.6g} fps"
    )
    return (
        f"<figure><div class=frames>{''.join(_picture(frame) for frame in frames)}</div>"
        + (f"<div>{''.join(faces[:9])}</div>" if faces else "")
        + f"<figcaption><code>{html.escape(stored.key)}</code> <span class=soft>{size}</span><br>"
        f"{html.escape(info['caption'][:300])}</figcaption></figure>"
    )


def _frames(sample: Sample, reader: str) -> list[np.ndarray]:
    """Return a few frames of the clip, small, with the face boxes of those frames."""
    count = int(sample.info.get("num_frames") or 1)
    boxes = [row for identity in sample.info.get("identities") or [] for row in identity.get("boxes") or []]
    indices = np.linspace(0, count - 1, min(NUM_FRAMES, count)).round().astype(int).tolist()
    looked_at = sorted({row[0] for row in boxes if 0 <= row[0] < count})
    if looked_at:
        indices = sorted({min(looked_at, key=lambda frame: abs(frame - index)) for index in indices})
    frames = get_reader(reader).read(sample.video, indices)
    return [
        _with_boxes(_small(frame), [row[1:5] for row in boxes if row[0] == index])
        for index, frame in zip(indices, frames, strict=True)
    ]


def _small(frame: np.ndarray) -> np.ndarray:
    from PIL import Image

    width = min(max(1, round(frame.shape[1] * EXAMPLE_HEIGHT / frame.shape[0])), MAX_EXAMPLE_WIDTH)
    return np.array(Image.fromarray(frame).resize((width, EXAMPLE_HEIGHT), Image.Resampling.BOX))


def _with_boxes(frame: np.ndarray, boxes: Sequence[Sequence[float]]) -> np.ndarray:
    from PIL import Image, ImageDraw

    picture = Image.fromarray(frame)
    drawing = ImageDraw.Draw(picture)
    for x0, y0, x1, y1 in boxes:
        if x1 < x0 or y1 < y0:
            continue
        drawing.rectangle(
            (x0 * picture.width, y0 * picture.height, x1 * picture.width, y1 * picture.height), outline="#ffd400"
        )
    return np.asarray(picture)


def _picture(image: np.ndarray, kind: str = "") -> str:
    from PIL import Image

    picture, buffer = Image.fromarray(image), io.BytesIO()
    picture.thumbnail((320, 2 * EXAMPLE_HEIGHT))
    picture.save(buffer, format="JPEG", quality=82)
    return f"<img class='{kind}' src='data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}' alt=''>"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
