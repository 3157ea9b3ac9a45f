"""The report page: one self-contained HTML file with numbers, distributions, and the clips beside their references."""

import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..datamodules.shards import write_atomically
from ..loggers import read_metrics
from .clips import EvaluatedClip
from .page import page
from .pairs import Run, clips_by_name
from .plots import frame_curve, histogram, loss_curve
from .previews import clip_of_entry, preview
from .table import by_reason, show, show_change, show_difference, show_interval, shown_values, source_of

NUM_SHOWN = 12  # clips at each end of the ranking; of at most twice as many, all are shown
NUM_CHANGED = 4  # clips that are shown for each value of a comparison
SIMILARITY = "similarity"  # the column of single clips that `FaceSimilarity` calls so, whatever its prefix


def write_report(
    path: Path, result: dict[str, Any], clips: Sequence[EvaluatedClip], *, title: str, training: Path | None = None
) -> None:
    """Write the page. `result`: what `metrics.json` holds; `training`: folder of the run whose loss curve is shown."""
    parts = [_summary(result), _values(result), _notes(result), _benchmark(result)]
    if training is not None:
        parts.append(f"<h2>Training</h2>{loss_curve(read_metrics(training / 'metrics.csv'))}")
    parts += [_ends(result, clips), _distributions(result), _all_clips(result), _failed(result), _origins(result)]
    write_atomically(path, page(title, "".join(parts)).encode())


def write_comparison(path: Path, result: dict[str, Any], runs: Sequence[Run], *, title: str) -> None:
    """Write the page of a comparison. `result`: what `comparison.json` holds."""
    names = result["runs"]
    heads = ["metric", *names, *(f"{name} less {names[0]}, in pairs" for name in names[1:])]
    rows = []
    for metric, row in result["metrics"].items():
        values = [(show(v["value"]) + f"<br><small>{show_interval(v)}</small>") if v else "–" for v in row["values"]]
        cells = [html.escape(metric), *values]
        for difference in row["differences"]:
            kind = "better" if difference and difference["differs"] else ""
            cells.append(f"<span class='{kind}'>{show_difference(difference) or '–'}</span>")
        numbers = [entry["value"] if entry else None for entry in (*row["values"], *row["differences"])]
        rows.append(_row(cells, [None, *numbers]))
    text = "A star: the 95 % interval of the mean difference over the same clips (paired bootstrap) leaves out 0."
    notes = "".join(f"<p class=note>{html.escape(note)}</p>" for note in result["notes"])
    parts = [f"<p>{text}</p>", _table(heads, rows), notes, *_changed_clips(result, runs)]
    write_atomically(path, page(title, "".join(parts)).encode())


def ranking(result: Mapping[str, Any]) -> tuple[str | None, list[int]]:
    """Return the column that clips are ranked by, and their places, the best first; clips without a value come last."""
    columns = [entry["column"] for entry in result["intervals"].values() if entry.get("column")]
    # Without faces, by the first value that tells clips apart.
    telling = [column for column in columns if len({clip.get(column) for clip in result["clips"]}) > 1]
    column = next((one for one in columns if _is_similarity(one)), next(iter(telling or columns), None))
    values = [clip.get(column) for clip in result["clips"]]
    order = sorted(range(len(values)), key=lambda place: (values[place] is None, -(values[place] or 0)))
    return column, order


def _is_similarity(column: str) -> bool:
    return column.endswith(SIMILARITY) and column not in ("last_similarity", "rest_similarity")


def _summary(result: Mapping[str, Any]) -> str:
    failed = f", {len(result['failed'])} more could not be read" if result["failed"] else ""
    return f"<p class=lead>{result['num_clips']} clips{failed}.</p>"


def _values(result: Mapping[str, Any]) -> str:
    rows = []
    for name, value in shown_values(result).items():
        interval = result["intervals"].get(name, {})
        meaning = html.escape(result["descriptions"].get(name, ""))
        if value is None:
            meaning += f"<br><span class=note>undefined: {html.escape(result['undefined'].get(name, ''))}</span>"
        cells = [
            f"<b>{html.escape(name)}</b>",
            show(value),
            f"<small>{show_interval(interval)}</small>",
            str(interval.get("num_clips", "")),
            f"<small class=from>{html.escape(source_of(result, name))}</small>",
            meaning,
        ]
        rows.append(_row(cells, [None, value, None, interval.get("num_clips"), None, None]))
    return _table(["metric", "value", "95 % interval", "clips", "from", "meaning"], rows) + _disabled(result)


def _disabled(result: Mapping[str, Any]) -> str:
    """Return what could not be measured, by the model that is missing."""
    rows = [
        _row([html.escape(", ".join(names)), html.escape(reason).replace("\n", "<br>")], [None] * 2, "off")
        for reason, names in by_reason(result["disabled"]).items()
    ]
    return f"<h2>Disabled, not measured</h2>{_table(['metrics', 'why'], rows)}" if rows else ""


def _notes(result: Mapping[str, Any]) -> str:
    return "".join(f"<p class=note>{html.escape(note)}</p>" for note in result["notes"])


def _benchmark(result: Mapping[str, Any]) -> str:
    """Return the totals of the benchmark that was asked for, and the columns that they are of, in percent."""
    totals = result.get("benchmark")
    if totals is None:
        return ""
    rows = []
    for name, value in totals["totals"].items():
        missing = ", ".join(totals["missing"].get(name, []))
        shown = "undefined" if value is None else f"{100 * value:.2f}"
        cells = [f"<b>{name}</b>", shown, "", html.escape(f"missing: {missing}" if missing else "")]
        rows.append(_row(cells, [None, value, None, None]))
    for name, column in totals["columns"].items():
        cells = [name, f"{100 * column['share']:.2f}", f"{column['value']:.4f}", html.escape(column["source"])]
        rows.append(_row(cells, [None, column["share"], column["value"], None]))
    caution = f"<p class=note>{html.escape(totals['caution'])}</p>" if totals["caution"] else ""
    return f"<h2>{html.escape(totals['title'])}</h2>{_table(['column', 'percent', 'measured', 'from'], rows)}{caution}"


def _ends(result: Mapping[str, Any], clips: Sequence[EvaluatedClip]) -> str:
    column, order = ranking(result)
    by = f"by {html.escape(column)}, the " if column else "the "
    high, low = ("best", "worst") if column and _is_similarity(column) else ("highest", "lowest")
    if len(order) <= 2 * NUM_SHOWN:
        figures = "".join(_figure(result, clips[place], place, column) for place in order)
        return f"<h2>Clips beside their references, {by}{high} first</h2><div class=clips>{figures}</div>"
    best, worst = order[:NUM_SHOWN], order[::-1][:NUM_SHOWN]
    parts = []
    for what, places in ((low, worst), (high, best)):
        figures = "".join(_figure(result, clips[place], place, column) for place in places)
        parts.append(f"<h2>Clips beside their references, {by}{what} first</h2><div class=clips>{figures}</div>")
    return "".join(parts)


def _figure(result: Mapping[str, Any], clip: EvaluatedClip, place: int, column: str | None) -> str:
    entry = result["clips"][place]
    value = "" if column is None else f"{html.escape(column)} <b>{show(entry.get(column))}</b>"
    if entry.get("num_found") is not None:
        value += f", a face in {entry['num_found']:.0f} of {entry.get('num_analysed') or 0:.0f} frames"
    return (
        f"<figure>{_media(clip)}<figcaption>{value}<br>{_curves(result, entry)}"
        f"<span class=name>{html.escape(clip.name)}</span> {html.escape(clip.prompt[:160])}</figcaption></figure>"
    )


def _media(clip: EvaluatedClip) -> str:
    shown = preview(clip)
    if shown is None:
        return "<p class=note>the file is not there any more</p>"
    video, pictures = shown
    images = "".join(f"<img src='{picture}' alt='reference'>" for picture in pictures)
    return f"<div class=media>{images}<video src='{video}' autoplay loop muted playsinline></video></div>"


def _curves(result: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """Return the similarity over frames of the first metric that has one."""
    for metric, lines in entry.get("per_frame", {}).items():
        return frame_curve(lines, result.get("thresholds", {}).get(metric)) + "<br>"
    return ""


def _distributions(result: Mapping[str, Any]) -> str:
    plots, equal = [], []
    for name, interval in result["intervals"].items():
        if column := interval.get("column"):
            values = [clip.get(column) for clip in result["clips"]]
            known = {value for value in values if value is not None}
            plots += [histogram(values, name, result["metrics"][name], interval)] if len(known) > 1 else []
            equal += [f"{name} {show(known.pop())}"] if len(known) == 1 else []
    note = "A bar: how many clips; orange: the mean and its interval of 95 %."
    same = f"<p>The same for all clips: {html.escape(', '.join(equal))}.</p>" if equal else ""
    return f"<h2>Distributions over clips</h2><p>{note}</p><div class=plots>{''.join(plots)}</div>{same}"


def _all_clips(result: Mapping[str, Any]) -> str:
    known = {"name", "video", "references", "prompt", "per_frame", "weights"}
    columns = list(dict.fromkeys(name for clip in result["clips"] for name in clip if name not in known))
    has_frames = any("per_frame" in clip for clip in result["clips"])
    rows = []
    for clip in result["clips"]:
        values = [clip.get(column) for column in columns]
        curve = [_curves(result, clip)] if has_frames else []
        cells = [html.escape(clip["name"]), *curve, *("" if v is None else f"{v:.4g}" for v in values)]
        cells.append(f"<small>{html.escape(clip['prompt'][:120])}</small>")
        rows.append(_row(cells, [None, *([None] * len(curve)), *values, None]))
    heads = ["clip", *(["frame by frame"] if has_frames else []), *columns, "prompt"]
    return f"<h2>All clips</h2><p>A click on a heading sorts.</p>{_table(heads, rows)}"


def _failed(result: Mapping[str, Any]) -> str:
    if not result["failed"]:
        return ""
    rows = [_row([html.escape(one["name"]), html.escape(one["error"])], [None, None]) for one in result["failed"]]
    return f"<h2>Could not be read</h2>{_table(['clip', 'why'], rows)}"


def _origins(result: Mapping[str, Any]) -> str:
    rows = []
    for name, features in result["features"].items():
        files = result["models"].get(name, {})
        hashes = "<br>".join(
            f"{html.escape(path)} <small>sha256 {digest[:16]}</small>" for path, digest in files.items()
        )
        speed = result["timing"].get(name, {}).get("clips_per_s")
        cells = [name, features, result["protocols"].get(name) or "", hashes, "" if speed is None else f"{speed:.2f}"]
        rows.append(_row([html.escape(cell) if place != 3 else cell for place, cell in enumerate(cells)], [None] * 5))
    decoding = result["timing"].get("decoding", {}).get("clips_per_s")
    speed = (
        ""
        if decoding is None
        else f"<p>Decoding: {decoding:.1f} videos/s. Metrics that share faces share the time.</p>"
    )
    settings = html.escape(json.dumps(result["settings"], indent=1))
    table = _table(["metric", "features", "protocol", "model files", "videos/s"], rows)
    details = f"<details><summary>settings</summary><pre>{settings}</pre></details>"
    return f"<h2>What was measured with</h2>{table}{speed}{details}"


def _changed_clips(result: Mapping[str, Any], runs: Sequence[Run]) -> list[str]:
    """Return, of each value and run, the clips that changed most; of the first value that changed, side by side."""
    shown_metric = next((metric for metric, row in result["metrics"].items() if any(row["changed"])), None)
    parts, entries = [], clips_by_name(runs)
    for metric, row in result["metrics"].items():
        for place, changed in enumerate(row["changed"], 1):
            if not changed:
                continue
            shown = changed[:NUM_CHANGED] if metric == shown_metric else []
            figures = "".join(_pair(one, entries[0], entries[place]) for one in shown)
            names = f"{html.escape(result['runs'][0])} | {html.escape(result['runs'][place])}"
            summary = f"<summary>{html.escape(metric)}: clips that changed most, {names}</summary>"
            content = f"<div class=clips>{figures}</div>{_changes(changed)}"
            parts.append(f"<details{' open' if shown else ''}>{summary}{content}</details>")
    return [f"<h2>What changed</h2>{''.join(parts)}"] if parts else []


def _changes(changed: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for one in changed:
        cells = [html.escape(one["name"]), show(one["first"]), show(one["second"]), show_change(one["change"])]
        rows.append(_row(cells, [None, one["first"], one["second"], one["change"]]))
    return _table(["clip", "first", "second", "change"], rows)


def _pair(change: Mapping[str, Any], first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    media = "".join(_media(clip_of_entry(entries[change["name"]])) for entries in (first, second))
    text = f"{html.escape(change['name'])}: {show(change['first'])} to {show(change['second'])}"
    return f"<figure>{media}<figcaption>{text}</figcaption></figure>"


def _table(heads: Sequence[str], rows: Sequence[str]) -> str:
    cells = "".join(f"<th>{_breakable(head)}</th>" for head in heads)
    body = "".join(rows)
    return f"<div class=scroll><table class=sortable><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"


def _breakable(name: str) -> str:
    """Return `name` as HTML that may go on in the next line after an underscore or a slash."""
    return re.sub("([_/])", r"\1<wbr>", html.escape(name))


def _row(cells: Sequence[str], values: Sequence[float | None], kind: str = "") -> str:
    """Return a row of HTML `cells`; a column with `values` is sorted by them, others by their text."""
    parts = []
    for cell, value in zip(cells, values, strict=True):
        is_number = value is not None or cell.startswith(("undefined", "–"))
        number = "" if value is None else f" data-value='{float(value)!r}'"
        parts.append(f"<td{' class=number' if is_number else ''}{number}>{cell}</td>")
    return f"<tr{f' class={kind}' if kind else ''}>{''.join(parts)}</tr>"
